"""The removal of images and of unused data.

Garbage is renamed into a staging directory under the lock of the store, and deleted after that. So
nobody finds half a layer, open layers stay readable, and a crash leaves garbage only in ``tmp/``.
The catalogue is written first, so that everything it names exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import FormatError, InvalidReference, NotFoundError, StoreError
from unionmount.images.reference import Digest, Reference
from unionmount.store import catalogue, leases
from unionmount.store.last_use import forget_uses
from unionmount.store.references import digests_of, referenced_digests, users
from unionmount.store.unused import DEFAULT_CHOICE, PruneChoice, unused_images
from unionmount.store.usage import allocated
from unionmount.system.os_errors import storing
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.store.containers import Containers
    from unionmount.store.references import Users
    from unionmount.store.staging import Staging
    from unionmount.store.store import Store, StoredImage


@dataclass(frozen=True, slots=True)
class Item:
    """Something that was removed, or would be."""

    kind: str  # "image", "layer", "document", "blob", "index", "container", "quarantine", …
    name: str
    size: int  # allocated bytes


@dataclass(slots=True)
class Removed:
    """The result of a removal."""

    untagged: list[str] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    left: str = ""  # why layers stay that may be unused

    @property
    def size(self) -> int:
        """The bytes of disk space that were freed."""
        return sum(one.size for one in self.items)


class _Bin:
    """A collector of garbage, which only lists it in a dry run."""

    def __init__(self, staging: Staging, *, dry_run: bool) -> None:
        self._staging = staging
        self._count = 0
        self.dry_run = dry_run
        self.removed = Removed()

    def throw(self, kind: str, name: str, *paths: Path) -> None:
        """Move existing files or directories into the bin, each by one rename."""
        size = 0
        for path in paths:
            with suppress(FileNotFoundError), storing(path):
                size += allocated(path)
                self._take(path)
        self.removed.items.append(Item(kind, name, size))

    def _take(self, path: Path) -> None:
        self._count += 1
        if not self.dry_run:
            with suppress(FileNotFoundError):
                path.rename(self._staging.path / str(self._count))


@contextmanager
def _collecting(store: Store, *, dry_run: bool = False) -> Iterator[_Bin]:
    """Hold the lock of the store, and delete the garbage after releasing it."""
    with store.staging() as staging, store.locked():
        yield _Bin(staging, dry_run=dry_run)


# -- one image


def remove_image(
    store: Store, containers: Containers, text: str, *, force: bool = False
) -> Removed:
    """Remove an image, or one of its names, as ``docker rmi`` does.

    It is refused if a container or a mount uses the image (``force`` still removes a name), or if
    an ID has several names and ``force`` is not given.
    """
    with _collecting(store) as bin_:
        known = store.directory.images()
        found = _find(store, known, text)
        words = catalogue.words_of(found, text)
        in_use = users(store, containers)
        if words:
            same = [one for one in known if one.id == found.id]
            gone, untagged = _by_name(same, words, in_use, force=force)
        else:
            gone, untagged = _by_id(known, found, in_use, force=force)
        rest = [one for one in known if one not in gone]
        for one in rest:
            if one.id == found.id:
                rest = catalogue.untag(rest, one.manifest, untagged)
        bin_.removed.untagged += map(_familiar, untagged)
        _remove(store, bin_, rest, gone, in_use)
        return bin_.removed


def _find(store: Store, known: Sequence[StoredImage], text: str) -> StoredImage:
    found = catalogue.find(known, text)
    if not found:
        elsewhere = store.find_image(text)  # raises NotFoundError if no store has the image
        raise StoreError(
            f"image '{printable(text)}' ({elsewhere.id.short}) is in an additional store, "
            "which is read-only"
        )
    if len({one.id for one in found}) > 1:
        raise InvalidReference(
            f"'{printable(text)}' is ambiguous: it stands for {len(found)} images"
        )
    return found[0]


def _by_name(
    same: Sequence[StoredImage], words: list[str], in_use: Users, *, force: bool
) -> tuple[list[StoredImage], list[str]]:
    """Return the entries and the names to remove, if a name was given.

    ``same`` are all entries of the image, one for each of its manifests. The image stays while any
    of them has a name; an entry that loses its last name is removed.
    """
    (image,) = catalogue.by_image(same)
    names = [name for name in image.names if name not in words]
    words = [*words, *_orphaned(image, words, names)]
    by = in_use.of(image.id)
    if names or any(one not in words for one in image.digests):
        emptied = [one for one in same if {*one.names, *one.digests} <= {*words}]
        return ([] if by else emptied), words
    if by and not force:
        raise StoreError(
            f"image '{_familiar(words[0])}' ({image.id.short}) is in use: {_listed(by)}; "
            "-f removes its last name, but the image stays"
        )
    return ([] if by else [*same]), words


def _orphaned(image: StoredImage, words: list[str], names: list[str]) -> list[str]:
    """Return the digests of repositories in which the image has no tag any more."""
    lost = {_repository(one) for one in words if one in image.names}
    lost -= {_repository(one) for one in names}
    return [one for one in image.digests if one not in words and _repository(one) in lost]


def _by_id(
    known: Sequence[StoredImage], image: StoredImage, in_use: Users, *, force: bool
) -> tuple[list[StoredImage], list[str]]:
    same = [one for one in known if one.id == image.id]
    names = [name for one in same for name in one.names]
    by = in_use.of(image.id)
    if by:
        raise StoreError(f"image {image.id.short} is in use: {_listed(by)}")
    if len(names) > 1 and not force:
        raise StoreError(
            f"image {image.id.short} has {len(names)} names "
            f"({', '.join(map(_familiar, names))}); use -f to remove it"
        )
    return same, [*names, *(one for each in same for one in each.digests)]


def _remove(
    store: Store,
    bin_: _Bin,
    rest: Sequence[StoredImage],
    gone: Sequence[StoredImage],
    in_use: Users,
) -> None:
    """Write ``rest`` as the catalogue, then remove what only the other images needed."""
    parts: dict[StoredImage, Sequence[Digest]] = {one: _parts(store, one) for one in gone}
    try:
        keep = referenced_digests(store, rest, in_use) if gone else frozenset()
    except StoreError as error:  # of another image, which may be removed next
        parts = dict.fromkeys(gone, ())
        keep, bin_.removed.left = frozenset(), str(error)
    store.write_catalogue(rest)
    left = {one.id for one in rest}
    forget_uses(store.directory, left)
    for one, digests in parts.items():
        if one.id not in left:
            left.add(one.id)  # reported once
            bin_.removed.items.append(Item("image", str(one.id), 0))
        _throw(store, bin_, [digest for digest in digests if digest not in keep])


def _parts(store: Store, stored: StoredImage) -> Sequence[Digest]:
    """Return the known digests of an image: its layers, topmost first, and its documents."""
    try:
        order = [*reversed(store.read_image(stored).diff_ids)]
        rest = digests_of(store, stored, "") - set(order)
    except (StoreError, NotFoundError, FormatError):
        return [stored.manifest, stored.id]
    return [*dict.fromkeys(order), *sorted(rest)]


def _throw(store: Store, bin_: _Bin, digests: Sequence[Digest]) -> None:
    for digest in digests:
        layer, blob = store.directory.layer_path(digest), store.directory.blob_path(digest)
        if layer.exists():
            bin_.throw("layer", str(digest), layer)
        if blob.exists():
            bin_.throw("blob", str(digest), blob)


def _repository(word: str) -> str:
    return Reference.parse(word).name


def _familiar(word: str) -> str:
    return Reference.parse(word).familiar


def _listed(by: Sequence[str]) -> str:
    return ", ".join(map(printable, by))


# -- all that nobody needs


def prune(
    store: Store,
    containers: Containers,
    choice: PruneChoice = DEFAULT_CHOICE,
    *,
    dry_run: bool = False,
) -> Removed:
    """Remove the images that are chosen among the unused ones, and all unused data.

    That is: layers, documents and blobs, ephemeral containers of dead mounts, in-place indexes of
    files that were removed or changed, quarantined data that was replaced, and leases and locks of
    dead processes.
    """
    ended = _ended_containers(containers, dry_run=dry_run)
    with _collecting(store, dry_run=dry_run) as bin_:
        bin_.removed.items += ended
        known = store.directory.images()
        in_use = users(store, containers)
        gone = unused_images(store, known, in_use, choice)
        keep = referenced_digests(store, [one for one in known if one not in gone], in_use)
        _prune_images(store, bin_, known, gone)
        _prune_digests(store, bin_, keep)
        _prune_inplace(store, bin_, every=choice.indexes)
        _prune_quarantine(store, bin_, keep)
        for kind, directory in (
            ("lease", store.directory.leases),
            ("lock", store.directory.locks),
        ):
            for path in leases.clean(directory, dry_run=dry_run):
                bin_.removed.items.append(Item(kind, path.name, 0))
        return bin_.removed


def _ended_containers(containers: Containers, *, dry_run: bool) -> list[Item]:
    """Remove ephemeral containers whose daemons died."""
    found = []
    for one in containers.all(lambda _: None):
        if not one.ephemeral:
            continue
        with suppress(StoreError, NotFoundError):  # in use, or removed meanwhile
            size = allocated(one.path)
            with containers.hold(one.name) as held:
                if not dry_run:
                    containers.discard(held)
            found.append(Item("container", one.name, size))
    return found


def _prune_images(
    store: Store, bin_: _Bin, known: Sequence[StoredImage], gone: Sequence[StoredImage]
) -> None:
    if gone and not bin_.dry_run:
        rest = [one for one in known if one not in gone]
        store.write_catalogue(rest)
        forget_uses(store.directory, {one.id for one in rest})
    for one in catalogue.by_image(gone):
        bin_.removed.untagged += [_familiar(word) for word in (*one.names, *one.digests)]
        bin_.removed.items.append(Item("image", str(one.id), 0))


def _prune_digests(store: Store, bin_: _Bin, keep: frozenset[Digest]) -> None:
    for diff_id in store.directory.layers():
        if diff_id not in keep:
            bin_.throw("layer", str(diff_id), store.directory.layer_path(diff_id))
    for digest in store.directory.blobs():
        if digest not in keep:
            bin_.throw("blob", str(digest), store.directory.blob_path(digest))


def _prune_inplace(store: Store, bin_: _Bin, *, every: bool) -> None:
    """Remove indexes; a mount keeps those that it has open."""
    for one in store.in_place_indexes():
        if every or not one.is_current():
            bin_.throw("index", one.source, *one.files)


def _prune_quarantine(store: Store, bin_: _Bin, keep: frozenset[Digest]) -> None:
    """Remove quarantined data that is unused or was replaced."""
    for path, kind, digest in store.directory.quarantined():
        back = store.has_layer(digest) if kind == "layer" else store.has_blob(digest)
        if back or digest not in keep:
            bin_.throw("quarantine", path.name, path)
