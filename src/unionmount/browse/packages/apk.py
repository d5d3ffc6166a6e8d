"""The packages of apk: ``/lib/apk/db/installed`` of Alpine, Wolfi and others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from unionmount.browse.packages.fields import blocks
from unionmount.browse.packages.model import Package, as_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIELD = re.compile(rb"^([PVAoL]):([^\n]*)", re.MULTILINE)


def parse_apk(data: bytes) -> Iterator[Package]:
    """Yield the packages of the database."""
    for block in blocks(data):
        found = {"P": "", "V": "", "A": "", "o": "", "L": ""}
        for match in _FIELD.finditer(block):
            letter = match[1].decode("ascii")
            found[letter] = found[letter] or as_text(match[2], letter)
        if found["P"] and found["V"]:
            source_version = found["V"] if found["o"] else ""
            yield Package(
                "apk",
                found["P"],
                found["V"],
                found["A"],
                source=found["o"],
                source_version=source_version,
                license=found["L"],
            )
