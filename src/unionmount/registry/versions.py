"""The order of tags: versions by number, with pre-releases before their releases.

``1.9`` comes before ``1.10``, ``2.0-rc1`` before ``2.0``, ``2.0`` before ``2.0-alpine``. Tags that
are not versions (``latest``, ``bookworm``) come last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_VERSION = re.compile(r"[vV]?([0-9]+(?:\.[0-9]+)*)(.*)", re.DOTALL)
_STAGES = ("dev", "snapshot", "nightly", "alpha", "a", "beta", "b", "pre", "preview", "m", "rc")
_STAGE = re.compile(rf"[-._+~]?({'|'.join(_STAGES)})(?![a-z])", re.IGNORECASE)
_RELEASED = len(_STAGES)

_Part = tuple[int, int, str]
_Key = tuple[int, tuple[_Part, ...], int, tuple[_Part, ...], str]


def in_order(tags: Iterable[str]) -> list[str]:
    """Return the tags, each once: versions in their order, then the others."""
    return sorted(set(tags), key=_key)


def _key(tag: str) -> _Key:
    match = _VERSION.fullmatch(tag)
    if match is None:
        return 1, _parts(tag), 0, (), tag
    numbers, rest = match[1], match[2]
    stage = _STAGE.match(rest)
    if stage is None and rest[:1].isalnum():  # not a version, but a hash that begins with a digit
        return 1, _parts(tag), 0, (), tag
    rank = _STAGES.index(stage[1].lower()) if stage is not None else _RELEASED
    after = rest[stage.end() :] if stage is not None else rest
    return 0, tuple(_number(one) for one in numbers.split(".")), rank, _parts(after), tag


def _parts(text: str) -> tuple[_Part, ...]:
    """Split a text into numbers and other parts; numbers come first."""
    pieces = re.findall(r"[0-9]+|[^0-9]+", text)
    return tuple(_number(one) if one[0] in "0123456789" else (1, 0, one) for one in pieces)


def _number(digits: str) -> _Part:
    """Return the key of a number of any length: the longer one is larger."""
    digits = digits.lstrip("0")
    return 0, len(digits), digits
