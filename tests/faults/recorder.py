"""A disk that writes down what is done to it: every write, every flush, and marks among them.

Run as ``python -m faults.recorder IMAGE MOUNTPOINT TRACE`` it serves a FUSE file system with a file
``disk``, whose content is the image, for a loop device. The kernel makes a write of it out of every
write to the device, and an fsync out of every flush; a write with FUA is a write and a flush, since
loop devices say that they lack it. One request is answered after the other, so the trace has them
in the order in which they took effect. Whatever is written to a file ``marksN`` is noted in
between: when that write(2) returns, all that was acknowledged before it precedes it in the trace.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
import sys
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, RequestContext

WRITE, FLUSH, MARK = 1, 2, 3
HEADER = struct.Struct("<BIQI")
"""Of an event: what it is, the number of the marks, the offset, how many bytes follow."""

DISK = "disk"
_DISK_NODE = 2
_MARKS = b"marks"
_MARKS_NODE = 100
_FOR_EVER = 1e6


class _Recorder(pyfuse3.Operations):
    def __init__(self, image: Path, trace: Path) -> None:
        super().__init__()
        with image.open("r+b") as file:
            self._disk = mmap.mmap(file.fileno(), 0)
        self._trace = trace.open("wb")

    def _note(self, kind: int, number: int = 0, offset: int = 0, data: bytes = b"") -> None:
        self._trace.write(HEADER.pack(kind, number, offset, len(data)) + data)

    def _entry(self, node: int) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = node
        entry.st_mode = stat.S_IFDIR | 0o700 if node == pyfuse3.ROOT_INODE else stat.S_IFREG | 0o600
        entry.st_size = len(self._disk) if node == _DISK_NODE else 0
        entry.attr_timeout = entry.entry_timeout = _FOR_EVER
        return entry

    async def getattr(self, node: int, _context: RequestContext | None = None) -> EntryAttributes:
        return self._entry(node)

    async def setattr(
        self, node: int, _attr: object, _fields: object, _handle: object, _context: RequestContext
    ) -> EntryAttributes:
        return self._entry(node)

    async def lookup(
        self, _parent: int, name: bytes, _context: RequestContext | None = None
    ) -> EntryAttributes:
        if name == DISK.encode():
            return self._entry(_DISK_NODE)
        if name.startswith(_MARKS):
            return self._entry(_MARKS_NODE + int(name.removeprefix(_MARKS)))
        raise FUSEError(errno.ENOENT)

    async def open(self, node: int, _flags: int, _context: RequestContext) -> FileInfo:
        return FileInfo(fh=node, direct_io=node != _DISK_NODE)

    async def read(self, _node: int, offset: int, size: int) -> bytes:
        return self._disk[offset : offset + size]

    async def write(self, node: int, offset: int, data: bytes) -> int:
        if node == _DISK_NODE:
            self._disk[offset : offset + len(data)] = data
            self._note(WRITE, 0, offset, data)
        else:
            self._note(MARK, node - _MARKS_NODE, 0, data)
        return len(data)

    async def fsync(self, _node: int, _data_only: bool) -> None:
        self._note(FLUSH)

    async def flush(self, _handle: int) -> None:
        pass

    def close(self) -> None:
        """Complete the trace."""
        self._trace.close()
        self._disk.close()


def _main(image: str, mountpoint: str, trace: str) -> None:
    recorder = _Recorder(Path(image), Path(trace))
    pyfuse3.init(recorder, mountpoint, {*pyfuse3.default_options, "fsname=recorded-disk"})
    os.write(1, b"ready\n")
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()
        recorder.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
