"""An index with the images for some platforms, made of one with more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unionmount.images.build import compact_json, descriptor_row, index_document
from unionmount.images.json_fields import load_json
from unionmount.images.manifest import Descriptor, ImageIndex
from unionmount.images.media_types import ATTESTATION_OF, OCI_INDEX
from unionmount.images.reference import Digest
from unionmount.images.selection import run_selection_async, select

if TYPE_CHECKING:
    from unionmount.images.platform import Platform
    from unionmount.transfer.endpoints import Source


async def selected(
    source: Source, roots: Sequence[Descriptor], platform: Platform | None
) -> Descriptor:
    """Return the image for a platform; raise NotFoundError if there is none."""
    selection = select(roots, platform, source.what, lambda _: True)
    return (await run_selection_async(selection, source.document)).descriptor


async def reduced(
    source: Source, roots: Sequence[Descriptor], platforms: Sequence[Platform]
) -> tuple[Descriptor, bytes]:
    """Return an index with the images for several platforms, and the attestations about them.

    It is the index of the source, byte for byte, if that has nothing else.
    """
    chosen = {}
    for platform in platforms:
        one = await selected(source, roots, platform)
        chosen[one.digest] = one
    if len(roots) == 1 and roots[0].is_index:
        return await _with_fewer(source, roots[0], chosen)
    rows = [descriptor_row(one) for one in roots if one.digest in chosen]
    raw = index_document(rows)
    return Descriptor(OCI_INDEX, Digest.of(raw), len(raw)), raw


async def _with_fewer(
    source: Source, root: Descriptor, chosen: dict[Digest, Descriptor]
) -> tuple[Descriptor, bytes]:
    raw = await source.document(root, child=True)
    what = f"{source.what}: index {root.digest}"
    known = ImageIndex.parse(raw, what).manifests
    document: dict[str, Any] = load_json(raw, what)
    wanted = {str(digest) for digest in chosen}
    rows = [
        row
        for row, one in zip(document["manifests"], known, strict=True)
        if one.digest in chosen or one.annotations.get(ATTESTATION_OF) in wanted
    ]
    there = {one.digest for one in known}
    rows += [descriptor_row(one) for one in chosen.values() if one.digest not in there]
    if rows == document["manifests"]:
        return root, raw
    made = compact_json(document | {"manifests": rows})
    return Descriptor(root.media_type, Digest.of(made), len(made)), made
