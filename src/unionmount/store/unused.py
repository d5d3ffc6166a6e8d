"""The choice of the images that ``prune`` removes, among those that nobody uses."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.store.last_use import last_use
from unionmount.store.references import digests_of
from unionmount.store.usage import allocated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from unionmount.images.reference import Digest
    from unionmount.store.references import Users
    from unionmount.store.store import Store, StoredImage


@dataclass(frozen=True, slots=True)
class PruneChoice:
    """What ``prune`` may remove besides data that belongs to no image."""

    named: bool = False  # images that have a name, too
    until: float | None = None  # only images that were last used before, in seconds since 1970
    keep_size: int | None = None  # only as many as are needed to come down to so many bytes
    indexes: bool = False  # indexes of archives in place that could still be used


DEFAULT_CHOICE = PruneChoice()
"""Images without a name."""


def unused_images(
    store: Store, known: Sequence[StoredImage], in_use: Users, choice: PruneChoice
) -> list[StoredImage]:
    """Return the entries of the images to remove; the caller holds the lock of the store."""
    named = {one.id for one in known if one.names}
    found = [
        one for one in known if not in_use.of(one.id) and (choice.named or one.id not in named)
    ]
    if choice.until is not None:
        late = {one.id for one in known if last_use(store.directory, one) >= choice.until}
        found = [one for one in found if one.id not in late]
    if choice.keep_size is not None:
        ids = set(_oldest(store, known, found, in_use, choice.keep_size))
        found = [one for one in found if one.id in ids]
    return found


def _oldest(
    store: Store,
    known: Sequence[StoredImage],
    found: Sequence[StoredImage],
    in_use: Users,
    limit: int,
) -> Iterable[Digest]:
    """Yield the images to remove, least recently used first, until the rest is within the limit."""
    needed: dict[Digest, frozenset[Digest]] = {}
    used: dict[Digest, float] = {}
    for one in known:
        more = digests_of(store, one, f"image {one.id}")
        needed[one.id] = needed.get(one.id, frozenset()) | more
        used[one.id] = max(used.get(one.id, 0.0), last_use(store.directory, one))
    counts = Counter(digest for digests in needed.values() for digest in digests)
    counts.update(in_use.digests)
    sizes = _sizes(store, counts)
    total = sum(sizes.values())
    for image_id in sorted({one.id for one in found}, key=lambda each: used[each]):
        if total <= limit:
            return
        yield image_id
        for digest in needed[image_id]:
            counts[digest] -= 1
            total -= 0 if counts[digest] else sizes[digest]


def _sizes(store: Store, digests: Iterable[Digest]) -> Mapping[Digest, int]:
    """Return the bytes on disk of each digest in the store: as a layer, a blob, or both."""
    own = store.directory
    return {one: allocated(own.layer_path(one)) + allocated(own.blob_path(one)) for one in digests}
