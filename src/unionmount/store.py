"""What is kept on this machine: layers and documents by digest, images by name.

::

    <root>/version                    the format; a newer one is refused
    <root>/lock                       flock: held while images.json is changed
    <root>/images.json                which images there are, and their names
    <root>/layers/<alg>/<hex>/        layer.tar and layer.idx, named by the diff_id
    <root>/blobs/<alg>/<hex>          manifests and configs as received
    <root>/inplace/<key>.idx          indexes of layers that stay where they are
    <root>/containers/<name>/         writable layers; see ``containers``
    <root>/tmp/                       what is being made; see ``layer.Staging``

Everything appears by a rename after fsync, so any number of processes may use a store at once and
die at any moment. An open layer stays readable when it is removed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionmount import core
from unionmount.errors import (
    DigestMismatch,
    FormatError,
    InvalidReference,
    LimitExceeded,
    NotFoundError,
    StoreError,
)
from unionmount.image import MAX_DOCUMENT, Config, Image, Manifest
from unionmount.layer import (
    INDEX_NAME,
    TAR_NAME,
    Expected,
    FileIdentity,
    FileRange,
    ImportLimits,
    LayerImport,
    OpenLayer,
    Staging,
    storing,
    write_all,
)
from unionmount.reference import Digest, Reference, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VERSION = 1
_INDEX_VERSION = 1  # of the keys of in-place indexes: what the key says must be what is meant
_HEX = frozenset("0123456789abcdef")
_MIN_ID = 4  # digits of an ID that may stand for it
_MAX_CATALOGUE = 256 * 1024 * 1024
_LOCAL = "localhost"
_DIRECTORIES = (
    "",
    "tmp",
    "inplace",
    "layers",
    "layers/sha256",
    "layers/sha512",
    "blobs",
    "blobs/sha256",
    "blobs/sha512",
    "containers",
)


def default_root(environment: Mapping[str, str]) -> Path:
    """Where the store is when nobody says otherwise."""
    if chosen := environment.get("UNIONMOUNT_ROOT"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/unionmount")
    data = environment.get("XDG_DATA_HOME", "")
    base = Path(data) if data.startswith("/") else _home(environment) / ".local/share"
    return base / "unionmount"


def _home(environment: Mapping[str, str]) -> Path:
    """The user's home: ``HOME``, or what the system knows where that says nothing usable."""
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            raise StoreError(
                "no place for the store: this user has no home directory (--root DIR names one)"
            ) from None
    return Path(home)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One image of the store: its names (may be none), and what they stand for."""

    names: tuple[str, ...]
    manifest: Digest
    id: Digest
    created: int  # seconds since 1970, of its import


class Store:
    """The store below ``root``; made when it is not there."""

    def __init__(self, root: Path, limits: ImportLimits | None = None) -> None:
        self.root = root
        self.limits = limits or ImportLimits()
        self._tmp = root / "tmp"
        known = self._check_version()
        with storing(root):
            root.parent.mkdir(parents=True, exist_ok=True)
            for name in _DIRECTORIES:
                (root / name).mkdir(mode=0o700, exist_ok=True)
            Staging.clean(self._tmp)
        if not known:
            self._write(root / "version", f"{VERSION}\n".encode())

    # -- layers

    def _layer_path(self, diff_id: Digest) -> Path:
        return self.root / "layers" / diff_id.algorithm / diff_id.hex

    def has_layer(self, diff_id: Digest) -> bool:
        """Whether the layer is here; what is here was verified when it came."""
        return (self._layer_path(diff_id) / TAR_NAME).is_file()

    def import_layer(self, expected: Expected, limits: ImportLimits | None = None) -> LayerImport:
        """Take a layer in: write its blob to what this returns."""

        def publish(staging: Staging, diff_id: Digest) -> None:
            # where another import of the same layer came first, its copy is as good
            staging.publish(self._layer_path(diff_id))

        return LayerImport(Staging(self._tmp), publish, expected, limits or self.limits)

    def open_layer(self, diff_id: Digest) -> OpenLayer:
        """Open a layer; its index is made anew where it is missing, old or damaged."""
        path = self._layer_path(diff_id)
        with ExitStack() as stack:
            with storing(path):
                data = self._open_tar(path / TAR_NAME, diff_id)
            stack.callback(os.close, data)
            size = os.fstat(data).st_size
            what = f"layer {diff_id}"
            index = _open_index(path / INDEX_NAME, size, what)
            if index is None:
                whole = FileRange(data, 0, size)
                index = self._make_index(whole, what, path / INDEX_NAME, self.limits)
            stack.pop_all()
        return OpenLayer(diff_id, data, 0, size, index)

    @staticmethod
    def _open_tar(path: Path, diff_id: Digest) -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFoundError(f"layer {diff_id} is not in the store") from None

    def index_in_place(self, data: FileRange, what: str, limits: ImportLimits | None = None) -> int:
        """A descriptor of the index of a tar that stays where it is; made when there is none."""
        identity = FileIdentity.of(data.fd)
        path = self.root / "inplace" / f"{_in_place_key(identity, data)}.idx"
        index = _open_index(path, data.length, what)
        if index is None:
            index = self._make_index(data, what, path, limits or self.limits)
        return index

    def _make_index(self, data: FileRange, what: str, path: Path, limits: ImportLimits) -> int:
        identity = FileIdentity.of(data.fd)
        with Staging(self._tmp) as staging, ExitStack() as stack:
            index = staging.create(INDEX_NAME)
            stack.callback(os.close, index)
            with core.Indexer(what, limits.core) as indexer:
                for _ in indexer.scan(data.fd, data.offset, data.length):
                    pass
                identity.check(data.fd, what)
                with storing(staging.path):
                    indexer.finish(data.length, index)
                    os.fsync(index)
            staging.publish_file(INDEX_NAME, path)
            stack.pop_all()
        return index

    def layer_info(self, diff_id: Digest) -> core.IndexInfo:
        """Sizes and counts of a layer."""
        layer = self.open_layer(diff_id)
        try:
            with core.Index(layer.index_fd, f"layer {diff_id}") as index:
                return index.info
        finally:
            layer.close()

    def spool(self) -> int:
        """A nameless file in the store that vanishes when it is closed."""
        with Staging(self._tmp) as staging:
            return staging.create("spool")

    def staging(self) -> Staging:
        """A directory of the store to make something in, gone with this process."""
        return Staging(self._tmp)

    # -- documents

    def _blob_path(self, digest: Digest) -> Path:
        return self.root / "blobs" / digest.algorithm / digest.hex

    def put_blob(self, data: bytes, digest: Digest | None = None) -> Digest:
        """Keep a document; returns its digest."""
        digest = digest or Digest.of(data)
        _verify(data, digest, "document")
        try:
            self.get_blob(digest)
        except (NotFoundError, FormatError):  # a damaged copy is replaced
            self._write(self._blob_path(digest), data)
        return digest

    def get_blob(self, digest: Digest) -> bytes:
        """A document, verified."""
        path = self._blob_path(digest)
        try:
            with storing(path):
                data = _read_limited(path, MAX_DOCUMENT)
        except NotFoundError:
            raise NotFoundError(f"document {digest} is not in the store") from None
        _verify(data, digest, str(path))
        return data

    def _write(self, path: Path, data: bytes) -> None:
        """Put a file in place by a rename."""
        with Staging(self._tmp) as staging:
            fd = staging.create("file")
            try:
                with storing(path):
                    write_all(fd, data)
                    os.fsync(fd)
            finally:
                os.close(fd)
            staging.publish_file("file", path)

    # -- images

    def put_image(
        self, names: Sequence[Reference], image: Image, *, take_over: bool = True
    ) -> StoredImage:
        """Record an image whose layers are here; the names now mean it and no other image.

        Without ``take_over`` a name that means another image already goes on to do so.
        """
        manifest = self.put_blob(image.manifest.raw, image.manifest.digest)
        self.put_blob(image.config.raw, image.id)
        added = [str(name.with_default_tag()) for name in names]
        with self._locked():
            known = self._read_catalogue()
            if not take_over:
                taken = {name for one in known if one.manifest != manifest for name in one.names}
                added = [name for name in added if name not in taken]
            old = next((one for one in known if one.manifest == manifest), None)
            kept = [name for name in old.names if name not in added] if old is not None else []
            created = old.created if old is not None else int(time.time())
            entry = StoredImage((*kept, *dict.fromkeys(added)), manifest, image.id, created)
            others = [_without(one, added) for one in known if one.manifest != manifest]
            self._write_catalogue([*others, entry])
        return entry

    def list_images(self) -> list[StoredImage]:
        """All images, the newest first."""
        return sorted(self._read_catalogue(), key=lambda one: one.created, reverse=True)

    def find_image(self, text: str) -> StoredImage:
        """The image of a name, or of the beginning of its ID."""
        known = self._read_catalogue()
        found = _by_name(known, text) or _by_id(known, text)
        if not found:
            raise NotFoundError(f"no image '{printable(text)}' in the store")
        if len({one.id for one in found}) > 1:
            raise InvalidReference(f"'{printable(text)}' stands for {len(found)} images")
        return found[0]

    def has_image_named(self, text: str) -> bool:
        """Whether ``text`` is the name of an image; the beginning of an ID is no name."""
        return bool(_by_name(self._read_catalogue(), text))

    def read_image(self, stored: StoredImage) -> Image:
        """The manifest and config of an image, parsed."""
        what = f"image {stored.id}"
        manifest = Manifest.parse(self.get_blob(stored.manifest), what)
        return Image.of(manifest, Config.parse(self.get_blob(stored.id), what), what)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with storing(self.root / "lock"):
            fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with storing(self.root / "lock"):
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _read_catalogue(self) -> list[StoredImage]:
        path = self.root / "images.json"
        try:
            with storing(path):
                raw = _read_limited(path, _MAX_CATALOGUE)
        except NotFoundError:
            return []
        try:
            return [_stored_image(one) for one in json.loads(raw)["images"]]
        except (ValueError, KeyError, TypeError, RecursionError, InvalidReference) as error:
            raise StoreError(f"{path}: damaged: {printable(str(error))}") from None

    def _write_catalogue(self, images: Sequence[StoredImage]) -> None:
        rows = [
            {
                "names": list(one.names),
                "manifest": str(one.manifest),
                "id": str(one.id),
                "created": one.created,
            }
            for one in images
        ]
        self._write(self.root / "images.json", json.dumps({"images": rows}, indent=1).encode())

    def _check_version(self) -> bool:
        """Whether there is a store already; StoreError where it is of another format."""
        path = self.root / "version"
        try:
            with storing(path):
                text = _read_limited(path, 64).decode("ascii", "replace").strip()
        except NotFoundError:
            return False
        if text != str(VERSION):
            raise StoreError(
                f"{self.root}: a store of format '{printable(text)}', this program knows {VERSION}"
            )
        return True


def _in_place_key(identity: FileIdentity, data: FileRange) -> str:
    parts = (
        identity.device,
        identity.inode,
        identity.size,
        identity.mtime_ns,
        identity.ctime_ns,
        data.offset,
        data.length,
        _INDEX_VERSION,
    )
    return hashlib.sha256(" ".join(map(str, parts)).encode("ascii")).hexdigest()


def _open_index(path: Path, layer_size: int, what: str) -> int | None:
    """Open an index if it is there, sound, and of a tar of this size."""
    with storing(path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
    try:
        with core.Index(fd, what) as index:
            if index.info.layer_size == layer_size:
                return fd
    except FormatError:
        pass  # derived data: it is made anew
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def _read_limited(path: Path, limit: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: not there") from None
    with os.fdopen(fd, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise LimitExceeded(f"{path}: more than {limit} bytes")
    return data


def _verify(data: bytes, digest: Digest, what: str) -> None:
    actual = Digest.of(data, digest.algorithm)
    if actual != digest:
        raise DigestMismatch(what, str(digest), str(actual))


def _stored_image(row: Any) -> StoredImage:
    names = tuple(str(Reference.parse(name)) for name in row["names"])
    return StoredImage(
        names, Digest.parse(row["manifest"]), Digest.parse(row["id"]), int(row["created"])
    )


def _without(image: StoredImage, names: Sequence[str]) -> StoredImage:
    kept = tuple(name for name in image.names if name not in names)
    return StoredImage(kept, image.manifest, image.id, image.created)


def _by_name(known: Sequence[StoredImage], text: str) -> list[StoredImage]:
    """Images of this name; one without a registry is looked for as a local one too."""
    found: list[StoredImage] = []
    for spelling in (text, f"{_LOCAL}/{text}"):
        try:
            reference = Reference.parse(spelling)
        except InvalidReference:
            continue
        found = found or [one for one in known if _means(reference, one)]
    return found


def _means(reference: Reference, image: StoredImage) -> bool:
    if reference.digest is None:
        return str(reference.with_default_tag()) in image.names
    names = {Reference.parse(name).name for name in image.names}
    return reference.digest == image.manifest and reference.name in names


def _by_id(known: Sequence[StoredImage], text: str) -> list[StoredImage]:
    digits = text.removeprefix("sha256:")
    if len(digits) < _MIN_ID or not set(digits) <= _HEX:
        return []
    return [
        one for one in known if one.id.hex.startswith(digits) or one.manifest.hex.startswith(digits)
    ]
