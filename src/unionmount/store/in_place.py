"""Indexes of layers that stay in their archive or layout."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from unionmount.system.files import FileIdentity, FileRange
from unionmount.system.text import printable

_IDENTITY = tuple(field.name for field in fields(FileIdentity))
MAX_ORIGIN = 64 * 1024
_INDEX_VERSION = 1  # of the keys of in-place indexes, which depend on it


@dataclass(frozen=True, slots=True)
class InPlaceOrigin:
    """The range of a file that an in-place index describes."""

    path: str
    identity: FileIdentity
    offset: int
    length: int

    @classmethod
    def of(cls, data: FileRange) -> InPlaceOrigin:
        """Return the origin of an open range."""
        path = os.readlink(f"/proc/self/fd/{data.fd}")  # noqa: PTH115 - a string is needed
        return cls(path, FileIdentity.of(data.fd), data.offset, data.length)

    @property
    def key(self) -> str:
        """The file name of the index, without its suffix."""
        parts = (
            *(self.identity.device, self.identity.inode, self.identity.size),
            *(self.identity.mtime_ns, self.identity.ctime_ns),
            *(self.offset, self.length, _INDEX_VERSION),
        )
        return hashlib.sha256(" ".join(map(str, parts)).encode("ascii")).hexdigest()

    def serialize(self) -> bytes:
        """Return the document that is stored beside the index."""
        document = {"path": self.path, "offset": self.offset, "length": self.length}
        return json.dumps(document | asdict(self.identity), indent=1).encode("ascii")

    @classmethod
    def parse(cls, raw: bytes) -> InPlaceOrigin | None:
        """Parse a document; return None if it is damaged."""
        try:
            document = json.loads(raw)
            identity = FileIdentity(**{name: int(document[name]) for name in _IDENTITY})
            offset, length = int(document["offset"]), int(document["length"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        path = document["path"]
        return cls(path, identity, offset, length) if isinstance(path, str) else None

    def is_current(self) -> bool:
        """Return whether the file still exists and is unchanged."""
        try:
            return FileIdentity.of_status(Path(self.path).stat()) == self.identity
        except (OSError, ValueError):
            return False


@dataclass(frozen=True, slots=True)
class InPlaceIndex:
    """An in-place index in the store."""

    files: tuple[Path, ...]
    origin: InPlaceOrigin | None  # None if it is not known any more

    @property
    def source(self) -> str:
        """The file of the layer, for people."""
        return printable(self.origin.path) if self.origin else "an unknown file"

    def is_current(self) -> bool:
        """Return whether the index can still be used."""
        return self.origin is not None and self.origin.is_current()
