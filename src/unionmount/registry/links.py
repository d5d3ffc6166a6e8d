"""``Link``, of which a list needs the next page: RFC 8288, section 3.

A list that is cut would be taken for the whole one, so what cannot be understood is an error where
it may lead on. Each expression is possessive: none looks at a character more than a few times.
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
    """Never seen outside."""


def next_link(values: Iterable[str], what: str) -> str | None:
    """Return where the next page is, as the header has it; None if this is the last one.

    Where no link says so, one without ``rel`` is: that is how other clients take it.
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
                    f"{what}: Link can't be understood, so the list may be longer: "
                    f"'{printable(value[:200])}'"
                ) from None
    found = said or bare
    if len(set(found)) > 1:
        raise RegistryError(f"{what}: Link names {len(set(found))} next pages")
    return found[0] if found else None


def _links(text: str) -> Iterator[tuple[str, list[str] | None]]:
    """Targets, and the values of their first ``rel``, in lower case."""
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
    """Name, value and end of what stands at a semicolon."""
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
