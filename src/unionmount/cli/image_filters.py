"""The filters of ``images``, with the meaning that they have in ``docker images``."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.cli.output import time_of
from unionmount.cli.quantities import parse_moment
from unionmount.errors import UsageError
from unionmount.images.reference import DEFAULT_REGISTRY, Reference
from unionmount.system.nearest import did_you_mean
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unionmount.images.reference import Digest
    from unionmount.store.store import Store, StoredImage

_TRUTHS = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image of the store, with the facts that a list shows."""

    stored: StoredImage
    names: tuple[Reference, ...]
    digests: tuple[Reference, ...]
    created: str
    labels: Mapping[str, str]
    size: int  # the sum over all files

    @property
    def id(self) -> Digest:
        """The image's ID."""
        return self.stored.id

    @property
    def made(self) -> float:
        """The time of its creation in seconds since 1970; 0 if the image does not say."""
        then = time_of(self.created)
        return then.timestamp() if then is not None else float("-inf")


Test = Callable[[Candidate], bool]


def candidate(store: Store, stored: StoredImage) -> Candidate:
    """Read the facts about an image that a list shows."""
    image = store.read_image(stored)
    labels = image.config.runtime.get("Labels")
    return Candidate(
        stored,
        tuple(map(Reference.parse, stored.names)),
        tuple(map(Reference.parse, stored.digests)),
        image.config.created,
        labels if isinstance(labels, dict) else {},
        sum(store.layer_info(diff_id).file_bytes for diff_id in image.diff_ids),
    )


def select(store: Store, filters: Sequence[str], name: str | None) -> list[Candidate]:
    """Return the images that pass all filters and have the name, newest first."""
    given: dict[str, list[str]] = {}
    for text in filters:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"'{printable(text)}' is not a filter; write NAME=VALUE")
        given.setdefault(key.strip().lower(), []).append(value.strip())
    if name is not None:
        given.setdefault("reference", []).append(name)
    tests = [_test(store, key, values) for key, values in given.items()]
    found = [candidate(store, stored) for stored in store.list_images()]
    found.sort(key=lambda one: one.made, reverse=True)
    patterns = given.get("reference", [])
    return [_only_matching(one, patterns) for one in found if all(test(one) for test in tests)]


def _test(store: Store, key: str, values: Sequence[str]) -> Test:
    """Return one filter; several values of a key are alternatives, but of labels all must match."""
    match key:
        case "dangling":
            wanted = [_is_dangling if _truth(value) else _is_named for value in values]
            return lambda one: any(test(one) for test in wanted)
        case "reference":
            return lambda one: any(_has_name(one, value) for value in values)
        case "label":
            return lambda one: all(_has_label(one, value) for value in values)
        case "before":
            limit = min(_made(store, value) for value in values)
            return lambda one: one.made < limit
        case "since":
            limit = max(_made(store, value) for value in values)
            return lambda one: one.made > limit
        case "until":
            limit = min(parse_moment(value) for value in values)
            return lambda one: one.made < limit
    known = ("dangling", "reference", "before", "since", "until", "label")
    near = did_you_mean(key, known) or f"; use one of {', '.join(known)}"
    raise UsageError(f"unknown filter '{printable(key)}'{near}")


def _is_dangling(one: Candidate) -> bool:
    """Return whether an image has no tag; like in docker, it may have digests of a registry."""
    return not one.names


def _is_named(one: Candidate) -> bool:
    return bool(one.names or one.digests)


def _truth(value: str) -> bool:
    if value.lower() not in _TRUTHS:
        raise UsageError(f"the filter dangling must be true or false, not '{printable(value)}'")
    return _TRUTHS[value.lower()]


def _made(store: Store, name: str) -> float:
    return candidate(store, store.find_image(name)).made


def _has_label(one: Candidate, wanted: str) -> bool:
    key, sign, value = wanted.partition("=")
    return key in one.labels and (not sign or one.labels[key] == value)


def _has_name(one: Candidate, pattern: str) -> bool:
    return any(matches(name, pattern) for name in (*one.names, *one.digests))


def _only_matching(one: Candidate, patterns: Sequence[str]) -> Candidate:
    """Return the image with only those of its names that were asked for."""
    if not patterns:
        return one
    names = tuple(n for n in one.names if any(matches(n, p) for p in patterns))
    digests = tuple(n for n in one.digests if any(matches(n, p) for p in patterns))
    digests = digests or tuple(d for d in one.digests if d.name in {n.name for n in names})
    return Candidate(one.stored, names, digests, one.created, one.labels, one.size)


def matches(name: Reference, pattern: str) -> bool:
    """Return whether a pattern matches a name: the repository, or repository and tag.

    It works like ``FamiliarMatch`` of the distribution project: ``*`` matches no slash, and a
    pattern may name docker.io.
    """
    repository = Reference(name.registry, name.repository)
    spellings = [name.familiar, repository.familiar]
    if pattern.startswith(f"{DEFAULT_REGISTRY}/"):
        spellings = [str(name), repository.name]
    expression = re.compile(_pattern(pattern))
    return any(expression.fullmatch(one) for one in spellings)


def _pattern(pattern: str) -> str:
    """Translate a pattern of a path (Go's ``path.Match``) into a regular expression.

    The text after a star is searched once, from the left, without backtracking: a pattern with many
    stars would otherwise take exponential time.
    """
    parts = re.split(r"(\*+|\?|\[[^\]]+\])", pattern)
    pieces = [""]  # the texts between stars
    for part in parts:
        if part.startswith("*"):
            pieces.append("")
        elif part == "?":
            pieces[-1] += "[^/]"
        elif part.startswith("[") and part.endswith("]") and len(part) > 2:
            pieces[-1] += fnmatch.translate(part)[4:-3]
        else:
            pieces[-1] += re.escape(part)
    first, *middle = pieces
    if not middle:
        return first
    *middle, last = middle
    return first + "".join(f"(?>[^/]*?{piece})" for piece in middle) + f"[^/]*{last}"
