"""Which images of the store a list is to show: the filters of ``docker images``."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from unionmount.cli.output import time_of
from unionmount.errors import UsageError
from unionmount.images.reference import DEFAULT_REGISTRY, Reference
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unionmount.images.reference import Digest
    from unionmount.store.store import Store, StoredImage

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_TRUTHS = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image of the store, and what of it is listed."""

    stored: StoredImage
    names: tuple[Reference, ...]
    digests: tuple[Reference, ...]
    created: str
    labels: Mapping[str, str]
    size: int  # of all files

    @property
    def id(self) -> Digest:
        """The image's ID."""
        return self.stored.id

    @property
    def made(self) -> float:
        """When it was made, in seconds since 1970; long ago where it does not say."""
        then = time_of(self.created)
        return then.timestamp() if then is not None else float("-inf")


Test = Callable[[Candidate], bool]


def candidate(store: Store, stored: StoredImage) -> Candidate:
    """What is listed of an image."""
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
    """The images that pass all filters and have the name, the newest first."""
    given: dict[str, list[str]] = {}
    for text in filters:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"not a filter (NAME=VALUE): '{printable(text)}'")
        given.setdefault(key.strip().lower(), []).append(value.strip())
    if name is not None:
        given.setdefault("reference", []).append(name)
    tests = [_test(store, key, values) for key, values in given.items()]
    found = [candidate(store, stored) for stored in store.list_images()]
    found.sort(key=lambda one: one.made, reverse=True)
    patterns = given.get("reference", [])
    return [_only_matching(one, patterns) for one in found if all(test(one) for test in tests)]


def _test(store: Store, key: str, values: Sequence[str]) -> Test:
    """One filter; several values of one are alternatives, but all labels are wanted."""
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
            limit = min(_moment(value) for value in values)
            return lambda one: one.made < limit
    known = "dangling, reference, before, since, until, label"
    raise UsageError(f"unknown filter '{printable(key)}' (there are {known})")


def _is_dangling(one: Candidate) -> bool:
    """No tag; a digest of a registry may be there, and is no reason not to be (so docker)."""
    return not one.names


def _is_named(one: Candidate) -> bool:
    return bool(one.names or one.digests)


def _truth(value: str) -> bool:
    if value.lower() not in _TRUTHS:
        raise UsageError(f"dangling is true or false, not '{printable(value)}'")
    return _TRUTHS[value.lower()]


def _made(store: Store, name: str) -> float:
    return candidate(store, store.find_image(name)).made


def _has_label(one: Candidate, wanted: str) -> bool:
    key, sign, value = wanted.partition("=")
    return key in one.labels and (not sign or one.labels[key] == value)


def _has_name(one: Candidate, pattern: str) -> bool:
    return any(matches(name, pattern) for name in (*one.names, *one.digests))


def _only_matching(one: Candidate, patterns: Sequence[str]) -> Candidate:
    """The image with those of its names that were asked for."""
    if not patterns:
        return one
    names = tuple(n for n in one.names if any(matches(n, p) for p in patterns))
    digests = tuple(n for n in one.digests if any(matches(n, p) for p in patterns))
    digests = digests or tuple(d for d in one.digests if d.name in {n.name for n in names})
    return Candidate(one.stored, names, digests, one.created, one.labels, one.size)


def matches(name: Reference, pattern: str) -> bool:
    """Whether a name is meant by a pattern: of its repository, or of all of it; ``*`` is no slash.

    As ``FamiliarMatch`` of the distribution project; a pattern may name docker.io, too.
    """
    repository = Reference(name.registry, name.repository)
    spellings = [name.familiar, repository.familiar]
    if pattern.startswith(f"{DEFAULT_REGISTRY}/"):
        spellings = [str(name), repository.name]
    expression = re.compile(_pattern(pattern))
    return any(expression.fullmatch(one) for one in spellings)


def _pattern(pattern: str) -> str:
    """A pattern of a path (Go's ``path.Match``) as a regular expression.

    What stands behind a star is looked for once, from the left, and never again: a pattern of many
    stars would else try all ways to share a name among them.
    """
    parts = re.split(r"(\*+|\?|\[[^\]]+\])", pattern)
    pieces = [""]  # between stars
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


def _moment(text: str) -> float:
    """A time, or how long ago (``24h``, ``1h30m``), in seconds since 1970."""
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", text):
        return float(text)
    parts = re.findall(r"([0-9]{1,9}(?:\.[0-9]+)?)(h|ms|us|µs|ns|m|s)", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return time.time() - sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise UsageError(f"not a time: '{printable(text)}'") from None
