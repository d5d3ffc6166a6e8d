"""Writes the seeds of the tar fuzzer: small archives, one for each dialect and oddity.

Run it after a change here; the seeds are committed, so that the fuzzer needs no Python.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

SEEDS = Path(__file__).parent / "tar"
SPARSE_1_0 = {
    "GNU.sparse.major": "1",
    "GNU.sparse.minor": "0",
    "GNU.sparse.name": "real",
    "GNU.sparse.realsize": "1000",
}
SPARSE_0_1 = {
    "GNU.sparse.name": "real",
    "GNU.sparse.size": "1000",
    "GNU.sparse.numblocks": "2",
    "GNU.sparse.map": "0,2,500,3",
}
SPARSE_0_0 = {
    "GNU.sparse.size": "1000",
    "GNU.sparse.numblocks": "1",
    "GNU.sparse.offset": "500",
    "GNU.sparse.numbytes": "5",
}
XATTRS = {
    "SCHILY.xattr.user.a": "b",
    "LIBARCHIVE.xattr.user.c%3D": "AP8KCg",
    "LIBARCHIVE.xattr.user.a": "Yg",
}
KEYS = {"uid": "5", "gid": "", "mtime": "-1.5", "path": "the/path", "linkpath": "link", "size": "3"}

Member = tuple[str, bytes, dict[str, str], bytes]


def archive(
    dialect: int, members: list[Member], global_headers: dict[str, str], link: str = "target"
) -> bytes:
    """A tar of (name, type, pax records, payload), without the filling of its last record."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=dialect, pax_headers=global_headers) as tar:
        for name, type_, records, payload in members:
            info = tarfile.TarInfo(name)
            info.type, info.pax_headers, info.size = type_, records, len(payload)
            info.linkname = link if type_ in (b"1", b"2") else ""
            tar.addfile(info, io.BytesIO(payload))
        end = tar.offset
    return out.getvalue()[: end + 1024]


def gnu_sparse() -> bytes:
    """Old GNU: a header of 4 runs and one further block (checksums do not count here)."""
    data = bytearray(archive(tarfile.GNU_FORMAT, [("sparse", b"S", {}, b"abcde")], {}))
    for run in range(4):
        data[386 + 24 * run : 410 + 24 * run] = b"%011o\0%011o\0" % (10 * run, 1)
    data[482:484] = b"\1" + b"0"
    data[483:495] = b"%011o\0" % 1000
    block = b"%011o\0%011o\0" % (100, 1)
    return bytes(data[:512]) + block.ljust(512, b"\0") + bytes(data[512:])


def seeds() -> dict[str, bytes]:
    """Name and content of each seed."""
    types: list[Member] = [
        (f"t{t}", t.encode(), {}, b"hello" if t in "07" else b"") for t in "012345675DVS"
    ]
    long = "d/" * 60 + "n" * 101
    ustar, gnu, pax = tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT
    long_map = b"".join(b"%d\n1\n" % run for run in range(150))
    map_1_0 = b"2\n0\n2\n500\n3\n".ljust(512, b"\0") + b"abcde"
    return {
        "types": archive(ustar, types, {}),
        "gnu_long": archive(gnu, [(long, b"2", {}, b""), ("next", b"0", {}, b"")], {}),
        "pax_keys": archive(pax, [("a", b"0", KEYS, b"abc")], {}),
        "pax_xattrs": archive(pax, [("a", b"0", XATTRS, b"abc")], {}),
        "pax_global": archive(
            pax,
            [("a", b"0", {"uid": ""}, b""), ("b", b"0", XATTRS, b"")],
            {"uid": "5", "SCHILY.xattr.user.g": "g"},
        ),
        "times": archive(pax, [("a", b"0", {"mtime": "-1.00000000010"}, b"")], {}),
        "gnu_long_link": archive(gnu, [("a", b"2", {}, b"")], {}, link="l" * 101),
        "volumes": archive(gnu, [("label", b"V", {}, b""), ("part", b"M", {}, b"")], {}),
        "sparse_0_0": archive(pax, [("a", b"0", SPARSE_0_0, b"abcde")], {}),
        "sparse_1_0_long": archive(
            pax,
            [("a", b"0", SPARSE_1_0, (b"150\n" + long_map).ljust(1024, b"\0") + b"x" * 150)],
            {},
        ),
        "sparse_0_1": archive(pax, [("a", b"0", SPARSE_0_1, b"abcde")], {}),
        "sparse_1_0": archive(pax, [("a", b"0", SPARSE_1_0, map_1_0)], {}),
        "sparse_gnu": gnu_sparse(),
    }


if __name__ == "__main__":
    SEEDS.mkdir(exist_ok=True)
    for name, data in seeds().items():
        (SEEDS / name).write_bytes(data)
