"""Writing many small pieces and large ranges of files with few system calls."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from unionmount.errors import SizeMismatch
from unionmount.system import libc
from unionmount.system.files import FileRange, write_all
from unionmount.system.os_errors import naming

_SIZE = 1024 * 1024  # bytes of the buffer
_WRITTEN_BACK = 32 * 1024 * 1024  # bytes after which the kernel is told to write
_WRITE = 2  # SYNC_FILE_RANGE_WRITE


class BufferedOutput:
    """A buffered writer to a borrowed descriptor, at its position; ``what`` names it in errors.

    The first ``used`` bytes of ``buffer`` are to be written. Others may add bytes after them, and
    count them in ``used``.

    There is no thread that writes while the buffer is filled: the kernel reads ahead and writes
    back by itself, and a thread was no faster.
    """

    def __init__(self, fd: int, what: str) -> None:
        self.buffer = bytearray(_SIZE)
        self.used = 0
        self._fd = fd
        self._what = what
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._unwritten = 0

    def add(self, data: bytes) -> None:
        """Append bytes."""
        view = memoryview(data)
        while view:
            size = min(len(view), self._room())
            self.buffer[self.used : self.used + size] = view[:size]
            self.used += size
            view = view[size:]

    def add_zeros(self, count: int) -> None:
        """Append zeros."""
        while count > 0:
            size = min(count, self._room())
            self.buffer[self.used : self.used + size] = bytes(size)
            self.used += size
            count -= size

    def add_range(self, data: FileRange, what: str) -> None:
        """Append bytes of a file, which ``what`` names; raise SizeMismatch if it ends early.

        They are read into the buffer: copy_file_range(2) is slower where source and target have
        different offsets in a page, as in tars.
        """
        done = 0
        while done < data.length:
            size = min(data.length - done, self._room())
            with naming(what), memoryview(self.buffer) as view:
                got = os.preadv(data.fd, [view[self.used : self.used + size]], data.offset + done)
            if not got:
                raise SizeMismatch(what, data.length, done)
            self.used += got
            done += got

    def flush(self) -> None:
        """Write the buffer, which is empty afterwards."""
        used, self.used = self.used, 0
        with naming(self._what), memoryview(self.buffer) as view:
            write_all(self._fd, view[:used])
        self._count(used)

    def _room(self) -> int:
        """Return the room in the buffer, of which there is some."""
        if self.used == len(self.buffer):
            self.flush()
        return len(self.buffer) - self.used

    def _count(self, size: int) -> None:
        """Have the kernel begin to write what is in its memory, so that fsync is quick."""
        self._unwritten += size
        if self._is_file and self._unwritten >= _WRITTEN_BACK:
            self._unwritten = 0
            with suppress(OSError):  # it is only advice
                libc.call("sync_file_range", self._fd, 0, 0, _WRITE)
