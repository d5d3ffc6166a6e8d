"""The check of a store: it hashes every byte, verifies every index and finds missing parts.

Nothing is locked while bytes are hashed. Before damage is repaired, it is confirmed under the lock
of the store, since it may have been removed or replaced meanwhile.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.errors import FormatError, NotFoundError, StoreError, UnionmountError
from unionmount.store.directory import ALGORITHMS, digest_named, open_file
from unionmount.store.image_name import name_of
from unionmount.store.layer_import import check_digest
from unionmount.store.references import digests_of
from unionmount.system.files import FileRange, fsync_directory
from unionmount.system.os_errors import reason_of, storing
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.images.reference import Digest
    from unionmount.store.containers import Container, Containers
    from unionmount.store.store import Store, StoredImage


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem, and what was done about it."""

    text: str
    repaired: bool = False  # whether the problem is solved


@dataclass(frozen=True, slots=True)
class _Damaged:
    """A layer or blob whose content does not match its digest."""

    kind: str  # "layer" or "blob"
    digest: Digest
    path: Path
    identity: tuple[int, int] | None  # of the hashed file
    text: str


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """A check of a store, or of the digests in ``only``, which may ``repair`` damage."""

    store: Store
    containers: Containers
    repair: bool = False
    only: Collection[Digest] | None = None

    def run(self) -> Iterator[Finding]:
        """Check everything and yield all problems."""
        yield from self._layers()
        yield from self._blobs()
        if self.only is None:
            yield from self._strays()
            yield from self._inplace()
        yield from self._references()

    def _concerns(self, digest: Digest) -> bool:
        return self.only is None or digest in self.only

    # -- layers

    def _layers(self) -> Iterator[Finding]:
        for diff_id in filter(self._concerns, self.store.directory.layers()):
            damaged = self._hash_layer(diff_id)
            if damaged is not None:
                yield self._about(damaged)
            else:
                yield from self._index(diff_id)

    def _hash_layer(self, diff_id: Digest) -> _Damaged | None:
        path, what = self.store.directory.layer_path(diff_id), f"layer {diff_id}"
        try:
            fd = self.store.directory.open_tar(diff_id)
        except StoreError as error:
            return _Damaged("layer", diff_id, path, None, f"{what}: {error}")
        if fd is None:
            if not path.exists():  # removed meanwhile
                return None
            return _Damaged("layer", diff_id, path, None, f"{what}: the layer itself is missing")
        return _hashed("layer", diff_id, path, fd, what)

    def _index(self, diff_id: Digest) -> Iterator[Finding]:
        text = self._index_problem(diff_id)
        if text is None:
            return
        if not self.repair:
            yield Finding(text)
            return
        try:
            self.store.rebuild_index(diff_id)
        except NotFoundError:
            return  # removed meanwhile, together with its index
        except (UnionmountError, OSError) as error:
            yield Finding(f"{text}; it cannot be rebuilt: {error}")
        else:
            yield Finding(f"{text}; rebuilt", repaired=True)

    def _index_problem(self, diff_id: Digest) -> str | None:
        path, what = self.store.directory.index_path(diff_id), f"layer {diff_id}"
        try:
            fd = open_file(path)
        except (StoreError, OSError) as error:
            there = self.store.directory.has_layer(diff_id)
            return f"{what}: its index: {_reason(error)}" if there else None
        try:
            return _problem_of_index(fd, f"{what}: its index", self._layer_size(diff_id))
        finally:
            os.close(fd)

    def _layer_size(self, diff_id: Digest) -> int | None:
        fd = self.store.directory.open_tar(diff_id)
        if fd is None:
            return None
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    # -- documents and blobs

    def _blobs(self) -> Iterator[Finding]:
        for digest in filter(self._concerns, self.store.directory.blobs()):
            path, what = self.store.directory.blob_path(digest), f"blob {digest}"
            try:
                fd = open_file(path)
            except FileNotFoundError:  # removed meanwhile
                continue
            except (StoreError, OSError) as error:
                yield self._about(_Damaged("blob", digest, path, None, f"{what}: {_reason(error)}"))
                continue
            damaged = _hashed("blob", digest, path, fd, what)
            if damaged is not None:
                yield self._about(damaged)

    # -- what is damaged

    def _about(self, damaged: _Damaged) -> Finding:
        if not self.repair:
            return Finding(damaged.text)
        with self.store.staging() as staging, self.store.locked():
            if not _is_same(damaged):
                return Finding(f"{damaged.text}; gone meanwhile", repaired=True)
            leased = [held.what for held in self.store.leases() if damaged.digest in held.digests]
            if leased:
                return Finding(
                    f"{damaged.text}; left in place, as it is in use: {'; '.join(leased)}"
                )
            needing = self._needing(damaged.digest)
            if not needing:
                with storing(damaged.path):
                    damaged.path.rename(staging.path / "damaged")
                return Finding(f"{damaged.text}; removed, as it is unused", repaired=True)
            self._quarantine(damaged)
        return Finding(f"{damaged.text}; quarantined, needed by {', '.join(needing)}")

    def _quarantine(self, damaged: _Damaged) -> None:
        """Move damaged data to the quarantine, so that a pull or load can fetch it again."""
        place = self.store.directory
        target = place.quarantine_path(damaged.kind, damaged.digest, secrets.token_hex(4))
        with storing(target):
            damaged.path.rename(target)
            fsync_directory(damaged.path.parent)

    def _needing(self, digest: Digest) -> list[str]:
        """Return the images and containers that need a digest, or may need it."""
        try:
            users = [*self._users()]
        except StoreError:
            return ["an image of the catalogue (perhaps), which is damaged"]
        needing = (self._needs(what, stored, digest) for what, stored in users)
        return [who for who in needing if who]

    def _needs(self, what: str, stored: StoredImage, digest: Digest) -> str | None:
        """Return the user's name if it needs the digest, or if its documents are unreadable."""
        if digest in (stored.manifest, stored.id):
            return what
        try:
            return what if digest in digests_of(self.store, stored, what) else None
        except StoreError:  # its documents are damaged or lost
            return f"{what} (perhaps)"

    def _users(self, *, with_unpacked: bool = True) -> Iterator[tuple[str, StoredImage]]:
        for one in self.store.directory.images():
            yield f"image {printable(name_of(one))}", one
        for container in self._known_containers():
            if container.image.unpacked and not with_unpacked:
                continue  # its layers are in the store of another tool
            yield f"container '{container.name}'", container.image.stored

    def _known_containers(self) -> list[Container]:
        return [one for one in self.containers.all(lambda _: None) if not one.ephemeral]

    # -- what belongs together

    def _references(self) -> Iterator[Finding]:
        found: list[Finding] = []
        with self.store.locked():
            damaged: list[StoreError] = []
            if self.only is None:
                self.containers.all(damaged.append)
                with _noting(damaged):
                    self.store.leases()
            with _noting(damaged):
                for what, stored in self._users(with_unpacked=False):
                    if self._concerns(stored.id):
                        found += self._missing(what, stored)
        yield from (Finding(str(error)) for error in damaged)
        yield from found

    def _missing(self, what: str, stored: StoredImage) -> Iterator[Finding]:
        try:
            image = self.store.read_image(stored)
        except (NotFoundError, FormatError) as error:
            yield Finding(f"{what}: {error}")
            return
        for diff_id in dict.fromkeys(image.diff_ids):
            if not self.store.has_layer(diff_id):
                yield Finding(f"{what}: layer {diff_id} is not in the store")

    def _strays(self) -> Iterator[Finding]:
        """Yield the files among layers and blobs that are neither."""
        for kind in ("layers", "blobs"):
            for algorithm in ALGORITHMS:
                directory = self.store.root / kind / algorithm
                with storing(directory):
                    names = sorted(path.name for path in directory.iterdir())
                for name in names:
                    if digest_named(algorithm, name) is None:
                        where = printable(str(directory / name))
                        yield Finding(f"{where}: does not belong here: its name is not a digest")

    def _inplace(self) -> Iterator[Finding]:
        for one in self.store.in_place_indexes():
            text = _problem_in_place(one.files, one.origin.length if one.origin else None)
            if text is None:
                continue
            text = f"in-place index of {one.source}: {text}"
            if self.repair:
                for path in one.files:
                    with storing(path):
                        path.unlink(missing_ok=True)
                yield Finding(f"{text}; removed", repaired=True)
            else:
                yield Finding(text)


class _noting:  # noqa: N801 - used like a function
    """A context manager that adds a StoreError to a list and ends the block."""

    def __init__(self, errors: list[StoreError]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, traceback: object) -> bool:
        if isinstance(error, StoreError):
            self._errors.append(error)
            return True
        return False


def _hashed(kind: str, digest: Digest, path: Path, fd: int, what: str) -> _Damaged | None:
    """Hash an open file and close it."""
    try:
        status = os.fstat(fd)
        check_digest(FileRange(fd, 0, status.st_size), digest, what)
    except (UnionmountError, OSError) as error:
        text = str(error) if isinstance(error, UnionmountError) else f"{what}: {_reason(error)}"
        return _Damaged(kind, digest, path, (status.st_dev, status.st_ino), text)
    finally:
        os.close(fd)
    return None


def _is_same(damaged: _Damaged) -> bool:
    """Return whether the damaged file is still in place."""
    path = damaged.path / "layer.tar" if damaged.kind == "layer" else damaged.path
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return damaged.identity is None and damaged.path.exists()
    return damaged.identity in (None, (status.st_dev, status.st_ino))


def _problem_of_index(fd: int, what: str, layer_size: int | None) -> str | None:
    try:
        with core.Index(fd, what) as index:
            if layer_size is not None and index.info.layer_size != layer_size:
                return f"{what}: belongs to another layer"
            index.verify()
    except FormatError as error:
        return str(error)
    except OSError as error:
        return f"{what}: {_reason(error)}"
    return None


def _reason(error: Exception) -> str:
    return reason_of(error) if isinstance(error, OSError) else str(error)


def _problem_in_place(files: Collection[Path], length: int | None) -> str | None:
    for path in files:
        if path.suffix != ".idx":
            continue
        with suppress(FileNotFoundError):
            try:
                fd = open_file(path)
            except StoreError as error:
                return str(error)
            try:
                return _problem_of_index(fd, path.name, length)
            finally:
                os.close(fd)
    return None
