"""Taking files out: ``export`` beside ``cp`` of the layer's tar, and ``cp`` of one file.

The image has one layer with files of the sizes of a distribution, from a few bytes to 30 MB. Both
copies begin with caches dropped, and take turns; one file is taken with a warm index and in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_COMMAND = Path(sys.executable).parent / "unionmount"
_ROUNDS, _QUICK_ROUNDS = 5, 3
_DIRECTORIES, _FILES = 1200, 40  # 2.1 GB
_QUICK_DIRECTORIES = 120
_LARGEST = 30 << 20
_ONE = "usr/share/d0010/file0020"


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one thing in all rounds."""

    what: str
    seconds: list[float]
    wanted: str = ""


def measure(work: Path, *, quick: bool) -> Iterator[Taken]:
    """Measure all, in turn."""
    layer, image = work / "layer.tar", work / "image.tar"
    _write_layer(layer, _QUICK_DIRECTORIES if quick else _DIRECTORIES)
    _write_image(image, layer)
    places = {"UNIONMOUNT_ROOT": str(work / "store"), "UNIONMOUNT_RUNTIME_DIR": str(work / "run")}
    environment = os.environ | places

    def call(*words: str | Path) -> None:
        subprocess.run(list(map(str, words)), check=True, env=environment)

    call(_COMMAND, "cp", f"{image}:/{_ONE}", work / "one")  # makes the index
    out = work / "out.tar"
    tasks: dict[str, Callable[[], None]] = {
        "cp layer.tar, cold": lambda: call("cp", layer, out),
        "cp layer.tar and sync, cold": lambda: call("sh", "-c", f"cp {layer} {out} && sync {out}"),
        "export -o, which syncs, cold": lambda: call(_COMMAND, "export", "-o", out, image),
    }
    taken: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(_QUICK_ROUNDS if quick else _ROUNDS):
        for what, task in tasks.items():
            out.unlink(missing_ok=True)
            _drop_caches()
            taken[what].append(_seconds(task))
    one: list[str | Path] = [_COMMAND, "cp", f"{image}:/{_ONE}", work / "one"]
    call(*one)
    for _ in range(4 * _ROUNDS):
        taken["cp of one file, warm index"].append(_seconds(lambda: call(*one)))
    wanted = {
        "export -o, which syncs, cold": "<= 1.25 of cp",
        "cp of one file, warm index": "<= 0.15",
    }
    for what, seconds in taken.items():
        yield Taken(what, seconds, wanted.get(what, ""))


def _seconds(task: Callable[[], None]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _drop_caches() -> None:
    os.sync()
    with suppress(OSError):  # only root can
        Path("/proc/sys/vm/drop_caches").write_text("3")


def _write_layer(path: Path, directories: int) -> None:
    chosen, block = random.Random(7), memoryview(os.urandom(_LARGEST + (1 << 20)))
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(directories):
            directory = tarfile.TarInfo(f"usr/share/d{number:04}")
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
            for file in range(_FILES):
                info = tarfile.TarInfo(f"{directory.name}/file{file:04}")
                info.size = min(int(chosen.lognormvariate(8.3, 2.2)), _LARGEST)
                start = chosen.randrange(1 << 20)
                tar.addfile(info, io.BytesIO(block[start : start + info.size]))


def _write_image(path: Path, layer: Path) -> None:
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    manifest = [{"Config": "config.json", "RepoTags": ["big:1"], "Layers": ["0/layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        tar.add(layer, "0/layer.tar")
        for name, data in (
            ("config.json", config),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
