"""Store → registry: an image with its digest, if its blobs are available.

The digest of an image is that of its manifest, which names the layers as they are transported:
compressed. The store keeps them uncompressed, so each blob is taken from the first of these places:

1. the repository, which has it already;
2. another repository of the registry, from which it is mounted;
3. the store, which has kept it, or the layer is transported uncompressed;
4. a registry that has the image: the blob is fetched, verified and passed on;
5. the layer, if compressing it happens to give the same bytes.

Otherwise the layer is compressed anew, the manifest names the new blob, and the image has another
digest in the registry; its ID, the digest of its config, stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import trio

from unionmount.errors import FormatError, NotFoundError, RegistryError, UsageError
from unionmount.formats.compression import Compression
from unionmount.images.build import compact_json, compression_of, layer_type, manifest_document
from unionmount.images.json_fields import load_json
from unionmount.images.manifest import Descriptor, ImageIndex, parse_manifest
from unionmount.images.media_types import OCI_MANIFEST, is_foreign
from unionmount.images.reference import Digest, Reference
from unionmount.transfer.blobs import (
    Repository,
    cancelling,
    fetched,
    in_parallel,
    repository_of,
)
from unionmount.transfer.layer_data import CompressedLayer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.images.image import ImageDocuments
    from unionmount.images.manifest import Manifest
    from unionmount.registry import RegistryClient
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import Store, StoredImage


@dataclass(frozen=True, slots=True)
class PushOptions:
    """The options of a push: the compression of layers, and whether the digest must not change.

    Without ``compression``, layers are sent as they came, and layers made here as gzip.
    """

    compression: Compression | None = None
    keep_digest: bool = False
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Pushed:
    """The result of a push; ``changes`` says for each changed layer why its blob is another one."""

    digest: Digest
    changes: tuple[str, ...]


async def push(
    store: Store,
    client: RegistryClient,
    stored: StoredImage,
    ref: Reference,
    how: PushOptions | None = None,
) -> Pushed:
    """Send an image of the store to a registry as ``ref``, a full name."""
    if ref.digest is not None:
        raise UsageError(f"'{ref}' has a digest; push by a name or tag instead")
    how = how or PushOptions()
    with store.lease("push", str(ref)) as lease:
        image = store.use_image(stored, lease)
        return await _Push(store, client, stored, image, ref.with_default_tag(), how).run()


# -- one push


@dataclass(slots=True)
class _Part:
    """A layer, and its descriptor in the manifest that is sent, as far as it is known."""

    number: int
    diff_id: Digest
    wanted: Descriptor | None
    sent: Descriptor | None = None

    @property
    def key(self) -> tuple[Digest, Digest | None]:
        """The identity of a layer, which an image may have twice."""
        return self.diff_id, self.wanted.digest if self.wanted is not None else None


class _Push:
    def __init__(
        self,
        store: Store,
        client: RegistryClient,
        stored: StoredImage,
        image: ImageDocuments,
        ref: Reference,
        how: PushOptions,
    ) -> None:
        self._store = store
        self._stored = stored
        self._image = image
        self._ref = ref
        self._how = how
        self._origins = [repository_of(Reference.parse(text)) for text in reversed(stored.digests)]
        self._target = Repository(client, ref, self._origins, how.progress)
        self._client = client
        self._changes: list[str] = []

    async def run(self) -> Pushed:
        base = self._manifest_to_send()
        wanted = base.layers if base is not None else [None] * len(self._image.diff_ids)
        parts = [
            _Part(number, diff_id, descriptor)
            for number, (diff_id, descriptor) in enumerate(
                zip(self._image.diff_ids, wanted, strict=True)
            )
        ]
        await self._send_layers(parts)
        config = self._image.manifest.config
        if not await self._target.has_or_mounts(config):
            await self._target.send(config, lambda: iter([self._image.config.raw]))
        sent = [part.sent for part in parts if part.sent is not None]
        raw, media_type = _rewritten(base, sent) if base else _made(self._image, sent)
        digest = await self._client.put_manifest(self._ref, raw, media_type)
        self._record(raw, digest)
        return Pushed(digest, tuple(self._changes))

    def _record(self, raw: bytes, digest: Digest) -> None:
        """Record the registry as a place of the image, and its manifest there."""
        self._store.put_blob(raw, digest)
        known_as = replace(repository_of(self._ref), digest=digest)
        self._store.put_image((), self._image, digests=[known_as])

    def _manifest_to_send(self) -> Manifest | None:
        """Return the manifest whose digest is kept; None if all layers are to be compressed."""
        own = self._image.manifest
        known, is_known = self._known_manifests()
        candidates = [own] if is_known or not self._is_plain(own) else known
        for candidate in candidates:
            kinds = {compression_of(one.media_type) for one in candidate.layers}
            if self._how.compression is None or kinds <= {self._how.compression}:
                return candidate
        return own if self._how.keep_digest else None

    def _is_plain(self, manifest: Manifest) -> bool:
        pairs = zip(manifest.layers, self._image.diff_ids, strict=True)
        return all(descriptor.digest == diff_id for descriptor, diff_id in pairs)

    def _known_manifests(self) -> tuple[list[Manifest], bool]:
        """Return this image's manifests in registries, and whether they have the stored one."""
        own, found, is_known = self._image.manifest, [], False
        for text in reversed(self._stored.digests):
            digest = Reference.parse(text).digest
            if digest is None:
                continue
            try:
                document = parse_manifest(self._store.get_blob(digest), text)
            except (NotFoundError, FormatError):
                continue
            if isinstance(document, ImageIndex):
                is_known |= own.digest in [one.digest for one in document.manifests]
            elif document.digest == own.digest:
                is_known = True
            elif document.config.digest == own.config.digest:
                found.append(document)
        return [one for one in found if len(one.layers) == len(own.layers)], is_known

    # -- layers

    async def _send_layers(self, parts: Sequence[_Part]) -> None:
        """Send each layer once, even if the image has it several times."""
        first: dict[tuple[Digest, Digest | None], _Part] = {}
        for part in parts:
            first.setdefault(part.key, part)
        await in_parallel(list(first.values()), self._send_layer)
        for part in parts:
            part.sent = first[part.key].sent

    async def _send_layer(self, part: _Part) -> bool:
        if part.wanted is None:
            part.sent = await self._send_compressed(part, self._how.compression or Compression.GZIP)
        elif is_foreign(part.wanted.media_type) or await self._send_as_it_was(part.wanted):
            part.sent = part.wanted
        else:
            known = compression_of(part.wanted.media_type)
            compression = known or self._how.compression or Compression.GZIP
            part.sent = await self._send_compressed(part, compression)
        return True

    async def _send_as_it_was(self, wanted: Descriptor) -> bool:
        """Send a blob from the first place that has it; return False if there is none."""
        if await self._target.has_or_mounts(wanted):
            return True
        kept = self._store.open_blob(wanted.digest)
        if kept is not None:
            with kept:
                await self._target.upload(wanted, kept.data)
            return True
        for origin in self._origins:
            has_come = False
            try:
                async with fetched(self._store, self._client, origin, wanted) as data:
                    has_come = True
                    await self._target.upload(wanted, data)
            except (NotFoundError, RegistryError, FormatError):
                if has_come:  # then the target failed, not the source
                    raise
                continue
            return True
        return False

    async def _send_compressed(self, part: _Part, compression: Compression) -> Descriptor:
        """Compress a layer, and send it unless the registry has it."""
        with CompressedLayer(self._store, part.diff_id) as packed:
            await trio.to_thread.run_sync(packed.run, compression, cancelling(self._how.progress))
            found = _described(part.wanted, compression, packed.digest, packed.size)
            if part.wanted is not None and found.digest != part.wanted.digest:
                self._tell_of_change(part.number, part.wanted, found)
            if not await self._target.has_or_mounts(found):
                await self._target.upload(found, packed.data)
        return found

    def _tell_of_change(self, number: int, wanted: Descriptor, found: Descriptor) -> None:
        had = "kept" if not self._origins else "kept, and no known registry provides it"
        lost = f"layer {number}: blob {wanted.digest} was not {had}"
        if self._how.keep_digest:
            raise NotFoundError(f"{self._ref}: {lost}; without it the digest would change")
        self._changes.append(f"{lost}; compressed anew, it is {found.digest}")


def _described(
    wanted: Descriptor | None, compression: Compression, digest: Digest, size: int
) -> Descriptor:
    if wanted is not None:
        return replace(wanted, digest=digest, size=size)
    return Descriptor(layer_type(compression), digest, size)


def _rewritten(base: Manifest, layers: Sequence[Descriptor]) -> tuple[bytes, str]:
    """Return a manifest with other blobs for the same layers, if they did change."""
    if [one.digest for one in layers] == [one.digest for one in base.layers]:
        return base.raw, base.media_type
    document: dict[str, Any] = load_json(base.raw, f"manifest {base.digest}")
    for row, layer in zip(document["layers"], layers, strict=True):
        row |= {"digest": str(layer.digest), "size": layer.size}
    return compact_json(document), base.media_type


def _made(image: ImageDocuments, layers: Sequence[Descriptor]) -> tuple[bytes, str]:
    """Make a manifest of an image whose layers were compressed anew."""
    config, annotations = image.manifest.config.digest, image.manifest.annotations
    return manifest_document(config, len(image.config.raw), layers, annotations), OCI_MANIFEST
