"""An archive of ``docker save`` that comes as a stream, of which only the documents are kept.

The layers of such an archive come before the documents that refer to them. So the caller takes each
layer as it comes, and the archive is opened when the stream has ended, with the names and sizes of
its layers but not their bytes.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from unionmount.errors import FormatError, LimitExceeded
from unionmount.images.json_fields import MAX_DOCUMENT
from unionmount.system.files import FileRange
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_HOPS = 40  # links in one path, the limit of the kernel
_PATH_MAX = 4096
_MAX_MEMBERS = 65536
_MAX_KEPT = 64 * 1024 * 1024  # bytes of all documents
_DOCUMENTS = frozenset({"repositories", "oci-layout", "json", "VERSION"})


class StreamedFiles:
    """The members of an archive that has passed; ``find`` returns ranges without bytes."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._documents: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._links: dict[str, str] = {}
        self._kept = 0

    def keep(self, path: str, size: int, pieces: Iterator[bytes]) -> None:
        """Keep a document; raise LimitExceeded if it is too large."""
        where = f"{self.what}: '{printable(path)}'"
        self._kept += size
        if size > MAX_DOCUMENT:
            raise LimitExceeded(f"{where}: {size} bytes, more than {MAX_DOCUMENT}")
        if self._kept > _MAX_KEPT:
            raise LimitExceeded(f"{where}: more than {_MAX_KEPT} bytes of documents")
        self._documents[path] = b"".join(pieces)
        self.note(path, size)

    def note(self, path: str, size: int) -> None:
        """Note a layer that was taken."""
        self._sizes[path] = size
        self._check_count()

    def link(self, path: str, target: str, *, symbolic: bool) -> None:
        """Note a symlink, whose target is a path from its directory, or a hard link."""
        start = path.rpartition("/")[0] if symbolic and not target.startswith("/") else ""
        self._links[path] = normal(f"{start}/{target[: _PATH_MAX + 1]}")
        self._check_count()

    def _check_count(self) -> None:
        if len(self._sizes) + len(self._links) > _MAX_MEMBERS:
            raise LimitExceeded(f"{self.what}: more than {_MAX_MEMBERS} members")

    def _resolve(self, path: str) -> str:
        here = path
        for _ in range(_MAX_HOPS):
            if len(here) > _PATH_MAX:  # no member has such a name
                return here
            names = here.split("/")
            ways = ("/".join(names[:count]) for count in range(1, len(names) + 1))
            found = next((way for way in ways if way in self._links), None)
            if found is None:
                return here
            here = normal(self._links[found] + here[len(found) :])
        raise FormatError(f"{self.what}: '{printable(path)}': too many links")

    def find(self, path: str) -> FileRange | None:
        """Return a range that has the size of the member, but nothing that can be read."""
        size = self.size(path)
        return None if size is None else FileRange(-1, 0, size)

    def size(self, path: str) -> int | None:
        """Return the size of a member; None if there was none."""
        return self._sizes.get(self._resolve(normal(path)))

    def read(self, path: str) -> bytes | None:
        """Return a document; None if there was none."""
        return self._documents.get(self._resolve(normal(path)))

    def check_unchanged(self) -> None:
        """Do nothing, as what has passed does not change."""

    def release(self) -> None:
        """Do nothing, as nothing is open."""

    def close(self) -> None:
        """Do nothing, as nothing is open."""


def normal(path: str) -> str:
    """Return a path from the top, which ``..`` does not leave."""
    return posixpath.normpath("/" + path).lstrip("/")


def is_document(path: str) -> bool:
    """Return whether a member is a document by its name alone; blobs have names of digests."""
    name = path.rpartition("/")[2]
    return name.endswith(".json") or name in _DOCUMENTS
