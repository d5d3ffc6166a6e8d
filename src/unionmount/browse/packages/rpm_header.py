"""Headers of RPM, the records of its databases."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from unionmount.browse.packages.model import Package, as_text
from unionmount.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEADER = 256 << 20  # bytes, the limit of rpm itself
_MAX_ENTRIES = 0xFFFF
_ENTRY = struct.Struct(">IIII")  # tag, type, offset, count
_TAGS = {
    1000: "name",
    1001: "version",
    1002: "release",
    1003: "epoch",
    1014: "license",
    1022: "architecture",
    1044: "source",
}
_INT32, _STRING, _ARRAY, _I18N = 4, 6, 8, 9
_KEY = "gpg-pubkey"  # a public key, which rpm keeps like a package


def package_of_header(blob: bytes) -> Package | None:
    """Return the package of a header; None if it is a public key. Raise FormatError."""
    found = _read(blob)
    name, version = found.get("name", ""), found.get("version", "")
    if not name or not version:
        raise FormatError("a header has no name or no version")
    if name == _KEY:
        return None
    epoch, release = found.get("epoch", ""), found.get("release", "")
    source, source_version = _source(found.get("source", ""))
    return Package(
        "rpm",
        name,
        f"{epoch + ':' if epoch else ''}{version}{'-' + release if release else ''}",
        found.get("architecture", ""),
        source,
        source_version,
        found.get("license", ""),
    )


def _source(text: str) -> tuple[str, str]:
    """Split the file name of a source package: ``curl-7.50.3-1.fc25.src.rpm``."""
    parts = text.removesuffix(".rpm").rpartition(".")[0].rsplit("-", 2)
    return (parts[0], "-".join(parts[1:])) if len(parts) == 3 else ("", "")


def _read(blob: bytes) -> Mapping[str, str]:
    if len(blob) < 8:
        raise FormatError("a header is too short")
    entries, size = struct.unpack_from(">II", blob)
    start = 8 + entries * _ENTRY.size
    if entries > _MAX_ENTRIES or start + size > len(blob):
        raise FormatError("a header is longer than its record")
    data = blob[start : start + size]
    found: dict[str, str] = {}
    for number in range(entries):
        tag, kind, offset, count = _ENTRY.unpack_from(blob, 8 + number * _ENTRY.size)
        name = _TAGS.get(tag)
        if name is not None and count and name not in found:
            found[name] = _value(data, kind, offset, name)
    return found


def _value(data: bytes, kind: int, offset: int, name: str) -> str:
    if kind == _INT32 and offset + 4 <= len(data):
        return str(int.from_bytes(data[offset : offset + 4], "big"))
    end = data.find(b"\0", offset) if kind in (_STRING, _ARRAY, _I18N) else -1
    if end < 0:
        raise FormatError(f"the field '{name}' of a header is damaged")
    return as_text(data[offset:end], name)
