"""File systems made for a test, to put an upper on: ext4, tmpfs, xfs and btrfs.

A file system on a block device is an image on a loop device, and the image lies in a tmpfs: fsync
then costs no disk. Everything is gone when the context ends. Needs root (``needs("backing-xfs")``).
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.capabilities import kernel_knows
from support.users import public_place

_PATIENCE = 20  # seconds
KINDS = ("ext4", "tmpfs", "xfs", "btrfs")

_MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "-K"),
}


def kinds() -> list[str]:
    """Those of the kinds that this kernel knows."""
    return [kind for kind in KINDS if kernel_knows(kind)]


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


@contextmanager
def mounted(where: Path, *words: str | Path) -> Iterator[Path]:
    """Mount something at a new directory, until the block ends."""
    where.mkdir()
    _run("mount", *words, where)
    try:
        yield where
    finally:
        _unmount(where)
        where.rmdir()


def _unmount(where: Path) -> None:
    """Unmount; other tests make mount namespaces, each of which holds a copy for a moment."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            _run("umount", where)
        except OSError as error:
            if "busy" not in str(error) or time.monotonic() > end:
                raise
            os.sched_yield()
        else:
            return


def make_file_system(kind: str, image: Path, megabytes: int) -> None:
    """Write the image of an empty file system."""
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    _run(*_MAKE[kind], image)


@contextmanager
def backing(kind: str, megabytes: int = 512, options: str = "noatime") -> Iterator[Path]:
    """A fresh, empty file system of ``kind``; its root may be entered by everyone."""
    with ExitStack() as stack:
        made = stack.enter_context(
            tempfile.TemporaryDirectory(dir=public_place(), prefix="unionmount-backing-")
        )
        top = Path(made).resolve()
        top.chmod(0o755)
        memory = ("-t", "tmpfs", "-o", f"{options},mode=755,size={megabytes}m", "tmpfs")
        if kind == "tmpfs":
            yield stack.enter_context(mounted(top / "fs", *memory))
            return
        # a little more room, so that it is the file system that gets full first
        memory = ("-t", "tmpfs", "-o", f"size={megabytes + 16}m", "tmpfs")
        image = stack.enter_context(mounted(top / "image", *memory)) / "fs.img"
        make_file_system(kind, image, megabytes)
        words = ("-t", kind, "-o", f"loop,{options}", image)
        where = stack.enter_context(mounted(top / "fs", *words))
        if (where / "lost+found").exists():
            (where / "lost+found").rmdir()
        yield where
