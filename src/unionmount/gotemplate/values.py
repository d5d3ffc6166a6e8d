"""The values of templates, whose Go types follow from Python's own types.

None is a nil interface, a list ``[]interface {}``, a dict ``map[string]interface {}``; other types
of Go are the classes below. Strings are bytes in Go: bytes that are not UTF-8 are lone surrogates
here.
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
    """A duration in nanoseconds, which Go prints as ``1h30m0s``."""

    def __str__(self) -> str:
        return _duration(int(self))


@dataclass(frozen=True, slots=True)
class Time:
    """A time in RFC 3339, which Go prints as ``2024-05-06 07:08:09 +0000 UTC``."""

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
    """Format a number of units with all its digits."""
    whole, rest = divmod(number, unit)
    digits = len(str(unit)) - 1
    return f"{whole}.{rest:0{digits}d}".rstrip("0").rstrip(".") if rest else str(whole)


class Slice(list[Any]):
    """A slice of one type, by default ``[]string``; ``nil`` is null in JSON."""

    def __init__(self, items: Sequence[Any] = (), *, nil: bool = False) -> None:
        super().__init__(items)
        self.nil = nil


class Map(dict[str, Any]):
    """A map of one type; ``zero`` is the value of a missing key."""

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
    """A struct: its fields by their names in JSON, and their names in Go if those differ."""

    of: str
    fields: Mapping[str, Any]
    go_names: Mapping[str, str] = field(default_factory=dict)
    omit_empty: frozenset[str] = frozenset()  # fields that JSON omits if they are empty
    pointer: bool = False
    escapes_html: bool = False  # in JSON, as Go does by default

    def find(self, name: str) -> Any:
        """Return the value of a field; MISSING if there is none with that name."""
        return self.fields.get(self.go_names.get(name, name), MISSING)


@dataclass(frozen=True, slots=True)
class Interface:
    """A value from a slice or map of interfaces."""

    value: Any


def element(container: Any, value: Any) -> Any:
    """Return an element of a container as Go has it."""
    if isinstance(container, Slice | Map):
        return value
    return Interface(value) if isinstance(container, list | dict) else value


def bare(value: Any) -> Any:
    """Return the value in an interface; MISSING if that is nil."""
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
    """Return the kind of a value in Go's words; numbers of all sizes are of one kind."""
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
    """Return the name of a value's type in Go's messages."""
    if isinstance(value, Map):
        return value.of
    if isinstance(value, Struct):
        return ("*" if value.pointer else "") + value.of
    return next((name for known, name in _TYPES if isinstance(value, known)), kind_of(value))


def truth(value: Any) -> bool:
    """Return whether ``if`` treats a value as true."""
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
    """Convert JSON, with numbers in the range of Go; what is nested too deeply is cut off."""
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        return float(value) if abs(value) < 2**1023 else math.inf
    if depth >= _MAX_DEPTH:
        return None if isinstance(value, list | dict) else value
    if isinstance(value, list):
        return [from_json(one, depth + 1) for one in value]
    if isinstance(value, dict):
        return {key: from_json(one, depth + 1) for key, one in value.items()}
    return value
