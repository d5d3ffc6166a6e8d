"""Untrusted JSON documents, parsed strictly: an error names the document and the field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from unionmount.errors import FormatError, InvalidReference, LimitExceeded
from unionmount.images.reference import Digest
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DOCUMENT = 4 * 1024 * 1024
"""Bytes of a manifest, index or config; the limit that the specification recommends."""
_MAX_SIZE = 2**63 - 1


class Fields:
    """A JSON object whose fields are read with their types checked."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values = values
        self._where = where

    def error(self, name: str, problem: str) -> FormatError:
        """Return a FormatError about one field."""
        return FormatError(f"{self._where}: field '{name}': {problem}")

    def _typed(self, name: str, kind: type, called: str) -> Any:
        value = self.values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise self.error(name, f"missing or not {called}")
        return value

    def string(self, name: str, default: str | None = None) -> str:
        """Return a string; ``default`` if the field is missing or null and there is a default."""
        if default is not None and self.values.get(name) is None:
            return default
        return str(self._typed(name, str, "a string"))

    def size(self, name: str) -> int:
        """Return a number of bytes."""
        value = int(self._typed(name, int, "a number"))
        if not 0 <= value <= _MAX_SIZE:
            raise self.error(name, "out of range")
        return value

    def flag(self, name: str) -> bool:
        """Return a boolean; False if the field is missing."""
        return self.values.get(name) is not None and bool(self._typed(name, bool, "true or false"))

    def digest(self, name: str, text: str) -> Digest:
        """Parse a digest that was found in the field ``name``."""
        try:
            return Digest.parse(text)
        except InvalidReference as error:
            raise self.error(name, str(error)) from None

    def schema_version(self) -> None:
        """Raise FormatError unless the schema version is 2."""
        version = self._typed("schemaVersion", int, "a number")
        if version != 2:
            old = " (Docker schema 1 is not supported)" if version == 1 else ""
            raise self.error("schemaVersion", f"not 2{old}")

    def object(self, name: str, *, optional: bool = False) -> Fields:
        """Return a nested object; an empty one if it is ``optional`` and missing."""
        if optional and self.values.get(name) is None:
            return Fields({}, f"{self._where}: {name}")
        return Fields(self._typed(name, dict, "an object"), f"{self._where}: {name}")

    def _list(self, name: str, kind: type, limit: int) -> list[Any]:
        values: list[Any] = self._typed(name, list, "a list")
        if len(values) > limit:
            raise LimitExceeded(
                f"{self._where}: field '{name}': {len(values)} elements, more than {limit}"
            )
        if not all(isinstance(value, kind) for value in values):
            raise self.error(name, "has an element of another type")
        return values

    def objects(self, name: str, limit: int, *, optional: bool = False) -> list[Fields]:
        """Return a list of objects, at most ``limit``; an empty one if it is missing and may be."""
        if optional and self.values.get(name) is None:
            return []
        values = self._list(name, dict, limit)
        return [Fields(value, f"{self._where}: {name}[{i}]") for i, value in enumerate(values)]

    def strings(self, name: str, limit: int) -> list[str]:
        """Return a list of strings, at most ``limit``."""
        if self.values.get(name) is None:  # Go writes null for an empty list
            return []
        return self._list(name, str, limit)

    def annotations(self) -> Mapping[str, str]:
        """Return the annotations, all of which are strings."""
        values = self.object("annotations", optional=True).values
        if not all(isinstance(value, str) for value in values.values()):
            raise self.error("annotations", "has a value that is not a string")
        return values


def load_json(raw: bytes, what: str) -> Any:
    """Parse untrusted JSON; raise an error if it is too large, too deep, damaged or ambiguous."""
    if len(raw) > MAX_DOCUMENT:
        raise LimitExceeded(f"{what}: {len(raw)} bytes, more than {MAX_DOCUMENT}")
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: damaged JSON: {printable(str(error))[:200]}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):  # decoders disagree on which one counts
        raise ValueError("an object has the same key twice")
    return values


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def parse_object(raw: bytes, what: str) -> Fields:
    """Parse an untrusted JSON object."""
    value = load_json(raw, what)
    if not isinstance(value, dict):
        raise FormatError(f"{what}: not a JSON object")
    return Fields(value, what)
