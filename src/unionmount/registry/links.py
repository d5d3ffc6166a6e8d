"""The header ``Link``, which leads to the next page of a list: RFC 8288, section 3.

A truncated list would be taken for the whole list, so a header that may lead on but cannot be
parsed is an error. All expressions are possessive: none reads a character more than a few times.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from unionmount.errors import RegistryError
from unionmount.system.text import printable

_BLANKS = re.compile(r"[ \t]*+")
_BETWEEN = re.compile(r"[ \t,]*+")
_TARGET = re.compile(r"<([^<>]*+)>")
_NAME = re.compile(r"[ \t;]*+([!#$%&'*+.^_`|~0-9A-Za-z-]*+)[ \t]*+(=?+)[ \t]*+")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"', re.DOTALL)
_BARE = re.compile(r'[^\s",;]*+')


class _Malformed(Exception):
    """A malformed header; never raised outside of this module."""


def next_link(values: Iterable[str], what: str) -> str | None:
    """Return the URL of the next page from the header; None if this is the last page.

    If no link has ``rel="next"``, one without ``rel`` counts, as in other clients.
    """
    said: list[str] = []
    bare: list[str] = []
    for value in values:
        try:
            for target, rel in _links(value):
                if rel is None:
                    bare.append(target)
                elif "next" in rel:
                    said.append(target)
        except _Malformed:
            text = value.lower()
            if "next" in text or "rel" not in text:
                raise RegistryError(
                    f"{what}: Link cannot be parsed, so the list may be incomplete: "
                    f"'{printable(value[:200])}'"
                ) from None
    found = said or bare
    if len(set(found)) > 1:
        raise RegistryError(f"{what}: Link names {len(set(found))} next pages")
    return found[0] if found else None


def _links(text: str) -> Iterator[tuple[str, list[str] | None]]:
    """Yield the targets, and the values of their first ``rel`` in lower case."""
    position = _end(_BETWEEN, text, 0)
    while position < len(text):
        target = _TARGET.match(text, position)
        if target is None:
            raise _Malformed
        rel: list[str] | None = None
        position = _end(_BLANKS, text, target.end())
        while position < len(text) and text[position] != ",":
            name, value, position = _parameter(text, position)
            if name == "rel" and rel is None:
                rel = value.lower().split()
        yield target[1].strip(), rel
        position = _end(_BETWEEN, text, position)


def _parameter(text: str, position: int) -> tuple[str, str, int]:
    """Return the name and value of the parameter at a semicolon, and its end."""
    name = _NAME.match(text, position)
    if text[position] != ";" or name is None or (name[2] and not name[1]):
        raise _Malformed
    position, value = name.end(), ""
    if name[2]:
        quoted = _QUOTED.match(text, position)
        if quoted is None and text[position : position + 1] == '"':
            raise _Malformed
        if quoted is not None:
            value, position = re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL), quoted.end()
        else:
            bare = _BARE.match(text, position)
            assert bare is not None
            value, position = bare[0], bare.end()
    position = _end(_BLANKS, text, position)
    if position < len(text) and text[position] not in ";,":
        raise _Malformed
    return name[1].lower(), value, position


def _end(expression: re.Pattern[str], text: str, position: int) -> int:
    match = expression.match(text, position)
    assert match is not None
    return match.end()
