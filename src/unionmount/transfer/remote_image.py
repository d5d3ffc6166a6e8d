"""An image of a registry, known by its manifest and config alone: no layer is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.errors import NotAnImage
from unionmount.images.image import ImageDocuments
from unionmount.images.manifest import Contents, Descriptor, parse_manifest
from unionmount.images.selection import run_selection_async, select
from unionmount.transfer.artifact import ArtifactManifest

if TYPE_CHECKING:
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Digest, Reference
    from unionmount.registry import FetchedManifest, RegistryClient


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """The documents of an image, and the digest that its name leads to.

    ``root`` is the digest of the index if the image is one of several platforms.
    """

    ref: Reference
    root: Digest
    image: ImageDocuments


async def read_remote(
    client: RegistryClient, ref: Reference, platform: Platform | None
) -> RemoteImage:
    """Fetch the manifest and config of an image for ``platform``."""
    ref = ref.with_default_tag()
    return await _read_image(client, ref, await client.manifest(ref), platform)


async def read_remote_any(
    client: RegistryClient, ref: Reference, platform: Platform | None
) -> RemoteImage | ArtifactManifest:
    """Fetch the documents of an image, or the manifest of an artifact."""
    ref = ref.with_default_tag()
    root = await client.manifest(ref)
    try:
        return await _read_image(client, ref, root, platform)
    except NotAnImage:
        if platform is not None:
            raise
        contents = Contents.parse(root.raw, f"{ref}: manifest {root.digest}")
        return ArtifactManifest(ref, root.digest, contents, root.raw)


async def _read_image(
    client: RegistryClient, ref: Reference, root: FetchedManifest, platform: Platform | None
) -> RemoteImage:
    media_type = parse_manifest(root.raw, f"{ref}: manifest {root.digest}").media_type
    top = Descriptor(media_type, root.digest, len(root.raw))

    async def fetch(wanted: Descriptor) -> bytes:
        return root.raw if wanted == top else await client.document(ref, wanted)

    selection = select([top], platform, str(ref), lambda _: True)
    found = await run_selection_async(selection, fetch)
    what = f"{ref}: manifest {found.manifest.digest}"
    return RemoteImage(ref, root.digest, ImageDocuments.of(found.manifest, found.config, what))
