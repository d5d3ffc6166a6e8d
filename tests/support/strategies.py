"""Hypothesis strategies: stacks of layer tars whose names collide often.

An entry is drawn as a value (`Entry`), spelled in one of several dialects, and rendered to bytes:
by tarfile where it can write it, else by the few lines of header code below.
"""

from __future__ import annotations

import base64
import struct
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import strategies as st

BLOCK = 512
END = bytes(2 * BLOCK)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a tar, before it is spelled."""

    type: bytes
    name: bytes
    link: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    content: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    segments: tuple[tuple[int, bytes], ...] = ()
    size: int = 0
    dialect: str = "pax"


# ---- rendering ---------------------------------------------------------------------------------


def padded(data: bytes) -> bytes:
    """The data and zeros up to the next block."""
    return data + bytes(-len(data) % BLOCK)


def _number(value: int, width: int) -> bytes:
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    number: int = value % 256**width | 1 << (width * 8 - 1)
    return number.to_bytes(width, "big")


def header(
    entry: Entry, size: int, *, kind: bytes | None = None, magic: bytes = b"ustar\00000"
) -> bytes:
    """One header block, made by hand; names that are too long are cut."""
    block = bytearray(BLOCK)
    block[0:100] = entry.name[:100].ljust(100, b"\0")
    block[100:108] = _number(entry.mode, 8)
    block[108:116] = _number(entry.uid, 8)
    block[116:124] = _number(entry.gid, 8)
    block[124:136] = _number(size, 12)
    block[136:148] = _number(entry.mtime_ns // 10**9, 12)
    block[156:157] = entry.type if kind is None else kind
    block[157:257] = entry.link[:100].ljust(100, b"\0")
    block[257:265] = magic
    if magic != bytes(8):
        block[329:337] = _number(entry.rdev[0], 8)
        block[337:345] = _number(entry.rdev[1], 8)
    return sealed(block)


def sealed(block: bytearray) -> bytes:
    """The header block with its checksum."""
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def record(key: bytes, value: bytes) -> bytes:
    """One record of a pax header."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def extended(records: Sequence[tuple[bytes, bytes]], kind: bytes = b"x") -> bytes:
    """A pax header, local or global."""
    data = b"".join(record(key, value) for key, value in records)
    return header(Entry(kind, b"PaxHeaders/0"), len(data)) + padded(data)


def _time(ns: int) -> bytes:
    sign = "-" if ns < 0 else ""
    seconds, rest = divmod(abs(ns), 10**9)
    return f"{sign}{seconds}.{rest:09d}".rstrip("0").rstrip(".").encode()


def _pax_records(entry: Entry) -> list[tuple[bytes, bytes]]:
    records = [(b"path", entry.name)] if len(entry.name) > 100 else []
    if len(entry.link) > 100:
        records.append((b"linkpath", entry.link))
    for key, value in (b"uid", entry.uid), (b"gid", entry.gid):
        if value >= 8**7:
            records.append((key, b"%d" % value))
    if entry.mtime_ns % 10**9 or not 0 <= entry.mtime_ns < 8**11 * 10**9:
        records.append((b"mtime", _time(entry.mtime_ns)))
    return records + [(b"SCHILY.xattr." + key, value) for key, value in entry.xattrs]


def _by_hand(entry: Entry, records: list[tuple[bytes, bytes]]) -> bytes:
    start = extended(records) if records else b""
    return start + header(entry, len(entry.content)) + padded(entry.content)


def _pax(entry: Entry) -> bytes:
    return _by_hand(entry, _pax_records(entry))


def _libarchive(entry: Entry) -> bytes:
    plain = _pax_records(replace(entry, xattrs=()))
    coded = [
        (b"LIBARCHIVE.xattr." + key.replace(b"r", b"%72"), base64.b64encode(value).rstrip(b"="))
        for key, value in entry.xattrs
    ]
    return _by_hand(entry, plain + coded)


def _global(entry: Entry) -> bytes:
    return extended([(b"comment", b"0123456789abcdef")], b"g") + _pax(entry)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _tarinfo(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(_text(entry.name))
    info.type = entry.type
    info.linkname = _text(entry.link)
    info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.gid
    info.mtime = entry.mtime_ns // 10**9
    info.size = len(entry.content)
    info.devmajor, info.devminor = entry.rdev
    return info


def _tarfile_pax(entry: Entry) -> bytes:
    if any(b"\xff" in key for key, _ in entry.xattrs):
        return _pax(entry)  # tarfile writes keys in UTF-8 only
    info = _tarinfo(entry)
    info.pax_headers = {
        _text(key): _text(value)
        for key, value in _pax_records(entry)
        if key == b"mtime" or key.startswith(b"SCHILY")
    }
    head = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return head + padded(entry.content)


def _tarfile_gnu(entry: Entry) -> bytes:
    head = _tarinfo(entry).tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return head + padded(entry.content)


def _old(entry: Entry) -> bytes:
    if len(entry.name) > 100 or len(entry.link) > 100 or entry.type in (b"3", b"4"):
        return _pax(entry)  # V7 has no room for long names and devices
    kind = b"\0" if entry.type == tarfile.REGTYPE else entry.type
    if entry.type == tarfile.DIRTYPE and entry.name.endswith(b"/"):
        kind = b"\0"
    head = header(entry, len(entry.content), kind=kind, magic=bytes(8))
    return head + padded(entry.content)


def _contiguous(entry: Entry) -> bytes:
    kind = b"7" if entry.type == tarfile.REGTYPE else entry.type
    if entry.type == tarfile.DIRTYPE and entry.name.endswith(b"/"):
        kind = b"0"
    return _by_hand(replace(entry, type=kind), _pax_records(entry))


def _unknown(entry: Entry) -> bytes:
    kind = b"q" if entry.type == tarfile.REGTYPE else entry.type
    return _by_hand(replace(entry, type=kind), _pax_records(entry))


# ---- sparse files ---------------------------------------------------------------------------


def _stored(entry: Entry) -> bytes:
    return b"".join(data for _, data in entry.segments)


def _map(entry: Entry) -> list[tuple[int, int]]:
    runs = [(offset, len(data)) for offset, data in entry.segments]
    return runs if runs and sum(runs[-1]) == entry.size else [*runs, (entry.size, 0)]


def _sparse_pax(entry: Entry, records: list[tuple[bytes, bytes]], stored: bytes) -> bytes:
    name = [(b"GNU.sparse.name", entry.name)]
    plain = _pax_records(replace(entry, name=b"GNUSparseFile.0/x"))
    inner = replace(entry, name=b"GNUSparseFile.0/x", type=b"0")
    return extended(name + records + plain) + header(inner, len(stored)) + padded(stored)


def _sparse_00(entry: Entry) -> bytes:
    records = [(b"GNU.sparse.size", b"%d" % entry.size)]
    records.append((b"GNU.sparse.numblocks", b"%d" % len(_map(entry))))
    for offset, length in _map(entry):
        records.append((b"GNU.sparse.offset", b"%d" % offset))
        records.append((b"GNU.sparse.numbytes", b"%d" % length))
    return _sparse_pax(entry, records, _stored(entry))


def _sparse_01(entry: Entry) -> bytes:
    numbers = b",".join(b"%d,%d" % run for run in _map(entry))
    records = [
        (b"GNU.sparse.size", b"%d" % entry.size),
        (b"GNU.sparse.numblocks", b"%d" % len(_map(entry))),
        (b"GNU.sparse.map", numbers),
    ]
    return _sparse_pax(entry, records, _stored(entry))


def _sparse_10(entry: Entry) -> bytes:
    runs = b"".join(b"%d\n%d\n" % run for run in _map(entry))
    table = padded(b"%d\n" % len(_map(entry)) + runs)
    records = [
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.realsize", b"%d" % entry.size),
    ]
    return _sparse_pax(entry, records, table + _stored(entry))


def _sparse_gnu(entry: Entry) -> bytes:
    if len(entry.name) > 100:
        return _sparse_10(entry)
    runs = _map(entry)
    block = bytearray(header(replace(entry, type=b"S"), len(_stored(entry)), magic=b"ustar  \0"))
    more = [runs[start : start + 21] for start in range(4, len(runs), 21)]
    block[386:482] = _runs(runs[:4], 4)
    block[482] = bool(more)
    block[483:495] = _number(entry.size, 12)
    tables = b"".join(_runs(part, 21) + bytes([part is not more[-1]]) + bytes(7) for part in more)
    return sealed(block) + tables + padded(_stored(entry))


def _runs(runs: list[tuple[int, int]], slots: int) -> bytes:
    data = b"".join(_number(offset, 12) + _number(length, 12) for offset, length in runs)
    return data.ljust(slots * 24, b"\0")


_DIALECTS: dict[str, Callable[[Entry], bytes]] = {
    "pax": _pax,
    "libarchive": _libarchive,
    "global": _global,
    "tarfile-pax": _tarfile_pax,
    "tarfile-gnu": _tarfile_gnu,
    "old": _old,
    "contiguous": _contiguous,
    "unknown": _unknown,
    "sparse-0.0": _sparse_00,
    "sparse-0.1": _sparse_01,
    "sparse-1.0": _sparse_10,
    "sparse-gnu": _sparse_gnu,
}
_SPARSE = [name for name in _DIALECTS if name.startswith("sparse")]
_PLAIN = [name for name in _DIALECTS if not name.startswith("sparse")]


def render(entry: Entry) -> bytes:
    """The bytes of one entry: header blocks, content and padding."""
    return _DIALECTS[entry.dialect](entry)


def tar_of(entries: Sequence[Entry], *, trailer: bool = True) -> bytes:
    """A whole archive."""
    return b"".join(map(render, entries)) + (END if trailer else b"")


# ---- strategies ------------------------------------------------------------------------------

_COMMON = [b"a", b"b", b"c", b"d"]
_RARE = [b"\xff\xfe", b"\xc3\xa9", b"n" * 255, b"-x\n y", b"...", b".wh", b"whiteout.wh.a"]
_component = st.one_of(
    st.sampled_from(_COMMON), st.sampled_from(_COMMON), st.sampled_from(_COMMON + _RARE)
)
_path = st.lists(_component, min_size=1, max_size=3).map(b"/".join)


@st.composite
def _spelled(draw: st.DrawFn, path: st.SearchStrategy[bytes] = _path) -> bytes:
    name = draw(path)
    spelling = draw(st.integers(0, 9))
    match spelling:
        case 0:
            return b"./" + name
        case 1:
            return b"/" + name
        case 2:
            return b"../" + name
        case 3:
            return b"c/../" + name
        case 4:
            return name.replace(b"/", b"//./")
        case 5:
            return b"/../../" + name
        case _:
            return name


_mode = st.one_of(
    st.sampled_from([0o644, 0o755, 0o4755, 0o2755, 0o1777, 0]), st.integers(0, 0o7777)
)
_owner = st.sampled_from([0, 0, 1000, 65534, 2**21, 2**21 - 1, 2**31, 2**32 - 2])
_seconds = st.sampled_from([0, 1, 1_700_000_000, 2**31, 2**33, 2**33 - 1, -1, -86_400, -(2**31)])
_mtime = st.builds(
    lambda seconds, ns: seconds * 10**9 + ns,
    _seconds,
    st.sampled_from([0, 0, 1, 5 * 10**8, 999_999_999]),
)
_capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
_value = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.sampled_from([b"\0", b"=\n", b"7 a=b\n", b"v" * 700]),
)
_xattr = st.one_of(
    st.tuples(
        st.sampled_from([b"user.a", b"user.b", b"user.\xff", b"trusted.t"]),
        _value,
    ),
    st.just((b"security.capability", _capability)),
)
_xattrs = st.one_of(
    st.just(()),
    st.just(()),
    st.lists(_xattr, max_size=3, unique_by=lambda pair: pair[0]).map(tuple),
)
_content = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda seed, size: (seed * (size // len(seed) + 1))[:size],
        st.binary(min_size=1, max_size=5),
        st.sampled_from([0, 511, 512, 513, 1024, 4097, 70_000]),
    ),
)


@st.composite
def _sparse(draw: st.DrawFn, name: bytes) -> Entry:
    count = draw(st.integers(0, 30) if draw(st.booleans()) else st.integers(0, 5))
    gaps = draw(st.lists(st.integers(0, 4), min_size=count + 1, max_size=count + 1))
    offset, segments = 0, []
    for number, gap in enumerate(gaps[:-1]):
        offset += gap * 4096
        length = draw(st.sampled_from([512, 1024])) if number < count - 1 else draw(_tail)
        segments.append((offset, bytes([number + 1]) * length))
        offset += length
    dialect = draw(st.sampled_from(_SPARSE))
    size = offset + gaps[-1] * 4096
    assert all(a[0] + len(a[1]) <= b[0] for a, b in pairwise(segments))
    return Entry(b"0", name, segments=tuple(segments), size=size, dialect=dialect)


_tail = st.sampled_from([1, 511, 512, 700])


def _kinds(name: bytes) -> st.SearchStrategy[Entry]:
    file = st.builds(Entry, st.just(b"0"), st.just(name), content=_content)
    directory = st.builds(
        Entry,
        st.just(b"5"),
        st.sampled_from([name, name + b"/", name + b"/", name + b"//"]),
        mode=_mode,
    )
    symlink = st.builds(
        Entry,
        st.just(b"2"),
        st.just(name),
        link=st.one_of(_spelled(), st.sampled_from([b"/", b"..", b"t" * 4095, b"a/"])),
    )
    link = st.builds(Entry, st.just(b"1"), st.just(name), link=_target(name))
    device = st.builds(
        Entry,
        st.sampled_from([b"3", b"4"]),
        st.just(name),
        rdev=st.sampled_from([(0, 0), (1, 3), (8, 1), (0, 1), (259, 70_000)]),
    )
    fifo = st.builds(Entry, st.just(b"6"), st.just(name))
    return st.one_of(
        file, file, directory, directory, symlink, link, link, device, fifo, _sparse(name)
    )


def _target(name: bytes) -> st.SearchStrategy[bytes]:
    return st.one_of(
        _spelled(),
        _spelled(),
        st.sampled_from([name, b"", b"/", b"nowhere", b"../../a", b"a/b/c/d", b".wh.a", b"a/"]),
    )


@st.composite
def _plain_entry(draw: st.DrawFn) -> Entry:
    entry = draw(_kinds(draw(_spelled())))
    dialect = entry.dialect if entry.dialect in _SPARSE else draw(st.sampled_from(_PLAIN))
    xattrs = draw(_xattrs) if dialect in ("pax", "tarfile-pax", "libarchive", "global") else ()
    if entry.type == b"1":
        xattrs = ()
    mtime = draw(_mtime)
    if dialect in ("tarfile-gnu", "old", "sparse-gnu"):
        mtime -= mtime % 10**9
    return replace(
        entry,
        dialect=dialect,
        xattrs=xattrs,
        mtime_ns=mtime,
        mode=draw(_mode),
        uid=draw(_owner),
        gid=draw(_owner),
    )


@st.composite
def _marker(draw: st.DrawFn) -> Entry:
    prefix = draw(
        st.one_of(st.just(b""), _spelled(st.lists(_component, max_size=2).map(b"/".join)))
    )
    hidden = draw(st.sampled_from([*_COMMON, *_COMMON, b"\xff\xfe", b".b", b"...."]))
    mark = draw(
        st.sampled_from(
            [
                b".wh." + hidden,
                b".wh." + hidden,
                b".wh." + hidden,
                b".wh..wh..opq",
                b".wh..wh..opq",
                b".wh..wh.plnk",
                b".wh..wh.plnk/1.2",
                b".wh..wh.aufs/a",
                b".wh..wh.",
                b".wh." + hidden + b"/a",
            ]
        )
    )
    kind = draw(st.sampled_from([b"0", b"0", b"0", b"5", b"2", b"1", b"3"]))
    name = prefix + b"/" + mark if prefix else mark
    link = draw(st.sampled_from([b"a", b".wh..wh.plnk/1.2"])) if kind in (b"1", b"2") else b""
    return Entry(kind, name, link=link, dialect=draw(st.sampled_from(["pax", "tarfile-gnu"])))


_root = st.builds(
    Entry,
    st.sampled_from([b"5", b"5", b"0", b"2", b"1"]),
    st.sampled_from([b"./", b"/", b".", b"..", b"a/.."]),
    link=st.just(b"a"),
    mode=_mode,
    uid=_owner,
    mtime_ns=_mtime.map(lambda ns: ns - ns % 10**9),
)

entries = st.one_of(*[_plain_entry()] * 6, _marker(), _marker(), _root)
stacks = st.lists(st.lists(entries, max_size=9), min_size=1, max_size=5)
"""Stacks of one to five layers of entries, lowest first."""
