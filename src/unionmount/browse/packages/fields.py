"""Blocks of ``Name: value`` lines, as dpkg and Python write them (RFC 822, deb822)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from unionmount.browse.packages.model import as_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_BETWEEN = re.compile(rb"\n[ \t\r]*\n")
_FIELD = re.compile(rb"^([!-9;-~]+):[ \t]*([^\n]*)", re.MULTILINE)


def blocks(data: bytes) -> Iterator[bytes]:
    """Yield the parts between empty lines."""
    at = 0
    for between in _BETWEEN.finditer(data):
        if between.start() > at:
            yield data[at : between.start()]
        at = between.end()
    if data[at:].strip():
        yield data[at:]


def first_lines(block: bytes, *wanted: str) -> dict[str, list[str]]:
    """Return the first lines of the ``wanted`` fields, by their names in lower case.

    Continuation lines are dropped. A field may occur several times.
    """
    names = {name.lower() for name in wanted}
    found: dict[str, list[str]] = {name: [] for name in names}
    for match in _FIELD.finditer(block):
        name = match[1].decode("ascii").lower()
        if name in names:
            found[name].append(as_text(match[2], name))
    return found


def first_of(found: dict[str, list[str]], name: str) -> str:
    """Return the first value of a field; empty if it is missing."""
    values = found[name.lower()]
    return values[0] if values else ""
