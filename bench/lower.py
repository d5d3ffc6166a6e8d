"""The lower directory of the parts fastpath and writing, and the other forms of the same files."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from support.real_images import TOOLS, mirror, real_image, run

from bench import synthetic
from bench.subjects import Places, Subject, quietly

PACKAGES = ("hello", "file", "sqlite3")  # installed by the part writing
_KEPT = Path(__file__).parent / "out"
GIT = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
_LONG_AGO = 1_000_000_000


def can_install() -> bool:
    """Whether this machine can make a Debian root."""
    return all(shutil.which(tool) for tool in TOOLS)


# ---- a Debian root -------------------------------------------------------------------------------


def chroot(root: Path, *words: str) -> str:
    """Run a program of a root; what it printed."""
    return run("env", "DEBIAN_FRONTEND=noninteractive", "chroot", root, *words)


@contextmanager
def in_chroot(root: Path) -> Iterator[Callable[..., str]]:
    """Run programs of a root, which has /proc meanwhile."""
    with ExitStack() as stack:
        run("mount", "-t", "proc", "proc", root / "proc")
        stack.callback(run, "umount", root / "proc")
        yield partial(chroot, root)


def copy_settings(root: Path) -> None:
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


def make_debian_to_install(images: Path, top: Path) -> None:
    """A Debian root that has packages ready to be installed, so that the network is not timed."""
    run("cp", "-a", real_image(images).reference("docker-archive"), top)
    copy_settings(top)
    with in_chroot(top) as call:
        call("apt-get", "update", "-q")
        call("apt-get", "install", "-y", "-q", "--download-only", *PACKAGES)


def debian_with_python(images: Path) -> Path:
    """The Debian root of the image with Debian's python3, installed once and kept.

    The image's oddities for tests are taken out: ratarmount can't show all of them.
    """
    image = real_image(images)
    kept = _KEPT / f"python-{image.base.name}"
    if not kept.exists():
        unfinished = kept.with_suffix(".partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        _KEPT.mkdir(parents=True, exist_ok=True)
        run("cp", "-a", image.reference("docker-archive"), unfinished)
        copy_settings(unfinished)
        with in_chroot(unfinished) as call:
            call("apt-get", "update", "-q")
            call("apt-get", "install", "-y", "-q", "--no-install-recommends", "python3")
            call("sh", "-c", "rm -rf /opt/fixture /var/lib/apt/lists/* /var/cache/apt/*")
        unfinished.rename(kept)
    return kept


# ---- files ---------------------------------------------------------------------------------------


def write_large(path: Path, megabytes: int, rng: random.Random) -> None:
    """One file that no file system can make smaller."""
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(rng.randbytes(1 << 20))


def write_small(top: Path, count: int, rng: random.Random) -> None:
    """Files below 8,000 bytes, 100 in a directory."""
    for number in range(count):
        path = top / f"directory{number // 100}/file{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(8000)))


def git(top: Path, *words: str) -> None:
    """Run git without the settings of this machine."""
    names = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "gc.auto=0")
    trust = ("-c", "safe.directory=*")
    quietly("git", "-C", top, *names, *trust, *words, environment=GIT)


def _write_sources(top: Path, numbers: range, rng: random.Random) -> None:
    for number in numbers:
        path = top / f"directory{number // 50}/source{number}.c"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(rng.randbytes(1000).hex().encode())


def make_repository(top: Path, count: int) -> None:
    """Two branches: in the other a third of the files differ, a tenth is gone, a tenth is new."""
    rng = random.Random(4)
    top.mkdir()
    git(top, "init", "-q", "-b", "main")
    _write_sources(top, range(count), rng)
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "main")
    git(top, "checkout", "-q", "-b", "other")
    _write_sources(top, range(0, count, 3), rng)
    _write_sources(top, range(count, count + count // 10), rng)
    for number in range(1, count, 10):
        (top / f"directory{number // 50}/source{number}.c").unlink()
    git(top, "add", "-A", ".")
    git(top, "commit", "-q", "-m", "other")
    git(top, "checkout", "-q", "main")


def make_clean_repository(top: Path, count: int) -> None:
    """A packed repository whose files are older than its index: git need not read them."""
    top.mkdir()
    git(top, "init", "-q", "-b", "main")
    _write_sources(top, range(count), random.Random(4))
    for path in top.glob("directory*/*"):
        os.utime(path, (_LONG_AGO, _LONG_AGO))
    git(top, "add", ".")
    git(top, "commit", "-q", "-m", "main")
    git(top, "repack", "-q", "-a", "-d")


# ---- forms ---------------------------------------------------------------------------------------


def make_forms(places: Places, subjects: Iterable[Subject]) -> None:
    """The lower directory as the subjects take it: an image, a tar, a squashfs."""
    shown = {subject.shows for subject in subjects}
    if shown & {"image", "tar"}:
        words = ("-C", places.lower, "--xattrs", "--format=posix", "-cf", places.tar, ".")
        quietly("tar", *words)
    if "image" in shown:
        synthetic.wrap_layer(places.tar, places.image)
    if "tar" not in shown:
        places.tar.unlink(missing_ok=True)
    if "squashfs" in shown:
        quietly("mksquashfs", places.lower, places.squashfs, "-noD", "-noF", "-noI")
