"""Images of the store as files that other tools read: docker-archive, oci-archive, oci layout.

Layers are written bit for bit as the store has them, and are hashed on the way: what would not have
its digest is not written to its end. The same images always give the same bytes.

The ID of an image (the digest of its config) never changes. Its manifest is the stored one where
that names the plain layers; else (the image came with compressed layers, whose blobs are gone, or
others are asked for) one is made. Sources: OCI image-spec 1.1 (``image-layout.md``,
``annotations.md``); Docker Image Specification v1.2.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unionmount.errors import DigestMismatch, FormatError, InvalidReference, UsageError
from unionmount.formats.compression import Compression, compressor
from unionmount.images.manifest import (
    MEDIA_OCI_CONFIG,
    MEDIA_OCI_INDEX,
    MEDIA_OCI_LAYER,
    MEDIA_OCI_MANIFEST,
)
from unionmount.images.reference import Digest, Reference
from unionmount.system.files import storing, write_all

if TYPE_CHECKING:
    from unionmount.images.manifest import Image
    from unionmount.store.layer_import import Progress
    from unionmount.store.leases import Lease
    from unionmount.store.store import Store, StoredImage
from unionmount.transfer.image_files import Sink

Form = Literal["docker-archive", "oci-archive", "oci"]

_STEP = 1024 * 1024
_MEDIA_SUFFIX = {Compression.PLAIN: "", Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}
_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image to be saved, and the names that it gets there."""

    image: Image
    names: tuple[Reference, ...]


def find_wanted(store: Store, texts: Sequence[str], lease: Lease | None = None) -> list[Wanted]:
    """What the user named: an image named by its ID is saved without a name, as docker does.

    An image that has several manifests in the store (it was pulled and loaded, say) is one image
    with all those names, saved by the manifest of the first. With a ``lease`` all of it stays in
    the store while that is held.
    """
    names: dict[Digest, list[Reference]] = {}
    images: dict[Digest, Image] = {}
    for text in texts:
        stored = store.find_image(text)
        if stored.id not in images:
            read = store.read_image(stored) if lease is None else store.use_image(stored, lease)
            images[stored.id] = read
        found = names.setdefault(stored.id, [])
        name = _name_meant(stored, text)
        if name is not None and name not in found:
            found.append(name)
    return [Wanted(image, tuple(names[image_id])) for image_id, image in images.items()]


def _name_meant(stored: StoredImage, text: str) -> Reference | None:
    """The one of an image's names that ``text`` is; see ``Store.find_image``."""
    for spelling in (text, f"localhost/{text}"):
        try:
            name = Reference.parse(spelling).with_default_tag()
        except InvalidReference:
            continue
        if str(name) in stored.names:
            return name
    return None


def save(
    store: Store,
    wanted: Sequence[Wanted],
    sink: Sink,
    form: Form,
    *,
    compression: Compression | None = None,
    progress: Progress | None = None,
) -> None:
    """Write images to ``sink``, without finishing it.

    Without ``compression`` layers are plain. A docker-archive knows no other ones.
    """
    compression = compression or Compression.PLAIN
    layers = _Layers(store, sink, compression, progress)
    if form != "docker-archive":
        _save_oci(wanted, sink, layers)
        return
    if compression is not Compression.PLAIN:
        raise UsageError("the layers of a docker-archive are not compressed")
    _save_docker(wanted, sink, layers)


# -- layers


class _Layers:
    """Writes layers of the store, each once for each name in the sink."""

    def __init__(
        self, store: Store, sink: Sink, compression: Compression, progress: Progress | None
    ) -> None:
        self.compression = compression
        self._store = store
        self._sink = sink
        self._progress = progress
        self._written: dict[Digest, tuple[Digest, int]] = {}

    def size(self, diff_id: Digest) -> int:
        """Bytes of the tar."""
        layer = self._store.open_layer(diff_id)
        try:
            return layer.length
        finally:
            layer.close()

    def write(self, path: str, diff_id: Digest) -> None:
        """Write the tar as it is."""
        layer = self._store.open_layer(diff_id)
        try:
            data = self._verified(layer.data_fd, layer.length, diff_id)
            self._sink.file(path, layer.length, data)
        finally:
            layer.close()

    def write_compressed(self, directory: str, diff_id: Digest) -> tuple[Digest, int]:
        """Write the tar compressed, named by its digest; returns that and the size."""
        if diff_id not in self._written:
            layer = self._store.open_layer(diff_id)
            try:
                self._written[diff_id] = self._compress(
                    directory, self._verified(layer.data_fd, layer.length, diff_id)
                )
            finally:
                layer.close()
        return self._written[diff_id]

    def _compress(self, directory: str, data: Iterable[bytes]) -> tuple[Digest, int]:
        """Compress to a file of the store first: a tar wants to know the size beforehand."""
        spool = self._store.spool()
        try:
            stream = compressor(self.compression)
            hasher, size = hashlib.sha256(), 0
            for piece in _compressed(stream.compress, data, stream.flush):
                hasher.update(piece)
                size += len(piece)
                with storing(self._store.root):
                    write_all(spool, piece)
            digest = Digest("sha256", hasher.hexdigest())
            self._sink.file(f"{directory}/{digest.hex}", size, _content(spool, size))
        finally:
            os.close(spool)
        return digest, size

    def _verified(self, fd: int, size: int, diff_id: Digest) -> Iterator[bytes]:
        """The bytes of a layer; DigestMismatch at their end where they are not what they were."""
        hasher, done = diff_id.hasher(), 0
        for piece in _content(fd, size):
            hasher.update(piece)
            yield piece
            done += len(piece)
            if self._progress is not None:
                self._progress(diff_id.short, done, size)
        actual = Digest(diff_id.algorithm, hasher.hexdigest())
        if actual != diff_id:
            raise DigestMismatch(f"layer {diff_id} in the store", str(diff_id), str(actual))


def _compressed(compress: Any, data: Iterable[bytes], flush: Any) -> Iterator[bytes]:
    for piece in data:
        yield compress(piece)
    yield flush()


def _content(fd: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size:
        piece = os.pread(fd, min(_STEP, size - offset), offset)
        if not piece:
            raise FormatError(f"a layer in the store is shorter than {size} bytes")
        yield piece
        offset += len(piece)


# -- docker-archive


def _save_docker(wanted: Sequence[Wanted], sink: Sink, layers: _Layers) -> None:
    written: set[str] = set()
    items = []
    repositories: dict[str, dict[str, str]] = {}
    for one in wanted:
        image = one.image
        paths = []
        for diff_id in image.diff_ids:
            path = f"{diff_id.hex}/layer.tar"
            paths.append(path)
            if path not in written:
                written.add(path)
                sink.directory(diff_id.hex)
                layers.write(path, diff_id)
        config = f"{image.id.hex}.json"
        if config not in written:
            written.add(config)
            sink.file(config, len(image.config.raw), [image.config.raw])
        tags = [name for name in one.names if name.tag is not None and name.digest is None]
        shown = [name.familiar for name in tags]
        items.append({"Config": config, "RepoTags": shown or None, "Layers": paths})
        for name in tags:
            if image.diff_ids:
                of_name = repositories.setdefault(_untagged(name), {})
                of_name[name.tag or ""] = image.diff_ids[-1].hex
    _document(sink, "manifest.json", items)
    if repositories:
        _document(sink, "repositories", repositories)


def _untagged(name: Reference) -> str:
    return Reference(name.registry, name.repository).familiar


# -- OCI image layout


def _save_oci(wanted: Sequence[Wanted], sink: Sink, layers: _Layers) -> None:
    sink.directory("blobs")
    for algorithm in sorted({"sha256", *_other_algorithms(wanted)}):
        sink.directory(f"blobs/{algorithm}")
    _document(sink, "oci-layout", {"imageLayoutVersion": "1.0.0"})
    written: set[Digest] = set()

    def blob(digest: Digest, raw: bytes) -> None:
        if digest not in written:
            written.add(digest)
            sink.file(f"blobs/{digest.algorithm}/{digest.hex}", len(raw), [raw])

    tags = [name.tag for one in wanted for name in one.names]
    descriptors = []
    for one in wanted:
        raw = _manifest(one.image, layers, written)
        config = one.image.manifest.config.digest if _is_kept(one.image, layers) else one.image.id
        blob(config, one.image.config.raw)
        digest = Digest.of(raw)
        blob(digest, raw)
        about = {
            "mediaType": MEDIA_OCI_MANIFEST,
            "digest": str(digest),
            "size": len(raw),
            "platform": _platform(one.image),
        }
        descriptors += [about | {"annotations": naming(name, tags)} for name in one.names]
        descriptors += [about] if not one.names else []
    index = {"schemaVersion": 2, "mediaType": MEDIA_OCI_INDEX, "manifests": descriptors}
    _document(sink, "index.json", index)


def _other_algorithms(wanted: Sequence[Wanted]) -> Iterator[str]:
    for one in wanted:
        yield one.image.manifest.config.digest.algorithm
        yield from (diff_id.algorithm for diff_id in one.image.diff_ids)


def _manifest(image: Image, layers: _Layers, written: set[Digest]) -> bytes:
    """The manifest of an image whose layers are written: the stored one where it fits."""
    descriptors = []
    for diff_id in image.diff_ids:
        if layers.compression is Compression.PLAIN:
            if diff_id not in written:
                written.add(diff_id)
                layers.write(f"blobs/{diff_id.algorithm}/{diff_id.hex}", diff_id)
            digest, size = diff_id, layers.size(diff_id)
        else:
            digest, size = layers.write_compressed("blobs/sha256", diff_id)
        media_type = MEDIA_OCI_LAYER + _MEDIA_SUFFIX[layers.compression]
        descriptors.append({"mediaType": media_type, "digest": str(digest), "size": size})
    if _is_kept(image, layers):
        return image.manifest.raw
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MEDIA_OCI_MANIFEST,
        "config": {
            "mediaType": MEDIA_OCI_CONFIG,
            "digest": str(image.id),
            "size": len(image.config.raw),
        },
        "layers": descriptors,
    }
    if image.manifest.annotations:
        document["annotations"] = dict(image.manifest.annotations)
    return _json(document)


def _is_kept(image: Image, layers: _Layers) -> bool:
    """Whether the stored manifest says of an OCI image what is written of it."""
    manifest = image.manifest
    return (
        layers.compression is Compression.PLAIN
        and manifest.media_type == MEDIA_OCI_MANIFEST
        and manifest.config.media_type == MEDIA_OCI_CONFIG
        and all(
            one.media_type == MEDIA_OCI_LAYER and one.digest == diff_id
            for one, diff_id in zip(manifest.layers, image.diff_ids, strict=True)
        )
    )


def naming(name: Reference, tags: Sequence[str | None] = ()) -> Mapping[str, str]:
    """Annotations that tools look for: the tag, or more where several of ``tags`` are that one."""
    unique = name.tag is not None and tags.count(name.tag) <= 1
    return {_FULL_NAME: str(name), _REF_NAME: (name.tag or "") if unique else str(name)}


def _platform(image: Image) -> Mapping[str, str]:
    platform = image.config.platform
    found = {"architecture": platform.architecture, "os": platform.os}
    return found | ({"variant": platform.variant} if platform.variant else {})


def _document(sink: Sink, path: str, value: Any) -> None:
    raw = _json(value)
    sink.file(path, len(raw), [raw])


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("ascii")
