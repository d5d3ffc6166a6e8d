"""Writes the seeds of the index fuzzer: index files of small layers, behind two bytes of control.

Run it after a change of the format; the seeds are committed, so that the fuzzer needs no Python.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from pathlib import Path

from unionmount.core import Indexer

SEEDS = Path(__file__).parent / "index"
Member = tuple[str, bytes, str, dict[str, str]]
LOWER: list[Member] = [
    ("a", tarfile.DIRTYPE, "", {}),
    ("a/b", tarfile.REGTYPE, "", {"SCHILY.xattr.user.a": "1", "mtime": "-1.5"}),
    ("a/c", tarfile.SYMTYPE, "b", {}),
    ("a/d", tarfile.LNKTYPE, "a/b", {}),
    ("e", tarfile.FIFOTYPE, "", {}),
]
UPPER: list[Member] = [
    ("a/.wh.b", tarfile.REGTYPE, "", {}),
    ("a/x", tarfile.LNKTYPE, "a/b", {}),
    (".wh.e", tarfile.REGTYPE, "", {}),
    ("n/.wh..wh..opq", tarfile.REGTYPE, "", {}),
    ("q", tarfile.LNKTYPE, "nowhere", {}),
]


def layer(members: list[Member]) -> bytes:
    """The tar of some members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, link, headers in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.pax_headers = kind, link, headers
            archive.addfile(info)
    return buffer.getvalue()


def index_of(tar: bytes) -> bytes:
    """The index file of a tar."""
    with Indexer("seed") as indexer, tempfile.TemporaryFile() as file:
        indexer.feed(tar)
        indexer.finish(len(tar), file.fileno())
        return os.pread(file.fileno(), 1 << 20, 0)


def main() -> None:
    """Write all seeds."""
    lower, upper = index_of(layer(LOWER)), index_of(layer(UPPER))
    size = max(len(lower), len(upper))
    both = lower.ljust(size, b"\0") + upper.ljust(size, b"\0")
    (SEEDS / "one").write_bytes(b"\x01\x00" + lower)
    (SEEDS / "two").write_bytes(b"\x01\x01" + both)


if __name__ == "__main__":
    main()
