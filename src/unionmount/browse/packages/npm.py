"""Packages of npm: ``node_modules/NAME/package.json``, nested and with scopes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from unionmount.browse.packages.model import MAX_FIELD, Package
from unionmount.errors import FormatError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator


def parse_npm(data: bytes) -> Iterator[Package]:
    """Yield the package of a package.json; none if it lacks a name or version."""
    try:
        document = json.loads(data.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"damaged JSON: {printable(str(error))[:200]}") from None
    if not isinstance(document, dict):
        raise FormatError("not a JSON object")
    name, version = _text(document.get("name")), _text(document.get("version"))
    if name and version:
        yield Package("npm", name, version, license=_license(document))


def _text(value: Any) -> str:
    """Return a string without lone surrogates; empty for a value of another type."""
    if not isinstance(value, str):
        return ""
    if len(value) > MAX_FIELD:
        raise FormatError(f"a field has more than {MAX_FIELD} characters")
    return value.encode("utf-8", "replace").decode("utf-8").strip()


def _license(document: dict[str, Any]) -> str:
    """Return the license; the forms with objects are of old packages."""
    value = document.get("license", document.get("licenses"))
    values = value if isinstance(value, list) else [value]
    names = [_text(one.get("type") if isinstance(one, dict) else one) for one in values]
    return " OR ".join(dict.fromkeys(filter(None, names)))
