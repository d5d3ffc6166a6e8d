"""What is copied: an item is a file with its attributes, and a way to read its content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from unionmount.system.files import FileRange

if TYPE_CHECKING:
    from unionmount.core import Node, PlainMembers

Piece = tuple[int, bytes]
"""An offset in a file and the bytes there."""


class Content(Protocol):
    """The content of a regular file."""

    @property
    def range(self) -> FileRange | None:
        """The content as bytes of an open file; None if it has to be read in pieces."""

    def pieces(self) -> Iterator[Piece]:
        """Yield the content in order; what lies between two pieces is a hole."""


_NONE: Mapping[bytes, bytes] = {}


class CopyItem(NamedTuple):
    """A file to copy.

    ``path`` is relative to the top of the copy, whose own is empty. ``link`` is the path of an
    earlier item that is the same file. A regular file without ``link`` has a ``content``.
    """

    path: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    device: tuple[int, int] = (0, 0)
    target: bytes = b""
    link: bytes | None = None
    xattrs: Mapping[bytes, bytes] = _NONE
    content: Content | None = None


class PlainTarget(Protocol):
    """A target that needs no items for plain files of an image (``core.PlainMembers``)."""

    def put_plain(self, members: PlainMembers, directory: Node, path: bytes, cookie: int) -> int:
        """Add plain files of the directory at ``path``, from the entry ``cookie`` on.

        Return the cookie of the first entry that was not added.
        """
