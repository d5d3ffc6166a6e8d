"""Finding referrers in registries and layouts, and listing them where a registry has no API.

A registry is asked by its API; without one, the list under the fallback tag counts. The tags of
cosign are looked up in both cases, since they are no referrers of the specification. In a layout,
a referrer is an entry of ``index.json`` whose manifest has the ``subject``, or has such a tag.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from unionmount.errors import (
    NotFoundError,
    RegistryError,
)
from unionmount.images.manifest import Contents, Descriptor, ImageIndex
from unionmount.images.media_types import OCI_INDEX
from unionmount.images.reference import Digest, Reference
from unionmount.images.referrers import (
    Referrer,
    cosign_tags,
    described,
    fallback_tag,
    merged_list,
)

if TYPE_CHECKING:
    from unionmount.registry import RegistryClient
    from unionmount.sources.layout import BlobArchive

_ATTEMPTS = 8  # to change a list that others change at the same time


@dataclass(frozen=True, slots=True)
class AttachedDocument:
    """A referrer with the bytes of its manifest."""

    referrer: Referrer
    raw: bytes


class RegistryReferrers:
    """The referrers of the manifests of one repository."""

    def __init__(self, client: RegistryClient, ref: Reference) -> None:
        self._client = client
        self._ref = ref
        self._tags: set[str] | None = None
        self._asked = False
        self._lock = trio.Lock()  # of those two: several tasks ask for referrers

    async def of(self, subject: Digest, artifact_type: str = "") -> list[Referrer]:
        """Return what is known to be about a manifest; other types may be left out."""
        found = await self._client.referrers(self._ref, subject, artifact_type)
        if found is None:
            found = await self._fallback(subject)
        listed = [Referrer(subject, one) for one in found]
        for tag in cosign_tags(subject):
            if await self._may_exist(tag):
                listed += [Referrer(subject, one, tag) for one in await self._tagged(tag)]
        return listed

    async def _fallback(self, subject: Digest) -> list[Descriptor]:
        tag = fallback_tag(subject)
        if not await self._may_exist(tag):
            return []
        try:
            found = await self._client.manifest(replace(self._ref, tag=tag, digest=None))
        except NotFoundError:
            return []
        return list(ImageIndex.parse(found.raw, f"{self._ref}: {tag}").manifests)

    async def _tagged(self, tag: str) -> list[Descriptor]:
        try:
            found = await self._client.manifest(replace(self._ref, tag=tag, digest=None))
        except NotFoundError:
            return []
        contents = Contents.parse(found.raw, f"{self._ref}: {tag}")
        descriptor = Descriptor(found.media_type, found.digest, len(found.raw))
        return [described(descriptor, contents)]

    async def _may_exist(self, tag: str) -> bool:
        """Return whether a tag is listed; True if the registry does not list its tags.

        The list of a mirror is not asked for, since it may lack what the registry has.
        """
        async with self._lock:
            if not self._asked:
                self._asked = True
                if not self._client.has_mirrors(self._ref):
                    with suppress(NotFoundError, RegistryError):
                        self._tags = set(await self._client.tags(self._ref))
        return self._tags is None or tag in self._tags


class LayoutReferrers:
    """The referrers of the manifests of a layout, whose documents are read once.

    A directory of skopeo's has none.
    """

    def __init__(self, layout: BlobArchive) -> None:
        self._layout = layout
        self._by_subject: dict[Digest, list[Referrer]] | None = None

    def of(self, subject: Digest) -> list[Referrer]:
        """Return what is known to be about a manifest."""
        if self._by_subject is None:
            self._by_subject = {}
            for one in self._layout.subjects():
                self._by_subject.setdefault(one.subject, []).append(one)
        tagged = [
            Referrer(subject, one, tag)
            for tag in cosign_tags(subject)
            for one in self._layout.tagged(tag)
        ]
        lists = [one for one in self._layout.tagged(fallback_tag(subject)) if one.is_index]
        listed = [Referrer(subject, one) for row in lists for one in self._listed(row)]
        return [*self._by_subject.get(subject, ()), *listed, *tagged]

    def _listed(self, row: Descriptor) -> Sequence[Descriptor]:
        what = f"{self._layout.what}: index {row.digest}"
        return ImageIndex.parse(self._layout.document(row), what).manifests


def checked_referrer(found: Referrer, raw: bytes, what: str) -> tuple[Referrer, str]:
    """Return a referrer as its own document describes it, and an empty text.

    The text is a sentence about what is wrong if the document is not about the subject that it
    was listed for.
    """
    digest = found.descriptor.digest
    contents = Contents.parse(raw, f"{what}: manifest {digest}")
    about = contents.subject.digest if contents.subject is not None else None
    checked = replace(found, descriptor=described(found.descriptor, contents))
    if found.tag or about == found.subject:
        return checked, ""
    said = f"its subject is {about}" if about is not None else "it has no subject"
    return checked, f"referrer {digest} is listed for {found.subject}, but {said}"


class ReferrerLists:
    """The lists under fallback tags of a repository whose registry lists no referrers itself."""

    def __init__(self, client: RegistryClient, ref: Reference) -> None:
        self._client = client
        self._ref = ref
        self._unlisted: dict[Digest, list[Descriptor]] = {}
        self._noted: set[Digest] = set()

    async def put(self, descriptor: Descriptor, raw: bytes, contents: Contents) -> None:
        """Upload the manifest of a referrer, and note whether it is to be listed."""
        ref = replace(self._ref, tag=None, digest=descriptor.digest)
        is_listed = await self._client.put_referrer(ref, raw, descriptor.media_type)
        self.note(descriptor, contents, is_listed=is_listed)

    def note(self, descriptor: Descriptor, contents: Contents, *, is_listed: bool) -> None:
        """Note that a referrer is there, which the registry lists or not."""
        self._noted.add(descriptor.digest)
        if contents.subject is not None and not is_listed:
            added = replace(described(descriptor, contents), platform=None)
            self._unlisted.setdefault(contents.subject.digest, []).append(added)

    def note_again(self, descriptor: Descriptor, contents: Contents) -> None:
        """Note a referrer that was there before, and may be missing in its list."""
        if descriptor.digest not in self._noted:
            self.note(descriptor, contents, is_listed=False)

    async def write(self) -> None:
        """Add what is to be listed, unless the registry has the API and has listed it."""
        unlisted, self._unlisted = self._unlisted, {}
        for subject, added in unlisted.items():
            if await self._client.referrers(self._ref, subject, target=True) is None:
                await self._add(subject, added)

    async def _add(self, subject: Digest, added: Sequence[Descriptor]) -> None:
        ref = replace(self._ref, tag=fallback_tag(subject), digest=None)
        for _ in range(_ATTEMPTS):
            known = await self._client.target_manifest(ref)
            raw = merged_list(known.raw if known else None, added, str(ref))
            if raw is None:
                return
            if await self._client.replace_manifest(ref, raw, OCI_INDEX, known):
                return
        raise RegistryError(
            f"{ref}: the list of referrers keeps changing; try again when nothing else writes it"
        )
