"""Indexes of layers that stay in their archive or layout."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionmount.errors import InvalidReference
from unionmount.images.reference import Digest
from unionmount.system.files import FileIdentity, FileRange
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_IDENTITY = tuple(one.name for one in fields(FileIdentity))
MAX_ORIGIN = 64 * 1024
_INDEX_VERSION = 1  # of the keys of in-place indexes, which depend on it


@dataclass(slots=True)
class FlatFacts:
    """The digest of a root file system in a tar, and its names that a layer cannot hold."""

    diff_id: str = ""
    marks: int = 0
    names: list[str] = field(default_factory=list)  # the first of them, in Latin-1

    def note(self, marks: int, names: Sequence[bytes]) -> None:
        """Record what the indexer found."""
        self.marks = marks
        self.names = [name.decode("latin-1") for name in names]

    @property
    def marked(self) -> list[bytes]:
        """The first names that a layer cannot hold."""
        return [name.encode("latin-1") for name in self.names]

    @classmethod
    def parse(cls, document: Any) -> FlatFacts:
        """Parse the document of ``asdict``."""
        names = [name for name in document["names"] if name.encode("latin-1") is not None]
        return cls(str(Digest.parse(document["diff_id"])), int(document["marks"]), names)


@dataclass(frozen=True, slots=True)
class FlatInPlace:
    """The open index of a root file system in a tar, which the caller closes, and its facts."""

    index_fd: int
    facts: FlatFacts


@dataclass(frozen=True, slots=True)
class InPlaceOrigin:
    """The range of a file that an in-place index describes; ``flat`` if that is no layer."""

    path: str
    identity: FileIdentity
    offset: int
    length: int
    flat: FlatFacts | None = None

    @classmethod
    def of(cls, data: FileRange, flat: FlatFacts | None = None) -> InPlaceOrigin:
        """Return the origin of an open range."""
        path = os.readlink(f"/proc/self/fd/{data.fd}")  # noqa: PTH115 - a string is needed
        return cls(path, FileIdentity.of(data.fd), data.offset, data.length, flat)

    @property
    def key(self) -> str:
        """The file name of the index, without its suffix."""
        parts = (
            *(self.identity.device, self.identity.inode, self.identity.size),
            *(self.identity.mtime_ns, self.identity.ctime_ns),
            *(self.offset, self.length, _INDEX_VERSION),
            *([] if self.flat is None else ["flat"]),
        )
        return hashlib.sha256(" ".join(map(str, parts)).encode("ascii")).hexdigest()

    def serialize(self) -> bytes:
        """Return the document that is stored beside the index."""
        document: dict[str, Any] = {
            "path": self.path,
            "offset": self.offset,
            "length": self.length,
        }
        if self.flat is not None:
            document["flat"] = asdict(self.flat)
        return json.dumps(document | asdict(self.identity), indent=1).encode("ascii")

    @classmethod
    def parse(cls, raw: bytes) -> InPlaceOrigin | None:
        """Parse a document; return None if it is damaged."""
        try:
            document = json.loads(raw)
            identity = FileIdentity(**{name: int(document[name]) for name in _IDENTITY})
            offset, length = int(document["offset"]), int(document["length"])
            path = document["path"]
            flat = FlatFacts.parse(document["flat"]) if "flat" in document else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidReference):
            return None
        return cls(path, identity, offset, length, flat) if isinstance(path, str) else None

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
