"""The source and the sink of a copy: a registry, an OCI layout, or a directory of skopeo's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import trio

from unionmount.errors import UsageError
from unionmount.images.build import (
    LAYOUT_MARKER,
    compact_json,
    descriptor_row,
    index_document,
)
from unionmount.images.manifest import Contents, Descriptor
from unionmount.images.media_types import REF_NAME
from unionmount.images.reference import Digest, Reference
from unionmount.sources import choose
from unionmount.sources.layout import BlobArchive
from unionmount.sources.skopeo_dir import MANIFEST, VERSION, VERSION_TEXT, manifest_name
from unionmount.store.store import Store
from unionmount.system.files import FileRange, pieces_of
from unionmount.transfer.blobs import (
    Checked,
    Repository,
    fetched,
)
from unionmount.transfer.load import open_source
from unionmount.transfer.referrers import (
    AttachedDocument,
    LayoutReferrers,
    ReferrerLists,
    RegistryReferrers,
)
from unionmount.transfer.save import naming, ref_naming

if TYPE_CHECKING:
    from unionmount.images.referrers import Referrer
    from unionmount.registry import RegistryClient
    from unionmount.sources import Entry, Location
    from unionmount.store.layer_import import Progress
    from unionmount.transfer.image_files import FileWriter
    from unionmount.trust.image_trust import ImageTrust


# -- documents and blobs as they are


class Source(Protocol):
    """A source of manifests and blobs as they are transported."""

    @property
    def what(self) -> str:
        """The name of the source for messages."""

    @property
    def names(self) -> Sequence[Reference]:
        """The names of the image in the source."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The annotations that name it in a layout."""

    async def roots(self) -> Sequence[Descriptor]:
        """Return what is to be copied: an index, a manifest, or manifests for several platforms."""

    async def document(self, descriptor: Descriptor, *, child: bool = False) -> bytes:
        """Return a verified document; a ``child`` of an index may have any media type."""

    def blob(self, descriptor: Descriptor) -> AbstractAsyncContextManager[FileRange]:
        """Open a blob in a file for the duration of the block."""

    async def check_trust(self, raw: bytes, trust: ImageTrust) -> None:
        """Raise NotTrusted unless the policy accepts an image of the source by its manifest."""

    async def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Referrer]:
        """Return the signatures and other manifests that are about a manifest.

        With ``artifact_type``, those of other types may be left out.
        """


class RegistrySource:
    """An image or index of a registry."""

    def __init__(
        self,
        store: Store,
        client: RegistryClient,
        ref: Reference,
        progress: Progress | None,
        referrers: RegistryReferrers | None = None,
    ) -> None:
        self.what = str(ref)
        self.names: Sequence[Reference] = [ref] if ref.tag and ref.digest is None else []
        self.labels: Mapping[str, str] = {}
        self._store = store
        self._client = client
        self._ref = ref
        self._progress = progress
        self._root: tuple[Descriptor, bytes] | None = None
        self._referrers = referrers or RegistryReferrers(client, ref)

    async def roots(self) -> Sequence[Descriptor]:
        """Fetch the manifest or index that the reference names."""
        found = await self._client.manifest(self._ref)
        media_type = Contents.parse(found.raw, f"{self.what}: manifest {found.digest}").media_type
        descriptor = Descriptor(media_type, found.digest, len(found.raw))
        self._root = descriptor, found.raw
        return [descriptor]

    async def document(self, descriptor: Descriptor, *, child: bool = False) -> bytes:
        """See Source."""
        if self._root is not None and self._root[0].digest == descriptor.digest:
            return self._root[1]
        return await self._client.document(self._ref, descriptor, child=child)

    def blob(self, descriptor: Descriptor) -> AbstractAsyncContextManager[FileRange]:
        """See Source."""
        return fetched(self._store, self._client, self._ref, descriptor, self._progress)

    async def check_trust(self, raw: bytes, trust: ImageTrust) -> None:
        """See Source."""
        await trust.check_remote(self._client, self._ref, raw)

    async def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Referrer]:
        """See Source."""
        return await self._referrers.of(subject, artifact_type)


class LayoutSource:
    """An image or index of an OCI layout or archive, or of a directory of skopeo's."""

    def __init__(self, layout: BlobArchive, entry: Entry) -> None:
        self.what = layout.what
        self.names: Sequence[Reference] = entry.names
        self._layout = layout
        self._entry = entry
        self._referrers = LayoutReferrers(layout)
        self.labels: Mapping[str, str] = layout.descriptors(entry)[0].annotations

    async def roots(self) -> Sequence[Descriptor]:
        """Return the descriptors of the selected entry."""
        return self._layout.descriptors(self._entry)

    async def document(self, descriptor: Descriptor, *, child: bool = False) -> bytes:  # noqa: ARG002
        """See Source."""
        return self._layout.document(descriptor)

    @asynccontextmanager
    async def blob(self, descriptor: Descriptor) -> AsyncIterator[FileRange]:
        """See Source."""
        yield self._layout.blob(descriptor)

    async def check_trust(self, raw: bytes, trust: ImageTrust) -> None:
        """See Source; files have no signatures here, and were checked when they were opened."""

    async def referrers(self, subject: Digest, artifact_type: str = "") -> Sequence[Referrer]:  # noqa: ARG002
        """See Source."""
        return self._referrers.of(subject)


@asynccontextmanager
async def open_documents(
    store: Store,
    client: RegistryClient,
    source: Location,
    resolve: Callable[[str], Reference],
    progress: Progress | None = None,
    *,
    trust: ImageTrust | None = None,
) -> AsyncIterator[Source | None]:
    """Open a source of documents and blobs as they are transported; None if it has none.

    ``resolve`` returns the reference for a name of a registry as the user wrote it. ``trust`` is
    the policy that must accept a layout or directory.
    """
    if source.kind == "registry":
        ref = resolve(source.path).with_default_tag()
        yield RegistrySource(store, client, ref, progress)
    elif source.kind in ("stored", "docker-daemon"):
        yield None
    else:
        with await trio.to_thread.run_sync(open_source, store, source, trust) as opened:
            layout = opened.archive
            if isinstance(layout, BlobArchive):
                entry = choose(layout.entries(), source.selector, layout.what)
                yield LayoutSource(layout, entry)
                layout.check_unchanged()
            else:
                yield None


class Sink(Protocol):
    """A sink that takes blobs, then the documents that refer to them, and at last their names."""

    takes_roots: bool
    """Whether ``document`` takes the roots, too; otherwise only ``finish`` does."""

    async def blob(self, descriptor: Descriptor, source: Source) -> None:
        """Take a blob of the source, unless the sink has it."""

    async def document(self, descriptor: Descriptor, raw: bytes) -> None:
        """Take a manifest or index whose parts were taken before."""

    async def has_document(self, descriptor: Descriptor) -> bool:
        """Return whether the sink has a document, and so all that it needs."""

    async def is_named(self, root: Descriptor) -> bool:
        """Return whether the name to be given leads to a root already."""

    async def list_again(self, attached: Sequence[AttachedDocument]) -> None:
        """Make referrers known as such that the sink has, but may not list."""

    async def finish(
        self,
        roots: Sequence[Descriptor],
        raws: Sequence[bytes],
        attached: Sequence[AttachedDocument] = (),
    ) -> None:
        """Give the roots their names, and make their referrers known as such."""


class BlobTurns:
    """Turns of those who put the same blob into one repository.

    A registry that keeps files writes anew what says that a repository has a blob, so whoever asks
    meanwhile is told that it has not (docker-registry 2.8).
    """

    def __init__(self) -> None:
        self._locks: dict[Digest, trio.Lock] = {}

    def of(self, digest: Digest) -> trio.Lock:
        """Return the lock of a blob."""
        return self._locks.setdefault(digest, trio.Lock())


class RegistrySink:
    """A repository of a registry."""

    takes_roots = False

    def __init__(
        self,
        client: RegistryClient,
        ref: Reference,
        others: Sequence[Reference],
        progress: Progress | None,
        turns: BlobTurns | None = None,
    ) -> None:
        """Several sinks of one repository share ``turns``."""
        self._client = client
        self._ref = ref
        self._repository = Repository(client, ref, others, progress)
        self._turns = turns or BlobTurns()
        self._lists = ReferrerLists(client, ref)

    async def blob(self, descriptor: Descriptor, source: Source) -> None:
        """Upload a blob, unless the repository has it or mounts it from another one."""
        async with self._turns.of(descriptor.digest):
            if not await self._repository.has_or_mounts(descriptor):
                async with source.blob(descriptor) as data:
                    await self._repository.upload(descriptor, data)

    async def document(self, descriptor: Descriptor, raw: bytes) -> None:
        """Put a manifest under its digest."""
        contents = Contents.parse(raw, f"{self._ref}: manifest {descriptor.digest}")
        if contents.subject is not None:
            await self._lists.put(descriptor, raw, contents)
            return
        ref = replace(self._ref, tag=None, digest=descriptor.digest)
        await self._client.put_manifest(ref, raw, descriptor.media_type)

    async def has_document(self, descriptor: Descriptor) -> bool:
        """See Sink."""
        ref = replace(self._ref, tag=None, digest=descriptor.digest)
        return await self._client.target_digest(ref) == descriptor.digest

    async def finish(
        self,
        roots: Sequence[Descriptor],
        raws: Sequence[bytes],
        attached: Sequence[AttachedDocument] = (),
    ) -> None:
        """Put the tags, and the lists of referrers if the registry has no API for them."""
        _check_one_root(roots, str(self._ref))
        for one in attached:
            if one.referrer.tag:
                ref = replace(self._ref, tag=one.referrer.tag, digest=None)
                await self._client.put_manifest(ref, one.raw, one.referrer.descriptor.media_type)
        await self.list_again(attached)  # before the tag, for those who look for a signature
        contents = Contents.parse(raws[0], f"{self._ref}: manifest {roots[0].digest}")
        is_listed = await self._client.put_referrer(self._ref, raws[0], roots[0].media_type)
        self._lists.note(roots[0], contents, is_listed=is_listed)
        await self._lists.write()

    async def is_named(self, root: Descriptor) -> bool:
        """See Sink."""
        return await self._client.target_digest(self._ref) == root.digest

    async def list_again(self, attached: Sequence[AttachedDocument]) -> None:
        """See Sink."""
        for one in attached:
            what = f"{self._ref}: manifest {one.referrer.descriptor.digest}"
            self._lists.note_again(one.referrer.descriptor, Contents.parse(one.raw, what))
        await self._lists.write()


class LayoutSink:
    """An OCI layout or archive, whose parts are images; ``complete`` ends it.

    ``listed`` is what the tags of a layout lead to that is there already.
    """

    def __init__(self, writer: FileWriter, listed: Mapping[str, Digest] | None = None) -> None:
        self.listed = listed or {}
        self._writer = writer
        self._written: set[Digest] = set()
        self._directories: set[str] = set()
        self._rows: list[dict[str, Any]] = []
        self._one_at_a_time = trio.Lock()  # a tar takes one file at a time

    def part(self, selector: str, source: Source) -> LayoutPart:
        """Return the sink of one image, which gets the name of REF or its name in the source."""
        return LayoutPart(self, _annotations(selector, source))

    async def has(self, descriptor: Descriptor) -> bool:
        """Return whether a blob or document was written, or is there already."""
        digest, path = descriptor.digest, _blob_path(descriptor.digest)
        if digest in self._written:
            return True
        return await trio.to_thread.run_sync(self._writer.has, path, descriptor.size)

    async def file(self, descriptor: Descriptor, chunks: Iterator[bytes]) -> None:
        """Write a file below blobs/, unless it was written before."""
        digest = descriptor.digest
        async with self._one_at_a_time:
            if digest in self._written:
                return
            self._written.add(digest)
            for path in ("blobs", f"blobs/{digest.algorithm}"):
                if path not in self._directories:
                    self._directories.add(path)
                    self._writer.directory(path)
            path = _blob_path(digest)
            await trio.to_thread.run_sync(self._writer.file, path, descriptor.size, chunks)

    def add(self, descriptor: Descriptor, annotations: Mapping[str, str]) -> None:
        """Add an entry to index.json, unless it has the same one."""
        row = descriptor_row(descriptor, annotations)
        if row not in self._rows:
            self._rows.append(row)

    def complete(self) -> None:
        """Write oci-layout and index.json."""
        self._document("oci-layout", compact_json(LAYOUT_MARKER))
        self._document("index.json", index_document(self._rows))

    def _document(self, path: str, raw: bytes) -> None:
        self._writer.file(path, len(raw), [raw])


def _blob_path(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


class LayoutPart:
    """The sink of one image in a layout, where referrers are entries with their tag, or none."""

    takes_roots = True

    def __init__(self, layout: LayoutSink, annotations: Mapping[str, str]) -> None:
        self._layout = layout
        self._annotations = annotations

    async def blob(self, descriptor: Descriptor, source: Source) -> None:
        """See Sink."""
        if await self._layout.has(descriptor):
            return
        what = f"{source.what}: blob {descriptor.digest}"
        async with source.blob(descriptor) as data:
            chunks = _checked(pieces_of(data, what), descriptor, what)
            await self._layout.file(descriptor, chunks)

    async def document(self, descriptor: Descriptor, raw: bytes) -> None:
        """See Sink."""
        await self._layout.file(descriptor, iter([raw]))

    async def has_document(self, descriptor: Descriptor) -> bool:
        """See Sink."""
        return await self._layout.has(descriptor)

    async def is_named(self, root: Descriptor) -> bool:
        """See Sink."""
        name = self._annotations.get(REF_NAME, "")
        return self._layout.listed.get(name) == root.digest

    async def list_again(self, attached: Sequence[AttachedDocument]) -> None:
        """Add the referrers to index.json."""
        for one in attached:
            about, tag = one.referrer.descriptor, one.referrer.tag
            self._layout.add(about, {REF_NAME: tag} if tag else about.annotations)

    async def finish(
        self,
        roots: Sequence[Descriptor],
        raws: Sequence[bytes],
        attached: Sequence[AttachedDocument] = (),
    ) -> None:
        """See Sink."""
        del raws
        for root in roots:
            self._layout.add(root, self._annotations)
        await self.list_again(attached)


class DirectorySink:
    """A new directory as skopeo's ``dir:`` makes it: one image or index, without referrers."""

    takes_roots = False

    def __init__(self, writer: FileWriter, what: str) -> None:
        self._writer = writer
        self._what = what
        self._written: set[Digest] = set()

    async def blob(self, descriptor: Descriptor, source: Source) -> None:
        """Write a blob."""
        what = f"{source.what}: blob {descriptor.digest}"
        async with source.blob(descriptor) as data:
            chunks = _checked(pieces_of(data, what), descriptor, what)
            path = descriptor.digest.hex
            await trio.to_thread.run_sync(self._writer.file, path, descriptor.size, chunks)

    async def document(self, descriptor: Descriptor, raw: bytes) -> None:
        """Write a manifest that an index lists."""
        self._writer.file(manifest_name(descriptor.digest), len(raw), [raw])
        self._written.add(descriptor.digest)

    async def has_document(self, descriptor: Descriptor) -> bool:
        """See Sink."""
        return descriptor.digest in self._written

    async def is_named(self, root: Descriptor) -> bool:  # noqa: ARG002
        """See Sink; a new directory has nothing, yet."""
        return False

    async def list_again(self, attached: Sequence[AttachedDocument]) -> None:
        """Raise UsageError if there are referrers, since a directory cannot list them."""
        if attached:
            raise UsageError(f"{self._what}: has no place for referrers; use oci: instead")

    async def finish(
        self,
        roots: Sequence[Descriptor],
        raws: Sequence[bytes],
        attached: Sequence[AttachedDocument] = (),
    ) -> None:
        """Write the root as manifest.json, and the version."""
        _check_one_root(roots, self._what)
        await self.list_again(attached)
        self._writer.file(MANIFEST, len(raws[0]), [raws[0]])
        self._writer.file(VERSION, len(VERSION_TEXT), [VERSION_TEXT])


def _check_one_root(roots: Sequence[Descriptor], target: str) -> None:
    """Raise UsageError if a target for one document would get several."""
    if len(roots) != 1:
        raise UsageError(
            f"{target}: the source has {len(roots)} manifests without an index; "
            "choose one with --platform"
        )


def _checked(chunks: Iterator[bytes], descriptor: Descriptor, what: str) -> Iterator[bytes]:
    checked = Checked(descriptor, what)
    for chunk in chunks:
        trio.from_thread.check_cancelled()
        checked.take(chunk)
        yield chunk
    checked.finish()


def _annotations(selector: str, source: Source) -> dict[str, str]:
    """Return the annotations with an image's name: the target's REF, or the source's name."""
    if selector:
        return dict(ref_naming(selector))
    if source.labels:
        return dict(source.labels)
    return dict(naming(source.names[0])) if source.names else {}
