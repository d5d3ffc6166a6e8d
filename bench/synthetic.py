"""Images of any number of entries and layers, written fast."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

_BLOCK = 512
_CONTENT = b"a small file\n".ljust(_BLOCK, b"\0")
_BATCH = 4096


def _template(kind: bytes, size: int) -> tuple[bytes, bytes, int]:
    """Head and tail of a header around its name and checksum, and the sum of its bytes."""
    info = tarfile.TarInfo("x")
    info.type, info.size, info.mode, info.mtime = kind, size, 0o755, 1_700_000_000
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[0:100] = bytes(100)
    block[148:156] = b" " * 8
    return bytes(block[100:148]), bytes(block[156:]), sum(block)


_FILE = _template(tarfile.REGTYPE, 13)
_DIRECTORY = _template(tarfile.DIRTYPE, 0)


def _header(template: tuple[bytes, bytes, int], name: bytes) -> bytes:
    middle, tail, total = template
    return b"%s%s%06o\0 %s" % (name.ljust(100, b"\0"), middle, total + sum(name), tail)


def entries(count: int, start: int = 0) -> Iterator[bytes]:
    """Headers and contents of ``count`` small files, 100 in a directory, and the directories."""
    for number in range(start, start + count):
        directory = b"data/%d/%d" % (number // 10_000, number // 100 % 100)
        if number % 100 == 0:
            yield _header(_DIRECTORY, directory + b"/")
        yield _header(_FILE, b"%s/file-%d" % (directory, number)) + _CONTENT


def flat_entries(count: int) -> Iterator[bytes]:
    """Headers and contents of ``count`` small files in one directory."""
    yield _header(_DIRECTORY, b"data/")
    for number in range(count):
        yield _header(_FILE, b"data/file-%d" % number) + _CONTENT


def write_small(path: Path, count: int) -> None:
    """A tar of small files."""
    with path.open("wb") as file:
        for piece in _pieces(count, 0):
            file.write(piece)


def _pieces(count: int, start: int) -> Iterator[bytes]:
    return _in_batches(entries(count, start))


def _in_batches(headers: Iterator[bytes]) -> Iterator[bytes]:
    batch = []
    for entry in headers:
        batch.append(entry)
        if len(batch) == _BATCH:
            yield b"".join(batch)
            batch.clear()
    yield b"".join(batch) + bytes(2 * _BLOCK)


def write_large(path: Path, count: int, size: int) -> None:
    """A tar of ``count`` files of ``size`` bytes, whose blocks are really there."""
    block = bytes(range(256)) * 4096
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            info = tarfile.TarInfo(f"large-{number}")
            info.size = size
            tar.addfile(info, _Repeat(block, size))


class _Repeat(io.RawIOBase):
    """The same block again and again."""

    def __init__(self, block: bytes, size: int) -> None:
        self._block, self._left = block, size

    def read(self, size: int = -1) -> bytes:
        size = min(size, self._left, len(self._block))
        self._left -= size
        return self._block[:size]


def write_archive(path: Path, count: int, layers: int) -> None:
    """A docker-archive whose ``layers`` plain layers have ``count`` files together."""
    share = count // layers
    with path.open("wb") as file:
        diff_ids = [
            _add_layer(file, number, _pieces(share, number * share)) for number in range(layers)
        ]
        _finish(file, diff_ids)


def write_flat_archive(path: Path, count: int) -> None:
    """A docker-archive of one plain layer with ``count`` files in one directory."""
    with path.open("wb") as file:
        _finish(file, [_add_layer(file, 0, _in_batches(flat_entries(count)))])


def wrap_layer(layer: Path, path: Path) -> None:
    """A docker-archive of one layer, which is a tar already."""
    with layer.open("rb") as tar, path.open("wb") as file:
        _finish(file, [_add_layer(file, 0, iter(lambda: tar.read(1 << 20), b""))])


def _finish(file: io.BufferedWriter, diff_ids: list[str]) -> None:
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{d}" for d in diff_ids]},
        }
    ).encode()
    names = [f"{number}/layer.tar" for number in range(len(diff_ids))]
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": ["bench:latest"], "Layers": names}]
    for member, content in ((name, config), ("manifest.json", json.dumps(manifest).encode())):
        file.write(_member(member, len(content)) + content.ljust(_rounded(len(content)), b"\0"))
    file.write(bytes(2 * _BLOCK))


def _rounded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _member(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def _add_layer(file: io.BufferedWriter, number: int, pieces: Iterator[bytes]) -> str:
    start = file.tell()
    file.write(bytes(_BLOCK))
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
        file.write(piece)
    end = file.tell()
    file.seek(start)
    file.write(_member(f"{number}/layer.tar", end - start - _BLOCK))
    file.seek(end)
    return sha256.hexdigest()
