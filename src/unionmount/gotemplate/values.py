"""Values as templates see them: what Go would have, told by Python's own types.

None is a nil interface, a list ``[]interface {}``, a dict ``map[string]interface {}``; what Go has
with a type of its own is one of the classes below. Strings are bytes in Go: bytes that are not
UTF-8 are lone surrogates here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "MISSING",
    "Byte",
    "Duration",
    "Interface",
    "Map",
    "Missing",
    "Slice",
    "Struct",
    "Time",
    "bare",
    "element",
    "from_json",
    "kind_of",
    "truth",
    "type_name",
]


class Missing:
    """No value at all: Go's invalid ``reflect.Value``."""


MISSING = Missing()


class Byte(int):
    """One byte of a string."""


class Duration(int):
    """A span of time in nanoseconds: Go prints it as ``1h30m0s``."""

    def __str__(self) -> str:
        return _duration(int(self))


@dataclass(frozen=True, slots=True)
class Time:
    """A moment, as RFC 3339 has it: Go prints it as ``2024-05-06 07:08:09 +0000 UTC``."""

    text: str

    def __str__(self) -> str:
        day, _, rest = self.text.partition("T")
        return f"{day} {rest.removesuffix('Z')} +0000 UTC" if rest.endswith("Z") else self.text


_UNITS = ((1_000_000, "ms"), (1_000, "µs"), (1, "ns"))


def _duration(nanoseconds: int) -> str:
    sign, rest = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    if rest == 0:
        return "0s"
    if rest < 1_000_000_000:
        length, unit = next(known for known in _UNITS if rest >= known[0])
        return f"{sign}{_decimal(rest, length)}{unit}"
    minutes, rest = divmod(rest, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    shown = f"{_decimal(rest, 1_000_000_000)}s"
    if hours or minutes:
        shown = f"{minutes}m{shown}"
    return sign + (f"{hours}h{shown}" if hours else shown)


def _decimal(number: int, unit: int) -> str:
    """Return a number of units, to the last digit."""
    whole, rest = divmod(number, unit)
    digits = len(str(unit)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0").rstrip(".") if rest else str(whole)


class Slice(list[Any]):
    """A slice of one type, ``[]string`` if nothing else is said; ``nil`` prints as JSON's null."""

    def __init__(self, items: Sequence[Any] = (), *, nil: bool = False) -> None:
        super().__init__(items)
        self.nil = nil


class Map(dict[str, Any]):
    """A map of one type; ``zero`` is what it has for a key that is not there."""

    def __init__(
        self,
        items: Mapping[str, Any] | None = None,
        *,
        zero: Any = "",
        of: str = "map[string]string",
        nil: bool = False,
    ) -> None:
        super().__init__(items or {})
        self.zero = zero
        self.of = of
        self.nil = nil


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct: its fields by their names in JSON, and in Go where those are others."""

    of: str
    fields: Mapping[str, Any]
    go_names: Mapping[str, str] = field(default_factory=dict)
    omit_empty: frozenset[str] = frozenset()  # fields that JSON has only where they say something
    pointer: bool = False
    escapes_html: bool = False  # in JSON, as Go does by itself

    def find(self, name: str) -> Any:
        """Return the value of a field; MISSING if there is none of that name."""
        return self.fields.get(self.go_names.get(name, name), MISSING)


@dataclass(frozen=True, slots=True)
class Interface:
    """A value that was in a slice or map of any type: Go knows it as an interface."""

    value: Any


def element(container: Any, value: Any) -> Any:
    """Return a value as Go has it when it comes out of a container."""
    if isinstance(container, Slice | Map):
        return value
    return Interface(value) if isinstance(container, list | dict) else value


def bare(value: Any) -> Any:
    """What is in an interface; MISSING where that is nil."""
    value = value.value if isinstance(value, Interface) else value
    return MISSING if value is None else value


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (Byte, "uint"),
    (int, "int"),
    (float, "float"),
    (str, "string"),
    (list, "slice"),
    (dict, "map"),
    (Struct, "struct"),
    (Time, "struct"),
    (Interface, "interface"),
)


def kind_of(value: Any) -> str:
    """What kind of value it is, in Go's words; numbers of all sizes are of one kind."""
    return next((kind for known, kind in _KINDS if isinstance(value, known)), "invalid")


_TYPES: tuple[tuple[type, str], ...] = (
    (Byte, "uint8"),
    (Duration, "time.Duration"),
    (Time, "time.Time"),
    (float, "float64"),
    (Slice, "[]string"),
    (list, "[]interface {}"),
    (dict, "map[string]interface {}"),
    (type(None), "interface {}"),
    (Interface, "interface {}"),
)


def type_name(value: Any) -> str:
    """Return the type of a value as Go's messages name it."""
    if isinstance(value, Map):
        return value.of
    if isinstance(value, Struct):
        return ("*" if value.pointer else "") + value.of
    return next((name for known, name in _TYPES if isinstance(value, known)), kind_of(value))


def truth(value: Any) -> bool:
    """Return whether ``if`` takes it for true."""
    value = bare(value)
    match value:
        case Missing() | None:
            return False
        case Struct() | Time():
            return True
        case str() | list() | dict():
            return len(value) > 0
    return bool(value)


_MAX_DEPTH = 64


def from_json(value: Any, depth: int = 0) -> Any:
    """Return a value of JSON, with numbers that Go can hold; what is nested too deeply is cut."""
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 2**1023 else math.inf
    if depth >= _MAX_DEPTH:
        return None if isinstance(value, list | dict) else value
    if isinstance(value, list):
        return [from_json(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {key: from_json(one, depth + 1) for key, one in value.items()}
    return value
