"""Parsing a usual command line by the declarations of its command (``declared``), as click does.

NotQuick is raised by everything else: what is wrong, rare or not known here. Then click parses the
command line again, and says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from unionmount.cli.declared import Declared, DeclaredParameter, DeclaredType
from unionmount.cli.settings import Settings

_OPTION_ATTRIBUTES = frozenset(
    {"callback", "default", "expose_value", "help", "is_flag", "metavar", "multiple"}
    | {"show_default", "type"}
)
_COMMAND_ATTRIBUTES = frozenset({"help"})
_ARGUMENT_ATTRIBUTES = frozenset({"metavar", "nargs", "required"})


class NotQuick(Exception):
    """The command line has to be parsed by click."""


class _Context:
    """The part of click's context that callbacks use."""

    def __init__(self, settings: Settings) -> None:
        self.obj = settings


def parse_group(words: Sequence[str], settings: Settings) -> Sequence[str]:
    """Take the options before the command into ``settings``, and return the rest."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if name == "--debug" and not equals:
            settings.debug = True
            continue
        if name not in ("--root", "--additional-store") or not (equals or rest):
            raise NotQuick
        value = value if equals else rest.pop(0)
        if name == "--root":
            settings.root = value
        else:
            settings.additional += (value,)
    return rest


def parse_command(
    command: Declared, words: Sequence[str], settings: Settings
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the function of a command, and its arguments besides the settings."""
    if command.passes != "pass_obj" or not _COMMAND_ATTRIBUTES.issuperset(command.attributes):
        raise NotQuick
    options = [_Option(one) for one in command.parameters if one.kind == "option"]
    values: dict[str, Any] = {}
    if command.optional:
        raise NotQuick
    if command.takes_command and "--" in words:
        words, values["words"] = _split(words)
    operands = _parse_options(options, words)
    if "words" in values and not operands:  # click tells what "--" stands for
        raise NotQuick
    for option in options:
        value = option.final(settings)
        if option.exposed:
            values[option.name] = value
    arguments = [one for one in command.parameters if one.kind == "argument"]
    return command.function, values | _parse_arguments(arguments, operands)


def _split(words: Sequence[str]) -> tuple[Sequence[str], tuple[str, ...]]:
    """Split a command line from the other one behind ``--``."""
    end = words.index("--")
    if not words[end + 1 :]:
        raise NotQuick
    return words[:end], tuple(words[end + 1 :])


class _Option:
    """An option, and the values that it was given."""

    def __init__(self, declared: DeclaredParameter) -> None:
        attributes = declared.attributes
        if not _OPTION_ATTRIBUTES.issuperset(attributes):
            raise NotQuick
        self.names = [name for name in declared.names if name.startswith("-")]
        self.name = _name_of(declared.names)
        self.is_flag = bool(attributes.get("is_flag"))
        self.exposed = attributes.get("expose_value", True)
        self._attributes = attributes
        self._given: list[Any] = []

    def give(self, value: str | None) -> None:
        self._given.append(True if value is None else _converted(self._attributes, value))

    def final(self, settings: Settings) -> Any:
        """Return the value that the command gets."""
        if self._attributes.get("multiple"):
            value: Any = tuple(self._given)
        elif self._given:
            value = self._given[-1]
        else:
            value = self._attributes.get("default", False if self.is_flag else None)
        callback = self._attributes.get("callback")
        if callback is None:
            return value
        try:
            return callback(_Context(settings), None, value)
        except Exception as error:
            raise NotQuick from error


def _name_of(names: Sequence[str]) -> str:
    """Return the name of a parameter, as click chooses it."""
    for name in names:
        if name.isidentifier():
            return name
    longest = max(names, key=lambda name: len(name) - len(name.lstrip("-")))
    return longest.lstrip("-").replace("-", "_").lower()


def _converted(attributes: dict[str, Any], value: str) -> Any:
    kind = attributes.get("type")
    if kind is None:
        return value
    if not isinstance(kind, DeclaredType):
        raise NotQuick
    if kind.name == "Choice" and value in kind.arguments[0]:
        return value
    if kind.name == "IntRange" and value.isascii() and value.isdecimal():
        number, most = int(value), kind.named["max"]
        if number >= (kind.named["min"] or 0) and (most is None or number <= most):
            return number
    raise NotQuick


def _parse_options(options: Sequence[_Option], words: Sequence[str]) -> list[str]:
    """Give the options their values, and return the other words."""
    known = {name: option for option in options for name in option.names}
    operands: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            operands += rest
        elif word == "-" or not word.startswith("-"):
            operands.append(word)
        elif word.startswith("--"):
            _parse_long(known, word, rest)
        else:
            _parse_short(known, word, rest)
    return operands


def _parse_long(known: dict[str, _Option], word: str, rest: Iterator[str]) -> None:
    name, equals, value = word.partition("=")
    option = known.get(name)
    if option is None or (option.is_flag and equals):
        raise NotQuick
    if option.is_flag:
        option.give(None)
    else:
        option.give(value if equals else _next(rest))


def _parse_short(known: dict[str, _Option], word: str, rest: Iterator[str]) -> None:
    """Parse ``-f``, several such in one word, and ``-oVALUE``."""
    for at, letter in enumerate(word[1:], 1):
        option = known.get(f"-{letter}")
        if option is None:
            raise NotQuick
        if not option.is_flag:
            option.give(word[at + 1 :] or _next(rest))
            return
        option.give(None)


def _next(rest: Iterator[str]) -> str:
    try:
        return next(rest)
    except StopIteration:
        raise NotQuick from None


def _parse_arguments(declared: Sequence[DeclaredParameter], words: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    value: Any
    for number, argument in enumerate(declared):
        attributes = argument.attributes
        if not _ARGUMENT_ATTRIBUTES.issuperset(attributes):
            raise NotQuick
        is_last = number == len(declared) - 1
        required = attributes.get("required", attributes.get("nargs", 1) == 1)
        if attributes.get("nargs", 1) == -1 and is_last:
            value, words = tuple(words), []
        elif attributes.get("nargs", 1) == 1:
            value, words = (words[0] if words else None), words[1:]
        else:
            raise NotQuick
        if required and not value:  # an empty word is for click to judge
            raise NotQuick
        values[_name_of(argument.names)] = value
    if words:
        raise NotQuick
    return values
