"""Copying manifests and blobs as they are, from a source to a sink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unionmount.errors import UsageError
from unionmount.images.manifest import Descriptor
from unionmount.images.reference import Digest
from unionmount.transfer.blobs import in_parallel
from unionmount.transfer.copy_list import CopiedDocument, CopyList, ReferrerChoice
from unionmount.transfer.platforms import reduced, selected
from unionmount.trust.image_trust import ImageTrust

if TYPE_CHECKING:
    from unionmount.images.platform import Platform
    from unionmount.transfer.endpoints import Sink, Source


@dataclass(frozen=True, slots=True)
class DocumentOptions:
    """Which manifests are copied.

    ``skip_present`` trusts that what a target lists is whole there; ``dry_run`` copies nothing, but
    asks the policy. ``trust`` is the policy that must accept the images, by default the user's.
    """

    platforms: tuple[Platform, ...] = ()
    all_platforms: bool = False
    keep_digest: bool = False
    referrers: ReferrerChoice | None = None
    skip_present: bool = False
    dry_run: bool = False
    trust: ImageTrust = field(default_factory=ImageTrust)


@dataclass(frozen=True, slots=True)
class Copied:
    """The result of a copy: the digest in a registry or layout, or the ID in the store.

    ``changes`` are the reasons why the digest is another one; ``notes`` say what was left out.
    ``was_there``: the target had everything before.
    """

    digest: Digest | None
    changes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    was_there: bool = False


async def copy_documents(sink: Sink, source: Source, how: DocumentOptions) -> Copied:
    """Copy the chosen manifests of a source with all that they need."""
    there = await source.roots()
    roots, made, changes = await _chosen(source, there, how)
    digest = roots[0].digest if len(roots) == 1 else None
    is_named = how.skip_present and len(roots) == 1 and await sink.is_named(roots[0])
    asks_no_more = is_named or (how.dry_run and how.trust.policy() is None)
    if how.referrers is None and asks_no_more:
        return Copied(digest, changes, was_there=is_named)
    documents = CopyList(source, made)
    await documents.add_roots(roots)
    for raw in documents.leaves():  # an index is trusted by its images
        await source.check_trust(raw, how.trust)
    if how.referrers is None and how.dry_run:
        return Copied(digest, changes)
    await documents.add_referrers(how.referrers)
    notes = [*documents.notes, *(await _left_out(source, there, documents, how))]
    wanted = documents.documents
    if how.skip_present:
        wanted = await _missing(sink, wanted)
    was_there = is_named and not wanted
    if was_there and not how.dry_run:
        await sink.list_again(documents.attached)
    elif not how.dry_run:
        await _send(sink, source, roots, documents, wanted)
    return Copied(digest, changes, tuple(notes), was_there)


async def _left_out(
    source: Source, there: Sequence[Descriptor], documents: CopyList, how: DocumentOptions
) -> list[str]:
    """Return sentences about the referrers of an index of which only images are copied."""
    if how.referrers is None:
        return []
    copied = {one.descriptor.digest for one in documents.documents}
    left = [root.digest for root in there if root.digest not in copied]
    counts = {digest: len(await source.referrers(digest)) for digest in left}
    return [
        f"referrers of the index {digest} are left out ({count}), since only images of the index "
        "are copied; --all copies all"
        for digest, count in counts.items()
        if count
    ]


async def _chosen(
    source: Source, roots: Sequence[Descriptor], how: DocumentOptions
) -> tuple[Sequence[Descriptor], dict[Digest, bytes], tuple[str, ...]]:
    """Return the roots to copy, those of them that were made here, and how the digest changes."""
    if len(how.platforms) > 1:
        root, raw = await reduced(source, roots, how.platforms)
        if [root] == list(roots):
            return roots, {}, ()
        if how.keep_digest:
            raise UsageError(
                f"{source.what}: --keep-digest cannot be combined with these platforms: an index "
                "without the others has another digest; use --all, or one --platform"
            )
        return [root], {root.digest: raw}, (_change(roots, root),)
    platform = how.platforms[0] if how.platforms else None
    if how.all_platforms or _is_lone(roots, platform):
        return roots, {}, ()
    return [await selected(source, roots, platform)], {}, ()


def _change(roots: Sequence[Descriptor], root: Descriptor) -> str:
    before = f"was {roots[0].digest}" if len(roots) == 1 else "did not exist"
    return f"the index has the chosen platforms alone: it is {root.digest}, and {before}"


def _is_lone(roots: Sequence[Descriptor], platform: Platform | None) -> bool:
    """Return whether there is nothing to select, so that the platform does not matter."""
    return platform is None and len(roots) == 1 and not roots[0].is_index


async def _missing(sink: Sink, documents: Sequence[CopiedDocument]) -> list[CopiedDocument]:
    """Return the documents that a sink lacks, in their order."""
    missing: set[Digest] = set()

    async def look(one: CopiedDocument) -> bool:
        if not await sink.has_document(one.descriptor):
            missing.add(one.descriptor.digest)
        return True

    await in_parallel(documents, look)
    return [one for one in documents if one.descriptor.digest in missing]


async def _send(
    sink: Sink,
    source: Source,
    roots: Sequence[Descriptor],
    documents: CopyList,
    wanted: Sequence[CopiedDocument],
) -> None:
    async def send(blob: Descriptor) -> bool:
        await sink.blob(blob, source)
        return True

    await in_parallel(documents.blobs(wanted), send)
    top = {one.digest for one in roots}
    for one in wanted:  # children come before their parents
        if sink.takes_roots or one.descriptor.digest not in top:
            await sink.document(one.descriptor, one.raw)
    raws = [documents.raw(one) for one in roots]
    await sink.finish(roots, raws, documents.attached)
