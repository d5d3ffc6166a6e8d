"""The disk usage of a store, and the savings by sharing layers.

Sizes are allocated bytes, like those of du(1).
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.images.image import scratch
from unionmount.store.catalogue import by_image
from unionmount.store.references import referenced_digests, users

if TYPE_CHECKING:
    from unionmount.images.reference import Digest
    from unionmount.store.containers import Containers
    from unionmount.store.store import Store, StoredImage

_BLOCK = 512  # unit of st_blocks, on every file system


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The usage of one kind of data."""

    kind: str
    total: int
    active: int
    size: int
    reclaimable: int


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """The bytes of an image's layers, and how many of them are in layers of other images, too."""

    image: StoredImage
    size: int
    shared: int
    containers: tuple[str, ...]

    @property
    def unique(self) -> int:
        """The bytes of layers that no other image has."""
        return self.size - self.shared


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of the whole store."""

    rows: tuple[UsageRow, ...]
    images: tuple[ImageUsage, ...]
    shared: int  # bytes on disk of layers that several images have
    unique: int  # bytes on disk of layers that one image has

    @property
    def saved(self) -> int:
        """The additional bytes that images would take without sharing layers."""
        return sum(one.size for one in self.images) - self.shared - self.unique


def allocated(path: Path) -> int:
    """Return the bytes that a file, or a directory with its contents, takes on disk.

    A file with several names counts once; what vanishes meanwhile, or is unreadable, counts as 0.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    waiting = [path]
    while waiting:
        where = waiting.pop()
        with suppress(OSError):
            status = where.lstat()
            total += _blocks(status, seen)
            if stat.S_ISDIR(status.st_mode):
                waiting += where.iterdir()
    return total


def _blocks(status: os.stat_result, seen: set[tuple[int, int]]) -> int:
    identity = (status.st_dev, status.st_ino)
    if status.st_nlink > 1 and identity in seen:
        return 0
    seen.add(identity)
    return status.st_blocks * _BLOCK


def measure(store: Store, containers: Containers, mounted: Collection[str]) -> Usage:
    """Measure a store; ``mounted`` are the names of its mounted containers."""
    with store.locked():
        in_use = users(store, containers)
        entries = store.directory.images()
        active = [one for one in entries if in_use.of(one.id)]
        all_needed = referenced_digests(store, entries, in_use)
        active_needed = referenced_digests(store, active, in_use)
    own = store.directory
    layers = {one: allocated(own.layer_path(one)) for one in own.layers()}
    blobs = {one: allocated(own.blob_path(one)) for one in own.blobs()}
    images = by_image(entries)
    documents = _documents(
        [*entries, *(one.image.stored for one in containers.all(lambda _: None))]
    )
    listed = _image_usages(store, containers, images)
    of_images = documents.union(*(one.layers for one in listed))
    parts = {one: size for one, size in (layers | blobs).items() if one in of_images}
    kept = {one: size for one, size in blobs.items() if one not in documents}
    sharing = _sharing(listed)
    return Usage(
        (
            replace(
                _row("Images", parts, active_needed),
                total=len(images),
                active=len(by_image(active)),
            ),
            _container_row(containers, mounted),
            _row("Layers", layers, all_needed),
            _row("Kept blobs", kept, all_needed),
            _inplace_row(store),
        ),
        tuple(one.usage for one in listed),
        shared=sum(size for size, count in sharing if count > 1),
        unique=sum(size for size, count in sharing if count == 1),
    )


def _documents(images: Sequence[StoredImage]) -> set[Digest]:
    """Return the documents of these images, and those of the empty image, which no list shows."""
    empty = scratch()
    found = {digest for one in images for digest in (one.manifest, one.id)}
    return found | {empty.manifest.digest, empty.id}


@dataclass(frozen=True, slots=True)
class _Listed:
    usage: ImageUsage
    layers: Mapping[Digest, int]


def _image_usages(
    store: Store, containers: Containers, images: Sequence[StoredImage]
) -> list[_Listed]:
    layers = [_layer_sizes(store, one) for one in images]
    counts = Counter(diff_id for sizes in layers for diff_id in sizes)
    found = []
    for one, sizes in zip(images, layers, strict=True):
        shared = sum(size for diff_id, size in sizes.items() if counts[diff_id] > 1)
        names = tuple(containers.users_of(one.id))
        found.append(_Listed(ImageUsage(one, sum(sizes.values()), shared, names), sizes))
    return found


def _layer_sizes(store: Store, stored: StoredImage) -> dict[Digest, int]:
    """Return the sizes of an image's layers in any store; a lost layer takes nothing."""
    diff_ids = dict.fromkeys(store.read_image(stored).diff_ids)
    places = {diff_id: store.layer_place(diff_id) for diff_id in diff_ids}
    return {one: allocated(place) if place else 0 for one, place in places.items()}


def _sharing(listed: Sequence[_Listed]) -> list[tuple[int, int]]:
    """Return the size of each layer, and the number of images that have it."""
    counts = Counter(diff_id for one in listed for diff_id in one.layers)
    sizes = {diff_id: size for one in listed for diff_id, size in one.layers.items()}
    return [(sizes[diff_id], count) for diff_id, count in counts.items()]


def _row(kind: str, sizes: Mapping[Digest, int], needed: Collection[Digest]) -> UsageRow:
    idle = [size for one, size in sizes.items() if one not in needed]
    return UsageRow(kind, len(sizes), len(sizes) - len(idle), sum(sizes.values()), sum(idle))


def _container_row(containers: Containers, mounted: Collection[str]) -> UsageRow:
    sizes = {one.name: allocated(one.path) for one in containers.all(lambda _: None)}
    idle = [size for name, size in sizes.items() if name not in mounted]
    return UsageRow(
        "Containers", len(sizes), len(sizes) - len(idle), sum(sizes.values()), sum(idle)
    )


def _inplace_row(store: Store) -> UsageRow:
    known = store.in_place_indexes()
    sizes = [(sum(map(allocated, one.files)), one.is_current()) for one in known]
    idle = [size for size, current in sizes if not current]
    total = sum(size for size, _ in sizes)
    return UsageRow("In-place indexes", len(sizes), len(sizes) - len(idle), total, sum(idle))
