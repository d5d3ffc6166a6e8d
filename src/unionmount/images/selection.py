"""The choice of one image among the manifests and indexes of several platforms.

Nothing here does I/O: ``select`` asks its caller for the documents that it needs.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.errors import LimitExceeded, NotAnImage, NotFoundError
from unionmount.images.config import Config
from unionmount.images.manifest import Descriptor, ImageIndex, Manifest
from unionmount.images.platform import Platform
from unionmount.system.nearest import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from unionmount.images.reference import Digest

_MAX_FETCHES = 256  # documents that one selection may ask for
_MAX_DEPTH = 8  # of nested indexes
_LISTED = 32  # platforms that a message names


@dataclass(frozen=True, slots=True)
class Selection:
    """The manifest that ``select`` chose, and its config."""

    descriptor: Descriptor
    manifest: Manifest
    config: Config


def select(
    roots: Sequence[Descriptor],
    platform: Platform | None,
    what: str,
    available: Callable[[Descriptor], bool],
) -> Generator[Descriptor, bytes, Selection]:
    """Find the image for ``platform`` among ``roots``, which are manifests or nested indexes.

    The generator yields descriptors of documents and expects their verified bytes to be sent.
    Attestations, artifacts and documents that are not ``available`` are skipped. Of several images
    that fit, the nearest variant is chosen, then the first. Without a platform a lone image is
    chosen whatever it is for; of several, the one for this machine. If none fits, the error names
    the first document that could have led to one and is not ``available``.
    """
    found, absent = yield from _candidates(roots, what, available)
    choice = _Choice(platform or (Platform.host() if len(found) > 1 else None), absent)
    for candidate in found:
        if choice.is_wanted(candidate.platform):
            try:
                choice.take(candidate, (yield from _load(candidate, what)))
            except NotAnImage as error:
                choice.artifact = choice.artifact or error
        else:
            choice.others.append((candidate.platform, candidate, None))
        if choice.is_exact:
            break
    if choice.best is not None:
        return choice.best
    if len(choice.others) == 1 and platform is None:
        _, candidate, selection = choice.others[0]
        return selection or (yield from _load(candidate, what))
    raise choice.failure(what)


class _Choice:
    """The best image so far, and the others that were found."""

    def __init__(self, wanted: Platform | None, absent: Sequence[Descriptor]) -> None:
        self.best: Selection | None = None
        self.others: list[tuple[Platform | None, Descriptor, Selection | None]] = []
        self.artifact: NotAnImage | None = None  # the first; it holds the document it is about
        self._absent = absent
        self._wanted = wanted
        self._distance: int | None = None

    @property
    def is_exact(self) -> bool:
        return self._distance == 0

    def is_wanted(self, offered: Platform | None) -> bool:
        """Return whether an image may fit; one that does not name its platform may."""
        return _distance(self._wanted, offered) is not None

    def take(self, candidate: Descriptor, selection: Selection) -> None:
        platform = candidate.platform or selection.config.platform
        distance = _distance(self._wanted, platform)
        if distance is None:
            # Only a lone one may be chosen after all, and the documents of many would fill the
            # memory.
            self.others.append((platform, candidate, None if self.others else selection))
        elif self._distance is None or distance < self._distance:
            self._distance, self.best = distance, selection

    def failure(self, what: str) -> Exception:
        """Return the error that says why no image fits, and what is there instead."""
        if self.artifact is not None and not self.others:
            return self.artifact
        platforms = dict.fromkeys(str(one) for one, _, _ in self.others if one is not None)
        offered = ", ".join(list(platforms)[:_LISTED])
        more = ", …" if len(platforms) > _LISTED else ""
        there = f"it has {offered}{more}" if offered else "it has none"
        wanted = self._wanted or Platform.host()
        near = did_you_mean(str(wanted), platforms)
        for one in self._absent:
            if one.platform is None or _distance(wanted, one.platform) is not None:
                kind = "index" if one.is_index else "manifest"
                there = f"its {kind} {one.digest} is missing"
                return NotFoundError(f"{what}: no image for platform {wanted}: {there}")
        return NotFoundError(f"{what}: no image for platform {wanted} ({there}){near}")


def run_selection(
    selection: Generator[Descriptor, bytes, Selection], fetch: Callable[[Descriptor], bytes]
) -> Selection:
    """Run ``select`` with a function that returns documents."""
    try:
        wanted = next(selection)
        while True:
            wanted = selection.send(fetch(wanted))
    except StopIteration as stop:
        found: Selection = stop.value
        return found


async def run_selection_async(
    selection: Generator[Descriptor, bytes, Selection],
    fetch: Callable[[Descriptor], Awaitable[bytes]],
) -> Selection:
    """Run ``select`` with an asynchronous function that returns documents."""
    try:
        wanted = next(selection)
        while True:
            wanted = selection.send(await fetch(wanted))
    except StopIteration as stop:
        found: Selection = stop.value
        return found


def _candidates(
    roots: Sequence[Descriptor], what: str, available: Callable[[Descriptor], bool]
) -> Generator[Descriptor, bytes, tuple[list[Descriptor], list[Descriptor]]]:
    """Find all manifests at or below ``roots``, in order; each index is opened once.

    Also return the manifests and indexes that are not available.
    """
    found: list[Descriptor] = []
    absent: list[Descriptor] = []
    seen: set[Digest] = set()
    pending = [(root, 0) for root in reversed(roots)]
    while pending:
        descriptor, depth = pending.pop()
        if descriptor.is_attestation or descriptor.digest in seen:
            continue
        if not available(descriptor):
            if descriptor.is_manifest or descriptor.is_index:
                absent.append(descriptor)
            continue
        seen.add(descriptor.digest)
        if descriptor.is_manifest:
            found.append(descriptor)
        if not descriptor.is_index:
            continue
        if depth >= _MAX_DEPTH or len(seen) > _MAX_FETCHES + len(found):
            raise LimitExceeded(f"{what}: indexes are nested too deeply or are too many")
        index = ImageIndex.parse((yield descriptor), f"{what}: index {descriptor.digest}")
        pending.extend((one, depth + 1) for one in reversed(index.manifests))
    return found, absent


def _load(descriptor: Descriptor, what: str) -> Generator[Descriptor, bytes, Selection]:
    raw = yield descriptor
    manifest = Manifest.parse(raw, f"{what}: manifest {descriptor.digest}")
    raw = yield manifest.config
    config = Config.parse(raw, f"{what}: config {manifest.config.digest}")
    return Selection(descriptor, manifest, config)


def _distance(wanted: Platform | None, offered: Platform | None) -> int | None:
    if wanted is None or offered is None:  # any will do, or its config is still to be read
        return 0
    return wanted.distance(offered)
