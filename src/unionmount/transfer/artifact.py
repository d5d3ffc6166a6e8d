"""Artifacts: what registries and OCI layouts have beside images, such as charts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unionmount.images.manifest import Contents
from unionmount.sources import choose
from unionmount.sources.layout import BlobArchive
from unionmount.transfer.load import open_source

if TYPE_CHECKING:
    from unionmount.images.reference import Digest, Reference
    from unionmount.sources import Location
    from unionmount.store.store import Store


@dataclass(frozen=True, slots=True)
class ArtifactManifest:
    """The manifest of something that is no image, or an index of such things.

    ``ref`` is its name in a registry; None for one in a file.
    """

    ref: Reference | None
    digest: Digest
    contents: Contents
    raw: bytes = field(repr=False)


def read_artifact(store: Store, location: Location) -> ArtifactManifest | None:
    """Read the manifest that a layout or a directory of skopeo's has under a REF.

    Return None if the place is neither, or has several manifests for different platforms.
    """
    with open_source(store, location) as opened:
        layout = opened.archive
        if not isinstance(layout, BlobArchive):
            return None
        roots = layout.descriptors(choose(layout.entries(), location.selector, layout.what))
        if len(roots) != 1:
            return None
        raw = layout.document(roots[0])
        contents = Contents.parse(raw, f"{layout.what}: manifest {roots[0].digest}")
        return ArtifactManifest(None, roots[0].digest, contents, raw)
