"""Copying many tags: from a repository or a layout to a repository or a new layout.

What is there already is found by its digest and skipped. Several tags are copied at once; a layout
is read and written by one at a time, as its files are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import translate
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import trio

from unionmount.errors import (
    FormatError,
    NotFoundError,
    NotTrusted,
    RegistryError,
    UnionmountError,
    UsageError,
)
from unionmount.images.reference import Reference, is_tag
from unionmount.images.referrers import is_about_digest
from unionmount.registry.versions import in_order
from unionmount.sources.layout import DirectoryFiles, OciLayout
from unionmount.system.text import printable
from unionmount.transfer.blobs import in_parallel
from unionmount.transfer.copy import layout_writer_of_task
from unionmount.transfer.copy_documents import Copied, DocumentOptions, copy_documents
from unionmount.transfer.endpoints import (
    BlobTurns,
    LayoutSink,
    LayoutSource,
    RegistrySink,
    RegistrySource,
)
from unionmount.transfer.layout_growth import is_layout
from unionmount.transfer.load import open_source
from unionmount.transfer.referrers import RegistryReferrers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from unionmount.images.reference import Digest
    from unionmount.registry import RegistryClient
    from unionmount.sources import Entry, Location
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import Store
    from unionmount.transfer.endpoints import Sink, Source

State = Literal["copied", "present", "failed", "would copy"]

_OF_ONE_TAG = (RegistryError, NotFoundError, FormatError, NotTrusted, UsageError)
"""Errors that other tags need not have; a full disk, for example, is none of them."""


@dataclass(frozen=True, slots=True)
class TagPatterns:
    """Which tags are copied: those that an ``include`` matches, all if there is none.

    What an ``exclude`` matches is left out. Patterns are globs, or regular expressions, and match
    a whole tag.
    """

    include: tuple[re.Pattern[str], ...] = ()
    exclude: tuple[re.Pattern[str], ...] = ()

    @classmethod
    def parse(cls, include: Sequence[str], exclude: Sequence[str], *, regex: bool) -> TagPatterns:
        """Parse patterns; raise UsageError if one is no regular expression."""
        return cls(
            tuple(_compiled(text, regex=regex) for text in include),
            tuple(_compiled(text, regex=regex) for text in exclude),
        )

    def take(self, tag: str) -> bool:
        """Return whether a tag is copied."""
        if self.include and not any(one.fullmatch(tag) for one in self.include):
            return False
        return not any(one.fullmatch(tag) for one in self.exclude)


def _compiled(text: str, *, regex: bool) -> re.Pattern[str]:
    try:
        return re.compile(text if regex else translate(text))
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"'{printable(text[:200])}' is not a regular expression: {printable(str(error))}"
        ) from None


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """The options of a sync; ``resolve`` returns the repository for a name of a registry.

    ``told`` gets each tag when it is done; ``jobs`` is the number of tags that are copied at once.
    """

    resolve: Callable[[str], Reference]
    patterns: TagPatterns
    documents: DocumentOptions
    told: Callable[[SyncedTag], None]
    keep_going: bool = False
    jobs: int = 3
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class SyncedTag:
    """What became of one tag."""

    tag: str
    state: State
    digest: Digest | None = None
    error: str = ""
    notes: tuple[str, ...] = field(default=())


async def sync(
    store: Store,
    clients: tuple[RegistryClient, RegistryClient],
    source: Location,
    target: Location,
    how: SyncOptions,
) -> list[SyncedTag]:
    """Copy all tags that the patterns take; return what became of each, in their order."""
    if target.kind not in ("registry", "oci", "oci-archive"):
        raise UsageError(f"'{target}' is neither a repository nor an OCI layout; use copy")
    if target.kind != "registry":
        if how.keep_going:
            raise UsageError("--keep-going is only for registries: a layout is written whole")
        how = replace(how, jobs=1)
    async with _opened(store, clients[0], source, how) as (origin, jobs):
        tags = [tag for tag in await origin.tags() if how.patterns.take(tag)]
        run = _SyncRun(origin, replace(how, jobs=jobs))
        if target.kind == "registry":
            repository = how.resolve(target.path)
            _check_repository(repository)
            run.into_repository(clients[1], repository)
            return await run.all(tags)
        return await _into_layout(run, tags, target, dry_run=how.documents.dry_run)


async def _into_layout(
    run: _SyncRun, tags: Sequence[str], target: Location, *, dry_run: bool
) -> list[SyncedTag]:
    if target.selector:
        raise UsageError(f"'{target}' has a REF; each image gets its tag, so leave it out")
    listed = await trio.to_thread.run_sync(_listed, target)
    if dry_run:
        run.into_layout(LayoutSink(_Nowhere(), listed))
        return await run.all(tags)
    if not tags:
        raise NotFoundError(f"no tag to copy into {target}; see --include and --exclude")
    async with layout_writer_of_task(target) as writer:
        layout = LayoutSink(writer, listed)
        run.into_layout(layout)
        done = await run.all(tags)
        layout.complete()
        return done


def _listed(target: Location) -> dict[str, Digest]:
    """Return what each tag of a layout leads to, if it exists and that is one manifest."""
    path = Path(target.path)
    if target.kind != "oci" or not is_layout(path):
        return {}
    files = DirectoryFiles(path)
    try:
        layout = OciLayout(files, "")
        found = {tag: layout.tagged(tag) for tag in layout.tags()}
        return {tag: rows[0].digest for tag, rows in found.items() if len(rows) == 1}
    finally:
        files.close()


def _check_repository(ref: Reference) -> None:
    if ref.tag is not None or ref.digest is not None:
        raise UsageError(f"'{ref}' has a tag or digest; give the repository alone")


# -- where from


class _RepositoryTags:
    """The tags of a repository of a registry."""

    def __init__(
        self, store: Store, client: RegistryClient, ref: Reference, progress: Progress | None
    ) -> None:
        self._store = store
        self._client = client
        self._ref = ref
        self._progress = progress
        self._referrers = RegistryReferrers(client, ref)

    async def tags(self) -> list[str]:
        if self._ref.tag is not None:
            return [self._ref.tag]
        found = await self._client.tags(self._ref)
        return [tag for tag in in_order(found) if not is_about_digest(tag)]

    async def digest(self, tag: str) -> Digest | None:
        return await self._client.digest(replace(self._ref, tag=tag))

    @asynccontextmanager
    async def open(self, tag: str) -> AsyncIterator[Source]:
        ref = replace(self._ref, tag=tag)
        yield RegistrySource(self._store, self._client, ref, self._progress, self._referrers)


class _LayoutTags:
    """The entries of a layout that have a tag."""

    def __init__(self, layout: OciLayout) -> None:
        self._layout = layout
        self._entries: dict[str, list[Entry]] = {}
        for entry in layout.entries():
            for tag in dict.fromkeys(_tags_of(entry)):
                self._entries.setdefault(tag, []).append(entry)

    async def tags(self) -> list[str]:
        return list(self._entries)

    async def digest(self, tag: str) -> Digest | None:
        found = self._layout.descriptors(self._entry(tag))
        return found[0].digest if len(found) == 1 else None

    def _entry(self, tag: str) -> Entry:
        """Return the entry with a tag; raise FormatError if different images have it."""
        first, *others = self._entries[tag]
        for other in others:
            if other.same != first.same:
                shown = ", ".join(printable(one.labels[0][:200]) for one in (first, other))
                raise FormatError(
                    f"different images of {self._layout.what} have this tag ({shown}); use copy"
                )
        return first

    @asynccontextmanager
    async def open(self, tag: str) -> AsyncIterator[Source]:
        yield LayoutSource(self._layout, self._entry(tag))
        self._layout.check_unchanged()
        self._layout.release()


def _tags_of(entry: Entry) -> Iterator[str]:
    for label in entry.labels:
        tag = label.rpartition(":")[2] if set(label) & set("/:") else label
        if not set(tag) & set("/@") and "@" not in label and not is_about_digest(tag):
            yield tag


@asynccontextmanager
async def _opened(
    store: Store, client: RegistryClient, source: Location, how: SyncOptions
) -> AsyncIterator[tuple[_RepositoryTags | _LayoutTags, int]]:
    """Open the source; also return how many of its tags may be read at once."""
    if source.kind == "registry":
        ref = how.resolve(source.path)
        if ref.digest is not None:
            raise UsageError(f"'{ref}' has a digest; use copy")
        yield _RepositoryTags(store, client, ref, how.progress), how.jobs
        return
    if source.kind in ("stored", "docker-daemon"):
        raise UsageError(f"'{source}' is neither a repository nor an OCI layout; use copy")
    opening = trio.to_thread.run_sync(open_source, store, source, how.documents.trust)
    with await opening as opened:
        if not isinstance(opened.archive, OciLayout):
            raise UsageError(f"'{source}' is not an OCI layout; use copy")
        yield _LayoutTags(opened.archive), 1


# -- one run


class _SyncRun:
    """One run over all tags, which go where the last ``into_`` said."""

    def __init__(self, origin: _RepositoryTags | _LayoutTags, how: SyncOptions) -> None:
        self._origin = origin
        self._how = how
        self._done: dict[str, SyncedTag] = {}
        self._client: RegistryClient | None = None
        self._repository: Reference | None = None
        self._layout: LayoutSink | None = None
        self._turns = BlobTurns()

    def into_repository(self, client: RegistryClient, repository: Reference) -> None:
        """Copy into a repository."""
        self._client, self._repository = client, repository

    def into_layout(self, layout: LayoutSink) -> None:
        """Copy into a layout."""
        self._layout = layout

    async def all(self, tags: Sequence[str]) -> list[SyncedTag]:
        """Copy all tags."""
        await in_parallel(list(dict.fromkeys(tags)), self._one, self._how.jobs)
        return [self._done[tag] for tag in dict.fromkeys(tags)]

    async def _one(self, tag: str) -> bool:
        try:
            with _about(tag):
                done = await self._copied(tag)
        except _OF_ONE_TAG as error:
            if not self._how.keep_going:
                raise
            done = SyncedTag(tag, "failed", error=str(error))
        self._done[tag] = done
        self._how.told(done)
        return True

    async def _copied(self, tag: str) -> SyncedTag:
        if not is_tag(tag):
            raise FormatError("this is not a valid tag")
        how = self._how.documents
        if how.referrers is None and not how.platforms:
            digest = await self._origin.digest(tag)
            if digest is not None and digest == await self._digest_there(tag):
                return SyncedTag(tag, "present", digest)
        async with self._origin.open(tag) as source:
            copied = await copy_documents(self._sink(tag, source), source, how)
        return SyncedTag(tag, self._state(copied), copied.digest, notes=copied.notes)

    def _state(self, copied: Copied) -> State:
        if copied.was_there:
            return "present"
        return "would copy" if self._how.documents.dry_run else "copied"

    async def _digest_there(self, tag: str) -> Digest | None:
        if self._client is None or self._repository is None:
            return self._layout.listed.get(tag) if self._layout is not None else None
        return await self._client.target_digest(replace(self._repository, tag=tag))

    def _sink(self, tag: str, source: Source) -> Sink:
        if self._client is not None and self._repository is not None:
            ref = replace(self._repository, tag=tag)
            return RegistrySink(self._client, ref, source.names, self._how.progress, self._turns)
        assert self._layout is not None
        return self._layout.part(tag, source)


class _Nowhere:
    """The writer of a layout that is not written: a dry run."""

    def has(self, path: str, size: int) -> bool:  # noqa: ARG002
        """Return False: nothing is looked at."""
        return False

    def directory(self, path: str) -> None:
        """Do nothing."""

    def file(self, path: str, size: int, chunks: object) -> None:
        """Do nothing."""


@contextmanager
def _about(tag: str) -> Iterator[None]:
    """Let errors begin with the tag that they are about."""
    try:
        yield
    except UnionmountError as error:
        if error.args and isinstance(error.args[0], str):
            error.args = (f"{printable(tag[:200])}: {error.args[0]}", *error.args[1:])
        raise
