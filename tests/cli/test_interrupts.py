"""SIGINT while a command starts: it ends without a word, whatever Python imports at that moment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.effort import amount

PROGRAMS = Path(sys.executable).parent
HOOK = """
import os, signal, sys
wanted, listed = os.environ.get("INTERRUPT_AT"), os.environ.get("LIST_IMPORTS")
def hook(event, arguments):
    if event == "import" and arguments[0] == wanted:
        os.kill(os.getpid(), signal.SIGINT)
    elif event == "import" and listed:
        os.write(int(listed), arguments[0].encode() + b"\\n")
sys.addaudithook(hook)
"""


@pytest.fixture
def hooked(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python calls the hook at each import after its own start."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(HOOK)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return environment | {"PYTHONPATH": str(tmp_path / "hook"), "UNIONMOUNT_ROOT": str(tmp_path)}


def imports_of(words: Sequence[str | Path], environment: dict[str, str]) -> list[str]:
    """What a program imports when nothing interrupts it."""
    read, write = os.pipe()
    with open(read, "rb") as pipe:
        process = subprocess.Popen(
            words,
            env=environment | {"LIST_IMPORTS": str(write)},
            pass_fds=(write,),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(write)
        names = pipe.read().decode().split()
    process.wait(timeout=60)
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", ["unionmount", "unionmount-overlay", "mount.unionmount", "umount.fuse.unionmount"]
)
def test_an_interrupt_at_any_import_is_silent(
    program: str, hooked: dict[str, str], tmp_path: Path
) -> None:
    image = docker_archive(tmp_path / "image.tar", [Layer().file("file")])
    words: list[str | Path] = [PROGRAMS / program]
    words += ["find", image] if program == "unionmount" else [image, tmp_path / "nowhere"]
    names = imports_of(words, hooked)
    assert "unionmount.start" in names
    assert len(names) > 20
    chosen = [*names[:: amount(9, 1)], "unionmount.start", names[-1]]
    statuses = set()
    for name in chosen:
        done = subprocess.run(
            words, env=hooked | {"INTERRUPT_AT": name}, capture_output=True, check=False
        )
        assert (done.stdout, done.stderr) == (b"", b""), name
        statuses.add(done.returncode)
    reported = 130 if program in ("unionmount", "unionmount-overlay") else 8  # as mount(8) has it
    assert -signal.SIGINT in statuses
    assert statuses <= {-signal.SIGINT, reported}
    assert program != "unionmount" or reported in statuses  # it imports much while it works


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "layers {image} --top 9", "packages {image}", "diff {image} {image}", "ls -l {image}",
        "grep x {image}", "cp {image}:/file {out}", "export {image} -o {out}",
        "import {flat} made:1", "copy --squash docker-archive:{image} oci:{out}:1",
    ],
)  # fmt: skip
def test_an_interrupt_at_any_import_leaves_nothing(
    line: str, hooked: dict[str, str], tmp_path: Path
) -> None:
    """The imports of the command itself, which other verbs do not share."""
    layer, out = Layer().file("file", b"whole"), tmp_path / "out"
    places = {"image": docker_archive(tmp_path / "image.tar", [layer]), "out": out}
    places["flat"] = tmp_path / "flat.tar"
    places["flat"].write_bytes(layer.data())
    words: list[str | Path] = [PROGRAMS / "unionmount"]
    words += [word.format(**places) for word in line.split()]
    names = imports_of(words, hooked)
    own = [name for name in names[names.index("unionmount.start") :] if "unionmount" in name]
    for name in own[:: amount(7, 1)]:
        remove(out)
        done = subprocess.run(
            words, env=hooked | {"INTERRUPT_AT": name}, capture_output=True, check=False
        )
        assert done.returncode in (-signal.SIGINT, 130), (name, done.stderr)
        assert (done.stdout, done.stderr) == (b"", b""), name
        assert not out.exists(), name


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def test_an_ignored_interrupt_stays_ignored(hooked: dict[str, str], tmp_path: Path) -> None:
    image = docker_archive(tmp_path / "image.tar", [Layer().file("file")])
    for name in ("unionmount.start", "unionmount.cli", "unionmount.browse"):
        done = subprocess.run(
            [PROGRAMS / "unionmount", "find", image],
            env=hooked | {"INTERRUPT_AT": name},
            capture_output=True,
            check=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        )
        assert (done.stdout, done.stderr) == (b"/\n/file\n", b""), name
