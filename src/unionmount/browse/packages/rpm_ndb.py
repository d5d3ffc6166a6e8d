"""RPM's own database format, ``Packages.db`` (ndb), which SUSE uses.

A header, pages of slots, and blobs: each slot names the blocks of one blob, which is a header of
RPM between a head and a tail.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from unionmount.browse.packages.rpm_header import MAX_HEADER
from unionmount.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.browse.packages.reading import ImageFile

_PAGE = 4096
_BLOCK = 16
_MAX_PAGES = 1 << 13  # of slots: two million packages
_HEAD = struct.Struct("<4sIII")  # of the file: magic, version, generation, pages of slots
_SLOT = struct.Struct("<4sIII")  # magic, number of the package, first block, blocks
_BLOB = struct.Struct("<4sIII")  # magic, number of the package, generation, length
_TAIL = struct.Struct("<II4s")  # checksum, length, magic


def read_ndb(database: ImageFile) -> Iterator[bytes]:
    """Yield the headers; raise FormatError if the database is damaged."""
    magic, version, _, pages = _HEAD.unpack(_exactly(database, 0, _HEAD.size))
    if magic != b"RpmP" or version != 0:
        raise FormatError("is not a database of rpm (ndb) in version 0")
    if not 0 < pages <= _MAX_PAGES:
        raise FormatError(f"has {pages} pages of slots")
    seen = 0
    for page in range(pages):
        slots = _exactly(database, page * _PAGE, _PAGE)
        for at in range(0 if page else 32, _PAGE, _SLOT.size):
            magic, number, block, blocks = _SLOT.unpack_from(slots, at)
            if magic != b"Slot":
                raise FormatError(f"the slot at byte {page * _PAGE + at} is damaged")
            if block:
                seen += blocks
                if seen * _BLOCK > database.size:
                    raise FormatError("its slots overlap")
                yield _blob(database, number, block * _BLOCK, blocks * _BLOCK)


def _blob(database: ImageFile, number: int, offset: int, size: int) -> bytes:
    """Return the header in the blob of ``size`` bytes: padding and a tail follow it."""
    if not _BLOB.size + _TAIL.size <= size <= MAX_HEADER:
        raise FormatError(f"the blob at byte {offset} has {size} bytes")
    blob = _exactly(database, offset, size)
    magic, owner, _, length = _BLOB.unpack_from(blob)
    checksum, again, end = _TAIL.unpack_from(blob, size - _TAIL.size)
    marks = (magic, end, owner, again) == (b"BlbS", b"BlbE", number, length)
    if not marks or -(-(_BLOB.size + length + _TAIL.size) // _BLOCK) * _BLOCK != size:
        raise FormatError(f"the blob at byte {offset} is damaged")
    if zlib.adler32(memoryview(blob)[: -_TAIL.size]) != checksum:
        raise FormatError(f"the checksum of the blob at byte {offset} is wrong")
    return blob[_BLOB.size : _BLOB.size + length]


def _exactly(database: ImageFile, offset: int, size: int) -> bytes:
    data = database.read_at(offset, size)
    if len(data) != size:
        raise FormatError(f"ends before byte {offset + size}")
    return data
