"""A disk of the test's own, whose reads are counted by the kernel and are nobody else's.

It is an ext4 file system on a loop device, whose image lies in a tmpfs. A new mount knows nothing
of what was read before: there is nothing of it in the page cache.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.backing import make_file_system, mounted

_SECTOR = 512
_PATIENCE = 30  # seconds
_libc = ctypes.CDLL(None, use_errno=True)


class ColdDisk:
    """A file system that can be mounted afresh."""

    def __init__(self, image: Path, where: Path) -> None:
        self.where = where
        self._image = image

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mount it, with nothing in the page cache, until the block ends."""
        with mounted(self.where, "-t", "ext4", "-o", "loop,noatime", self._image) as where:
            device = self._device
            yield where
        end = time.monotonic() + _PATIENCE
        while (device / "loop").exists():  # somebody's mount namespace has a copy for a moment
            assert time.monotonic() < end, "the disk is still mounted somewhere"
            os.sched_yield()

    def bytes_read(self) -> int:
        """Return what was read from the device of the disk: only differences mean anything."""
        return int((self._device / "stat").read_text().split()[2]) * _SECTOR

    @property
    def _device(self) -> Path:
        number = self.where.stat().st_dev
        return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")


@contextmanager
def cold_disk(place: Path, megabytes: int) -> Iterator[ColdDisk]:
    """Yield an empty disk."""
    with ExitStack() as stack:
        memory = ("-t", "tmpfs", "-o", f"size={megabytes + 16}m", "tmpfs")
        image = stack.enter_context(mounted(place / "image", *memory)) / "disk"
        make_file_system("ext4", image, megabytes)
        yield ColdDisk(image, place / "disk")


def pages_in_memory(path: Path) -> list[int]:
    """Return the numbers of the pages of a file that are in the page cache (mincore(2))."""
    size = path.stat().st_size
    if not size:
        return []
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as view:
        pages = -(-size // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        anchor = ctypes.c_char.from_buffer(view)
        try:
            if _libc.mincore(
                ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(size), found
            ):
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            del anchor
        return [number for number, one in enumerate(found) if one & 1]
