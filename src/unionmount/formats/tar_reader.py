"""Members of a tar in a stream that is not trusted, by Python's tarfile.

What tarfile reads at once (extended headers, maps of sparse files) is bounded, as is all that
precedes one member, and nothing of earlier members is kept in memory.
"""

from __future__ import annotations

import os
import struct
import tarfile
from collections.abc import Iterator

from unionmount.errors import FormatError, LimitExceeded, SizeMismatch
from unionmount.system.text import printable

_STEP = 1024 * 1024
_MAX_HEADERS = 8 * 1024 * 1024  # bytes before the data of one member
_MAX_GLOBAL = 1000  # headers for all members
_SHOWN = 255  # characters of a name
# tarfile means only its own errors to be raised; damaged numbers and maps raise these.
_DAMAGED = (
    *(tarfile.TarError, ValueError, OverflowError, IndexError, KeyError, EOFError, TypeError),
    *(struct.error, RecursionError, AttributeError),
)


class TarReader:
    """A tar, plain, whose members come one after another.

    ``stream`` is at the data of the member that ``members`` has yielded last; the caller may read
    it until the next one.
    """

    def __init__(self, source: Iterator[bytes], what: str) -> None:
        self._what = what
        self.stream = ForwardStream(source, what)

    def members(self) -> Iterator[tarfile.TarInfo]:
        """Yield the members, then read to the end; raise FormatError for a damaged tar."""
        with self._opened() as tar:
            while (member := self._next(tar)) is not None:
                tar.members.clear()  # type: ignore[attr-defined]
                yield member
        self.stream.drain()

    def data(self, member: tarfile.TarInfo) -> Iterator[bytes]:
        """Yield the data of the last member in pieces; raise FormatError for a sparse one."""
        if member.issparse():
            shown = printable(member.name[:_SHOWN])
            raise FormatError(f"{self._what}: '{shown}' is sparse, which is not supported")
        self.stream.seek(member.offset_data)
        yield from self.stream.pieces(member.size)

    def _opened(self) -> tarfile.TarFile:
        self.stream.begin_headers()
        try:
            return tarfile.TarFile(
                fileobj=self.stream,  # type: ignore[arg-type]
                encoding="utf-8",
                errors="surrogateescape",
            )
        except _DAMAGED as error:
            raise self._damaged(error) from None

    def _next(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        self.stream.begin_headers()
        try:
            member = tar.next()
        except _DAMAGED as error:
            raise self._damaged(error) from None
        finally:
            self.stream.end_headers()
        # tarfile takes a header that is damaged for the end of the tar.
        if member is None and self.stream.last not in (b"", bytes(tarfile.BLOCKSIZE)):
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


class ForwardStream:
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
