"""The directory of one store, as it lies on the disk: where things are, and reading them.

Nothing is written or locked here, so it may belong to another user, and be on a read-only file
system: ``store`` reads its own directory by this, and the additional ones.
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
"""The format that this program writes: 2 has leases, and digests in the catalogue."""
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
        """The bytes, for as long as this is open."""
        return FileRange(self.fd, self.offset, self.length)

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class StoreDirectory:
    """What lies below the root of a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tmp = root / "tmp"
        self.leases = root / "leases"
        self.locks = root / "locks"
        self.inplace = root / "inplace"
        self.quarantine = root / "quarantine"

    def version(self) -> str | None:
        """The format of what is there; None where there is no store, StoreError for a newer one."""
        path = self.root / "version"
        try:
            with storing(path):
                text = read_limited(path, 64).decode("ascii", "replace").strip()
        except NotFoundError:
            return None
        if text not in KNOWN_VERSIONS:
            raise StoreError(
                f"{printable(str(self.root))}: a store of format '{printable(text)}', "
                f"this program knows {VERSION} and older ones: it takes a newer unionmount"
            )
        return text

    # -- layers

    def layer_path(self, diff_id: Digest) -> Path:
        """The directory of a layer."""
        return self.root / "layers" / diff_id.algorithm / diff_id.hex

    def index_path(self, diff_id: Digest) -> Path:
        """The index of a layer."""
        return self.layer_path(diff_id) / INDEX_NAME

    def has_layer(self, diff_id: Digest) -> bool:
        """Whether the layer is here."""
        return (self.layer_path(diff_id) / TAR_NAME).is_file()

    def open_tar(self, diff_id: Digest) -> int | None:
        """A descriptor of the layer itself; None where it is not here."""
        return _open(self.layer_path(diff_id) / TAR_NAME)

    def layers(self) -> Iterator[Digest]:
        """All layers; what else lies there is left out."""
        return self._digests("layers")

    # -- documents and blobs

    def blob_path(self, digest: Digest) -> Path:
        """Where a document, or a blob that is kept as it came, is."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def blobs(self) -> Iterator[Digest]:
        """All documents and kept blobs; what else lies there is left out."""
        return self._digests("blobs")

    def read_document(self, digest: Digest) -> bytes:
        """A document, verified."""
        path = self.blob_path(digest)
        try:
            with storing(path):
                data = read_limited(path, MAX_DOCUMENT)
        except NotFoundError:
            raise NotFoundError(f"document {digest} is not in the store") from None
        verify(data, digest, str(path))
        return data

    def open_blob(self, digest: Digest) -> OpenBlob | None:
        """A blob that was kept as it came, or the layer that is called so; None for neither."""
        fd = _open(self.blob_path(digest))
        if fd is None:
            fd = self.open_tar(digest)
        return None if fd is None else OpenBlob(fd, os.fstat(fd).st_size)

    # -- what is damaged

    def quarantine_path(self, kind: str, digest: Digest, token: str) -> Path:
        """Where something damaged is put; ``kind`` is "layer" or "blob"."""
        return self.quarantine / f"{kind}-{digest.algorithm}-{digest.hex}-{token}"

    def quarantined(self) -> Iterator[tuple[Path, str, Digest]]:
        """Everything damaged that was put aside: where it is, what kind, and its digest."""
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
        """What the catalogue says, in its order."""
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
    """The digest that a file's name stands for; None where it is no digest."""
    try:
        return Digest.parse(f"{algorithm}:{name}")
    except InvalidReference:
        return None


def open_file(path: Path) -> int:
    """A regular file, to read; StoreError for what is none: reading others' may block."""
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
    """Open an index if it is there, sound, and of a tar of this size."""
    fd = _open(path)
    if fd is None:
        return None
    try:
        with core.Index(fd, what) as index:
            if index.info.layer_size == layer_size:
                return fd
    except FormatError:
        pass  # derived data: it is made anew, where only we can change it
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def read_limited(path: Path, limit: int) -> bytes:
    """A small file; NotFoundError, LimitExceeded or OSError where it can't be read."""
    try:
        fd = open_file(path)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: not there") from None
    with os.fdopen(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise LimitExceeded(f"{path}: more than {limit} bytes")
    return data


def verify(data: bytes, digest: Digest, what: str) -> None:
    """DigestMismatch where the bytes are not what their digest says."""
    actual = Digest.of(data, digest.algorithm)
    if actual != digest:
        raise DigestMismatch(what, str(digest), str(actual))
