"""Who needs what of a store: images, containers and leases, and the digests that each stands for.

What nobody needs is garbage. Where it can't be told what somebody needs, because a document is lost
or damaged, that is an error, and nothing is garbage.
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
    """What is in use apart from the catalogue."""

    needs: frozenset[Digest]  # leased, or of containers
    images: Mapping[Digest, tuple[str, ...]]  # by ID: who uses it, for people

    def of(self, image_id: Digest) -> tuple[str, ...]:
        """Who uses an image."""
        return self.images.get(image_id, ())


def users(store: Store, containers: Containers) -> Users:
    """Everything that is in use; the caller has the lock of the store."""
    empty = scratch()  # which no list shows; what begins with it finds it here
    needs = {empty.manifest.digest, empty.id}
    by_image: dict[Digest, list[str]] = {}
    # leases before containers: a mount that ends in between has left its container by then
    for held in store.leases():
        needs |= held.needs
        for image_id in held.images:
            by_image.setdefault(image_id, []).append(held.what)
    for one in containers.all():
        if not one.ephemeral:  # those live and end with the lease of their mount
            needs |= digests_of(store, one.image.stored, f"container '{one.name}'")
            by_image.setdefault(one.image.id, []).append(f"container '{one.name}'")
    return Users(frozenset(needs), {key: tuple(who) for key, who in by_image.items()})


def needed(store: Store, images: Iterable[StoredImage], users: Users) -> frozenset[Digest]:
    """The digests of all layers, documents and blobs that these images and users need."""
    found = set(users.needs)
    for one in images:
        found |= digests_of(store, one, f"image {one.id}")
    return frozenset(found)


def digests_of(store: Store, stored: StoredImage, what: str) -> set[Digest]:
    """All that an image consists of: documents, layers, and the blobs that it came in."""
    try:
        image = store.read_image(stored)
    except (NotFoundError, FormatError) as error:
        raise StoreError(
            f"{what}: {error}; what it needs is not known ('check' tells more)"
        ) from None
    blobs = {descriptor.digest for descriptor in image.layers}
    return {stored.manifest, stored.id, *image.diff_ids, *blobs}
