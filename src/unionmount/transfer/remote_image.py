"""An image of a registry, known by its manifest and config alone: no layer is fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.images.image import ImageDocuments
from unionmount.images.manifest import Descriptor, parse_manifest
from unionmount.images.selection import run_selection_async, select

if TYPE_CHECKING:
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Digest, Reference
    from unionmount.registry import RegistryClient


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
    root = await client.manifest(ref)
    media_type = parse_manifest(root.raw, f"{ref}: manifest {root.digest}").media_type
    top = Descriptor(media_type, root.digest, len(root.raw))

    async def fetch(wanted: Descriptor) -> bytes:
        return root.raw if wanted == top else await client.document(ref, wanted)

    selection = select([top], platform, str(ref), lambda _: True)
    found = await run_selection_async(selection, fetch)
    what = f"{ref}: manifest {found.manifest.digest}"
    return RemoteImage(ref, root.digest, ImageDocuments.of(found.manifest, found.config, what))
