"""A tar as the target of a copy; the same items always give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from unionmount.extract.items import CopyItem, Piece
from unionmount.formats.tar_writer import END, Member, can_hold, header, padding
from unionmount.system.buffered_output import BufferedOutput
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.core import Node, PlainMembers

_TOP = b"."


class TarTarget:
    """A writer of a tar to a borrowed descriptor; ``name`` is that of the top in it."""

    def __init__(self, fd: int, name: bytes, what: str, warn: Callable[[str], None]) -> None:
        self._name = name
        self._warn = warn
        self._out = BufferedOutput(fd, what)

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
        self._out.add(header(member))
        if item.content is not None:
            if (data := item.content.range) is not None:
                self._out.add_range(data, self._shown(item))
            else:
                self._pour(item.content.pieces(), item)
            self._out.add(padding(item.size))

    def put_plain(self, members: PlainMembers, directory: Node, path: bytes, cookie: int) -> int:
        """Add the plain files of a directory from ``cookie`` on, until one that is not plain.

        Return the cookie of that one. The members are those that ``put`` would add.
        """
        prefix = self._path(path) + b"/" if path or self._name else b""
        out = self._out
        while True:
            cookie, out.used, is_full = members.add(directory, prefix, cookie, out.buffer, out.used)
            if not is_full or not out.used:
                return cookie
            out.flush()

    def finish(self) -> None:
        """Write the end."""
        self._out.add(END)
        self._out.flush()

    def _path(self, path: bytes) -> bytes:
        if not self._name:
            return path or _TOP
        return self._name + b"/" + path if path else self._name

    def _shown(self, item: CopyItem) -> str:
        return printable(self._path(item.path))

    def _pour(self, pieces: Iterator[Piece], item: CopyItem) -> None:
        done = 0
        for offset, data in pieces:
            self._out.add_zeros(offset - done)
            self._out.add(data)
            done = offset + len(data)
        self._out.add_zeros(item.size - done)
