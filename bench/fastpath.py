"""Reading a mount, beside the kernel's overlayfs, other FUSE file systems, and no mount at all.

One lower directory for all: a Debian root (with ``quick``, or without the tools that make one,
2,000 small files) and one large file. unionmount mounts it with and without the router, as a
directory and as an image. A subject is mounted afresh for every pass; a pass does each row cold and
warm. Before a pass the kernel's caches are dropped (``/proc/sys/vm/drop_caches``, 3), but not with
``quick``: it is the whole machine that waits then.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from images.build import real_image

from bench import synthetic
from bench.writing import (
    BASE,
    Places,
    _can_install,
    _overlayfs,
    _quietly,
    _servers,
    _unionmount,
    _unmount,
)

RUNS = 3
NATIVE = "native directory"
_NAMES = 2000  # names that do not exist; extended attributes that are asked for
_RANDOM = 4000  # reads of 4 KiB
_BLOCK = 4096
_JOBS = 8

Command = list[str | Path]
Timed = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Reading:
    """One row: what each subject took in each pass, in seconds (or megabytes)."""

    what: str
    taken: dict[str, list[float]]

    @property
    def medians(self) -> dict[str, float]:
        """The median of each subject."""
        return {name: statistics.median(found) for name, found in self.taken.items()}


# ---- subjects ------------------------------------------------------------------------------------


def _fuse_overlayfs(places: Places) -> Command:
    return ["fuse-overlayfs", "-o", f"{places.options},dev,suid", places.mountpoint]


def _mergerfs(places: Places) -> Command:
    return ["mergerfs", "-o", "cache.files=auto-full", places.lower, places.mountpoint]


def _unionfs(places: Places) -> Command:
    branches = f"{places.upper}=RW:{places.lower}=RO"
    return ["unionfs", "-o", "cow,allow_other", branches, places.mountpoint]


def _squashfuse(places: Places) -> Command:
    return [
        "squashfuse",
        "-o",
        "allow_other",
        places.image.with_suffix(".squashfs"),
        places.mountpoint,
    ]


def _overlay(places: Places, *words: str) -> Command:
    return _unionmount(
        "overlay", "-o", ",".join((places.options, "dev,suid", *words)), places.mountpoint
    )


def _image(places: Places, *words: str) -> Command:
    source = f"docker-archive:{places.image}"
    return _unionmount(
        "mount", "--ro", "-o", ",".join(("dev,suid", *words)), source, places.mountpoint
    )


_SUBJECTS: dict[str, tuple[str, Callable[[Places], Command] | None]] = {
    NATIVE: ("true", None),
    BASE: ("mount", _overlayfs),
    "fuse-overlayfs": ("fuse-overlayfs", _fuse_overlayfs),
    "mergerfs": ("mergerfs", _mergerfs),
    "unionfs-fuse": ("unionfs", _unionfs),
    "squashfuse": ("squashfuse", _squashfuse),
    "unionmount, image": ("true", _image),
    "unionmount, writable": ("true", _overlay),
    "pyfuse3 alone, image": ("true", lambda places: _image(places, "nofastpath")),
    "pyfuse3 alone, writable": ("true", lambda places: _overlay(places, "nofastpath")),
}


def _subjects() -> list[str]:
    return [name for name, (tool, _) in _SUBJECTS.items() if shutil.which(tool)]


@contextmanager
def _mounted(subject: str, places: Places) -> Iterator[Path]:
    command = _SUBJECTS[subject][1]
    if command is None:
        yield places.lower
        return
    for path in (places.upper, places.work, places.mountpoint):
        path.mkdir()
    try:
        _quietly(*command(places), environment=places.environment)
        try:
            yield places.mountpoint
        finally:
            _unmount(places.mountpoint)
    finally:
        for path in (places.upper, places.work):
            shutil.rmtree(path)
        places.mountpoint.rmdir()


# ---- what is done --------------------------------------------------------------------------------


@dataclass(slots=True)
class Names:
    """What is in the lower directory, relative to it."""

    everything: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # regular ones below 1 MiB

    @classmethod
    def of(cls, top: Path) -> Names:
        """Walk it once; the large file is left out."""
        found = cls()
        for directory, names, files in os.walk(top):
            for name in (*names, *files):
                path = Path(directory, name)
                found.everything.append(str(path.relative_to(top)))
                if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
                    found.files.append(found.everything[-1])
        return found


def _stat_all(top: Path, names: Names) -> None:
    for name in names.everything:
        os.lstat(f"{top}/{name}")


def _read_all(top: Path, files: list[str]) -> None:
    for name in files:
        fd = os.open(f"{top}/{name}", os.O_RDONLY)
        while os.read(fd, 1 << 17):
            pass
        os.close(fd)


def _ask_absent(top: Path, prefix: str) -> None:
    for number in range(_NAMES):
        with suppress(FileNotFoundError):
            os.lstat(f"{top}/bench/{prefix}{number}")


def _ask_xattr(top: Path, names: Names) -> None:
    for name in names.files[:_NAMES]:
        with suppress(OSError):
            os.getxattr(f"{top}/{name}", "user.bench")


def _read_through(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, 1 << 20):
        pass
    os.close(fd)


def _read_at_random(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    fd = os.open(path, os.O_RDONLY)
    blocks = os.fstat(fd).st_size // _BLOCK
    for _ in range(_RANDOM):
        os.pread(fd, _BLOCK, rng.randrange(blocks) * _BLOCK)
    os.close(fd)


def _at_once(works: Sequence[tuple[Callable[..., None], tuple[object, ...]]]) -> None:
    """Several processes at the same time."""
    context = get_context("fork")
    running = [context.Process(target=function, args=words) for function, words in works]
    for one in running:
        one.start()
    for one in running:
        one.join()


def _programs(top: Path, elsewhere: Path) -> Iterator[tuple[str, Timed]]:
    yield "find -ls", partial(_quietly, "find", top, "-ls")
    yield "du -s", partial(_quietly, "du", "-s", top)
    yield (
        "grep -r, small files",
        partial(
            subprocess.run, ["grep", "-r", "--exclude=large", "nothing like it", top], check=False
        ),
    )
    yield (
        "tar c",
        partial(_quietly, "sh", "-c", f"tar -C {top} --exclude=large -c . | cat >/dev/null"),
    )
    yield "rsync, dry run", partial(_quietly, "rsync", "-an", f"{top}/", f"{elsewhere}/")


def _rows(top: Path, names: Names, elsewhere: Path) -> Iterator[tuple[str, Timed]]:
    """In this order: what is called cold has not been asked for before."""
    large = top / "bench/large"
    yield "stat walk, cold", partial(_stat_all, top, names)
    yield "stat walk, warm", partial(_stat_all, top, names)
    yield "open, read, close, cold", partial(_read_all, top, names.files)
    yield "open, read, close, warm", partial(_read_all, top, names.files)
    yield f"{_NAMES} names that do not exist, first", partial(_ask_absent, top, "absent")
    yield f"{_NAMES} names that do not exist, again", partial(_ask_absent, top, "absent")
    yield f"getxattr of {_NAMES} files", partial(_ask_xattr, top, names)
    yield from _programs(top, elsewhere)
    yield "large file, random 4 KiB, 1 process", partial(_read_at_random, large, 1)
    jobs = [(_read_at_random, (large, seed)) for seed in range(2, 2 + _JOBS)]
    yield f"large file, random 4 KiB, {_JOBS} processes", partial(_at_once, jobs)
    yield "large file, sequential, first", partial(_read_through, large)
    yield "large file, sequential, again", partial(_read_through, large)


def _eight(top: Path, names: Names) -> Iterator[tuple[str, Timed]]:
    parts = [names.files[number::_JOBS] for number in range(_JOBS)]
    works = [(_read_all, (top, part)) for part in parts]
    yield f"open, read, close, cold, {_JOBS} processes", partial(_at_once, works)


def _server_costs(places: Places) -> tuple[float, float] | None:
    """CPU seconds and peak memory, in MB, of who serves the mount; None for the kernel."""
    seconds, memory = 0.0, 0.0
    servers = _servers(places.mountpoint)
    for server in servers:
        pid = Path(f"/proc/self/fdinfo/{server}").read_text().partition("Pid:")[2].split()[0]
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            peak = Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]
            memory += int(peak) / 1000
        os.close(server)
    return (seconds, memory) if servers else None


# ---- measuring -----------------------------------------------------------------------------------


def _prepare(work: Path, images: Path, *, quick: bool) -> Places:
    lower, image = work / "lower", work / "image.tar"
    if not quick and _can_install():
        _quietly("cp", "-a", real_image(images).reference("docker-archive"), lower)
    (lower / "bench").mkdir(parents=True)
    rng = random.Random(6)
    for number in range(2000):
        path = lower / f"bench/directory{number // 100}/file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(8000)))
    with (lower / "bench/large").open("wb") as file:
        for _ in range(64 if quick else 1024):
            file.write(rng.randbytes(1 << 20))
    layer = work / "layer.tar"
    _quietly("tar", "-C", lower, "--xattrs", "--format=posix", "-cf", layer, ".")
    synthetic.wrap_layer(layer, image)
    layer.unlink()
    if shutil.which("squashfuse") and shutil.which("mksquashfs"):
        _quietly("mksquashfs", lower, image.with_suffix(".squashfs"), "-noD", "-noF", "-noI")
    return Places(lower, image, work / "upper", work / "work", work / "mnt")


def _drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def _timed(timed: Timed) -> float:
    start = time.perf_counter()
    timed()
    return time.perf_counter() - start


def measure(work: Path, images: Path, *, quick: bool) -> Iterator[Reading]:
    """Every row on every subject."""
    places = _prepare(work, images, quick=quick)
    elsewhere = work / "elsewhere"
    elsewhere.mkdir()
    names = Names.of(places.lower)
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(RUNS):
        for subject in _subjects():
            for rows in (partial(_rows, elsewhere=elsewhere), _eight):
                if not quick:
                    _drop_caches()
                with _mounted(subject, places) as top:
                    for what, timed in rows(top, names):
                        taken[what][subject].append(_timed(timed))
                    costs = _server_costs(places) if rows is not _eight else None
                if costs is not None:
                    taken["CPU seconds of the server"][subject].append(costs[0])
                    taken["peak memory of the server, MB"][subject].append(costs[1])
    for what, found in taken.items():
        yield Reading(what, dict(found))
