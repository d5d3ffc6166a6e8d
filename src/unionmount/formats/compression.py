"""Compression and decompression of streams in bounded steps.

The first bytes of a layer tell its compression; media types are not trusted. A stream may consist
of several gzip members, zstd frames, or xz and bzip2 streams: all are read, to the last byte, and a
stream that is truncated or continues with something else is refused. Some decoders would stop
silently. Sources: RFC 1952 (gzip), RFC 8878 (zstd; skippable frames carry the table of
zstd:chunked), The .xz File Format 1.2.1 (2.2: padding after a stream).
"""

from __future__ import annotations

import bz2
import enum
import lzma
import sys
import zlib
from typing import TYPE_CHECKING, Protocol, cast

from isal import igzip_lib, isal_zlib

from unionmount.errors import FormatError, LimitExceeded, UsageError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC_SIZE = 10
"""The number of bytes that ``sniff`` needs, if there are as many."""

_INPUT_STEP = 64 * 1024  # decoders copy what follows a frame, so pieces are small
_OUTPUT_STEP = 256 * 1024
_GZIP_LEVEL, _GZIP_FORMAT = 2, 31  # of ISA-L; a window of 32 KiB, in gzip's format
_ZSTD_LEVEL = 3
_WINDOW_LOG = 27  # 128 MiB of memory, the default limit of zstd
_GZIP_MAGIC = b"\x1f\x8b\x08"  # with the only compression method that exists
_GZIP_HCRC, _GZIP_EXTRA, _GZIP_NAME, _GZIP_COMMENT, _GZIP_RESERVED = 2, 4, 8, 16, 0xE0
_GZIP_HEADER_MAX = 128 * 1024
_XZ_MAGIC = b"\xfd7zXZ\0"
_XZ_MEMORY = (128 + 2) << 20  # a dictionary as large as zstd's window, and the decoder itself
_XZ_ALIGNMENT = 4  # of the zeros between and after streams
_BZIP2_MAGIC = b"BZh"  # followed by the block size, and by a block or, in an empty stream, the end
_BZIP2_BODIES = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
_UNSUPPORTED = {
    b"\x04\x22\x4d\x18": "lz4",
}


class Compression(enum.Enum):
    """The compression of a layer."""

    PLAIN = "plain"
    GZIP = "gzip"
    ZSTD = "zstd"
    XZ = "xz"
    BZIP2 = "bzip2"


def sniff(head: bytes, what: str) -> Compression:
    """Return the compression of a stream that begins with ``head``."""
    if head[:2] == b"\x1f\x8b":
        return Compression.GZIP
    if head[:4] == b"\x28\xb5\x2f\xfd" or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return Compression.ZSTD
    if head.startswith(_XZ_MAGIC):
        return Compression.XZ
    if _is_bzip2(head):
        return Compression.BZIP2
    for magic, name in _UNSUPPORTED.items():
        if head.startswith(magic):
            raise FormatError(f"{what}: compressed with {name}, which is not supported")
    return Compression.PLAIN


def _is_bzip2(head: bytes) -> bool:
    """Return whether a bzip2 stream begins here, and not a tar with a first member ``BZh9``."""
    if not head.startswith(_BZIP2_MAGIC) or head[3:4] not in b"123456789":
        return False
    return any(body.startswith(head[4:10]) for body in _BZIP2_BODIES)


class Decompressor(Protocol):
    """A decompressor of a stream."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress the next bytes, in pieces of bounded size."""

    def finish(self) -> None:
        """Announce the end; raise FormatError if the stream is not complete."""


def decompressor(compression: Compression, what: str) -> Decompressor:
    """Return a new decompressor; ``what`` names the stream in messages."""
    match compression:
        case Compression.PLAIN:
            return _Plain()
        case Compression.GZIP:
            return _Gzip(what)
        case Compression.ZSTD:
            return _Zstd(what)
        case Compression.XZ:
            return _Xz(what)
        case Compression.BZIP2:
            return _Bzip2(what)


class _Plain:
    def feed(self, data: bytes) -> Iterator[bytes]:
        yield data

    def finish(self) -> None:
        pass


class _Frame(Protocol):
    """One gzip member, zstd frame, or xz or bzip2 stream; the libraries agree on this interface."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Framed:
    """A sequence of frames, each of which is decoded to its end."""

    def __init__(self, what: str, name: str, error: type[Exception]) -> None:
        self._what = what
        self._name = name
        self._error = error
        self._frame: _Frame | None = None

    def _begin(self, piece: bytes) -> bytes:
        """Open a frame if ``piece`` begins one, and return the bytes to decode."""
        raise NotImplementedError

    def feed(self, data: bytes) -> Iterator[bytes]:
        try:
            for start in range(0, len(data), _INPUT_STEP):
                yield from self._step(data[start : start + _INPUT_STEP])
        except self._error as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> Exception:
        """Return the exception for a decoder's error."""
        return FormatError(f"{self._what}: damaged {self._name} data: {error}")

    def _step(self, piece: bytes) -> Iterator[bytes]:
        while piece or (self._frame is not None and not self._frame.needs_input):
            if self._frame is None:
                piece = self._begin(piece)
                continue
            output = self._frame.decompress(piece, _OUTPUT_STEP)
            piece = b""
            if self._frame.eof:
                piece = self._frame.unused_data
                self._frame = None
            if output:
                yield output

    def finish(self) -> None:
        if self._frame is not None:
            raise FormatError(f"{self._what}: truncated {self._name} data")


class _Gzip(_Framed):
    """Gzip members, whose headers are parsed here: ISA-L fails if one comes in two pieces."""

    def __init__(self, what: str) -> None:
        # the type stub of isal declares this class as an instance
        super().__init__(what, "gzip", cast("type[Exception]", igzip_lib.IsalError))
        self._members = 0
        self._padding = False
        self._header = b""

    def _begin(self, piece: bytes) -> bytes:
        if self._padding or (self._members and not self._header and piece[0] == 0):
            return self._pad(piece)
        self._header += piece
        size = _gzip_header_size(self._header, self._what)
        if size is None:
            return b""
        rest, self._header = self._header[size:], b""
        self._members += 1
        self._frame = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP_NO_HDR_VER)
        return rest

    def _pad(self, piece: bytes) -> bytes:
        """Skip the zeros that fill a tape block after the last member."""
        self._padding = True
        if piece.strip(b"\0"):
            raise FormatError(f"{self._what}: garbage after the gzip data")
        return b""

    def finish(self) -> None:
        if self._header:
            raise FormatError(f"{self._what}: truncated gzip header")
        super().finish()


def _gzip_header_size(data: bytes, what: str) -> int | None:
    """Return the size of the gzip header at the start of ``data``; None if it is incomplete."""
    if data[:3] != _GZIP_MAGIC[: len(data)]:
        raise FormatError(f"{what}: damaged gzip data: no member begins here")
    if len(data) >= 4 and data[3] & _GZIP_RESERVED:
        raise FormatError(f"{what}: damaged gzip data: unknown flags {data[3]:#04x}")
    size = _gzip_fields_end(data)
    if size is None or size > _GZIP_HEADER_MAX:
        if len(data) > _GZIP_HEADER_MAX:
            raise LimitExceeded(f"{what}: a gzip header of more than {_GZIP_HEADER_MAX} bytes")
        return None
    if data[3] & _GZIP_HCRC:
        size += 2
        if len(data) < size:
            return None
        if zlib.crc32(data[: size - 2]) & 0xFFFF != int.from_bytes(data[size - 2 : size], "little"):
            raise FormatError(f"{what}: damaged gzip data: wrong checksum of the header")
    return size


def _gzip_fields_end(data: bytes) -> int | None:
    """Return the end of the optional fields before the checksum; None if they are incomplete."""
    if len(data) < 10:
        return None
    flags, size = data[3], 10
    if flags & _GZIP_EXTRA:
        size += 2 + int.from_bytes(data[10:12], "little")
    for field in (_GZIP_NAME, _GZIP_COMMENT):
        if flags & field:
            size = data.find(b"\0", size) + 1
            if size == 0:
                return None
    return size if size <= len(data) else None


class _Zstd(_Framed):
    def __init__(self, what: str) -> None:
        super().__init__(what, "zstd", zstd.ZstdError)

    def _begin(self, piece: bytes) -> bytes:
        option = zstd.DecompressionParameter.window_log_max
        self._frame = zstd.ZstdDecompressor(options={option: _WINDOW_LOG})
        return piece


class _Xz(_Framed):
    """Xz streams with padding, as the decoder of the standard library reads only one stream."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "xz", lzma.LZMAError)
        self._padding = 0
        self._streams = 0

    def _begin(self, piece: bytes) -> bytes:
        if self._streams:
            rest = piece.lstrip(b"\0")
            self._padding += len(piece) - len(rest)
            if not rest:
                return b""
            self._check_padding()
            if not _XZ_MAGIC.startswith(rest[: len(_XZ_MAGIC)]):
                raise FormatError(f"{self._what}: garbage after the xz data")
            piece = rest
        self._padding = 0
        self._streams += 1
        self._frame = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        return piece

    def _check_padding(self) -> None:
        if self._padding % _XZ_ALIGNMENT:
            raise FormatError(
                f"{self._what}: damaged xz data: {self._padding} bytes of padding, "
                f"which is not a multiple of {_XZ_ALIGNMENT}"
            )

    def _refused(self, error: Exception) -> Exception:
        if "limit" in str(error):  # about memory; only the text tells
            mebibytes = _XZ_MEMORY >> 20
            return LimitExceeded(
                f"{self._what}: xz data that needs more than {mebibytes} MiB of memory; "
                "compress it again with a smaller dictionary (xz -9 has 64 MiB)"
            )
        return super()._refused(error)

    def finish(self) -> None:
        super().finish()
        self._check_padding()


class _Bzip2(_Framed):
    """Bzip2 streams without padding; a decoder takes 4 MB, whatever the data says."""

    def __init__(self, what: str) -> None:
        super().__init__(what, "bzip2", OSError)
        self._streams = 0

    def _begin(self, piece: bytes) -> bytes:
        if self._streams and not _BZIP2_MAGIC.startswith(piece[: len(_BZIP2_MAGIC)]):
            raise FormatError(f"{self._what}: garbage after the bzip2 data")
        self._streams += 1
        self._frame = bz2.BZ2Decompressor()
        return piece


class Compressor(Protocol):
    """A compressor of a stream; the same bytes in the same pieces give the same result."""

    def compress(self, data: bytes) -> bytes:
        """Compress the next bytes; return the available part of the result."""

    def flush(self) -> bytes:
        """Return the rest."""


def compressor(compression: Compression) -> Compressor:
    """Return a new compressor for gzip or zstd."""
    if compression not in (Compression.GZIP, Compression.ZSTD):
        raise UsageError(f"{compression.value} cannot be written; use gzip or zstd")
    if compression is Compression.GZIP:
        # without a file name and with time 0, so that the header is always the same
        return cast("Compressor", isal_zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_FORMAT))
    option = zstd.CompressionParameter
    return cast(
        "Compressor",
        zstd.ZstdCompressor(
            options={option.compression_level: _ZSTD_LEVEL, option.checksum_flag: 1}
        ),
    )
