"""The store of one user: layers and documents by digest, images by name.

::

    <root>/version                    the format; a newer one is refused
    <root>/lock                       flock: the lock of the store
    <root>/images.json                the images and their names
    <root>/layers/<alg>/<hex>/        layer.tar and layer.idx, named by the diff_id
    <root>/blobs/<alg>/<hex>          manifests and configs as received; layers as they came
    <root>/inplace/<key>.idx          indexes of layers that stay in their archive
    <root>/inplace/<key>.json         the file that each of these describes
    <root>/containers/<name>/         writable layers; see ``containers``
    <root>/leases/  <root>/locks/     digests in use, and layers being fetched; see ``leases``
    <root>/quarantine/                damaged layers and documents; see ``check``
    <root>/tmp/                       incomplete data; see ``staging``

Everything appears by a rename after fsync, so any number of processes may use a store at once and
die at any moment. An open layer stays readable after it was removed. docs/explanation/store.md
describes the details.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.errors import (
    FormatError,
    ImageNotFound,
    InvalidReference,
    NotFoundError,
    StoreError,
    UsageError,
)
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.manifest import Manifest
from unionmount.images.opened import OpenLayer
from unionmount.images.reference import Digest, Reference
from unionmount.store import catalogue
from unionmount.store.catalogue import StoredImage
from unionmount.store.directory import (
    ALGORITHMS,
    VERSION,
    OpenBlob,
    StoreDirectory,
    open_index,
    read_limited,
    verify,
)
from unionmount.store.layer_import import (
    BLOB_NAME,
    INDEX_NAME,
    Expected,
    ImportLimits,
    Inspect,
    LayerImport,
)
from unionmount.store.leases import Holding, LayerLock, Lease, held_leases, new_path
from unionmount.store.sharing import Sharing
from unionmount.store.staging import Staging
from unionmount.system.files import FileIdentity, FileRange, write_all
from unionmount.system.nearest import did_you_mean
from unionmount.system.os_errors import reason_of, storing
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
from unionmount.store.in_place import (
    MAX_ORIGIN,
    FlatFacts,
    FlatInPlace,
    InPlaceIndex,
    InPlaceOrigin,
)

__all__ = ["VERSION", "OpenBlob", "Store", "StoredImage"]
_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_DIRECTORIES = (
    "",
    "tmp",
    "inplace",
    "layers",
    *(f"layers/{algorithm}" for algorithm in ALGORITHMS),
    "blobs",
    *(f"blobs/{algorithm}" for algorithm in ALGORITHMS),
    "containers",
    "leases",
    "locks",
    "quarantine",
    "used",
)


class Store:
    """The store at ``root``, which is created if it does not exist.

    ``additional`` are read-only stores, which are searched for anything that this one lacks.
    """

    def __init__(
        self,
        root: Path,
        limits: ImportLimits | None = None,
        *,
        additional: Sequence[Path] = (),
    ) -> None:
        self.root = root
        self.limits = limits or ImportLimits()
        self.directory = StoreDirectory(root)
        self.additional = tuple(_additional(path) for path in additional)
        self.sharing = Sharing(root)
        self._tmp = self.directory.tmp
        known = self.directory.version()
        with _writing(root):
            root.parent.mkdir(parents=True, exist_ok=True)
            for name in _DIRECTORIES:
                (root / name).mkdir(mode=0o700, exist_ok=True)
            Staging.clean(self._tmp)
        if known != str(VERSION):
            with self.locked():  # older formats remain readable
                self._write(root / "version", f"{VERSION}\n".encode())

    @property
    def _directories(self) -> tuple[StoreDirectory, ...]:
        """The directories to search, in order: the own one, then the additional ones."""
        return (self.directory, *self.additional)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the store, which guards the catalogue, leases and the collection.

        Not re-entrant; hold it briefly.
        """
        with _writing(self.root / "lock"):
            fd = os.open(self.root / "lock", _LOCK_FLAGS, 0o600)
        try:
            with storing(self.root / "lock"):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    # -- leases

    def lease(self, kind: str, what: str) -> Lease:
        """Create a lease, which protects digests from garbage collection until it is closed.

        ``kind`` is "pull", "load", "save", "commit", "mount" …; ``what`` describes it for people.
        """
        return Lease(new_path(self.directory.leases), self.locked, kind, what)

    def leases(self) -> list[Holding]:
        """Return the leases that are held; the caller holds the lock of the store."""
        return held_leases(self.directory.leases)

    def layer_lock(self, diff_id: Digest) -> LayerLock:
        """Return the lock for fetching a layer, not yet acquired."""
        return LayerLock(self.directory.locks, diff_id)

    # -- layers

    def has_layer(self, diff_id: Digest) -> bool:
        """Return whether a store has the layer, which was verified when it came."""
        return any(one.has_layer(diff_id) for one in self._directories)

    def layer_place(self, diff_id: Digest) -> Path | None:
        """Return the directory of a layer; None if no store has it."""
        found = (one.layer_path(diff_id) for one in self._directories if one.has_layer(diff_id))
        return next(found, None)

    def import_layer(
        self,
        expected: Expected,
        *,
        keep_blob: bool = False,
        lease: Lease | None = None,
        inspect: Inspect | None = None,
    ) -> LayerImport:
        """Start the import of a layer, whose blob is then written to the result.

        ``keep_blob`` also keeps the blob as it came, if it is compressed and ``expected`` has its
        digest. A new layer is registered in ``lease`` before it appears, since its diff_id is not
        known earlier. ``inspect`` may refuse a layer by its index.
        """

        def publish(staging: Staging, diff_id: Digest) -> None:
            if lease is not None:
                lease.protect(diff_id)
            if expected.digest is not None and (staging.path / BLOB_NAME).exists():
                blob = self.directory.blob_path(expected.digest)
                staging.publish_file(BLOB_NAME, blob, self.sharing)
            # If another import of the same layer was faster, its copy is as good.
            if not staging.publish(self.directory.layer_path(diff_id), self.sharing):
                self._replace_damaged(staging, diff_id)

        keep_blob = keep_blob and expected.digest is not None
        staging = Staging(self._tmp)
        return LayerImport(
            staging, publish, expected, self.limits, keep_blob=keep_blob, inspect=inspect
        )

    def _replace_damaged(self, incoming: Staging, diff_id: Digest) -> None:
        """Replace the remains of a damaged layer, if there are any."""
        path = self.directory.layer_path(diff_id)
        with Staging(self._tmp) as staging, self.locked():
            if not self.directory.has_layer(diff_id):
                with storing(path):
                    path.rename(staging.path / "damaged")
                incoming.publish(path, self.sharing)

    def open_layer(self, diff_id: Digest) -> OpenLayer:
        """Open a layer; its index is rebuilt if it is missing, outdated or damaged."""
        what = f"layer {diff_id}"
        with ExitStack() as stack:
            place, data = self._open_tar(diff_id)
            stack.callback(os.close, data)
            whole = FileRange(data, 0, os.fstat(data).st_size)
            index = open_index(place.index_path(diff_id), whole.length, what)
            if index is None and place is self.directory:
                path = place.index_path(diff_id)
                index = self._make_index(whole, what, path)
            elif index is None:
                index = self.index_in_place(whole, what)
            stack.pop_all()
        return OpenLayer(diff_id, data, 0, whole.length, index)

    def rebuild_index(self, diff_id: Digest) -> None:
        """Rebuild the index of a layer of this store."""
        data = self.directory.open_tar(diff_id)
        if data is None:
            raise NotFoundError(f"layer {diff_id} is not in the store")
        try:
            whole = FileRange(data, 0, os.fstat(data).st_size)
            path = self.directory.index_path(diff_id)
            os.close(self._make_index(whole, f"layer {diff_id}", path))
        finally:
            os.close(data)

    def _open_tar(self, diff_id: Digest) -> tuple[StoreDirectory, int]:
        for place in self._directories:
            fd = place.open_tar(diff_id)
            if fd is not None:
                return place, fd
        raise NotFoundError(f"layer {diff_id} is not in the store")

    def index_in_place(self, data: FileRange, what: str) -> int:
        """Open the index of a tar that stays in its archive; make it if there is none."""
        origin = InPlaceOrigin.of(data)
        path = self.directory.inplace / f"{origin.key}.idx"
        index = open_index(path, data.length, what)
        if index is None:
            index = self._make_index(data, what, path, origin)
        return index

    def flat_in_place(self, data: FileRange, what: str) -> FlatInPlace | None:
        """Return what is known of a root file system in a tar; None if that is nothing."""
        origin = self._origin(InPlaceOrigin.of(data, FlatFacts()).key)
        if origin is None or origin.flat is None:
            return None
        path = self.directory.inplace / f"{origin.key}.idx"
        index = open_index(path, data.length, what)
        return None if index is None else FlatInPlace(index, origin.flat)

    def index_flat_in_place(
        self, data: FileRange, what: str, diff_id: Digest, identity: FileIdentity
    ) -> FlatInPlace:
        """Make the index of a root file system in a tar, whose digest the caller has computed.

        ``identity`` is that of the file before its digest was computed.
        """
        facts = FlatFacts(str(diff_id))
        origin = InPlaceOrigin.of(data, facts)
        identity.check(data.fd, what)
        path = self.directory.inplace / f"{origin.key}.idx"
        return FlatInPlace(self._make_index(data, what, path, origin), facts)

    def flat_facts(self, data: FileRange, what: str, diff_id: Digest) -> FlatFacts:
        """Return the facts of a root file system in a tar that does not stay where it is."""
        facts = FlatFacts(str(diff_id))
        with (
            Staging(self._tmp) as staging,
            staging.spool() as spool,
            staging.spool() as index,
            core.Indexer(what, self.limits.core, spool, literal=True) as indexer,
        ):
            for _ in indexer.scan(data.fd, data.offset, data.length):
                pass
            with storing(staging.path):
                indexer.finish(data.length, index)
            facts.note(*indexer.marks())
        return facts

    def in_place_indexes(self) -> list[InPlaceIndex]:
        """Return all indexes of tars that stay in their archives."""
        directory = self.directory.inplace
        with storing(directory):
            paths = sorted(directory.iterdir())
        files: dict[str, list[Path]] = {}
        for path in paths:
            files.setdefault(path.stem, []).append(path)
        return [InPlaceIndex(tuple(found), self._origin(key)) for key, found in files.items()]

    def _origin(self, key: str) -> InPlaceOrigin | None:
        path = self.directory.inplace / f"{key}.json"
        try:
            with storing(path):
                origin = InPlaceOrigin.parse(read_limited(path, MAX_ORIGIN))
        except (NotFoundError, FormatError):
            return None
        return origin if origin is not None and origin.key == key else None

    def _make_index(
        self,
        data: FileRange,
        what: str,
        path: Path,
        origin: InPlaceOrigin | None = None,
    ) -> int:
        identity = FileIdentity.of(data.fd)
        with Staging(self._tmp) as staging, ExitStack() as stack:
            index = staging.create(INDEX_NAME)
            stack.callback(os.close, index)
            literal = origin is not None and origin.flat is not None
            with (
                staging.spool() as spool,
                core.Indexer(what, self.limits.core, spool, literal=literal) as indexer,
            ):
                for _ in indexer.scan(data.fd, data.offset, data.length):
                    pass
                identity.check(data.fd, what)
                with storing(staging.path):
                    indexer.finish(data.length, index)
                    os.fsync(index)
                if origin is not None and origin.flat is not None:
                    origin.flat.note(*indexer.marks())
            if origin is not None:
                self._write(path.with_suffix(".json"), origin.serialize(), private=True)
            staging.publish_file(INDEX_NAME, path, self.sharing if origin is None else None)
            stack.pop_all()
        return index

    def layer_info(self, diff_id: Digest) -> core.IndexInfo:
        """Return the sizes and counts of a layer."""
        layer = self.open_layer(diff_id)
        try:
            with core.Index(layer.index_fd, f"layer {diff_id}") as index:
                return index.info
        finally:
            layer.close()

    def spool(self) -> int:
        """Create a nameless file in the store, which vanishes when it is closed."""
        with Staging(self._tmp) as staging:
            return staging.nameless()

    def staging(self) -> Staging:
        """Create a directory in the store that is removed with this process."""
        return Staging(self._tmp)

    # -- documents and blobs

    def put_blob(self, data: bytes, digest: Digest | None = None) -> Digest:
        """Store a document and return its digest."""
        digest = digest or Digest.of(data)
        verify(data, digest, "document")
        try:
            self.directory.read_document(digest)
        except (NotFoundError, FormatError):  # a damaged copy is replaced
            self._write(self.directory.blob_path(digest), data)
        return digest

    def get_blob(self, digest: Digest) -> bytes:
        """Read a document and verify it."""
        for place in self._directories[:-1]:
            try:
                return place.read_document(digest)
            except NotFoundError:
                continue
        return self._directories[-1].read_document(digest)

    def open_blob(self, digest: Digest) -> OpenBlob | None:
        """Open a kept blob, or the layer of that digest; return None if there is neither.

        Its bytes were verified when they came.
        """
        for place in self._directories:
            found = place.open_blob(digest)
            if found is not None:
                return found
        return None

    def has_blob(self, digest: Digest) -> bool:
        """Return whether a store has a document, or a blob that was kept as it came."""
        return any(one.blob_path(digest).is_file() for one in self._directories)

    def _write(self, path: Path, data: bytes, *, private: bool = False) -> None:
        """Write a file and move it into place by a rename."""
        with Staging(self._tmp) as staging:
            fd = staging.create("file")
            try:
                with storing(path):
                    write_all(fd, data)
                    os.fsync(fd)
            finally:
                os.close(fd)
            staging.publish_file("file", path, None if private else self.sharing)

    # -- images

    def put_image(
        self,
        names: Sequence[Reference],
        image: ImageDocuments,
        *,
        take_over: bool = True,
        digests: Sequence[Reference] = (),
    ) -> StoredImage:
        """Record an image whose layers are stored, and give it names, which other images lose.

        Without ``take_over``, it gets only names that no other image has. ``digests`` are
        ``name@digest``, the names of the image in registries.
        """
        manifest = image.manifest.digest
        added = [str(name.with_default_tag()) for name in names]
        with self.locked():
            # The lock keeps garbage collection from running between the documents and their image.
            self.put_blob(image.manifest.raw, manifest)
            self.put_blob(image.config.raw, image.id)
            known = self.directory.images()
            if not take_over:
                taken = catalogue.taken(known, manifest)
                added = [name for name in added if name not in taken]
            entry = StoredImage(
                names=tuple(dict.fromkeys(added)),
                manifest=manifest,
                id=image.id,
                created=int(time.time()),
                digests=tuple(str(replace(one, tag=None)) for one in digests if one.digest),
            )
            changed, entry = catalogue.put(known, entry)
            self.write_catalogue(changed)
        return entry

    def tag(self, image: StoredImage, name: Reference) -> StoredImage:
        """Give an image another name, which any other image loses."""
        if name.digest is not None:
            raise UsageError(f"'{name}' has a digest; name the image by a tag instead")
        digests = [Reference.parse(one) for one in image.digests]
        return self.put_image([name], self.read_image(image), digests=digests)

    def untag(self, name: Reference) -> StoredImage:
        """Remove a name or ``name@digest`` from its image; the image stays."""
        word = str(name.with_default_tag())
        with self.locked():
            known = self.directory.images()
            having = [one for one in known if word in (*one.names, *one.digests)]
            if not having:
                raise NotFoundError(f"no image '{word}' in the store")
            found = having[-1]
            changed = catalogue.untag(known, found.manifest, [word])
            self.write_catalogue(changed)
        return next(one for one in changed if one.manifest == found.manifest)

    def list_images(self) -> list[StoredImage]:
        """Return all images, newest first and each once, including those of additional stores."""
        images = catalogue.by_image(self._all_images())
        return sorted(images, key=lambda one: one.created, reverse=True)

    def with_all_names(self, image: StoredImage) -> StoredImage:
        """Return the image with the names and digests of all its manifests."""
        found = (one for one in self.list_images() if one.id == image.id)
        known = next(found, image)
        return replace(image, names=known.names, digests=known.digests)

    def _all_images(self) -> list[StoredImage]:
        known = self.directory.images()
        for other in self.additional:
            known = catalogue.overlaid(known, other.images())
        return known

    def find_image(self, text: str) -> StoredImage:
        """Find an image by its name or the beginning of its ID."""
        found = catalogue.find(self._all_images(), text)
        if not found:
            known = [*dict.fromkeys(name for one in self._all_images() for name in one.names)]
            near = did_you_mean(text, [Reference.parse(name).familiar for name in known])
            raise ImageNotFound(text, f"no image '{printable(text)}' in the store{near}")
        if len({one.id for one in found}) > 1:
            raise InvalidReference(_ambiguous(text, found))
        return found[0]

    def has_image_named(self, text: str) -> bool:
        """Return whether an image has the name ``text``; an ID is not a name."""
        return bool(catalogue.by_name(self._all_images(), text))

    def read_image(self, stored: StoredImage) -> ImageDocuments:
        """Read the manifest and config of an image."""
        what = f"image {stored.id}"
        manifest = Manifest.parse(self.get_blob(stored.manifest), what)
        return ImageDocuments.of(manifest, Config.parse(self.get_blob(stored.id), what), what)

    def use_image(self, stored: StoredImage, lease: Lease) -> ImageDocuments:
        """Read an image and protect it from removal while ``lease`` is held."""
        image = self.read_image(stored)
        lease.protect(stored.manifest, stored.id, *image.diff_ids)
        lease.protect_image(stored.id)
        # this fails if it was removed before it was registered
        return self.read_image(stored)

    def write_catalogue(self, images: Sequence[StoredImage]) -> None:
        """Replace the catalogue; the caller has held the lock of the store since reading it."""
        self._write(self.root / "images.json", catalogue.serialize(images))


def _additional(root: Path) -> StoreDirectory:
    """Return an additional store for reading."""
    place = StoreDirectory(root)
    if place.version() is None:
        raise NotFoundError(f"additional store {printable(str(root))}: does not exist")
    return place


def _ambiguous(text: str, found: Sequence[StoredImage]) -> str:
    """Return the images that a short ID may mean, as text."""
    by_id = {one.id: one for one in reversed(found)}
    shown = [
        f"{one.id.short} ({', '.join(Reference.parse(name).familiar for name in one.names[:3])})"
        if one.names
        else one.id.short
        for one in by_id.values()
    ]
    more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
    names = ", ".join(sorted(shown)[:8])
    return f"'{printable(text)}' is ambiguous: it stands for {len(shown)} images: {names}{more}"


@contextmanager
def _writing(where: Path) -> Iterator[None]:
    """Turn an OSError in the block, which has the first writes of all, into a StoreError."""
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        if error.errno == errno.EROFS:
            reason += (
                "; choose another store (--root, UNIONMOUNT_ROOT, or store= in fstab), and name"
                " this one in UNIONMOUNT_ADDITIONAL_STORES to read it"
            )
        elif error.errno == errno.EACCES:
            reason += "; choose another store (--root, UNIONMOUNT_ROOT)"
        raise StoreError(f"{printable(str(where))}: {reason}") from error
