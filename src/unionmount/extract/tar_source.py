"""A tar stream as the source of a copy: all that Python's tarfile reads, compressed or not.

The stream is not trusted. Names that lead up are errors, and absolute ones are taken as relative.
What tarfile reads at once (extended headers, maps of sparse files) is bounded, as is all that
precedes one member, and nothing of earlier members is kept in memory.
"""

from __future__ import annotations

import os
import stat
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from unionmount.errors import FormatError, LimitExceeded, SizeMismatch
from unionmount.extract.items import CopyItem, Piece
from unionmount.formats.compression import MAGIC_SIZE, decompressor, sniff
from unionmount.system.os_errors import naming
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.system.files import FileRange

_STEP = 1024 * 1024
_MAX_HEADERS = 8 * 1024 * 1024  # bytes before the data of one member
_MAX_GLOBAL = 1000  # headers for all members
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
# tarfile means only its own errors to be raised; damaged numbers and maps raise these.
_DAMAGED = (
    *(tarfile.TarError, ValueError, OverflowError, IndexError, KeyError, EOFError, TypeError),
    *(struct.error, RecursionError, AttributeError),
)


class TarSource:
    """The items of a tar that is read from a borrowed descriptor."""

    def __init__(self, fd: int, what: str) -> None:
        self._what = what
        self._stream = _Forward(_decompressed(fd, what), what)

    def items(self) -> Iterator[CopyItem]:
        """Yield the members; raise FormatError for a damaged or dangerous one."""
        with self._opened() as tar:
            while (member := self._next(tar)) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                if (item := self._item(tar, member)) is not None:
                    yield item
        self._stream.drain()

    def _opened(self) -> tarfile.TarFile:
        self._stream.begin_headers()
        try:
            return tarfile.TarFile(
                fileobj=self._stream,  # type: ignore[arg-type]
                encoding="utf-8",
                errors="surrogateescape",
            )
        except _DAMAGED as error:
            raise self._damaged(error) from None

    def _next(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        self._stream.begin_headers()
        try:
            member = tar.next()
        except _DAMAGED as error:
            raise self._damaged(error) from None
        finally:
            self._stream.end_headers()
        # tarfile takes a header that is damaged for the end of the tar.
        if member is None and self._stream.last not in (b"", bytes(tarfile.BLOCKSIZE)):
            raise FormatError(f"{self._what}: damaged: a header of a member is not valid")
        known = tar.pax_headers  # those for all members, which add up
        if len(known) > _MAX_GLOBAL or sum(map(len, known.values())) > _MAX_HEADERS:
            raise LimitExceeded(f"{self._what}: too many headers for all members")
        return member

    def _damaged(self, error: Exception) -> FormatError:
        if isinstance(error, RecursionError):
            return LimitExceeded(f"{self._what}: too many headers for one member")
        reason = str(error) or type(error).__name__
        return FormatError(f"{self._what}: not a tar, or a damaged one: {printable(reason)}")

    def _item(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> CopyItem | None:
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
            _TarContent(tar, member, self._stream) if kind == stat.S_IFREG and not link else None
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

    tar: tarfile.TarFile
    member: tarfile.TarInfo
    stream: _Forward

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


class _Forward:
    """A stream of bytes as a file that is read forward; seeking back is an error.

    Between ``begin_headers`` and ``end_headers`` a bounded number of bytes can be read.
    """

    def __init__(self, source: Iterator[bytes], what: str) -> None:
        self._source = source
        self._what = what
        self._waiting = memoryview(b"")
        self._at = 0
        self._allowed: int | None = None
        self.last = b""  # what the last call of read returned

    def begin_headers(self) -> None:
        """Bound what is read from now on."""
        self._allowed = _MAX_HEADERS

    def end_headers(self) -> None:
        """Read without a bound."""
        self._allowed = None

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, position: int, _whence: int = os.SEEK_SET) -> int:
        """Skip to a position."""
        if position < self._at:
            raise FormatError(f"{self._what}: damaged: its members overlap")
        while self._at < position and self._fill():
            self._take(position - self._at)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Read a header of tarfile's, fewer bytes only at the end."""
        if size < 0 or (self._allowed is not None and size > self._allowed):
            raise LimitExceeded(
                f"{self._what}: more than {_MAX_HEADERS} bytes of headers for one member"
            )
        if self._allowed is not None:
            self._allowed -= size
        parts, missing = [], size
        while missing and self._fill():
            parts.append(self._take(missing))
            missing -= len(parts[-1])
        self.last = b"".join(parts)
        return self.last

    def pieces(self, size: int) -> Iterator[bytes]:
        """Read exactly ``size`` bytes in pieces; raise SizeMismatch at the end."""
        missing = size
        while missing:
            if not self._fill():
                raise SizeMismatch(self._what, size, size - missing)
            piece = self._take(min(missing, _STEP))
            missing -= len(piece)
            yield piece

    def drain(self) -> None:
        """Read to the end, so that a writer into a pipe can finish."""
        self._waiting = memoryview(b"")
        for _ in self._source:
            pass

    def _fill(self) -> bool:
        """Have bytes waiting, unless the stream has ended."""
        while not self._waiting:
            piece = next(self._source, None)
            if piece is None:
                return False
            self._waiting = memoryview(piece)
        return True

    def _take(self, most: int) -> bytes:
        taken, self._waiting = bytes(self._waiting[:most]), self._waiting[most:]
        self._at += len(taken)
        return taken


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
