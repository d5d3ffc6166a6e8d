"""Go's formatting of values: ``fmt.Sprint``, ``fmt.Sprintf`` and JSON.

It has the rules of Go's ``fmt/print.go`` and ``fmt/format.go``, for the values of templates.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from unionmount.gotemplate.quoting import (
    format_float,
    is_printable,
    quote,
    quote_rune,
    to_bytes,
    valid_utf8,
    with_all_digits,
)
from unionmount.gotemplate.values import (
    Byte,
    Duration,
    Interface,
    Map,
    Missing,
    Slice,
    Struct,
    Time,
    type_name,
)

_MAX_NUMBER = 1_000_000  # the limit of Go for a width or precision
_MAX_DEPTH = 80


MAX_STRING = 8 * 1024 * 1024
"""The limit for strings that functions make, in characters."""


class TooLong(Exception):
    """A string would be longer than ``MAX_STRING``."""

    def __init__(self) -> None:
        super().__init__(f"more than {MAX_STRING} characters")


class Joined:
    """Parts that are joined to one string of limited length."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size = 0

    def add(self, part: str) -> None:
        """Append a part."""
        self._size += len(part)
        if self._size > MAX_STRING:
            raise TooLong
        self._parts.append(part)

    def __str__(self) -> str:
        return "".join(self._parts)


def sprint(values: Iterable[Any]) -> str:
    """Format values like ``print``: with a space between two that are not strings."""
    joined = Joined()
    before_is_string = True
    for value in values:
        is_string = isinstance(_inner(value), str)
        if not is_string and not before_is_string:
            joined.add(" ")
        joined.add(show(value))
        before_is_string = is_string
    return str(joined)


def sprintln(values: Iterable[Any]) -> str:
    """Format values like ``println``."""
    joined, between = Joined(), ""
    for value in values:
        joined.add(between + show(value))
        between = " "
    joined.add("\n")
    return str(joined)


def show(value: Any, verb: str = "v") -> str:
    """Format one value by ``%v`` or another verb."""
    return _ValuePrinter(_Flags()).argument(value, verb)


def sprintf(form: str, values: list[Any]) -> str:
    """Format values like ``printf``."""
    return _Format(form, values).run()


def _inner(value: Any) -> Any:
    value = value.value if isinstance(value, Interface) else value
    return None if isinstance(value, Missing) else value


@dataclass(slots=True)
class _Flags:
    """The flags between ``%`` and the verb."""

    plus: bool = False
    minus: bool = False
    sharp: bool = False
    space: bool = False
    zero: bool = False
    plus_v: bool = False
    sharp_v: bool = False
    width: int | None = None
    precision: int | None = None

    def pad(self, text: str) -> str:
        """Pad a text to the width."""
        missing = (self.width or 0) - len(text)
        if missing <= 0:
            return text
        if self.minus:
            return text + " " * missing
        return ("0" if self.zero else " ") * missing + text


_BASES: dict[str, Callable[[int], str]] = {
    "v": "{:d}".format,
    "d": "{:d}".format,
    "b": "{:b}".format,
    "o": "{:o}".format,
    "O": "{:o}".format,
    "x": "{:x}".format,
    "X": "{:X}".format,
}
_PREFIXES = {"b": "0b", "x": "0x", "X": "0X"}


@dataclass(slots=True)
class _ValuePrinter:
    """A formatter of values with one set of flags."""

    flags: _Flags

    def argument(self, value: Any, verb: str) -> str:
        """Format an argument of printf."""
        value = _inner(value)
        if value is None:
            return self.flags.pad("<nil>") if verb in "vT" else f"%!{verb}(<nil>)"
        if verb == "T":
            return self.string(type_name(value), "s", value)
        if isinstance(value, Struct) and value.pointer and verb != "p":
            return "&" + self.value(value, verb, 0)
        return self.value(value, verb, 0)

    def value(self, value: Any, verb: str, depth: int) -> str:
        """Format any value."""
        if depth > _MAX_DEPTH:
            return "..."
        if isinstance(value, list | dict | Struct):
            return self.container(value, verb, depth)
        if isinstance(value, Duration | Time):
            return self.stringer(value, verb)
        return self.scalar(value, verb)

    def stringer(self, value: Duration | Time, verb: str) -> str:
        """Format a value that has a string form of its own."""
        if verb in "vsq" or isinstance(value, Time):
            return self.string(str(value), "q" if verb == "q" else "s", value)
        return self.integer(value, verb)

    def scalar(self, value: Any, verb: str) -> str:
        """Format a value that contains no others."""
        match value:
            case bool():
                text = "true" if value else "false"
                return self.flags.pad(text) if verb in "tv" else self.bad(value, verb)
            case int():
                return self.integer(value, verb)
            case float():
                return self.real(value, verb)
            case str():
                return self.string(value, verb, value)
        return "interface {}(nil)" if self.flags.sharp_v else "<nil>"

    def bad(self, value: Any, verb: str) -> str:
        """Format a value that does not fit the verb."""
        flags = self.flags
        return f"%!{verb}({type_name(value)}={_ValuePrinter(flags).value(value, 'v', 0)})"

    # -- containers

    def container(self, value: list[Any] | dict[str, Any] | Struct, verb: str, depth: int) -> str:
        """Format a value that contains others."""
        if verb == "p":
            return self.bad(value, verb)
        if isinstance(value, Struct):
            return self.struct(value, verb, depth)
        if isinstance(value, dict):
            return self.map(value, verb, depth)
        return self.slice(value, verb, depth)

    def slice(self, items: list[Any], verb: str, depth: int) -> str:
        shown = [self.value(_inner(one), verb, depth + 1) for one in items]
        if not self.flags.sharp_v:
            return f"[{' '.join(shown)}]"
        if isinstance(items, Slice) and items.nil:
            return f"{type_name(items)}(nil)"
        return f"{type_name(items)}{{{', '.join(shown)}}}"

    def map(self, items: dict[str, Any], verb: str, depth: int) -> str:
        pairs = [
            f"{self.value(key, verb, depth + 1)}:{self.value(items[key], verb, depth + 1)}"
            for key in sorted(items, key=to_bytes)
        ]
        if not self.flags.sharp_v:
            return f"map[{' '.join(pairs)}]"
        if isinstance(items, Map) and items.nil:
            return f"{type_name(items)}(nil)"
        return f"{type_name(items)}{{{', '.join(pairs)}}}"

    def struct(self, value: Struct, verb: str, depth: int) -> str:
        named = {json_name: name for name, json_name in value.go_names.items()}
        shown = []
        for name, item in value.fields.items():
            text = self.value(item, verb, depth + 1)
            with_name = self.flags.plus_v or self.flags.sharp_v
            shown.append(f"{named.get(name, name)}:{text}" if with_name else text)
        if self.flags.sharp_v:
            return f"{value.of}{{{', '.join(shown)}}}"
        return f"{{{' '.join(shown)}}}"

    # -- numbers

    def integer(self, value: int, verb: str) -> str:
        if verb == "c":
            return self.flags.pad(_character(value))
        if verb == "q":
            return self.flags.pad(quote_rune(value, only_ascii=self.flags.plus))
        if verb == "U":
            flags = self.flags
            plain = _Flags(width=flags.width, minus=flags.minus)  # it is not padded with zeros
            return plain.pad(self._code_point(value))
        if verb == "v" and self.flags.sharp_v and isinstance(value, Byte):
            return f"0x{value:x}"
        if verb not in _BASES:
            return self.bad(value, verb)
        return self._digits(value, verb)

    def _digits(self, value: int, verb: str) -> str:
        flags, digits = self.flags, _BASES[verb](abs(value))
        signed = value < 0 or flags.plus or flags.space
        least = 0
        if flags.precision is not None:
            least = flags.precision
            if least == 0 and value == 0:
                return " " * (flags.width or 0)
        elif flags.zero and not flags.minus and flags.width is not None:
            least = flags.width - signed
        digits = digits.rjust(least, "0")
        if flags.sharp:
            digits = _PREFIXES.get(verb, "") + digits
            if verb in "oO" and not digits.startswith("0"):
                digits = "0" + digits
        if verb == "O":
            digits = "0o" + digits
        sign = "-" if value < 0 else "+" if flags.plus else " " if flags.space else ""
        return _Flags(width=flags.width, minus=flags.minus).pad(sign + digits)

    def _code_point(self, value: int) -> str:
        text = f"U+{value % 2**64:0{max(4, self.flags.precision or 0)}X}"
        if self.flags.sharp and 0 <= value <= 0x10FFFF and is_printable(chr(value)):
            text += f" '{chr(value)}'"
        return text

    def real(self, value: float, verb: str) -> str:
        defaults = {
            "v": -1,
            "g": -1,
            "G": -1,
            "e": 6,
            "E": 6,
            "f": 6,
            "F": 6,
            "x": -1,
            "X": -1,
            "b": -1,
        }
        if verb not in defaults:
            return self.bad(value, verb)
        flags = self.flags
        precision = defaults[verb] if flags.precision is None else flags.precision
        kind = {"v": "g", "F": "f"}.get(verb, verb)
        text = format_float(value, kind, precision)
        sign = text[0] if text[0] in "+-" else "+"
        digits = text.lstrip("+-")
        if flags.sharp and verb != "b" and digits not in ("Inf", "NaN"):
            digits = with_all_digits(digits, verb, precision)
        shown = sign if sign == "-" or flags.plus else " " if flags.space else ""
        if digits in ("Inf", "NaN"):
            shown = shown or ("+" if flags.plus else "")
            return _Flags(width=flags.width, minus=flags.minus).pad(shown + digits)
        if flags.zero and not flags.minus and flags.width is not None:
            digits = digits.rjust(flags.width - len(shown), "0")
        return _Flags(width=flags.width, minus=flags.minus).pad(shown + digits)

    # -- strings

    def string(self, text: str, verb: str, value: Any) -> str:
        flags = self.flags
        if verb == "v" and flags.sharp_v:
            verb = "q"
        if verb in "xX":
            return self._hex(text, verb)
        if verb not in "vsq":
            return self.bad(value, verb)
        if flags.precision is not None:
            text = text[: flags.precision]
        if verb == "q":
            if flags.sharp and not re.search(r"[\x00-\x08\x0a-\x1f\x7f`\ufeff\udc80-\udcff]", text):
                text = f"`{text}`"
            else:
                text = quote(text, only_ascii=flags.plus)
        return flags.pad(text)

    def _hex(self, text: str, verb: str) -> str:
        flags, data = self.flags, to_bytes(text)
        if flags.precision is not None:
            data = data[: flags.precision]
        if not data:
            return flags.pad("")
        prefix = f"0{verb}" if flags.sharp else ""
        shown = data.hex(" ") if flags.space else data.hex()
        shown = shown.upper() if verb == "X" else shown
        if flags.space and prefix:
            return flags.pad(" ".join(prefix + byte for byte in shown.split()))
        return flags.pad(prefix + shown)


def _character(code: int) -> str:
    return chr(code) if 0 <= code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else "\ufffd"


@dataclass(slots=True)
class _Format:
    """A format of printf and the state of parsing it."""

    form: str
    values: list[Any]
    at: int = 0
    number: int = 0  # of the next argument
    good: bool = True
    reordered: bool = False
    after_index: bool = False
    written: Joined = field(default_factory=Joined)

    def run(self) -> str:
        while self.at < len(self.form):
            found = self.form.find("%", self.at)
            end = len(self.form) if found < 0 else found
            self.written.add(self.form[self.at : end])
            self.at = end + 1
            if found >= 0:
                self._directive()
        if not self.reordered and self.number < len(self.values):
            extra = [self._extra(value) for value in self.values[self.number :]]
            self.written.add(f"%!(EXTRA {', '.join(extra)})")
        return str(self.written)

    @staticmethod
    def _extra(value: Any) -> str:
        value = _inner(value)
        return "<nil>" if value is None else f"{type_name(value)}={show(value)}"

    def _peek(self) -> str:
        return self.form[self.at : self.at + 1]

    def _directive(self) -> None:
        flags = _Flags()
        self.good, self.after_index = True, False
        names = {"#": "sharp", "0": "zero", "+": "plus", "-": "minus", " ": "space"}
        while self._peek() in names and self._peek():
            setattr(flags, names[self._peek()], True)
            self.at += 1
        self._index()
        self._width(flags)
        self._precision(flags)
        if not self.after_index:
            self._index()
        verb = self._peek()
        if not verb:
            self.written.add("%!(NOVERB)")
            return
        self.at += 1
        self.written.add(self._printed(flags, verb))

    def _printed(self, flags: _Flags, verb: str) -> str:
        if verb == "%":
            return "%"
        if not self.good:
            return f"%!{verb}(BADINDEX)"
        if self.number >= len(self.values):
            return f"%!{verb}(MISSING)"
        if verb == "v":
            flags.sharp_v, flags.sharp = flags.sharp, False
            flags.plus_v, flags.plus = flags.plus, False
        value = self.values[self.number]
        self.number += 1
        return _ValuePrinter(flags).argument(value, verb)

    def _index(self) -> None:
        """Parse ``[n]``, the number of the next argument."""
        if self._peek() != "[":
            return
        self.reordered = True
        end = self.form.find("]", self.at)
        if end < 0:
            self.good, self.at = False, self.at + 1
            return
        text = self.form[self.at + 1 : end]
        self.at = end + 1
        if not re.fullmatch("[0-9]{1,7}", text) or not 1 <= int(text) <= len(self.values):
            self.good = False
            return
        self.number, self.after_index = int(text) - 1, True

    def _star(self) -> int | None:
        """Return the value for ``*`` from the arguments."""
        self.at += 1
        value = _inner(self.values[self.number]) if self.number < len(self.values) else None
        self.number += self.number < len(self.values)
        self.after_index = False
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) > _MAX_NUMBER:
            return None
        return value

    def _digits(self) -> int | None:
        found = re.compile("[0-9]+", re.ASCII).match(self.form, self.at)
        if found is None:
            return None
        if len(found[0]) > 9 or int(found[0]) > _MAX_NUMBER:
            self.at = len(self.form)
            return None
        self.at = found.end()
        return int(found[0])

    def _width(self, flags: _Flags) -> None:
        if self._peek() == "*":
            flags.width = self._star()
            if flags.width is None:
                self.written.add("%!(BADWIDTH)")
            elif flags.width < 0:
                flags.width, flags.minus, flags.zero = -flags.width, True, False
            return
        flags.width = self._digits()
        if self.after_index and flags.width is not None:
            self.good = False

    def _precision(self, flags: _Flags) -> None:
        if self._peek() != ".":
            return
        self.at += 1
        if self.after_index:
            self.good = False
        self._index()
        if self._peek() != "*":
            flags.precision = self._digits() or 0
            return
        flags.precision = self._star()
        if flags.precision is None:
            self.written.add("%!(BADPREC)")
        elif flags.precision < 0:
            flags.precision = None


# ---- JSON ---------------------------------------------------------------------------------------


def to_json(value: Any) -> str:
    """Write a value as Go's JSON encoder does without HTML escapes, on one line."""
    return _encode(value, 0)


_JSON_ESCAPES = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029"})
_HTML_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}


def _encode(value: Any, depth: int) -> str:
    value = _inner(value)
    if depth > _MAX_DEPTH or (isinstance(value, Slice | Map) and value.nil):
        return "null"
    if isinstance(value, list | dict | Struct):
        return _encode_container(value, depth)
    match value:
        case Time():
            return json.dumps(value.text)
        case Duration():
            return f"{int(value)}"
        case float():
            return _json_float(value)
        case str():
            return json.dumps(valid_utf8(value), ensure_ascii=False).translate(_JSON_ESCAPES)
    return json.dumps(value)  # null, true, false, integers


def _encode_container(value: list[Any] | dict[str, Any] | Struct, depth: int) -> str:
    if isinstance(value, list):
        return f"[{','.join(_encode(one, depth + 1) for one in value)}]"
    if isinstance(value, dict):
        return _object([(key, value[key]) for key in sorted(value, key=to_bytes)], depth)
    text = _object(list(json_fields(value)), depth)
    return text.translate(_HTML_ESCAPES) if value.escapes_html else text


def json_fields(value: Struct) -> Iterable[tuple[str, Any]]:
    """Yield the fields that JSON has."""
    for name, item in value.fields.items():
        if name in value.omit_empty and (item is None or item in ("", 0, False, [], {})):
            continue
        yield name, item


def _object(pairs: list[tuple[str, Any]], depth: int) -> str:
    shown = (f"{_encode(key, 0)}:{_encode(item, depth + 1)}" for key, item in pairs)
    return f"{{{','.join(shown)}}}"


def _json_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"json: unsupported value: {format_float(value, 'g', -1)}")
    size = abs(value)
    if size != 0 and (size < 1e-6 or size >= 1e21):
        text = format_float(value, "e", -1)
        return re.sub(r"e-0(\d)$", r"e-\1", text)
    return format_float(value, "f", -1)


def plain(value: Any) -> Any:
    """Convert a value for Python's JSON encoder, with the same order."""
    value = _inner(value)
    if isinstance(value, Slice | Map) and value.nil:
        return None
    if isinstance(value, list):
        return [plain(one) for one in value]
    if isinstance(value, Time | Duration):
        return value.text if isinstance(value, Time) else int(value)
    if isinstance(value, Struct):
        return {name: plain(item) for name, item in json_fields(value)}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value
