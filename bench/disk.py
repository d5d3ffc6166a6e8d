"""A disk of its own for what makes and deletes many files: ext4 with a journal on a loop device.

An ext4 without a journal does not use an inode again that was deleted in the last minutes: it looks
for another one, and passes all of those each time. After ten thousand files have been deleted, to
make as many takes ten times longer, whoever does it: subjects that take turns would pay for each
other. With a journal, which is what people have, that does not happen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from bench.interrupts import undisturbed
from bench.measuring import Notebook, UnableError
from bench.subjects import quietly

GIGABYTE = 1 << 30
# Not lazily: the kernel would write its tables while others are timed.
_MKFS = ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0")
_PATIENCE = 20.0  # for programs that were interrupted, and still end


def _obstacle(work: Path, size: int) -> str:
    """Why there can be no such disk."""
    if os.geteuid() != 0:
        return "not root"
    if not Path("/dev/loop-control").exists():
        return "no loop devices"
    if shutil.which(_MKFS[0]) is None:
        return f"no {_MKFS[0]}"
    if shutil.disk_usage(work).free < size:  # a sparse file on a full disk would be a broken disk
        return f"less than {size // GIGABYTE} GB are free"
    return ""


# ---- the loop device -----------------------------------------------------------------------------


def _device(place: Path) -> Path:
    """What sysfs knows of the device that a file system is on."""
    number = place.stat().st_dev
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()


def _cache_once(place: Path) -> None:
    """Direct I/O, where what is below can do it: no second copy of all data in the page cache.

    It is asked for afterwards, since ``mount -o loop`` has no word for it; but what that sets up
    the kernel frees by itself when it is unmounted, lazily too.
    """
    words = ("losetup", "--direct-io=on", f"/dev/{_device(place).name}")
    subprocess.run(words, check=False, stderr=subprocess.DEVNULL)


def _is_unmounted(place: Path) -> bool:
    words = ("umount", "--recursive", place)
    return subprocess.run(words, check=False, stderr=subprocess.DEVNULL).returncode == 0


def _unmount(place: Path) -> None:
    """At last lazily: the kernel frees the device when the last program has closed its files."""
    end = time.monotonic() + _PATIENCE
    while not _is_unmounted(place):
        if time.monotonic() > end:
            quietly("umount", "--recursive", "--lazy", place)
            return
        time.sleep(0.2)


@contextmanager
def journalled(work: Path, size: int, files: int = 0) -> Iterator[Path]:
    """A new ext4 of that many bytes; its image is a sparse file in ``work``. Both go at the end.

    ``files`` is how many inodes it has, where the usual number of its size is not enough.
    """
    if obstacle := _obstacle(work, size):
        raise UnableError(obstacle)
    image, place = work / "disk.img", work / "disk"
    try:
        with image.open("wb") as file:
            file.truncate(size)
        inodes = ("-N", str(files)) if files else ()
        quietly(*_MKFS, *inodes, image)
        place.mkdir()
        with undisturbed():
            quietly("mount", "-o", "loop", image, place)
        _cache_once(place)
        yield place
    finally:
        with undisturbed():
            if place.is_mount():
                _unmount(place)
            if place.exists():
                place.rmdir()
            image.unlink(missing_ok=True)


# ---- where a part is done ------------------------------------------------------------------------


def _kind(path: Path) -> tuple[str, str]:
    """What the file system of a path is, and what it is on."""
    words = ("findmnt", "-n", "-o", "FSTYPE,SOURCE", "--target", path)
    found = ""
    with suppress(OSError):
        found = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    kind, _, source = found.strip().partition(" ")
    return kind or "?", source.strip()


def describe(path: Path) -> str:
    """The kind of file system that a path is on, and whether an ext4 has a journal."""
    kind, source = _kind(path)
    if kind != "ext4":
        return kind
    journals = Path("/proc/fs/jbd2").glob(f"{Path(source).name}-*")
    found = f"ext4 with{'' if any(journals) else 'out'} a journal"
    loop = _device(path) / "loop"
    if not loop.exists():
        return found
    direct = (loop / "dio").read_text(encoding="ascii").strip() == "1"
    below = Path((loop / "backing_file").read_text(encoding="utf-8").rstrip("\n"))
    how = f"on a loop device {'with' if direct else 'without'} direct I/O"
    return f"{found}, {how}, whose file is on {describe(below)}"


@contextmanager
def place_for(part: str, work: Path, size: int, notes: Notebook, files: int = 0) -> Iterator[Path]:
    """A directory on a disk of its own, else in ``work``; the notes say which. It is removed."""
    with ExitStack() as stack:
        try:
            place = stack.enter_context(journalled(work, size, files))
        except (UnableError, OSError, subprocess.SubprocessError) as error:
            notes.miss("a disk of its own", f"part {part}", error)
            place = work / "disk"
            place.mkdir()
            stack.callback(shutil.rmtree, place)
        notes.file_systems[part] = describe(place)
        print(f"{part}: on {notes.file_systems[part]}", file=sys.stderr)
        yield place
