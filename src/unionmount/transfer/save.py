"""Images of the store as files for other tools: docker-archive, OCI layouts, and skopeo's dir:.

Layers are written bit for bit and hashed at the same time: a damaged layer makes the save fail. The
same images always give the same bytes.

The ID of an image (the digest of its config) never changes. The stored manifest is used if it names
the plain layers; otherwise (the image came with compressed layers whose blobs are gone, or another
compression is requested) a new one is made. Sources: OCI image-spec 1.1 (``image-layout.md``,
``annotations.md``); Docker Image Specification v1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unionmount.errors import InvalidReference, UsageError
from unionmount.formats.compression import Compression
from unionmount.images.build import (
    LAYOUT_MARKER,
    compact_json,
    descriptor_row,
    index_document,
    layer_type,
    manifest_document,
)
from unionmount.images.manifest import Descriptor
from unionmount.images.media_types import (
    FULL_NAME,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    REF_NAME,
)
from unionmount.images.reference import Digest, Reference
from unionmount.sources.skopeo_dir import MANIFEST, VERSION, VERSION_TEXT
from unionmount.system.files import pieces_of
from unionmount.transfer.layer_data import CompressedLayer, verified

if TYPE_CHECKING:
    from unionmount.images.image import ImageDocuments
    from unionmount.store.layer_import import Progress
    from unionmount.store.leases import Lease
    from unionmount.store.store import Store, StoredImage
from unionmount.transfer.image_files import FileWriter

Form = Literal["docker-archive", "oci-archive", "oci", "dir"]


@dataclass(frozen=True, slots=True)
class ImageToSave:
    """An image to save, and its names in the archive; in a layout, ``ref`` replaces these."""

    image: ImageDocuments
    names: tuple[Reference, ...]
    ref: str = ""


def find_wanted(
    store: Store, texts: Sequence[str], lease: Lease | None = None
) -> list[ImageToSave]:
    """Find the images to save; like in docker, one that is named by its ID is saved without a name.

    An image that has several manifests in the store (if it was pulled and loaded, say) is saved
    once, with all its names and its first manifest. A ``lease`` keeps all of it in the store.
    """
    names: dict[Digest, list[Reference]] = {}
    images: dict[Digest, ImageDocuments] = {}
    for text in texts:
        stored = store.find_image(text)
        if stored.id not in images:
            read = store.read_image(stored) if lease is None else store.use_image(stored, lease)
            images[stored.id] = read
        found = names.setdefault(stored.id, [])
        name = _name_meant(stored, text)
        if name is not None and name not in found:
            found.append(name)
    return [ImageToSave(image, tuple(names[image_id])) for image_id, image in images.items()]


def _name_meant(stored: StoredImage, text: str) -> Reference | None:
    """Return the name of the image that ``text`` means; see ``Store.find_image``."""
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
    wanted: Sequence[ImageToSave],
    writer: FileWriter,
    form: Form,
    *,
    compression: Compression | None = None,
    progress: Progress | None = None,
) -> list[Digest]:
    """Write images to ``writer`` without finishing it; return the digests of their manifests.

    Without ``compression``, layers are plain, as they always are in a docker-archive, which has no
    such manifests.
    """
    compression = compression or Compression.PLAIN
    layers = _Layers(store, writer, compression, progress, _in_dir if form == "dir" else _in_layout)
    if form == "dir":
        return [_save_dir(wanted, writer, layers)]
    if form != "docker-archive":
        return _save_oci(wanted, writer, layers)
    if compression is not Compression.PLAIN:
        raise UsageError("the layers of a docker-archive cannot be compressed")
    _save_docker(wanted, writer, layers)
    return []


# -- layers


class _Layers:
    """A writer of layers of the store, each once for each path."""

    def __init__(
        self,
        store: Store,
        writer: FileWriter,
        compression: Compression,
        progress: Progress | None,
        path_of: Callable[[Digest], str],
    ) -> None:
        self.compression = compression
        self.path_of = path_of
        self._store = store
        self._writer = writer
        self._progress = progress
        self._written: dict[Digest, tuple[Digest, int]] = {}

    def size(self, diff_id: Digest) -> int:
        """Return the size of the tar."""
        layer = self._store.open_layer(diff_id)
        try:
            return layer.length
        finally:
            layer.close()

    def write(self, path: str, diff_id: Digest) -> None:
        """Write the tar as it is."""
        layer = self._store.open_layer(diff_id)
        try:
            self._writer.file(path, layer.length, verified(layer, self._progress))
        finally:
            layer.close()

    def write_compressed(self, diff_id: Digest) -> tuple[Digest, int]:
        """Write the tar compressed and named by its digest; return that digest and the size."""
        if diff_id not in self._written:
            # A tar needs the size of a member first, so the layer is compressed to a file.
            with CompressedLayer(self._store, diff_id) as packed:
                packed.run(self.compression, self._progress)
                data = pieces_of(packed.data, f"layer {diff_id}, compressed")
                self._writer.file(self.path_of(packed.digest), packed.size, data)
                self._written[diff_id] = packed.digest, packed.size
        return self._written[diff_id]


def _in_layout(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _in_dir(digest: Digest) -> str:
    return digest.hex


# -- docker-archive


def _save_docker(wanted: Sequence[ImageToSave], writer: FileWriter, layers: _Layers) -> None:
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
                writer.directory(diff_id.hex)
                layers.write(path, diff_id)
        config = f"{image.id.hex}.json"
        if config not in written:
            written.add(config)
            writer.file(config, len(image.config.raw), [image.config.raw])
        tags = [name for name in one.names if name.tag is not None and name.digest is None]
        shown = [name.familiar for name in tags]
        items.append({"Config": config, "RepoTags": shown or None, "Layers": paths})
        for name in tags:
            if image.diff_ids:
                of_name = repositories.setdefault(_untagged(name), {})
                of_name[name.tag or ""] = image.diff_ids[-1].hex
    _document(writer, "manifest.json", compact_json(items))
    if repositories:
        _document(writer, "repositories", compact_json(repositories))


def _untagged(name: Reference) -> str:
    return Reference(name.registry, name.repository).familiar


# -- OCI image layout


def _save_oci(wanted: Sequence[ImageToSave], writer: FileWriter, layers: _Layers) -> list[Digest]:
    writer.directory("blobs")
    for algorithm in sorted({"sha256", *_other_algorithms(wanted)}):
        writer.directory(f"blobs/{algorithm}")
    _document(writer, "oci-layout", compact_json(LAYOUT_MARKER))
    written: set[Digest] = set()

    def blob(digest: Digest, raw: bytes) -> None:
        if digest not in written:
            written.add(digest)
            writer.file(layers.path_of(digest), len(raw), [raw])

    tags = [name.tag for one in wanted for name in one.names]
    rows, digests = [], []
    for one in wanted:
        raw = _manifest(one.image, layers, written)
        is_kept = keeps_manifest(one.image, layers.compression)
        config = one.image.manifest.config.digest if is_kept else one.image.id
        blob(config, one.image.config.raw)
        digest = Digest.of(raw)
        blob(digest, raw)
        digests.append(digest)
        descriptor = Descriptor(OCI_MANIFEST, digest, len(raw), one.image.config.platform)
        names = [ref_naming(one.ref)] if one.ref else [naming(name, tags) for name in one.names]
        rows += [descriptor_row(descriptor, name) for name in names or [{}]]
    _document(writer, "index.json", index_document(rows))
    return digests


# -- skopeo's dir:


def _save_dir(wanted: Sequence[ImageToSave], writer: FileWriter, layers: _Layers) -> Digest:
    """Write the only image that a directory can hold; return the digest of its manifest."""
    (one,) = wanted
    raw = _manifest(one.image, layers, set())
    config = one.image.config.raw
    is_kept = keeps_manifest(one.image, layers.compression)
    digest = one.image.manifest.config.digest if is_kept else one.image.id
    writer.file(_in_dir(digest), len(config), [config])
    _document(writer, MANIFEST, raw)
    _document(writer, VERSION, VERSION_TEXT)
    return Digest.of(raw)


# -- common to both


def _other_algorithms(wanted: Sequence[ImageToSave]) -> Iterator[str]:
    for one in wanted:
        yield one.image.manifest.config.digest.algorithm
        yield from (diff_id.algorithm for diff_id in one.image.diff_ids)


def _manifest(image: ImageDocuments, layers: _Layers, written: set[Digest]) -> bytes:
    """Write the layers of an image and return its manifest, the stored one if it fits."""
    descriptors = []
    for diff_id in image.diff_ids:
        if layers.compression is Compression.PLAIN:
            if diff_id not in written:
                written.add(diff_id)
                layers.write(layers.path_of(diff_id), diff_id)
            digest, size = diff_id, layers.size(diff_id)
        else:
            digest, size = layers.write_compressed(diff_id)
        descriptors.append(Descriptor(layer_type(layers.compression), digest, size))
    if keeps_manifest(image, layers.compression):
        return image.manifest.raw
    size = len(image.config.raw)
    return manifest_document(image.id, size, descriptors, image.manifest.annotations)


def keeps_manifest(image: ImageDocuments, compression: Compression | None) -> bool:
    """Return whether the stored manifest describes the layers as a layout or ``dir:`` gets them."""
    manifest = image.manifest
    return (
        compression in (None, Compression.PLAIN)
        and manifest.media_type == OCI_MANIFEST
        and manifest.config.media_type == OCI_CONFIG
        and all(
            one.media_type == OCI_LAYER and one.digest == diff_id
            for one, diff_id in zip(manifest.layers, image.diff_ids, strict=True)
        )
    )


def naming(name: Reference, tags: Sequence[str | None] = ()) -> Mapping[str, str]:
    """Return the annotations of a name: the tag, or the full name if the tag is not unique."""
    unique = name.tag is not None and tags.count(name.tag) <= 1
    return {FULL_NAME: str(name), REF_NAME: (name.tag or "") if unique else str(name)}


def ref_naming(ref: str) -> Mapping[str, str]:
    """Return the annotations of a name that a user wrote for a layout.

    Other tools look for exactly these words. If they are a full name, containerd's annotation says
    which.
    """
    named = {REF_NAME: ref}
    if set(ref) & set("/:"):
        with suppress(InvalidReference):
            named[FULL_NAME] = str(Reference.parse(ref).with_default_tag())
    return named


def _document(writer: FileWriter, path: str, raw: bytes) -> None:
    writer.file(path, len(raw), [raw])
