"""A tar stream as the source of a copy: all that Python's tarfile reads, compressed or not.

The stream is not trusted. Names that lead up are errors, and absolute ones are taken as relative.
What tarfile reads at once (extended headers, maps of sparse files) is bounded, as is all that
precedes one member, and nothing of earlier members is kept in memory.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from unionmount.errors import FormatError
from unionmount.extract.items import CopyItem, Piece
from unionmount.formats.compression import MAGIC_SIZE, decompressor, sniff
from unionmount.formats.tar_reader import ForwardStream, TarReader
from unionmount.system.os_errors import naming
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.system.files import FileRange

_STEP = 1024 * 1024
_NAME_MAX, _PATH_MAX = 255, 1024 * 1024
_MAX_ID = 2**32 - 2
_MAX_DEVICE = (2**12 - 1, 2**20 - 1)
_MAX_SECONDS = 2**63 - 2  # of the system's time_t; file systems shorten what they cannot hold
_NANO = 10**9
_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_XATTR, _ENCODED = "SCHILY.xattr.", "LIBARCHIVE.xattr."


class TarSource:
    """The items of a tar that is read from a borrowed descriptor."""

    def __init__(self, fd: int, what: str) -> None:
        self._what = what
        self._reader = TarReader(_decompressed(fd, what), what)

    def items(self) -> Iterator[CopyItem]:
        """Yield the members; raise FormatError for a damaged or dangerous one."""
        for member in self._reader.members():
            if (item := self._item(member)) is not None:
                yield item

    def _item(self, member: tarfile.TarInfo) -> CopyItem | None:
        """Return the item of a member; None for a directory that is the top."""
        path = self._path(member.name)
        if not path and member.isdir():
            return None
        if not path:
            raise FormatError(f"{self._what}: the name of a member is empty")
        self._check_numbers(member)
        if member.islnk():
            link, kind, target = self._path(member.linkname), stat.S_IFREG, b""
        else:
            link, target = None, os.fsencode(member.linkname) if member.issym() else b""
            kind = stat.S_IFREG if member.isreg() else self._type(member)
        if b"\0" in target or (member.issym() and not target):
            raise FormatError(f"{self._shown(member)}: a symlink without a valid target")
        content = (
            _TarContent(member, self._reader.stream) if kind == stat.S_IFREG and not link else None
        )
        return CopyItem(
            path,
            kind | (member.mode & 0o7777),
            member.uid,
            member.gid,
            self._mtime_ns(member),
            member.size if content is not None else 0,
            (member.devmajor, member.devminor),
            target,
            link,
            self._xattrs(member),
            content,
        )

    def _type(self, member: tarfile.TarInfo) -> int:
        if member.type not in _TYPES:
            raise FormatError(f"{self._shown(member)}: a member of an unknown type")
        return _TYPES[member.type]

    def _path(self, name: str) -> bytes:
        """Return a path below the top, checked; an absolute one is below the top, too."""
        raw = os.fsencode(name)
        names = [one for one in raw.split(b"/") if one not in (b"", b".")]
        shown = printable(name[:_NAME_MAX])
        if b".." in names:
            raise FormatError(f"{self._what}: '{shown}' has a '..'; it may leave the target")
        if b"\0" in raw or len(raw) > _PATH_MAX or any(len(one) > _NAME_MAX for one in names):
            raise FormatError(f"{self._what}: '{shown}' is not a valid name of a file")
        return b"/".join(names)

    def _check_numbers(self, member: tarfile.TarInfo) -> None:
        for number, most in (
            (member.uid, _MAX_ID),
            (member.gid, _MAX_ID),
            (member.size, 2**63 - 1),
            (member.devmajor, _MAX_DEVICE[0]),
            (member.devminor, _MAX_DEVICE[1]),
        ):
            if not 0 <= number <= most:
                raise FormatError(f"{self._shown(member)}: a number that cannot be: {number}")

    def _mtime_ns(self, member: tarfile.TarInfo) -> int:
        try:
            exact = Decimal(member.pax_headers.get("mtime", str(member.mtime)))
            if abs(exact) < _MAX_SECONDS:
                return int(exact * _NANO // 1)
        except InvalidOperation:
            pass
        raise FormatError(f"{self._shown(member)}: a time that cannot be")

    def _xattrs(self, member: tarfile.TarInfo) -> dict[bytes, bytes]:
        found = _xattrs(member)
        for name in found:
            if not name or b"\0" in name or len(name) > _NAME_MAX:
                shown = printable(os.fsdecode(name[:_NAME_MAX]))
                raise FormatError(
                    f"{self._shown(member)}: '{shown}' is not a valid name of an attribute"
                )
        return found

    def _shown(self, member: tarfile.TarInfo) -> str:
        return f"{self._what}: '{printable(member.name[:_NAME_MAX])}'"


def _xattrs(member: tarfile.TarInfo) -> dict[bytes, bytes]:
    """Return extended attributes, as GNU tar, Go and libarchive write them."""
    found: dict[bytes, bytes] = {}
    for key, value in member.pax_headers.items():
        if key.startswith(_XATTR):
            found[os.fsencode(key.removeprefix(_XATTR))] = os.fsencode(value)
        elif key.startswith(_ENCODED) and "%3D" in key.upper():
            name = unquote_to_bytes(os.fsencode(key.removeprefix(_ENCODED)))
            found[name] = _from_base64(value)
    return found


def _from_base64(text: str) -> bytes:
    import base64  # noqa: PLC0415 - rare

    raw = os.fsencode(text)
    try:
        return base64.b64decode(raw + b"=" * (-len(raw) % 4))
    except ValueError:
        raise FormatError("an extended attribute of the tar is damaged") from None


@dataclass(frozen=True, slots=True)
class _TarContent:
    """The content of a member, which can be read until the next one."""

    member: tarfile.TarInfo
    stream: ForwardStream

    @property
    def range(self) -> FileRange | None:
        """There is none."""
        return None

    def pieces(self) -> Iterator[Piece]:
        """Yield the data that the tar has."""
        at = self.member.offset_data
        sparse: Any = getattr(self.member, "sparse", None)
        before = 0
        for offset, size in [(0, self.member.size)] if sparse is None else sparse:
            if size == 0:  # tarfile keeps empty slots of GNU's old form
                continue
            if offset < before or size < 0 or offset + size > self.member.size:
                raise FormatError(
                    f"'{printable(self.member.name)}': a damaged map of a sparse file"
                )
            self.stream.seek(at)
            for data in self.stream.pieces(size):
                yield offset, data
                offset += len(data)  # noqa: PLW2901
            at += size
            before = offset


def _decompressed(fd: int, what: str) -> Iterator[bytes]:
    """Read a stream to its end, decompressed if it is compressed."""
    head = b""
    while len(head) < MAGIC_SIZE and (piece := _read(fd, what)):
        head += piece
    stream = decompressor(sniff(head, what), what)
    while head:
        yield from stream.feed(head)
        head = _read(fd, what)
    stream.finish()


def _read(fd: int, what: str) -> bytes:
    with naming(what):
        return os.read(fd, _STEP)
