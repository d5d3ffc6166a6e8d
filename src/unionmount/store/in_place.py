"""Indexes of layers that stay in the archive or layout that they are in."""

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
_INDEX_VERSION = 1  # of the keys of in-place indexes: what the key says must be what is meant


@dataclass(frozen=True, slots=True)
class InPlaceOrigin:
    """Of which bytes of which file an in-place index is."""

    path: str
    identity: FileIdentity
    offset: int
    length: int

    @classmethod
    def of(cls, data: FileRange) -> InPlaceOrigin:
        """What is behind a descriptor now."""
        path = os.readlink(f"/proc/self/fd/{data.fd}")  # noqa: PTH115 - the text is wanted
        return cls(path, FileIdentity.of(data.fd), data.offset, data.length)

    @property
    def key(self) -> str:
        """What the index is called."""
        parts = (
            *(self.identity.device, self.identity.inode, self.identity.size),
            *(self.identity.mtime_ns, self.identity.ctime_ns),
            *(self.offset, self.length, _INDEX_VERSION),
        )
        return hashlib.sha256(" ".join(map(str, parts)).encode("ascii")).hexdigest()

    def serialize(self) -> bytes:
        """The document that is kept beside the index."""
        document = {"path": self.path, "offset": self.offset, "length": self.length}
        return json.dumps(document | asdict(self.identity), indent=1).encode("ascii")

    @classmethod
    def parse(cls, raw: bytes) -> InPlaceOrigin | None:
        """What a document says; None where it is damaged."""
        try:
            document = json.loads(raw)
            identity = FileIdentity(**{name: int(document[name]) for name in _IDENTITY})
            offset, length = int(document["offset"]), int(document["length"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        path = document["path"]
        return cls(path, identity, offset, length) if isinstance(path, str) else None

    def is_current(self) -> bool:
        """Whether the file is still there, and still the same."""
        try:
            return FileIdentity.of_status(Path(self.path).stat()) == self.identity
        except (OSError, ValueError):
            return False


@dataclass(frozen=True, slots=True)
class InPlaceIndex:
    """An index of a tar that stays where it is, as it is kept."""

    files: tuple[Path, ...]
    origin: InPlaceOrigin | None  # None where nobody knows any more

    @property
    def source(self) -> str:
        """Whose index it is, for people."""
        return printable(self.origin.path) if self.origin else "an unknown file"

    def is_current(self) -> bool:
        """Whether it can still be of use."""
        return self.origin is not None and self.origin.is_current()
