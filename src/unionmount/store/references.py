"""References: the digests that images, containers and leases need.

Everything without a reference is garbage. If a document is lost or damaged, the references are
unknown; that is an error, and nothing is garbage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.errors import FormatError, NotFoundError, StoreError
from unionmount.images.image import scratch

if TYPE_CHECKING:
    from unionmount.images.reference import Digest
    from unionmount.store.containers import Containers
    from unionmount.store.store import Store, StoredImage


@dataclass(frozen=True, slots=True)
class Users:
    """The references that do not come from the catalogue."""

    digests: frozenset[Digest]  # of leases and containers
    images: Mapping[Digest, tuple[str, ...]]  # users of each image by its ID, for people

    def of(self, image_id: Digest) -> tuple[str, ...]:
        """Return the users of an image."""
        return self.images.get(image_id, ())


def users(store: Store, containers: Containers) -> Users:
    """Collect the references; the caller holds the lock of the store."""
    empty = scratch()  # no list shows the empty image, but mounts of it need its documents
    referenced = {empty.manifest.digest, empty.id}
    by_image: dict[Digest, list[str]] = {}
    # Leases come before containers: a mount that ends in between has unlocked its container.
    for held in store.leases():
        referenced |= held.digests
        for image_id in held.images:
            by_image.setdefault(image_id, []).append(held.what)
    for one in containers.all():
        if not one.ephemeral:  # they live and end with the lease of their mount
            referenced |= digests_of(store, one.image.stored, f"container '{one.name}'")
            by_image.setdefault(one.image.id, []).append(f"container '{one.name}'")
    return Users(frozenset(referenced), {key: tuple(who) for key, who in by_image.items()})


def referenced_digests(
    store: Store, images: Iterable[StoredImage], users: Users
) -> frozenset[Digest]:
    """Return the digests of all layers, documents and blobs that these images and users need."""
    found = set(users.digests)
    for one in images:
        found |= digests_of(store, one, f"image {one.id}")
    return frozenset(found)


def digests_of(store: Store, stored: StoredImage, what: str) -> set[Digest]:
    """Return the digests of an image: its documents, layers, and the blobs in which it came."""
    try:
        image = store.read_image(stored)
    except (NotFoundError, FormatError) as error:
        raise StoreError(
            f"{what}: {error}; its references are unknown (see 'unionmount check')"
        ) from None
    blobs = {descriptor.digest for descriptor in image.layers}
    return {stored.manifest, stored.id, *image.diff_ids, *blobs}
