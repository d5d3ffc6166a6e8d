"""Everything that a copy of manifests needs: documents, blobs, and on request their referrers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.errors import FormatError, LimitExceeded, NotFoundError
from unionmount.images.manifest import Contents, Descriptor
from unionmount.images.media_types import is_foreign
from unionmount.images.referrers import kind_of
from unionmount.transfer.blobs import in_parallel
from unionmount.transfer.referrers import AttachedDocument, checked_referrer

if TYPE_CHECKING:
    from unionmount.images.reference import Digest
    from unionmount.images.referrers import Referrer
    from unionmount.transfer.endpoints import Source

_MAX_DEPTH = 8  # of nested indexes, and of referrers of referrers
_MAX_DOCUMENTS = 4096
_MAX_BYTES = 256 * 1024 * 1024  # of all documents, which are in memory at once


@dataclass(frozen=True, slots=True)
class ReferrerChoice:
    """Which referrers are copied: those of these artifact types, or all if there are none."""

    types: tuple[str, ...] = ()

    def takes(self, contents: Contents) -> bool:
        """Return whether a referrer is one of them."""
        return not self.types or bool({contents.artifact_type, kind_of(contents)} & set(self.types))


@dataclass(frozen=True, slots=True)
class CopiedDocument:
    """A manifest or index, and the descriptors in it."""

    descriptor: Descriptor
    raw: bytes
    contents: Contents


class CopyList:
    """The documents to copy, children before their parents, and the referrers among them.

    ``made`` are documents that no source has; ``notes`` say what is left out, and why.
    """

    def __init__(self, source: Source, made: Mapping[Digest, bytes] | None = None) -> None:
        self.documents: list[CopiedDocument] = []
        self.attached: list[AttachedDocument] = []
        self.notes: list[str] = []
        self._source = source
        self._made = made or {}
        self._by_digest: dict[Digest, CopiedDocument] = {}
        self._seen: set[Digest] = set()
        self._known: set[tuple[Digest, str]] = set()
        self._bytes = 0

    async def add_roots(self, roots: Sequence[Descriptor]) -> None:
        """Collect everything that ``roots`` refer to."""
        for root in roots:
            await self._add(root, 0)

    def leaves(self) -> list[bytes]:
        """Return the documents so far that refer to no others."""
        return [one.raw for one in self.documents if not one.contents.children]

    async def add_referrers(self, choice: ReferrerChoice | None) -> None:
        """Add, with a ``choice``, what is about the documents so far."""
        if choice is not None:
            await self._add_referrers(choice)
        self._note_foreign()

    def blobs(self, documents: Sequence[CopiedDocument]) -> list[Descriptor]:
        """Return the blobs that documents need, each once, the largest first."""
        found = {
            blob.digest: blob
            for one in documents
            for blob in one.contents.blobs
            if not is_foreign(blob.media_type)
        }
        return sorted(found.values(), key=lambda one: -one.size)

    def raw(self, descriptor: Descriptor) -> bytes:
        """Return the bytes of a document of the list."""
        return self._by_digest[descriptor.digest].raw

    async def _add(self, descriptor: Descriptor, depth: int) -> None:
        if descriptor.digest in self._seen:
            return
        self._seen.add(descriptor.digest)
        what = self._source.what
        if depth > _MAX_DEPTH or len(self._seen) > _MAX_DOCUMENTS:
            raise FormatError(f"{what}: indexes are nested too deeply or are too many")
        raw = self._made.get(descriptor.digest)
        if raw is None:
            raw = await self._source.document(descriptor, child=True)
        self._bytes += len(raw)
        if self._bytes > _MAX_BYTES:
            raise LimitExceeded(f"{what}: its manifests have more than {_MAX_BYTES} bytes")
        contents = Contents.parse(raw, f"{what}: manifest {descriptor.digest}")
        for child in contents.children:
            await self._add(child, depth + 1)
        document = CopiedDocument(descriptor, raw, contents)
        self.documents.append(document)
        self._by_digest[descriptor.digest] = document

    async def _add_referrers(self, choice: ReferrerChoice) -> None:
        """Add the referrers of all documents, then those of the referrers, and so on."""
        done = 0
        for _ in range(_MAX_DEPTH + 1):
            subjects = [one.descriptor.digest for one in self.documents[done:]]
            done = len(self.documents)
            if not subjects:
                return
            found = await self._ask(subjects, choice)
            for subject in subjects:
                for one in found[subject]:
                    await self._attach(one, choice)
        if len(self.documents) > done:
            raise LimitExceeded(
                f"{self._source.what}: referrers of referrers are nested more than {_MAX_DEPTH} "
                "deep; copy without --referrers"
            )

    async def _ask(
        self, subjects: Sequence[Digest], choice: ReferrerChoice
    ) -> dict[Digest, Sequence[Referrer]]:
        """Ask for the referrers of several manifests, some at once."""
        only = choice.types[0] if len(choice.types) == 1 else ""
        found: dict[Digest, Sequence[Referrer]] = {}

        async def ask(subject: Digest) -> bool:
            found[subject] = await self._source.referrers(subject, only)
            return True

        await in_parallel(subjects, ask)
        return found

    async def _attach(self, found: Referrer, choice: ReferrerChoice) -> None:
        digest = found.descriptor.digest
        if (digest, found.tag) in self._known:
            return
        self._known.add((digest, found.tag))
        known = self._by_digest.get(digest)
        try:
            raw = known.raw if known else await self._source.document(found.descriptor, child=True)
        except NotFoundError:
            self.notes.append(f"referrer {digest} is listed, but missing; it is left out")
            return
        one, problem = checked_referrer(found, raw, self._source.what)
        if problem:
            self.notes.append(f"{problem}; it is left out")
            return
        if not choice.takes(Contents.parse(raw, f"{self._source.what}: manifest {digest}")):
            return
        await self._add(one.descriptor, 0)
        self.attached.append(AttachedDocument(one, raw))

    def _note_foreign(self) -> None:
        blobs = [blob for document in self.documents for blob in document.contents.blobs]
        for blob in {one.digest: one for one in blobs if is_foreign(one.media_type)}.values():
            self.notes.append(
                f"layer {blob.digest} is not copied: its type says that its publisher alone "
                "distributes it"
            )
