"""Members of a tar in a form that every reader understands: ustar, and pax if necessary.

The same member always gives the same bytes. Source: POSIX.1-2017, ``pax``, "pax Interchange Format"
and "ustar Interchange Format". Extended attributes are ``SCHILY.xattr.`` records with values of
bytes (as Go and GNU tar read them); a name with ``=``, which ends a pax key, is written like
libarchive does.
"""

from __future__ import annotations

import base64
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import quote_from_bytes

BLOCK = 512
END = bytes(2 * BLOCK)
"""The end of a tar."""

_TYPES = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_HARD_LINK = b"1"
_PAX = b"x"

_NAME_ROOM = 100
_MAX_7_DIGITS = 0o7777777
_MAX_11_DIGITS = 0o77777777777
_NANO = 1_000_000_000
_NO_XATTRS: Mapping[bytes, bytes] = {}
_NO_NAMES = bytes(64)  # of user and group
_REST = bytes(167)


class Member(NamedTuple):
    """A member of a tar; ``mode`` has its type, ``target`` is for links of either kind."""

    name: bytes
    mode: int = stat.S_IFREG | 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime_ns: int = 0
    device: tuple[int, int] = (0, 0)
    target: bytes = b""
    hard_link: bool = False
    xattrs: Mapping[bytes, bytes] = _NO_XATTRS


def can_hold(mode: int) -> bool:
    """Return whether a tar has a type for this mode; it has none for sockets."""
    return stat.S_IFMT(mode) in _TYPES


def header(member: Member) -> bytes:
    """Return the header of a member: one block, preceded by a pax header if necessary."""
    name = member.name
    if stat.S_ISDIR(member.mode) and not name.endswith(b"/"):
        name += b"/"
    records = b"".join(_record(key, value) for key, value in _extended(member, name))
    kind = _HARD_LINK if member.hard_link else _TYPES[stat.S_IFMT(member.mode)]
    block = _block(member, name, kind)
    if not records:
        return block
    around = Member(_pax_name(name), size=len(records))
    return b"".join((_block(around, around.name, _PAX), records, padding(len(records)), block))


def padding(size: int) -> bytes:
    """Return the padding of the last block of ``size`` bytes."""
    return bytes(-size % BLOCK)


def _extended(member: Member, name: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the fields that do not fit into the block, in a fixed order."""
    if not 0 <= member.mtime_ns <= _MAX_11_DIGITS * _NANO or member.mtime_ns % _NANO:
        yield b"mtime", _decimal(member.mtime_ns)
    if len(name) > _NAME_ROOM:
        yield b"path", name
    if len(member.target) > _NAME_ROOM:
        yield b"linkpath", member.target
    for key, number, most in (
        (b"uid", member.uid, _MAX_7_DIGITS),
        (b"gid", member.gid, _MAX_7_DIGITS),
        (b"size", member.size, _MAX_11_DIGITS),
    ):
        if number > most:
            yield key, b"%d" % number
    for key, value in sorted(member.xattrs.items()) if member.xattrs else ():
        if b"=" in key:
            quoted = quote_from_bytes(key, safe="").encode("ascii")
            yield b"LIBARCHIVE.xattr." + quoted, base64.b64encode(value).rstrip(b"=")
        else:
            yield b"SCHILY.xattr." + key, value


def _decimal(nanoseconds: int) -> bytes:
    """Format seconds with a fraction, without zeros at the end."""
    sign = b"-" if nanoseconds < 0 else b""
    seconds, fraction = divmod(abs(nanoseconds), _NANO)
    return (sign + b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")


def _record(key: bytes, value: bytes) -> bytes:
    """Format ``LENGTH KEY=VALUE`` and a newline; the length includes its own digits."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(rest) + len(str(length)) != length:
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _pax_name(name: bytes) -> bytes:
    """Return the name that readers without pax give to the records."""
    last = name.rstrip(b"/").rpartition(b"/")[2]
    return (b"PaxHeaders.0/" + last)[:_NAME_ROOM]


def _block(member: Member, name: bytes, kind: bytes) -> bytes:
    device = kind in (b"3", b"4")
    block = bytearray().join(
        (
            name[:_NAME_ROOM].ljust(_NAME_ROOM, b"\0"),
            _octal(stat.S_IMODE(member.mode), 8),
            _octal(member.uid, 8),
            _octal(member.gid, 8),
            _octal(member.size, 12),
            _octal(member.mtime_ns // _NANO, 12),
            b" " * 8,  # the checksum is computed with blanks in its place
            kind,
            member.target[:_NAME_ROOM].ljust(_NAME_ROOM, b"\0"),
            b"ustar\x0000",
            _NO_NAMES,
            _device_number(member.device[0]) if device else _octal(0, 8),
            _device_number(member.device[1]) if device else _octal(0, 8),
            _REST,
        )
    )
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _octal(value: int, width: int) -> bytes:
    """Format octal digits and a NUL; zero if there is no room, as a pax record has the value."""
    if not 0 <= value < 1 << 3 * (width - 1):
        value = 0
    return b"%0*o\0" % (width - 1, value)


def _device_number(value: int) -> bytes:
    """Format octal digits, or binary like GNU tar, since pax has no record for devices."""
    if value <= _MAX_7_DIGITS:
        return _octal(value, 8)
    return b"\x80" + value.to_bytes(7, "big")
