"""An image from any of registry, archive, layout and store to any other.

Between registries and OCI layouts (also in a tar) everything stays as it is, to the last byte:
manifests, and blobs as they are compressed; the store is only where a blob waits on its way. The
rest goes through a store, as pull, load, save and push do it: a docker-archive has no manifest, and
its layers are plain; it is converted in a store of its own, which is gone at the end.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import trio

from unionmount.errors import FormatError, UsageError
from unionmount.images.manifest import MEDIA_OCI_INDEX, Contents, Descriptor, Selection, select
from unionmount.images.reference import Digest, Reference
from unionmount.sources import STDIN, Location, choose
from unionmount.sources.layout import OciLayout
from unionmount.store.layer_import import FileRange
from unionmount.store.store import Store
from unionmount.transfer.blobs import (
    Checked,
    Repository,
    cancelling,
    fetched,
    in_parallel,
    is_foreign,
    pieces,
)
from unionmount.transfer.load import fallback_name, find_stored, keep_image, open_source
from unionmount.transfer.pull import Pulling, pull_as
from unionmount.transfer.push import Pushing, push
from unionmount.transfer.save import (
    DirectorySink,
    TarSink,
    find_wanted,
    naming,
    new_directory,
    replaced_file,
    save,
)

if TYPE_CHECKING:
    from unionmount.formats.compression import Compression
    from unionmount.images.manifest import Platform
    from unionmount.registry import RegistryClient
    from unionmount.sources import Entry
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import StoredImage
    from unionmount.transfer.save import Form, Sink, Wanted

_MAX_DEPTH = 8  # of nested indexes
_MAX_DOCUMENTS = 4096


@dataclass(frozen=True, slots=True)
class Copying:
    """How to copy: which platforms, how what is compressed anew is compressed, who wants to know.

    ``resolve`` finds the registry's name that a user means.
    """

    resolve: Callable[[str], Reference]
    platform: Platform | None = None
    all_platforms: bool = False
    compression: Compression | None = None
    keep_digest: bool = False
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Copied:
    """What is there now: a manifest in a registry or layout, or an image of the store."""

    digest: Digest | None
    changes: tuple[str, ...] = ()


async def copy(
    store: Store, client: RegistryClient, source: Location, target: Location, how: Copying
) -> Copied:
    """Copy one image, or with ``all_platforms`` all that an index names."""
    if source.path == STDIN:
        raise UsageError("copy reads files; load takes standard input")
    async with _opened(store, client, source, how) as origin:
        if origin is not None and target.kind in ("registry", "oci", "oci-archive"):
            if how.compression is not None:
                raise UsageError("blobs of registries and OCI layouts are copied as they are")
            return await _copy_documents(client, origin, target, how)
    if how.all_platforms:
        raise UsageError(
            "--all is for copies between registries and OCI layouts: what else there is holds "
            "an image for one platform"
        )
    if target.kind == "stored":
        name = Reference.parse(target.path)
        return Copied((await _to_store(store, client, source, [name], how)).id)
    if source.kind == "stored":
        return await _from_store(
            store, client, find_stored(store, source.path), source, target, how
        )
    with _temporary_store(store) as between:
        stored = await _to_store(between, client, source, None, how)
        return await _from_store(between, client, stored, source, target, how)


# -- by way of a store


@contextmanager
def _temporary_store(store: Store) -> Iterator[Store]:
    """A store inside of a directory of the store that is gone with this process."""
    with store.staging() as staging:
        yield Store(staging.path / "store", store.limits)


async def _to_store(
    store: Store,
    client: RegistryClient,
    source: Location,
    names: Sequence[Reference] | None,
    how: Copying,
) -> StoredImage:
    if source.kind == "registry":
        pulling = Pulling(how.platform, "always", progress=how.progress, names=names)
        return await pull_as(store, client, how.resolve(source.path), pulling)
    if source.kind == "stored":
        found = find_stored(store, source.path)
        for name in names or ():
            found = store.tag(found, name)
        return found
    progress = cancelling(how.progress)
    keep = partial(keep_image, platform=how.platform, progress=progress, names=names)
    return await trio.to_thread.run_sync(keep, store, str(source))


async def _from_store(
    store: Store,
    client: RegistryClient,
    stored: StoredImage,
    source: Location,
    target: Location,
    how: Copying,
) -> Copied:
    if target.kind == "registry":
        pushing = Pushing(how.compression, how.keep_digest, how.progress)
        done = await push(store, client, stored, how.resolve(target.path), pushing)
        return Copied(done.digest, done.changes)
    (wanted,) = find_wanted(store, [source.path if source.kind == "stored" else str(stored.id)])
    if target.selector:
        wanted = replace(wanted, names=(_name_at(target),))
    elif not wanted.names:
        wanted = replace(wanted, names=tuple(map(Reference.parse, stored.names)))
    await trio.to_thread.run_sync(_save, store, wanted, target, how)
    return Copied(None)


def _name_at(target: Location) -> Reference:
    """The name that REF of a target gives: in a layout a bare word is a tag."""
    if target.kind == "docker-archive" or set(target.selector) & set("/:"):
        return Reference.parse(target.selector).with_default_tag()
    path = fallback_name(Path(target.path))
    return Reference.parse(f"localhost/{path}:{target.selector}")


def _save(store: Store, wanted: Wanted, target: Location, how: Copying) -> None:
    form = cast("Form", target.kind)
    with _sink(target) as sink:
        progress = cancelling(how.progress)
        save(store, [wanted], sink, form, compression=how.compression, progress=progress)


@contextmanager
def _sink(target: Location) -> Iterator[Sink]:
    """Where files go; complete when the block is left, or not there."""
    if target.kind == "oci":
        with new_directory(Path(target.path)) as directory:
            yield DirectorySink(directory)
        return
    with replaced_file(Path(target.path)) as fd:
        sink = TarSink(fd, target.path)
        yield sink
        sink.finish()


# -- documents and blobs as they are


class _Origin(Protocol):
    """Something that has manifests and blobs as they are transported."""

    @property
    def what(self) -> str:
        """The source, for messages."""

    @property
    def names(self) -> Sequence[Reference]:
        """What the image is called there."""

    @property
    def labels(self) -> Mapping[str, str]:
        """Annotations that name it in a layout."""

    async def roots(self) -> Sequence[Descriptor]:
        """What is to be copied: an index, a manifest, or manifests for several platforms."""

    async def document(self, descriptor: Descriptor, *, child: bool = False) -> bytes:
        """A manifest, index or config, verified; a ``child`` of an index may have any type."""

    def blob(self, descriptor: Descriptor) -> AbstractAsyncContextManager[FileRange]:
        """A blob in a file, for as long as the block is."""


class _RegistryOrigin:
    def __init__(
        self, store: Store, client: RegistryClient, ref: Reference, progress: Progress | None
    ) -> None:
        self.what = str(ref)
        self.names: Sequence[Reference] = [ref] if ref.tag and ref.digest is None else []
        self.labels: Mapping[str, str] = {}
        self._store = store
        self._client = client
        self._ref = ref
        self._progress = progress
        self._root: tuple[Descriptor, bytes] | None = None

    async def roots(self) -> Sequence[Descriptor]:
        found = await self._client.manifest(self._ref)
        media_type = Contents.parse(found.raw, f"{self.what}: manifest {found.digest}").media_type
        descriptor = Descriptor(media_type, found.digest, len(found.raw))
        self._root = descriptor, found.raw
        return [descriptor]

    async def document(self, descriptor: Descriptor, *, child: bool = False) -> bytes:
        if self._root is not None and self._root[0].digest == descriptor.digest:
            return self._root[1]
        return await self._client.document(self._ref, descriptor, child=child)

    def blob(self, descriptor: Descriptor) -> AbstractAsyncContextManager[FileRange]:
        return fetched(self._store, self._client, self._ref, descriptor, self._progress)


class _LayoutOrigin:
    def __init__(self, layout: OciLayout, entry: Entry) -> None:
        self.what = layout.what
        self.names: Sequence[Reference] = entry.names
        self._layout = layout
        self._entry = entry
        self.labels: Mapping[str, str] = layout.descriptors(entry)[0].annotations

    async def roots(self) -> Sequence[Descriptor]:
        return self._layout.descriptors(self._entry)

    async def document(self, descriptor: Descriptor, *, child: bool = False) -> bytes:  # noqa: ARG002
        return self._layout.document(descriptor)

    @asynccontextmanager
    async def blob(self, descriptor: Descriptor) -> AsyncIterator[FileRange]:
        yield self._layout.blob(descriptor)


@asynccontextmanager
async def _opened(
    store: Store, client: RegistryClient, source: Location, how: Copying
) -> AsyncIterator[_Origin | None]:
    """A source that has documents and blobs as they are transported; None where it has not."""
    if source.kind == "registry":
        ref = how.resolve(source.path).with_default_tag()
        yield _RegistryOrigin(store, client, ref, how.progress)
    elif source.kind == "stored":
        yield None
    else:
        with await trio.to_thread.run_sync(open_source, store, source) as opened:
            layout = opened.source
            if isinstance(layout, OciLayout):
                entry = choose(layout.entries(), source.selector, layout.what)
                yield _LayoutOrigin(layout, entry)
                layout.check_unchanged()
            else:
                yield None


class _Destination(Protocol):
    """Takes blobs, then the documents that name them."""

    async def blob(self, descriptor: Descriptor, origin: _Origin) -> None:
        """Take a blob of the origin, unless it is there."""

    async def document(self, descriptor: Descriptor, raw: bytes) -> None:
        """Take a manifest or index whose parts are there."""

    async def finish(self, roots: Sequence[Descriptor], raws: Sequence[bytes]) -> None:
        """Give it the name that it is to have."""


class _RegistryDestination:
    def __init__(
        self,
        client: RegistryClient,
        ref: Reference,
        others: Sequence[Reference],
        progress: Progress | None,
    ) -> None:
        self._client = client
        self._ref = ref
        self._repository = Repository(client, ref, others, progress)

    async def blob(self, descriptor: Descriptor, origin: _Origin) -> None:
        if not await self._repository.has_or_mounts(descriptor):
            async with origin.blob(descriptor) as data:
                await self._repository.upload(descriptor, data)

    async def document(self, descriptor: Descriptor, raw: bytes) -> None:
        ref = replace(self._ref, tag=None, digest=descriptor.digest)
        await self._client.put_manifest(ref, raw, descriptor.media_type)

    async def finish(self, roots: Sequence[Descriptor], raws: Sequence[bytes]) -> None:
        if len(roots) != 1:
            raise UsageError(
                f"{self._ref}: the source has {len(roots)} manifests without an index; "
                "copy one of them (--platform)"
            )
        await self._client.put_manifest(self._ref, raws[0], roots[0].media_type)


class _LayoutDestination:
    def __init__(self, sink: Sink, selector: str, origin: _Origin) -> None:
        self._sink = sink
        self._written: set[Digest] = set()
        self._directories: set[str] = set()
        self._one_at_a_time = trio.Lock()  # a tar takes one file after the other
        self._annotations = _annotations(selector, origin)

    async def blob(self, descriptor: Descriptor, origin: _Origin) -> None:
        what = f"{origin.what}: blob {descriptor.digest}"
        async with origin.blob(descriptor) as data:
            await self._file(descriptor, _checked(pieces(data, what), descriptor, what))

    async def document(self, descriptor: Descriptor, raw: bytes) -> None:
        await self._file(descriptor, iter([raw]))

    async def _file(self, descriptor: Descriptor, chunks: Iterator[bytes]) -> None:
        digest = descriptor.digest
        async with self._one_at_a_time:
            if digest in self._written:
                return
            self._written.add(digest)
            for path in ("blobs", f"blobs/{digest.algorithm}"):
                if path not in self._directories:
                    self._directories.add(path)
                    self._sink.directory(path)
            path = f"blobs/{digest.algorithm}/{digest.hex}"
            await trio.to_thread.run_sync(self._sink.file, path, descriptor.size, chunks)

    async def finish(self, roots: Sequence[Descriptor], raws: Sequence[bytes]) -> None:
        del raws
        self._document("oci-layout", {"imageLayoutVersion": "1.0.0"})
        manifests = [_row(one, self._annotations) for one in roots]
        index = {"schemaVersion": 2, "mediaType": MEDIA_OCI_INDEX, "manifests": manifests}
        self._document("index.json", index)

    def _document(self, path: str, value: Any) -> None:
        raw = json.dumps(value, separators=(",", ":")).encode("ascii")
        self._sink.file(path, len(raw), [raw])


def _checked(chunks: Iterator[bytes], descriptor: Descriptor, what: str) -> Iterator[bytes]:
    checked = Checked(descriptor, what)
    for chunk in chunks:
        trio.from_thread.check_cancelled()
        checked.take(chunk)
        yield chunk
    checked.finish()


def _annotations(selector: str, origin: _Origin) -> dict[str, str]:
    """What names an image in an index: the REF that was wanted, or what it was called."""
    if selector:
        if "/" in selector or ":" in selector:
            return dict(naming(Reference.parse(selector).with_default_tag()))
        return {"org.opencontainers.image.ref.name": selector}
    if origin.labels:
        return dict(origin.labels)
    return dict(naming(origin.names[0])) if origin.names else {}


def _row(descriptor: Descriptor, annotations: dict[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.platform is not None:
        found = descriptor.platform
        row["platform"] = {"architecture": found.architecture, "os": found.os}
        row["platform"] |= {"variant": found.variant} if found.variant else {}
    return row | ({"annotations": annotations} if annotations else {})


async def _copy_documents(
    client: RegistryClient, origin: _Origin, target: Location, how: Copying
) -> Copied:
    roots = await origin.roots()
    if not how.all_platforms and not _is_lone(roots, how.platform):
        roots = [await _selected(origin, roots, how.platform)]
    tree = await _Tree.of(origin, roots)
    if target.kind == "registry":
        ref = how.resolve(target.path).with_default_tag()
        await _fill(
            _RegistryDestination(client, ref, origin.names, how.progress), origin, roots, tree
        )
    else:
        with _sink(target) as sink:
            await _fill(_LayoutDestination(sink, target.selector, origin), origin, roots, tree)
    return Copied(roots[0].digest if len(roots) == 1 else None)


def _is_lone(roots: Sequence[Descriptor], platform: Platform | None) -> bool:
    """Whether there is nothing to choose; what it is does not matter then."""
    return platform is None and len(roots) == 1 and not roots[0].is_index


async def _fill(
    destination: _Destination, origin: _Origin, roots: Sequence[Descriptor], tree: _Tree
) -> None:
    async def send(blob: Descriptor) -> bool:
        await destination.blob(blob, origin)
        return True

    await in_parallel(sorted(tree.blobs.values(), key=lambda one: -one.size), send)
    top = {one.digest for one in roots}
    keeps_roots = isinstance(destination, _LayoutDestination)
    for descriptor, raw in tree.documents:  # children come before their parents
        if keeps_roots or descriptor.digest not in top:
            await destination.document(descriptor, raw)
    raws = {descriptor.digest: raw for descriptor, raw in tree.documents}
    await destination.finish(roots, [raws[one.digest] for one in roots])


async def _selected(
    origin: _Origin, roots: Sequence[Descriptor], platform: Platform | None
) -> Descriptor:
    selection = select(roots, platform, origin.what, lambda _: True)
    try:
        wanted = next(selection)
        while True:
            wanted = selection.send(await origin.document(wanted))
    except StopIteration as stop:
        found: Selection = stop.value
        return found.descriptor


class _Tree:
    """Everything that is to be copied: blobs, and documents with children before parents."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, Descriptor] = {}
        self.documents: list[tuple[Descriptor, bytes]] = []
        self._seen: set[Digest] = set()

    @classmethod
    async def of(cls, origin: _Origin, roots: Sequence[Descriptor]) -> _Tree:
        """What ``roots`` lead to."""
        tree = cls()
        for root in roots:
            await tree._add(origin, root, 0)
        return tree

    async def _add(self, origin: _Origin, descriptor: Descriptor, depth: int) -> None:
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        if depth > _MAX_DEPTH or len(self._seen) > _MAX_DOCUMENTS:
            raise FormatError(f"{origin.what}: indexes are nested too deeply or are too many")
        raw = await origin.document(descriptor, child=True)
        contents = Contents.parse(raw, f"{origin.what}: manifest {descriptor.digest}")
        for child in contents.children:
            await self._add(origin, child, depth + 1)
        for blob in contents.blobs:
            if not is_foreign(blob):
                self.blobs[blob.digest] = blob
        self.documents.append((descriptor, raw))
