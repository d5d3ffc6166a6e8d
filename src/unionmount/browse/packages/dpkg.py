"""The packages of dpkg: ``/var/lib/dpkg/status``, and ``status.d`` of images without dpkg."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from unionmount.browse.packages.fields import blocks, first_lines, first_of
from unionmount.browse.packages.model import Package

if TYPE_CHECKING:
    from collections.abc import Iterator

_NOT_THERE = ("not-installed", "config-files")  # the last word of the field "Status"
_SOURCE = re.compile(r"([^\s(]+)(?:\s*\(([^)]*)\))?")
_FORMAT = re.compile(rb"\s*Format:\s*\S*(?:copyright-format|dep5|DEP-?5)", re.IGNORECASE)


def parse_dpkg(data: bytes) -> Iterator[Package]:
    """Yield the packages of a status file whose files are there, at least in part."""
    for block in blocks(data):
        found = first_lines(block, "Package", "Status", "Version", "Architecture", "Source")
        name, version = first_of(found, "Package"), first_of(found, "Version")
        state = first_of(found, "Status").split()
        if not name or not version or (state and state[-1] in _NOT_THERE):
            continue
        source = _SOURCE.match(first_of(found, "Source"))
        yield Package(
            "deb",
            name,
            version,
            first_of(found, "Architecture"),
            source[1] if source else name,
            (source[2] or version) if source else version,
        )


def license_of_copyright(data: bytes) -> str:
    """Return the licenses that a copyright file names; empty if it is not machine-readable.

    The names are those of Debian's copyright format 1.0, joined by AND in their order.
    """
    if not _FORMAT.match(data):
        return ""
    names: dict[str, None] = {}
    for block in blocks(data):
        found = first_lines(block, "Files", "License")
        if found["files"]:
            names.update(dict.fromkeys(one for one in found["license"] if one))
    texts = [f"({name})" if " or " in name.lower() else name for name in names]
    return " AND ".join(texts) if len(texts) > 1 else "".join(names)
