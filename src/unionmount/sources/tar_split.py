"""The tar of a layer that was unpacked, made again from tar-split's record and the files.

podman and docker keep such a record (``tar-split.gz``) beside each layer: the bytes of the tar
between the contents of its files, and the names of the files, as JSON objects, one in a line.
The record and the files are untrusted: whoever uses the bytes compares their digest. Source:
``tar/asm`` and ``tar/storage`` of github.com/vbatts/tar-split.
"""

from __future__ import annotations

import base64
import binascii
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

from unionmount.errors import FormatError, LimitExceeded, StoreError
from unionmount.formats.compression import Compression, decompressor
from unionmount.images.json_fields import MAX_DOCUMENT, load_json
from unionmount.sources.layout import DirectoryFiles
from unionmount.system.files import open_stream, pieces_of
from unionmount.system.os_errors import naming
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FILE, _BYTES = 1, 2  # the types of records
_STEP = 256 * 1024


def restored(record: Path, directory: Path, what: str) -> Iterator[bytes]:
    """Yield the bytes of a tar; ``directory`` has the files that its layer brought.

    ``what`` names the layer in messages. Raise StoreError if there is no record, and FormatError if
    it is damaged or a file is missing or has another size than in the tar.
    """
    try:
        files = DirectoryFiles(directory)
    except OSError as error:
        raise StoreError(f"{what}: {printable(str(directory))}: {error.strerror}") from None
    with closing(files):
        files.follow_links()  # the tar's own, inside the layer, which its names led through
        for number, line in enumerate(_lines(record, what), 1):
            where = f"{what}: {printable(str(record))}: line {number}"
            one = load_json(line, where)
            kind = one.get("type") if isinstance(one, dict) else None
            if kind == _BYTES:
                yield _decoded(one, "payload", where)
            elif kind == _FILE:
                yield from _contents(files, one, where)
            else:
                raise FormatError(f"{where}: neither bytes nor a file")


def _lines(record: Path, what: str) -> Iterator[bytes]:
    shown = f"{what}: {printable(str(record))}"
    try:
        fd, first = open_stream(str(record), os.environ, fifo=False)
    except FileNotFoundError:
        raise StoreError(
            f"{shown}: does not exist, so the layer cannot be made again; have its tool save the "
            "image, and load the archive ('podman save', 'docker save')"
        ) from None
    except OSError as error:
        raise StoreError(f"{shown}: {error.strerror}") from None
    try:
        stream = decompressor(Compression.GZIP, shown)
        left, data = b"", first
        while True:
            for piece in stream.feed(data):
                *whole, rest = piece.split(b"\n")
                if whole:
                    yield left + whole[0]
                    yield from whole[1:]
                    left = rest
                else:
                    left += rest
                if len(left) > MAX_DOCUMENT:  # tar-split writes little more than 1 MiB in one
                    raise LimitExceeded(f"{shown}: a line of more than {MAX_DOCUMENT} bytes")
            with naming(shown):
                data = os.read(fd, _STEP)
            if not data:
                break
        stream.finish()
        if left:
            yield left
    finally:
        os.close(fd)


def _contents(files: DirectoryFiles, one: dict[str, Any], where: str) -> Iterator[bytes]:
    """Yield the contents of a file; nothing for what has none, such as a link."""
    size = one.get("size", 0)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise FormatError(f"{where}: size {printable(str(size))[:40]}")
    if not size:
        return
    name = _name(one, where)
    shown = f"{where}: '{printable(name)[:200]}'"
    found = files.find(name)
    if found is None or found.length != size:
        raise FormatError(
            f"{shown} is {'missing' if found is None else f'{found.length} bytes'}, but {size} "
            "bytes in the tar"
        )
    yield from pieces_of(found, shown)
    files.check_unchanged()
    files.release()


def _name(one: dict[str, Any], where: str) -> str:
    """Return the name of a file; one that is not UTF-8 is in a field of its own."""
    if one.get("name_raw"):
        return os.fsdecode(_decoded(one, "name_raw", where))
    name = one.get("name")
    if not isinstance(name, str):
        raise FormatError(f"{where}: a file without a name")
    return name


def _decoded(one: dict[str, Any], field: str, where: str) -> bytes:
    value = one.get(field)
    try:
        return base64.b64decode(value or "", validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise FormatError(f"{where}: field '{field}' is not base64") from None
