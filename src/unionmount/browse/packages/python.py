"""Packages of Python: ``METADATA`` of wheels, ``PKG-INFO`` of eggs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionmount.browse.packages.fields import blocks, first_lines, first_of
from unionmount.browse.packages.model import Package

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_LICENSE = 100  # characters; longer ones are texts, or their beginnings
_CLASSIFIER = "License :: "
_UNKNOWN = ("UNKNOWN", "NONE")


def parse_python(data: bytes) -> Iterator[Package]:
    """Yield the package of a metadata file; none if it lacks a name or version."""
    head = next(blocks(data.replace(b"\r\n", b"\n").lstrip(b"\xef\xbb\xbf\n")), b"")
    found = first_lines(head, "Name", "Version", "License", "License-Expression", "Classifier")
    name, version = first_of(found, "Name"), first_of(found, "Version")
    if name and version:
        yield Package("python", name, version, license=_license(found))


def _license(found: dict[str, list[str]]) -> str:
    """Return the license: the expression, else the field, else the classifiers."""
    expression, text = first_of(found, "License-Expression"), first_of(found, "License")
    if expression:
        return expression
    if text and len(text) <= _LONGEST_LICENSE and text.upper() not in _UNKNOWN:
        return text
    classified = [
        one.rpartition(" :: ")[2] for one in found["classifier"] if one.startswith(_CLASSIFIER)
    ]
    return " AND ".join(dict.fromkeys(classified))
