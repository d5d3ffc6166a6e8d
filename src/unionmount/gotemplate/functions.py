"""The functions of templates: Go's own, and those that docker adds.

Go's are in ``text/template/funcs.go``, docker's in ``cli/templates``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

from unionmount.gotemplate.formatting import (
    MAX_STRING,
    Joined,
    TooLong,
    show,
    sprint,
    sprintf,
    sprintln,
    to_json,
)
from unionmount.gotemplate.quoting import is_printable, to_bytes, to_text
from unionmount.gotemplate.values import (
    Byte,
    Interface,
    Map,
    Missing,
    Slice,
    Struct,
    bare,
    element,
    kind_of,
    truth,
    type_name,
)

_MAX_PARTS = 1_000_000


class FunctionError(Exception):
    """A function failed."""


@dataclass(frozen=True, slots=True)
class FunctionOf:
    """A function and the types of its parameters in Go; with ``more``, the last one is variadic."""

    run: Callable[..., Any]
    takes: tuple[str, ...] = ()
    more: str | None = None


# ---- containers ----------------------------------------------------------------------------------


def _position(value: Any, last: int) -> int:
    if isinstance(value, Missing):
        raise FunctionError("cannot index slice/array with nil")
    if kind_of(value) not in ("int", "uint"):
        raise FunctionError(f"cannot index slice/array with type {type_name(value)}")
    if not 0 <= value <= last:
        raise FunctionError(f"index out of range: {value}")
    return int(value)


def _index(item: Any, *positions: Any) -> Any:
    if isinstance(bare(item), Missing):
        raise FunctionError("index of untyped nil")
    item = bare(item)
    for position in positions:
        item = bare(item)
        if isinstance(item, Missing):
            raise FunctionError("index of nil pointer")
        item = _element_at(item, bare(position))
    return item


def _element_at(item: Any, position: Any) -> Any:
    match item:
        case list() | str():
            items = to_bytes(item) if isinstance(item, str) else item
            at = _position(position, len(items))
            if at >= len(items):
                kind = "string" if isinstance(items, bytes) else "slice"
                raise FunctionError(f"reflect: {kind} index out of range")
            return Byte(items[at]) if isinstance(items, bytes) else element(items, items[at])
        case dict():
            if isinstance(position, Missing):
                raise FunctionError("value is nil; should be of type string")
            if not isinstance(position, str):
                raise FunctionError(f"value has type {type_name(position)}; should be string")
            if position in item:
                return element(item, item[position])
            return item.zero if isinstance(item, Map) else Interface(None)
    raise FunctionError(f"can't index item of type {type_name(item)}")


def _slice(item: Any, *positions: Any) -> Any:
    item = bare(item)
    if isinstance(item, Missing):
        raise FunctionError("slice of untyped nil")
    if len(positions) > 3:
        raise FunctionError(f"too many slice indexes: {len(positions)}")
    if isinstance(item, str) and len(positions) == 3:
        raise FunctionError("cannot 3-index slice a string")
    if not isinstance(item, str | list):
        raise FunctionError(f"can't slice item of type {type_name(item)}")
    items = to_bytes(item) if isinstance(item, str) else item
    at = [_position(one, len(items)) for one in positions]  # in Go, an interface is not a number
    ends = [*at, *[0, len(items)][len(at) :]]
    if ends[0] > ends[1]:
        raise FunctionError(f"invalid slice index: {ends[0]} > {ends[1]}")
    if len(ends) == 3 and ends[1] > ends[2]:
        raise FunctionError(f"invalid slice index: {ends[1]} > {ends[2]}")
    part = items[ends[0] : ends[1]]
    if isinstance(part, bytes):
        return to_text(part)
    return Slice(part) if isinstance(item, Slice) else part


def _len(item: Any) -> int:
    if isinstance(item, Interface) and item.value is None:
        raise FunctionError("len of nil pointer")
    item = bare(item)
    if isinstance(item, Missing):
        raise FunctionError("reflect: call of reflect.Value.Type on zero Value")
    if isinstance(item, str):
        return len(to_bytes(item))
    if isinstance(item, list | dict):
        return len(item)
    raise FunctionError(f"len of type {type_name(item)}")


# ---- comparisons ---------------------------------------------------------------------------------

_BASIC = ("bool", "int", "uint", "float", "string")


def _basic_kind(value: Any) -> str:
    kind = kind_of(value)
    return kind if kind in _BASIC else "invalid"


def _incompatible(left: Any, right: Any) -> FunctionError:
    names = f"{type_name(left)} and {type_name(right)}"
    return FunctionError(f"incompatible types for comparison: {names}")


def _eq(first: Any, *others: Any) -> bool:
    first = bare(first)
    if not others:
        raise FunctionError("missing argument for comparison")
    return any(_same(first, bare(other)) for other in others)


def _same(left: Any, right: Any) -> bool:
    kinds = {_basic_kind(left), _basic_kind(right)}
    if len(kinds) == 2:
        if kinds == {"int", "uint"}:
            return bool(left == right)
        if isinstance(left, Missing) or isinstance(right, Missing):
            return False
        raise _incompatible(left, right)
    if kinds != {"invalid"}:
        return bool(left == right)
    return _same_reference(left, right)


def _same_reference(left: Any, right: Any) -> bool:
    """Return whether two values that Go cannot compare are both nil."""
    kinds = {kind_of(left), kind_of(right)}
    if len(kinds) == 2 and "invalid" not in kinds:
        raise FunctionError(
            f"non-comparable types {show(left, 's')}: {type_name(left)}, "
            f"{type_name(right)}: {show(right)}"
        )
    if _is_nil(left) or _is_nil(right):
        return _is_nil(left) == _is_nil(right)
    if not isinstance(right, Struct):
        raise FunctionError(f"non-comparable type {show(right, 's')}: {type_name(right)}")
    return bool(left == right)


def _is_nil(value: Any) -> bool:
    if isinstance(value, Slice | Map):
        return value.nil
    return isinstance(value, Missing)


def _ordered(value: Any) -> str:
    kind = _basic_kind(value)
    if kind == "invalid":
        raise FunctionError("invalid type for comparison")
    return kind


def _lt(left: Any, right: Any) -> bool:
    left, right = bare(left), bare(right)
    kinds = _ordered(left), _ordered(right)
    if kinds[0] != kinds[1] and set(kinds) != {"int", "uint"}:
        raise _incompatible(left, right)
    if kinds[0] == "bool":
        raise FunctionError("invalid type for comparison")
    if kinds[0] == "string":
        return to_bytes(left) < to_bytes(right)
    return bool(left < right)


def _le(left: Any, right: Any) -> bool:
    return _lt(left, right) or _eq(left, right)


# ---- strings -------------------------------------------------------------------------------------


def _text_of(values: tuple[Any, ...]) -> str:
    """Return the text that the escaping functions escape."""
    if len(values) == 1 and isinstance(bare(values[0]), str):
        return str(bare(values[0]))
    shown = ["<no value>" if isinstance(bare(one), Missing) else one for one in values]
    return sprint(shown)


_HTML = {"\0": "\ufffd", '"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;"}
_JS = {
    "\\": "\\\\",
    "'": "\\'",
    '"': '\\"',
    "<": "\\u003C",
    ">": "\\u003E",
    "&": "\\u0026",
    "=": "\\u003D",
}


def _html(*values: Any) -> str:
    return "".join(_HTML.get(c, c) for c in _text_of(values))


def _js_character(character: str) -> str:
    if character in _JS:
        return _JS[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return "\ufffd"
    if code < 0x20 or (code >= 0x80 and not is_printable(character)):
        return f"\\u{code:04X}"
    return character


def _js(*values: Any) -> str:
    return "".join(map(_js_character, _text_of(values)))


def _urlquery(*values: Any) -> str:
    return quote_plus(to_bytes(_text_of(values)))


def _join(items: Any, separator: str) -> str:
    items = bare(items)
    if isinstance(items, Missing):
        return ""
    joined = Joined()
    for number, one in enumerate(items):
        joined.add((separator if number else "") + show(one))
    return str(joined)


def _split(text: str, separator: str) -> Slice:
    parts = text.split(separator, _MAX_PARTS) if separator else list(text)
    if len(parts) > _MAX_PARTS:
        raise FunctionError(f"more than {_MAX_PARTS} parts")
    return Slice(parts)


def _each(text: str, change: Callable[[str], str]) -> str:
    """Convert single characters, as Go does: one that would become two is kept."""
    if text.isascii():
        return change(text)
    return "".join(new if len(new := change(one)) == 1 else one for one in text)


def _title(text: str) -> str:
    """Convert the first letter of each word to title case, like Go's ``strings.Title``."""
    before, found = " ", []
    for character in text:
        found.append(_each(character, str.title) if _separates(before) else character)
        before = character
    return "".join(found)


def _separates(character: str) -> bool:
    if character.isascii():
        return not (character.isalnum() or character == "_")
    return character.isspace()


def _pad(text: str, before: int, after: int) -> str:
    if not text:
        return text
    if before < 0 or after < 0:
        raise FunctionError("strings: negative Repeat count")
    if before + after > MAX_STRING:
        raise TooLong
    return " " * before + text + " " * after


def _truncate(text: str, length: int) -> str:
    data = to_bytes(text)
    if len(data) < length:
        return text
    if length < 0:
        raise FunctionError(f"runtime error: slice bounds out of range [:{length}]")
    return to_text(data[:length])


def _json(value: Any) -> str:
    try:
        return to_json(bare(value))
    except ValueError:
        return ""


def _printf(form: str, *values: Any) -> str:
    return sprintf(form, list(values))


def _call(name: str, function: Any, *_arguments: Any) -> Any:
    if isinstance(bare(function), Missing):
        raise FunctionError("call of nil")
    raise FunctionError(f"non-function {name} of type {type_name(bare(function))}")


_ANY = "interface {}"
_VALUE = "reflect.Value"

BUILTIN = {
    "and": FunctionOf(bool, (_VALUE,), _VALUE),  # evaluated by the machine
    "or": FunctionOf(bool, (_VALUE,), _VALUE),
    "call": FunctionOf(_call, (_VALUE,), _VALUE),
    "html": FunctionOf(_html, (), _ANY),
    "index": FunctionOf(_index, (_VALUE,), _VALUE),
    "slice": FunctionOf(_slice, (_VALUE,), _VALUE),
    "js": FunctionOf(_js, (), _ANY),
    "len": FunctionOf(_len, (_VALUE,)),
    "not": FunctionOf(lambda value: not truth(value), (_VALUE,)),
    "print": FunctionOf(lambda *values: sprint(values), (), _ANY),
    "printf": FunctionOf(_printf, ("string",), _ANY),
    "println": FunctionOf(lambda *values: sprintln(values), (), _ANY),
    "urlquery": FunctionOf(_urlquery, (), _ANY),
    "eq": FunctionOf(_eq, (_VALUE,), _VALUE),
    "ne": FunctionOf(lambda left, right: not _eq(left, right), (_VALUE, _VALUE)),
    "lt": FunctionOf(_lt, (_VALUE, _VALUE)),
    "le": FunctionOf(_le, (_VALUE, _VALUE)),
    "gt": FunctionOf(lambda left, right: not _le(left, right), (_VALUE, _VALUE)),
    "ge": FunctionOf(lambda left, right: not _lt(left, right), (_VALUE, _VALUE)),
}

DOCKER = {
    "json": FunctionOf(_json, (_ANY,)),
    "split": FunctionOf(_split, ("string", "string")),
    "join": FunctionOf(_join, ("[]string", "string")),
    "title": FunctionOf(_title, ("string",)),
    "lower": FunctionOf(lambda text: _each(text, str.lower), ("string",)),
    "upper": FunctionOf(lambda text: _each(text, str.upper), ("string",)),
    "pad": FunctionOf(_pad, ("string", "int", "int")),
    "truncate": FunctionOf(_truncate, ("string", "int")),
}

HEADER = DOCKER | {
    "json": FunctionOf(lambda text: text, ("string",)),
    "title": FunctionOf(lambda text: text, ("string",)),
    "lower": FunctionOf(lambda text: text, ("string",)),
    "upper": FunctionOf(lambda text: text, ("string",)),
    "truncate": FunctionOf(lambda text, _length: text, ("string", "int")),
}
"""The functions for headings of tables, which do not change them."""
