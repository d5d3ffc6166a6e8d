"""JSON objects of which every field is known, as policies and signatures must be."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

from unionmount.errors import FormatError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Collection

    from unionmount.images.json_fields import Fields

MAX_LISTED = 1000
"""Elements of a list in a policy."""


def check_keys(fields: Fields, known: Collection[str], *, needed: Collection[str] = ()) -> None:
    """Raise FormatError if an object has an unknown field, or lacks one that is needed."""
    for name in fields.values:
        if name not in known:
            raise fields.error(printable(name[:200]), "unknown")
    for name in needed:
        if name not in fields.values:
            raise fields.error(name, "missing")


def strings(fields: Fields, name: str) -> list[str]:
    """Return a list of strings; raise FormatError if it is null or something else."""
    if fields.values.get(name) is None:
        raise fields.error(name, "missing or not a list")
    return fields.strings(name, MAX_LISTED)


def decoded(fields: Fields, name: str, text: str) -> bytes:
    """Decode base64 that was found in the field ``name``."""
    try:
        return from_base64(text)
    except FormatError as error:
        raise fields.error(name, str(error)) from None


def from_base64(text: str) -> bytes:
    """Decode base64 with padding; line ends are ignored, everything else is a FormatError."""
    try:
        raw = text.replace("\r", "").replace("\n", "").encode("ascii")
        return binascii.a2b_base64(raw, strict_mode=True)
    except ValueError:
        raise FormatError("not base64") from None
