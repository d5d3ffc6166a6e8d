"""The directory of a store: its layout, and reading it.

Nothing here writes or locks, so the directory may belong to another user and be on a read-only file
system: ``store`` uses it for its own directory and for additional stores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from unionmount import core
from unionmount.errors import (
    DigestMismatch,
    FormatError,
    InvalidReference,
    LimitExceeded,
    NotFoundError,
    NotRegular,
    StoreError,
)
from unionmount.images.json_fields import MAX_DOCUMENT
from unionmount.images.reference import Digest
from unionmount.store import catalogue
from unionmount.store.catalogue import StoredImage
from unionmount.store.layer_import import INDEX_NAME, TAR_NAME
from unionmount.system.closing import Closing
from unionmount.system.files import FileRange, open_regular
from unionmount.system.os_errors import storing
from unionmount.system.text import printable

VERSION = 2
"""The format that this program writes; 2 has leases, and digests in the catalogue."""
KNOWN_VERSIONS = ("1", "2")
_MAX_CATALOGUE = 256 * 1024 * 1024
ALGORITHMS = ("sha256", "sha512")


class OpenBlob(Closing):
    """The bytes of a blob; owns the descriptor."""

    def __init__(self, fd: int, length: int) -> None:
        self.fd = fd
        self.offset = 0
        self.length = length

    @property
    def data(self) -> FileRange:
        """The bytes, while this is open."""
        return FileRange(self.fd, self.offset, self.length)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class StoreDirectory:
    """The directory of a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tmp = root / "tmp"
        self.leases = root / "leases"
        self.locks = root / "locks"
        self.inplace = root / "inplace"
        self.quarantine = root / "quarantine"
        self.used = root / "used"

    def version(self) -> str | None:
        """Return the store's format, or None without a store; raise StoreError if it is newer."""
        path = self.root / "version"
        try:
            with storing(path):
                text = read_limited(path, 64).decode("ascii", "replace").strip()
        except NotFoundError:
            return None
        if text not in KNOWN_VERSIONS:
            raise StoreError(
                f"{printable(str(self.root))}: the store has format '{printable(text)}', but "
                f"this program supports up to {VERSION}; use a newer unionmount"
            )
        return text

    # -- layers

    def layer_path(self, diff_id: Digest) -> Path:
        """Return the directory of a layer."""
        return self.root / "layers" / diff_id.algorithm / diff_id.hex

    def index_path(self, diff_id: Digest) -> Path:
        """Return the index of a layer."""
        return self.layer_path(diff_id) / INDEX_NAME

    def has_layer(self, diff_id: Digest) -> bool:
        """Return whether the store has the layer."""
        return (self.layer_path(diff_id) / TAR_NAME).is_file()

    def open_tar(self, diff_id: Digest) -> int | None:
        """Open the tar of a layer; return None if it is missing."""
        return _open(self.layer_path(diff_id) / TAR_NAME)

    def layers(self) -> Iterator[Digest]:
        """Yield the digests of all layers."""
        return self._digests("layers")

    # -- documents and blobs

    def blob_path(self, digest: Digest) -> Path:
        """Return the path of a document, or of a blob that is kept as it came."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def blobs(self) -> Iterator[Digest]:
        """Yield the digests of all documents and kept blobs."""
        return self._digests("blobs")

    def read_document(self, digest: Digest) -> bytes:
        """Read a document and verify it."""
        path = self.blob_path(digest)
        try:
            with storing(path):
                data = read_limited(path, MAX_DOCUMENT)
        except NotFoundError:
            raise NotFoundError(f"document {digest} is not in the store") from None
        verify(data, digest, str(path))
        return data

    def open_blob(self, digest: Digest) -> OpenBlob | None:
        """Open a kept blob, or the layer of that digest; return None if there is neither."""
        fd = _open(self.blob_path(digest))
        if fd is None:
            fd = self.open_tar(digest)
        return None if fd is None else OpenBlob(fd, os.fstat(fd).st_size)

    # -- what is damaged

    def quarantine_path(self, kind: str, digest: Digest, token: str) -> Path:
        """Return the path for damaged data; ``kind`` is "layer" or "blob"."""
        return self.quarantine / f"{kind}-{digest.algorithm}-{digest.hex}-{token}"

    def quarantined(self) -> Iterator[tuple[Path, str, Digest]]:
        """Yield the path, kind and digest of all data in the quarantine."""
        with storing(self.quarantine):
            paths = sorted(self.quarantine.iterdir())
        for path in paths:
            kind, _, rest = path.name.partition("-")
            algorithm, _, rest = rest.partition("-")
            digest = digest_named(algorithm, rest.partition("-")[0])
            if digest is not None:
                yield path, kind, digest

    # -- images

    def images(self) -> list[StoredImage]:
        """Read the catalogue."""
        path = self.root / "images.json"
        try:
            with storing(path):
                raw = read_limited(path, _MAX_CATALOGUE)
        except NotFoundError:
            return []
        try:
            return catalogue.parse(raw)
        except catalogue.DAMAGED as error:
            raise StoreError(f"{path}: damaged: {printable(str(error))}") from None

    def _digests(self, kind: str) -> Iterator[Digest]:
        for algorithm in ALGORITHMS:
            directory = self.root / kind / algorithm
            with storing(directory):
                try:
                    names = sorted(path.name for path in directory.iterdir())
                except FileNotFoundError:
                    continue
            for name in names:
                digest = digest_named(algorithm, name)
                if digest is not None:
                    yield digest


def digest_named(algorithm: str, name: str) -> Digest | None:
    """Return the digest that a file is named by; None if its name is not a digest."""
    try:
        return Digest.parse(f"{algorithm}:{name}")
    except InvalidReference:
        return None


def open_file(path: Path) -> int:
    """Open a regular file for reading; raise StoreError for any other, as opening it may block."""
    try:
        return open_regular(path, follow=False)
    except NotRegular as error:
        raise StoreError(str(error)) from None


def _open(path: Path) -> int | None:
    with storing(path):
        try:
            return open_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return None


def open_index(path: Path, layer_size: int, what: str) -> int | None:
    """Open an index; return None if it is missing, damaged, or of a tar of another size."""
    fd = _open(path)
    if fd is None:
        return None
    try:
        with core.Index(fd, what) as index:
            if index.info.layer_size == layer_size:
                return fd
    except FormatError:
        pass  # derived data, which only the owner of the store can replace
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def read_limited(path: Path, limit: int) -> bytes:
    """Read a small file; raise NotFoundError, LimitExceeded or OSError if that is impossible."""
    try:
        fd = open_file(path)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: does not exist") from None
    with os.fdopen(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise LimitExceeded(f"{path}: more than {limit} bytes")
    return data


def verify(data: bytes, digest: Digest, what: str) -> None:
    """Raise DigestMismatch if bytes do not have the digest."""
    actual = Digest.of(data, digest.algorithm)
    if actual != digest:
        raise DigestMismatch(what, str(digest), str(actual))
