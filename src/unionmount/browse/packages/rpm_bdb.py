"""RPM's old database, ``Packages``, a hash of BerkeleyDB: CentOS 7 and Amazon Linux 2 have it.

A page of metadata, and pages of keys and values by turns. A value that does not fit on a page, and
headers seldom do, is a chain of overflow pages. Only the values are read, without the index.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from unionmount.browse.packages.rpm_header import MAX_HEADER
from unionmount.errors import FormatError, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.browse.packages.reading import ImageFile

_MAGIC = 0x061561  # of a hash; at byte 12
_VERSIONS = range(7, 11)
_PAGE = "8xIIIHHBB"  # number, previous, next, entries, free byte, level, type
_UNSORTED, _OVERFLOW, _HASH = 2, 7, 13  # types of pages
_KEY_DATA, _OFF_PAGE = 1, 3  # types of items
_OFF = "B3xII"  # type, first page, length
_PAGES = (512, 1 << 16)  # least and greatest size
_MAX_DATABASE = 2 << 30  # bytes


def read_bdb(database: ImageFile) -> Iterator[bytes]:
    """Yield the headers; raise FormatError if the database is damaged."""
    if database.size > _MAX_DATABASE:
        raise LimitExceeded(f"has {database.size} bytes, more than {_MAX_DATABASE}")
    head = database.read_at(0, 512)
    if len(head) < 72:
        raise FormatError("is too short for a database of BerkeleyDB")
    for order in "<>":
        magic, version, size = struct.unpack_from(f"{order}III", head, 12)
        if magic == _MAGIC:
            break
    else:
        raise FormatError("is not a hash of BerkeleyDB")
    is_size = _PAGES[0] <= size <= _PAGES[1] and not size & (size - 1)
    if version not in _VERSIONS or not is_size or head[24]:
        raise FormatError(
            f"is a database of BerkeleyDB in version {version} that is not readable here; "
            "convert it with 'rpmdb --rebuilddb' in a container of the image"
        )
    yield from _Hash(database, order, size).values()


class _Hash:
    """The pages of a hash; ``order`` is the byte order, ``size`` that of a page."""

    def __init__(self, database: ImageFile, order: str, size: int) -> None:
        self._database = database
        self._size = size
        self._page = struct.Struct(order + _PAGE)
        self._off = struct.Struct(order + _OFF)
        self._order = order
        self._left = database.size  # bytes that chains may still have: they do not share pages

    def values(self) -> Iterator[bytes]:
        for number in range(1, self._database.size // self._size):
            page = self._read(number)
            *_, entries, _, _, kind = self._page.unpack_from(page)
            if kind in (_UNSORTED, _HASH):
                yield from self._of_page(page, entries, number)

    def _of_page(self, page: bytes, entries: int, number: int) -> Iterator[bytes]:
        if self._page.size + 2 * entries > len(page) or entries % 2:
            raise FormatError(f"page {number} is damaged")
        starts = struct.unpack_from(f"{self._order}{entries}H", page, self._page.size)
        ends = (len(page), *starts)
        for at in range(0, entries, 2):
            key, value = starts[at], starts[at + 1]
            if not self._page.size <= value < key < ends[at] <= len(page):
                raise FormatError(f"page {number} is damaged")
            if page[value] == _OFF_PAGE:
                if value + self._off.size > key:
                    raise FormatError(f"page {number} is damaged")
                _, first, length = self._off.unpack_from(page, value)
                yield self._chain(first, length)
            elif page[value] == _KEY_DATA and page[key + 1 : ends[at]].strip(b"\0"):  # no counter
                yield page[value + 1 : key]

    def _chain(self, number: int, length: int) -> bytes:
        """Return a value of ``length`` bytes that begins on an overflow page."""
        self._left -= length
        if self._left < 0 or length > MAX_HEADER:
            raise FormatError("its values are longer than the file")
        value = bytearray()
        while len(value) < length:
            page = self._read(number)
            _, _, number, _, used, _, kind = self._page.unpack_from(page)
            wanted = min(length - len(value), self._size - self._page.size)
            if kind != _OVERFLOW or used != wanted:  # every page but the last one is full
                raise FormatError("a chain of pages is damaged")
            value += page[self._page.size : self._page.size + used]
        return bytes(value)

    def _read(self, number: int) -> bytes:
        page = self._database.read_at(number * self._size, self._size)
        if len(page) != self._size:
            raise FormatError(f"page {number} is missing")
        return page
