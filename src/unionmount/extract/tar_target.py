"""A tar as the target of a copy; the same items always give the same bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

from unionmount.errors import UnionmountError
from unionmount.extract.items import CopyItem, Piece
from unionmount.formats.tar_writer import END, Member, can_hold, header, padding
from unionmount.system import libc
from unionmount.system.copy_range import copy_range
from unionmount.system.files import FileRange, write_all
from unionmount.system.os_errors import naming
from unionmount.system.text import printable

_GATHERED = 1024 * 1024  # bytes that are written at once
_SMALL = 128 * 1024  # files up to this size are read, others copied by the kernel
_ZEROS = bytes(_GATHERED)
_TOP = b"."
_WRITTEN_BACK = 32 * 1024 * 1024  # bytes after which the kernel is told to write
_WRITE = 2  # SYNC_FILE_RANGE_WRITE


class TarTarget:
    """A writer of a tar to a borrowed descriptor; ``name`` is that of the top in it."""

    def __init__(self, fd: int, name: bytes, what: str, warn: Callable[[str], None]) -> None:
        self._fd = fd
        self._name = name
        self._what = what
        self._warn = warn
        self._gathered = bytearray()
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._unwritten = 0

    def put(self, item: CopyItem) -> None:
        """Add a member; a socket, for which a tar has no type, is left out."""
        if not can_hold(item.mode):
            self._warn(f"{self._shown(item)}: left out, since a tar cannot hold a socket")
            return
        hard_link = item.link is not None
        member = Member(
            self._path(item.path),
            item.mode,
            item.uid,
            item.gid,
            item.size,
            item.mtime_ns,
            item.device,
            self._path(item.link) if item.link is not None else item.target,
            hard_link,
            {} if hard_link else item.xattrs,
        )
        self._add(header(member))
        if item.content is not None:
            data = item.content.range
            if data is not None and item.size > _SMALL:
                self._copy(data, item)
            elif data is not None:
                self._read(data, item)
            else:
                self._pour(item.content.pieces(), item)
            self._add(padding(item.size))

    def finish(self) -> None:
        """Write the end."""
        self._add(END)
        self._flush()

    def _path(self, path: bytes) -> bytes:
        if not self._name:
            return path or _TOP
        return self._name + b"/" + path if path else self._name

    def _shown(self, item: CopyItem) -> str:
        return printable(self._path(item.path))

    def _copy(self, data: FileRange, item: CopyItem) -> None:
        self._flush()
        with naming(self._what):
            copy_range(data, self._fd, self._shown(item))
        self._count(data.length)

    def _read(self, data: FileRange, item: CopyItem) -> None:
        found = os.pread(data.fd, item.size, data.offset)
        if len(found) != item.size:
            raise UnionmountError(f"{self._shown(item)}: the tar of its layer ends too early")
        self._add(found)

    def _pour(self, pieces: Iterator[Piece], item: CopyItem) -> None:
        done = 0
        for offset, data in pieces:
            self._zeros(offset - done)
            self._add(data)
            done = offset + len(data)
        if done < item.size:
            self._zeros(item.size - done)

    def _zeros(self, count: int) -> None:
        while count > 0:
            size = min(count, len(_ZEROS))
            self._add(_ZEROS[:size] if size < len(_ZEROS) else _ZEROS)
            count -= size

    def _add(self, data: bytes) -> None:
        self._gathered += data
        if len(self._gathered) >= _GATHERED:
            self._flush()

    def _flush(self) -> None:
        data, self._gathered = self._gathered, bytearray()
        with naming(self._what):
            write_all(self._fd, bytes(data))
        self._count(len(data))

    def _count(self, size: int) -> None:
        """Have the kernel begin to write what is in its memory, so that fsync is quick."""
        self._unwritten += size
        if self._is_file and self._unwritten >= _WRITTEN_BACK:
            self._unwritten = 0
            with suppress(OSError):  # it is only advice
                libc.call("sync_file_range", self._fd, 0, 0, _WRITE)
