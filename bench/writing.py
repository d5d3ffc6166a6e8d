"""Changes to a mount, beside the same on the kernel's overlayfs and on fuse-overlayfs.

One lower directory for all of them: a Debian root (with ``quick`` nothing of the kind) and, in
``bench/``, what the tasks need. An image of the same files is mounted, too. Each task is done by
each subject in turn, on a new upper, and all of that three times.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from images.build import TOOLS, mirror, real_image, run

from bench import synthetic

RUNS = 3
BASE = "overlayfs"  # what the others are compared with
_PATIENCE = 60.0
_PACKAGES = ("hello", "file", "sqlite3")

Timed = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to do."""

    files: int  # of the tar
    appended: int  # files of the lower layer
    writes: int  # to one file
    megabytes: int  # of the large file
    sources: int  # files of the repository


FULL = Sizes(10_000, 1_000, 10_000, 1024, 4_000)
QUICK = Sizes(1_000, 100, 1_000, 32, 400)


@dataclass(frozen=True, slots=True)
class Measured:
    """One task: the median seconds of each subject that can do it."""

    what: str
    seconds: dict[str, float]


# ---- subjects ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Places:
    """What is mounted, and where."""

    lower: Path
    image: Path
    upper: Path
    work: Path
    mountpoint: Path

    @property
    def environment(self) -> dict[str, str]:
        """What keeps unionmount's records and store beside the mount."""
        place = self.mountpoint.parent
        names = {"UNIONMOUNT_ROOT": "store", "UNIONMOUNT_RUNTIME_DIR": "runtime"}
        return {variable: str(place / name) for variable, name in names.items()}

    @property
    def options(self) -> str:
        """What overlayfs and its kin are told."""
        return f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"


def _overlayfs(places: Places) -> list[str | Path]:
    return ["mount", "-t", "overlay", "overlay", "-o", places.options, places.mountpoint]


def _fuse_overlayfs(places: Places) -> list[str | Path]:
    return ["fuse-overlayfs", "-o", f"{places.options},dev,suid", places.mountpoint]


def _unionmount(*words: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "unionmount", *words]


def _overlay(places: Places) -> list[str | Path]:
    return _unionmount("overlay", "-o", f"{places.options},dev,suid", places.mountpoint)


def _image(places: Places) -> list[str | Path]:
    where = ("--upper", places.upper, "--work", places.work)
    source = f"docker-archive:{places.image}"
    return _unionmount("mount", "-o", "dev,suid", *where, source, places.mountpoint)


SUBJECTS: dict[str, Callable[[Places], list[str | Path]]] = {
    BASE: _overlayfs,
    "unionmount overlay": _overlay,
    "unionmount mount": _image,
    "fuse-overlayfs": _fuse_overlayfs,
}


def _unmount(mountpoint: Path) -> None:
    """Unmount; where a process has served the mount, it has ended when this returns."""
    servers = _servers(mountpoint)
    _quietly("umount", mountpoint)
    for server in servers:
        select.select([server], [], [], _PATIENCE)
        os.close(server)


def _servers(mountpoint: Path) -> list[int]:
    """Descriptors of the processes that name the mount point in their command lines."""
    found = []
    word = os.fsencode(mountpoint)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if word in words:
                    found.append(os.pidfd_open(int(entry.name)))
            except OSError:
                continue  # it has ended
    return found


@contextmanager
def _mounted(subject: str, places: Places) -> Iterator[Path]:
    """A mount with a new upper."""
    for path in (places.upper, places.work, places.mountpoint):
        path.mkdir()
    try:
        _quietly(*SUBJECTS[subject](places), environment=places.environment)
        try:
            yield places.mountpoint
        finally:
            _unmount(places.mountpoint)
    finally:
        for path in (places.upper, places.work):
            shutil.rmtree(path)
        places.mountpoint.rmdir()


def _quietly(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    everything = os.environ | (environment or {})
    subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=everything
    )


# ---- the lower directory -----------------------------------------------------------------------


def _git(top: Path, *words: str) -> None:
    names = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0")
    _quietly("git", "-C", top, *names, *words)


def _write_sources(top: Path, numbers: range, rng: random.Random) -> None:
    for number in numbers:
        path = top / f"directory{number // 50}/source{number}.c"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(1000).hex().encode())


def _make_repository(top: Path, count: int) -> None:
    """Two branches: in the other a third of the files differ, a tenth is gone, a tenth is new."""
    rng = random.Random(4)
    top.mkdir()
    _git(top, "init", "-q", "-b", "main")
    _write_sources(top, range(count), rng)
    _git(top, "add", ".")
    _git(top, "commit", "-q", "-m", "main")
    _git(top, "checkout", "-q", "-b", "other")
    _write_sources(top, range(0, count, 3), rng)
    _write_sources(top, range(count, count + count // 10), rng)
    for number in range(1, count, 10):
        (top / f"directory{number // 50}/source{number}.c").unlink()
    _git(top, "add", "-A", ".")
    _git(top, "commit", "-q", "-m", "other")
    _git(top, "checkout", "-q", "main")


def _make_files(top: Path, sizes: Sizes) -> None:
    """What the tasks work on."""
    rng = random.Random(5)
    (top / "many").mkdir(parents=True)
    for number in range(sizes.appended):
        (top / f"many/{number}").write_bytes(rng.randbytes(1000))
    with (top / "large").open("wb") as file:
        for _ in range(sizes.megabytes):
            file.write(rng.randbytes(1 << 20))
    _make_repository(top / "repository", sizes.sources)


@contextmanager
def _in_chroot(root: Path) -> Iterator[Callable[..., str]]:
    with ExitStack() as stack:
        run("mount", "-t", "proc", "proc", root / "proc")
        stack.callback(run, "umount", root / "proc")
        yield lambda *words: run("env", "DEBIAN_FRONTEND=noninteractive", "chroot", root, *words)


def _copy_settings(root: Path) -> None:
    """How this machine reaches its archive."""
    (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] {mirror()} bookworm main\n")
    for name in ("etc/resolv.conf", "etc/hosts"):
        shutil.copy(Path("/", name), root / name)
    for name in ("etc/apt/apt.conf.d", "etc/ssl/certs", "usr/local/share/ca-certificates"):
        for path in Path("/", name).glob("*"):
            there = root / name / path.name
            if path.is_file() and not there.exists():
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, there)


def _make_debian(images: Path, top: Path) -> None:
    """A Debian root that has packages ready to be installed, so that the network is not timed."""
    run("cp", "-a", real_image(images).reference("docker-archive"), top)
    _copy_settings(top)
    with _in_chroot(top) as chroot:
        chroot("apt-get", "update", "-q")
        chroot("apt-get", "install", "-y", "-q", "--download-only", *_PACKAGES)


def _prepare(work: Path, sizes: Sizes, images: Path | None) -> tuple[Path, Path]:
    """The lower directory, and an image of it."""
    lower, image = work / "lower", work / "image.tar"
    if images is not None:
        _make_debian(images, lower)
    _make_files(lower / "bench", sizes)
    layer = work / "layer.tar"
    _quietly("tar", "-C", lower, "--xattrs", "--format=posix", "-cf", layer, ".")
    synthetic.wrap_layer(layer, image)
    layer.unlink()
    return lower, image


# ---- tasks ---------------------------------------------------------------------------------------


def _append_to_one(path: Path, count: int) -> None:
    line = b"x" * 99 + b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for _ in range(count):
            os.write(fd, line)
    finally:
        os.close(fd)


def _append_to_each(top: Path, count: int) -> None:
    for number in range(count):
        with (top / str(number)).open("ab", buffering=0) as file:
            file.write(b"appended\n")


def _append_byte(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@dataclass(frozen=True, slots=True)
class Scene:
    """A fresh mount, and what is done there."""

    top: Path
    sizes: Sizes
    tar: Path

    @property
    def large(self) -> Path:
        """The large file of the lower layer."""
        return self.top / "bench/large"


Task = Callable[[Scene], Iterator[tuple[str, Timed]]]
"""Things to time, one after the other, on one mount, each with what it is called."""


def _small_files(scene: Scene) -> Iterator[tuple[str, Timed]]:
    sizes, place, many = scene.sizes, scene.top / "untarred", scene.top / "bench/many"
    place.mkdir()
    count = f"{sizes.files:,} files"
    yield f"untar {count}", partial(_quietly, "tar", "-C", place, "-xf", scene.tar)
    yield f"rm -r of {count}", partial(_quietly, "rm", "-r", place)
    appends = partial(_append_to_one, scene.top / "log", sizes.writes)
    yield f"{sizes.writes:,} appends of 100 bytes to a file", appends
    append = partial(_append_to_each, many, sizes.appended)
    yield f"append to {sizes.appended:,} lower files", append
    yield f"append to {sizes.appended:,} files again", append


def _sequential(scene: Scene) -> Iterator[tuple[str, Timed]]:
    size = scene.sizes.megabytes
    words = ("if=/dev/zero", f"of={scene.top / 'zeros'}", "bs=1M", f"count={size}")
    dd = ("dd", *words, "conv=fsync", "status=none")
    yield f"write {size} MB, and fsync", partial(_quietly, *dd)


def _copy_up(scene: Scene) -> Iterator[tuple[str, Timed]]:
    what = f"append a byte to a lower file of {scene.sizes.megabytes} MB"
    yield what, partial(_append_byte, scene.large)


def _change_mode(scene: Scene) -> Iterator[tuple[str, Timed]]:
    what = f"chmod of a lower file of {scene.sizes.megabytes} MB"
    yield what, partial(scene.large.chmod, 0o600)


def _repository(scene: Scene) -> Iterator[tuple[str, Timed]]:
    git = partial(_git, scene.top / "bench/repository")
    what = f"{scene.sizes.sources:,} files"
    yield f"git status of {what}, first", partial(git, "status", "--porcelain")
    yield f"git status of {what}, again", partial(git, "status", "--porcelain")
    yield f"git checkout of another branch of {what}", partial(git, "checkout", "-q", "other")


def _packages(scene: Scene) -> Iterator[tuple[str, Timed]]:
    with _in_chroot(scene.top) as chroot:
        words = ("apt-get", "install", "-y", "-q", "--no-download", *_PACKAGES)
        yield "apt-get install", partial(chroot, *words)


_TASKS: tuple[Task, ...] = (_small_files, _sequential, _copy_up, _change_mode, _repository)


def _subjects() -> list[str]:
    """Those that this machine has."""
    has_fuse_overlayfs = shutil.which("fuse-overlayfs") is not None
    return [name for name in SUBJECTS if name != "fuse-overlayfs" or has_fuse_overlayfs]


def _seconds(timed: Timed) -> float:
    os.sync()
    start = time.perf_counter()
    timed()
    return time.perf_counter() - start


def _measure(task: Task, places: Places, sizes: Sizes, tar: Path) -> Iterator[Measured]:
    taken: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(RUNS):
        for subject in _subjects():
            with _mounted(subject, places) as top:
                for what, timed in task(Scene(top, sizes, tar)):
                    taken[what][subject].append(_seconds(timed))
    for what, times in taken.items():
        yield Measured(what, {name: statistics.median(found) for name, found in times.items()})


def _can_install() -> bool:
    return all(shutil.which(tool) for tool in TOOLS)


def measure(work: Path, images: Path, *, quick: bool) -> Iterator[Measured]:
    """Every task on every subject."""
    sizes = QUICK if quick else FULL
    debian = not quick and _can_install()
    tasks: Sequence[Task] = (*_TASKS, _packages) if debian else _TASKS
    lower, image = _prepare(work, sizes, images if debian else None)
    tar = work / "small.tar"
    synthetic.write_small(tar, sizes.files)
    places = Places(lower, image, work / "upper", work / "work", work / "mnt")
    for task in tasks:
        yield from _measure(task, places, sizes, tar)
    for path in (lower, work / "store"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (image, tar):
        path.unlink()
