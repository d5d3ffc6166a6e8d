"""Registry → store: an image by name, with layers in parallel, each verified as it arrives.

A layer that is in the store is not fetched. The process that fetches a layer holds its lock in the
store, so that several pulls, in this process or others, fetch it once: the others wait and then
find it. When a pull is interrupted, complete layers stay and incomplete ones leave nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import trio

from unionmount.errors import FormatError, NotFoundError, RegistryError, UnionmountError
from unionmount.images.image import ImageDocuments
from unionmount.images.manifest import Descriptor, parse_manifest
from unionmount.images.media_types import is_encrypted, is_foreign
from unionmount.images.reference import Reference
from unionmount.images.selection import Selection, run_selection_async, select
from unionmount.store.layer_import import Expected
from unionmount.system.text import printable
from unionmount.transfer.blobs import check_size, hand_on, in_parallel, repository_of
from unionmount.trust.image_trust import ImageTrust

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from unionmount.images.platform import Platform
    from unionmount.images.reference import Digest
    from unionmount.registry import FetchedManifest, RegistryClient
    from unionmount.store.layer_import import LayerImport, Progress
    from unionmount.store.leases import Lease
    from unionmount.store.store import Store, StoredImage

Policy = Literal["always", "missing", "never"]


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull found out before it fetches layers."""

    ref: Reference
    image: ImageDocuments
    here: frozenset[Digest]  # diff_ids of layers that are not fetched

    @property
    def missing(self) -> dict[Digest, int]:
        """The compressed sizes of the layers that are fetched, by diff_id."""
        pairs = zip(self.image.diff_ids, self.image.layers, strict=True)
        return {diff_id: layer.size for diff_id, layer in pairs if diff_id not in self.here}


@dataclass(frozen=True, slots=True)
class PullOptions:
    """The options of a pull.

    The image gets ``names``, or by default the name of the request. ``lease`` protects the image
    beyond the pull, if it is given. With ``keep_names``, a name that belongs to an image for
    another platform is not moved. ``planned`` is called before layers are fetched. ``trust`` is the
    policy that must accept the image, by default that of the user.
    """

    platform: Platform | None = None
    policy: Policy = "missing"
    keep_blobs: bool = False
    progress: Progress | None = None
    names: Sequence[Reference] | None = None
    lease: Lease | None = None
    keep_names: bool = False
    planned: Callable[[PullPlan], None] | None = None
    trust: ImageTrust = field(default_factory=ImageTrust)


async def pull(
    store: Store,
    client: RegistryClient,
    ref: Reference,
    *,
    platform: Platform | None = None,
    policy: Policy = "missing",
    keep_blobs: bool = False,
    progress: Progress | None = None,
) -> StoredImage:
    """Return the image of a full name from the store, after pulling it if the policy says so."""
    return await pull_as(store, client, ref, PullOptions(platform, policy, keep_blobs, progress))


async def pull_as(
    store: Store, client: RegistryClient, ref: Reference, how: PullOptions
) -> StoredImage:
    """Pull an image with all options."""
    ref = ref.with_default_tag()
    if how.policy != "always":
        found = find(store, str(ref), how.platform)
        if found is not None:
            return found
        if how.policy == "never":
            raise NotFoundError(
                f"{ref}: not in the store, and the policy 'never' forbids pulling it"
            )
    if how.lease is not None:
        return await _Pull(store, client, ref, how, how.lease).run()
    with store.lease("pull", str(ref)) as lease:
        return await _Pull(store, client, ref, how, lease).run()


def find(store: Store, text: str, platform: Platform | None) -> StoredImage | None:
    """Return the image of a name if it is in the store and for this platform."""
    if not store.has_image_named(text):
        return None
    found = store.find_image(text)
    if platform is not None:
        offered = store.read_image(found).config.platform
        if platform.distance(offered) is None:
            return None
    return found


@dataclass(frozen=True, slots=True)
class _RemoteLayer:
    descriptor: Descriptor
    diff_id: Digest


class _Pull:
    """One pull of one image."""

    def __init__(
        self, store: Store, client: RegistryClient, ref: Reference, how: PullOptions, lease: Lease
    ) -> None:
        self._store = store
        self._client = client
        self._ref = ref
        self._how = how
        self._lease = lease

    async def run(self) -> StoredImage:
        root = await self._client.manifest(self._ref)
        selection = await self._select(root)
        await self._how.trust.check_remote(self._client, self._ref, selection.manifest.raw)
        what = f"{self._ref}: manifest {selection.manifest.digest}"
        image = ImageDocuments.of(selection.manifest, selection.config, what)
        blobs = [layer.digest for layer in image.layers]
        self._lease.protect(image.manifest.digest, image.id, *image.diff_ids, *blobs)
        layers = {
            diff_id: _RemoteLayer(descriptor, diff_id)
            for descriptor, diff_id in zip(image.layers, image.diff_ids, strict=True)
        }
        missing = [one for one in layers.values() if not self._is_here(one)]
        if self._how.planned is not None:
            here = layers.keys() - {one.diff_id for one in missing}
            self._how.planned(PullPlan(self._ref, image, frozenset(here)))
        await self._fetch_all(missing)
        known_as = replace(repository_of(self._ref), digest=root.digest)
        names = self._how.names
        if names is None:
            names = [self._ref] if self._may_be_named(image) else []
        if self._how.lease is not None:
            self._lease.protect_image(image.id)
        return self._store.put_image(names, image, digests=[known_as])

    def _may_be_named(self, image: ImageDocuments) -> bool:
        """Return whether the image gets the name of the request."""
        name = str(self._ref)
        if self._ref.digest is not None:
            return False
        if not self._how.keep_names or not self._store.has_image_named(name):
            return True
        named = self._store.read_image(self._store.find_image(name)).config.platform
        return named.is_like(image.config.platform)

    def _is_here(self, layer: _RemoteLayer) -> bool:
        if not self._store.has_layer(layer.diff_id):
            return False
        if not self._how.keep_blobs:
            return True
        kept = self._store.open_blob(layer.descriptor.digest)
        if kept is not None:
            kept.close()
        return kept is not None

    # -- documents

    async def _select(self, root: FetchedManifest) -> Selection:
        """Select the image for the platform."""
        media_type = parse_manifest(root.raw, f"{self._ref}: manifest {root.digest}").media_type
        top = Descriptor(media_type, root.digest, len(root.raw))
        if top.is_index:
            self._keep(root.raw, root.digest)

        async def fetch(wanted: Descriptor) -> bytes:
            return root.raw if wanted == top else await self._document(wanted)

        selection = select([top], self._how.platform, str(self._ref), lambda _: True)
        return await run_selection_async(selection, fetch)

    async def _document(self, descriptor: Descriptor) -> bytes:
        """Return a document, from the store if possible."""
        self._lease.protect(descriptor.digest)
        try:
            raw = self._store.get_blob(descriptor.digest)
        except (NotFoundError, FormatError):
            raw = await self._client.document(self._ref, descriptor)
        if descriptor.is_index:
            self._keep(raw, descriptor.digest)
        return raw

    def _keep(self, raw: bytes, digest: Digest) -> None:
        """Keep an index, since a tag led to it."""
        self._lease.protect(digest)
        self._store.put_blob(raw, digest)

    # -- layers

    async def _fetch_all(self, layers: Sequence[_RemoteLayer]) -> None:
        """Fetch missing layers, the largest first."""
        for layer in layers:
            _refuse_encrypted(layer.descriptor, self._what(layer))
            check_size(self._store, layer.descriptor, self._what(layer))
        ordered = sorted(layers, key=lambda one: one.descriptor.size, reverse=True)
        await in_parallel(ordered, self._try_to_fetch)

    async def _try_to_fetch(self, layer: _RemoteLayer) -> bool:
        """Fetch a layer if it is missing; return False if another process is fetching it."""
        with self._store.layer_lock(layer.diff_id) as lock:
            if not lock.try_acquire():
                return False
            if not self._is_here(layer):
                await self._fetch(layer)
            return True

    async def _fetch(self, layer: _RemoteLayer) -> None:
        descriptor = layer.descriptor
        expected = Expected(layer.diff_id, self._what(layer), descriptor.digest, descriptor.size)
        incoming = self._store.import_layer(expected, keep_blob=self._how.keep_blobs)
        with incoming:
            try:
                async with self._client.blob(self._ref, descriptor) as chunks:
                    await self._feed(incoming, layer, chunks)
            except (NotFoundError, RegistryError) as error:
                raise _explained(error, layer.descriptor, self._what(layer)) from error
            await trio.to_thread.run_sync(incoming.finish)

    async def _feed(
        self, incoming: LayerImport, layer: _RemoteLayer, chunks: AsyncIterator[bytes]
    ) -> None:
        def take(data: bytes, done: int) -> None:
            incoming.write(data)
            if self._how.progress is not None:
                self._how.progress(layer.diff_id.short, done, layer.descriptor.size)

        await hand_on(chunks, take)

    def _what(self, layer: _RemoteLayer) -> str:
        return f"{self._ref}: layer {layer.descriptor.digest}"


def _refuse_encrypted(descriptor: Descriptor, what: str) -> None:
    if is_encrypted(descriptor.media_type):
        raise FormatError(f"{what}: encrypted layers are not supported")


def _explained(error: UnionmountError, descriptor: Descriptor, what: str) -> UnionmountError:
    """Add the layer to an error message and, for a foreign layer, why the registry lacks it."""
    text = str(error) if str(descriptor.digest) in str(error) else f"{what}: {error}"
    if isinstance(error, NotFoundError) and is_foreign(descriptor.media_type):
        text += (
            f"; it is a foreign layer ({printable(descriptor.media_type)}), which only its "
            "publisher serves; such layers are not fetched"
        )
    return type(error)(text)
