"""Copying an image from a registry, archive, layout or the store to any of these.

Between registries and OCI layouts (also in a tar) everything stays as it is, to the last byte:
manifests, and blobs as they are compressed; the store only buffers blobs. All other copies go
through a store, like pull, load, save and push: a docker-archive has no manifest, and its layers
are plain. It is converted in a temporary store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import trio

from unionmount.errors import FormatError, UsageError
from unionmount.images.manifest import Contents, Descriptor
from unionmount.images.media_types import is_foreign
from unionmount.images.opened import OpenImage
from unionmount.images.reference import Digest, Reference
from unionmount.images.selection import run_selection_async, select
from unionmount.sources import STDIN, Location, choose
from unionmount.sources.layout import OciLayout
from unionmount.store.layer_import import Progress
from unionmount.store.store import Store, StoredImage
from unionmount.transfer.blobs import (
    cancelling,
    in_parallel,
)
from unionmount.transfer.image_files import DirectoryWriter, TarWriter, new_directory, replaced_file
from unionmount.transfer.load import (
    fallback_name,
    find_stored,
    keep_image,
    open_source,
    open_stored,
)
from unionmount.transfer.pull import PullOptions, pull_as
from unionmount.transfer.push import PushOptions, push
from unionmount.transfer.save import find_wanted, save
from unionmount.transfer.scratch_store import scratch_store
from unionmount.trust.image_trust import ImageTrust

if TYPE_CHECKING:
    from unionmount.formats.compression import Compression
    from unionmount.images.platform import Platform
    from unionmount.registry import RegistryClient
    from unionmount.transfer.image_files import FileWriter
    from unionmount.transfer.save import Form, ImageToSave
from unionmount.transfer.endpoints import (
    LayoutSink,
    LayoutSource,
    RegistrySink,
    RegistrySource,
    Sink,
    Source,
)

Squash = Callable[[Store, OpenImage, Sequence[Reference], Progress], StoredImage]
"""A function that makes an image with fewer layers of an open one, in a store and with names."""

_MAX_DEPTH = 8  # of nested indexes
_MAX_DOCUMENTS = 4096


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """The options of a copy; ``compression`` is for layers that are compressed anew.

    ``resolve`` returns the reference for a name of a registry as the user wrote it. ``trust`` is
    the policy that must accept the image, by default that of the user.
    """

    resolve: Callable[[str], Reference]
    platform: Platform | None = None
    all_platforms: bool = False
    compression: Compression | None = None
    keep_digest: bool = False
    progress: Progress | None = None
    squash: Squash | None = None
    trust: ImageTrust = field(default_factory=ImageTrust)


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of a copy: the digest in a registry or layout, or the ID in the store."""

    digest: Digest | None
    changes: tuple[str, ...] = ()


async def copy(
    store: Store, client: RegistryClient, source: Location, target: Location, how: CopyOptions
) -> Copied:
    """Copy one image, or with ``all_platforms`` all images of an index."""
    if source.path == STDIN:
        raise UsageError("copy cannot read standard input; use load")
    if how.squash is not None:
        return await _squashed(store, client, source, target, how, how.squash)
    async with _opened(store, client, source, how) as origin:
        if origin is not None and target.kind in ("registry", "oci", "oci-archive"):
            if how.compression is not None:
                raise UsageError(
                    "--compress cannot be used between registries and OCI layouts, "
                    "which keep their blobs"
                )
            return await _copy_documents(client, origin, target, how)
    if how.all_platforms:
        raise UsageError(
            "--all is only for copies between registries and OCI layouts; other places hold "
            "an image for one platform"
        )
    if target.kind == "stored":
        name = Reference.parse(target.path)
        return Copied((await _to_store(store, client, source, [name], how)).id)
    if source.kind == "stored":
        return await _from_store(
            store, client, find_stored(store, source.path), source.path, target, how
        )
    with _temporary_store(store) as between:
        stored = await _to_store(between, client, source, None, how)
        return await _from_store(between, client, stored, str(stored.id), target, how)


# -- by way of a store


@contextmanager
def _temporary_store(store: Store) -> Iterator[Store]:
    """Create a store inside a directory of the store that is removed with this process."""
    with store.staging() as staging:
        yield Store(staging.path / "store", store.limits)


async def _squashed(
    store: Store,
    client: RegistryClient,
    source: Location,
    target: Location,
    how: CopyOptions,
    squash: Squash,
) -> Copied:
    """Copy an image with fewer layers, which is made in the store or in a temporary one."""
    if how.all_platforms or how.keep_digest:
        option = "--all" if how.all_platforms else "--keep-digest"
        raise UsageError(f"{option} cannot be combined with --squash, which makes another image")
    with ExitStack() as stack:
        between = stack.enter_context(scratch_store(store))
        origin = store if source.kind == "stored" else between
        lease = stack.enter_context(origin.lease("copy", f"copy of {source}"))
        if source.kind == "stored":
            stored = find_stored(store, source.path, how.platform)
            names: Sequence[Reference] = find_wanted(store, [source.path])[0].names
        else:
            stored = await _to_store(between, client, source, None, how)
            names = [Reference.parse(name) for name in stored.names]
        place = between
        if target.kind == "stored":
            place, names = store, [Reference.parse(target.path)]

        def make() -> StoredImage:
            with open_stored(between, stored, str(source), lease=lease) as image:
                return squash(place, image, names, cancelling(how.progress))

        made = await trio.to_thread.run_sync(make)
        if target.kind == "stored":
            return Copied(made.id)
        return await _from_store(between, client, made, str(made.id), target, how)


async def _to_store(
    store: Store,
    client: RegistryClient,
    source: Location,
    names: Sequence[Reference] | None,
    how: CopyOptions,
) -> StoredImage:
    if source.kind == "registry":
        pulling = PullOptions(
            *(how.platform, "always"), progress=how.progress, names=names, trust=how.trust
        )
        return await pull_as(store, client, how.resolve(source.path), pulling)
    if source.kind == "stored":
        found = find_stored(store, source.path)
        for name in names or ():
            found = store.tag(found, name)
        return found
    progress = cancelling(how.progress)
    keep = partial(
        keep_image, platform=how.platform, progress=progress, names=names, trust=how.trust
    )
    return await trio.to_thread.run_sync(keep, store, source)


async def _from_store(
    store: Store,
    client: RegistryClient,
    stored: StoredImage,
    word: str,
    target: Location,
    how: CopyOptions,
) -> Copied:
    """Copy an image of a store that ``word`` names there."""
    if target.kind == "registry":
        pushing = PushOptions(how.compression, how.keep_digest, how.progress)
        done = await push(store, client, stored, how.resolve(target.path), pushing)
        return Copied(done.digest, done.changes)
    (wanted,) = find_wanted(store, [word])
    if target.selector:
        wanted = replace(wanted, names=(_name_at(target),))
    elif not wanted.names:
        wanted = replace(wanted, names=tuple(map(Reference.parse, stored.names)))
    await trio.to_thread.run_sync(_save, store, wanted, target, how)
    return Copied(None)


def _name_at(target: Location) -> Reference:
    """Return the name that the REF of a target means; a single word is the tag in a layout."""
    if target.kind == "docker-archive" or set(target.selector) & set("/:"):
        return Reference.parse(target.selector).with_default_tag()
    path = fallback_name(Path(target.path))
    return Reference.parse(f"localhost/{path}:{target.selector}")


def _save(store: Store, wanted: ImageToSave, target: Location, how: CopyOptions) -> None:
    form = cast("Form", target.kind)
    with _writer(target) as writer:
        progress = cancelling(how.progress)
        save(store, [wanted], writer, form, compression=how.compression, progress=progress)


@contextmanager
def _writer(target: Location) -> Iterator[FileWriter]:
    """Open the target; it is complete when the block ends, or does not appear."""
    if target.kind == "oci":
        with new_directory(Path(target.path)) as directory:
            yield DirectoryWriter(directory)
        return
    with replaced_file(Path(target.path)) as fd:
        writer = TarWriter(fd, target.path)
        yield writer
        writer.finish()


@asynccontextmanager
async def _opened(
    store: Store, client: RegistryClient, source: Location, how: CopyOptions
) -> AsyncIterator[Source | None]:
    """Open a source of documents and blobs as they are transported; None if it has none."""
    if source.kind == "registry":
        ref = how.resolve(source.path).with_default_tag()
        yield RegistrySource(store, client, ref, how.progress)
    elif source.kind == "stored":
        yield None
    else:
        opening = trio.to_thread.run_sync(open_source, store, source, how.trust)
        with await opening as opened:
            layout = opened.archive
            if isinstance(layout, OciLayout):
                entry = choose(layout.entries(), source.selector, layout.what)
                yield LayoutSource(layout, entry)
                layout.check_unchanged()
            else:
                yield None


async def _copy_documents(
    client: RegistryClient, source: Source, target: Location, how: CopyOptions
) -> Copied:
    roots = await source.roots()
    if not how.all_platforms and not _is_lone(roots, how.platform):
        roots = [await _selected(source, roots, how.platform)]
    tree = await _CopyList.of(source, roots)
    for raw in tree.leaves:  # an index is trusted by its images
        await source.check_trust(raw, how.trust)
    if target.kind == "registry":
        ref = how.resolve(target.path).with_default_tag()
        await _fill(RegistrySink(client, ref, source.names, how.progress), source, roots, tree)
    else:
        with _writer(target) as writer:
            await _fill(LayoutSink(writer, target.selector, source), source, roots, tree)
    return Copied(roots[0].digest if len(roots) == 1 else None)


def _is_lone(roots: Sequence[Descriptor], platform: Platform | None) -> bool:
    """Return whether there is nothing to select, so that the platform does not matter."""
    return platform is None and len(roots) == 1 and not roots[0].is_index


async def _fill(sink: Sink, source: Source, roots: Sequence[Descriptor], tree: _CopyList) -> None:
    async def send(blob: Descriptor) -> bool:
        await sink.blob(blob, source)
        return True

    await in_parallel(sorted(tree.blobs.values(), key=lambda one: -one.size), send)
    top = {one.digest for one in roots}
    for descriptor, raw in tree.documents:  # children come before their parents
        if sink.takes_roots or descriptor.digest not in top:
            await sink.document(descriptor, raw)
    raws = {descriptor.digest: raw for descriptor, raw in tree.documents}
    await sink.finish(roots, [raws[one.digest] for one in roots])


async def _selected(
    source: Source, roots: Sequence[Descriptor], platform: Platform | None
) -> Descriptor:
    selection = select(roots, platform, source.what, lambda _: True)
    return (await run_selection_async(selection, source.document)).descriptor


class _CopyList:
    """All blobs to copy, and all documents, with children before their parents."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, Descriptor] = {}
        self.documents: list[tuple[Descriptor, bytes]] = []
        self.leaves: list[bytes] = []  # the documents that refer to no others
        self._seen: set[Digest] = set()

    @classmethod
    async def of(cls, source: Source, roots: Sequence[Descriptor]) -> _CopyList:
        """Collect everything that ``roots`` refer to."""
        tree = cls()
        for root in roots:
            await tree._add(source, root, 0)
        return tree

    async def _add(self, source: Source, descriptor: Descriptor, depth: int) -> None:
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        if depth > _MAX_DEPTH or len(self._seen) > _MAX_DOCUMENTS:
            raise FormatError(f"{source.what}: indexes are nested too deeply or are too many")
        raw = await source.document(descriptor, child=True)
        contents = Contents.parse(raw, f"{source.what}: manifest {descriptor.digest}")
        for child in contents.children:
            await self._add(source, child, depth + 1)
        if not contents.children:
            self.leaves.append(raw)
        for blob in contents.blobs:
            if not is_foreign(blob.media_type):
                self.blobs[blob.digest] = blob
        self.documents.append((descriptor, raw))
