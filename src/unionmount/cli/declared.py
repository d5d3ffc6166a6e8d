"""Declarations of commands in the words of click, which is not imported for them.

Importing click takes longer than what most commands do. A command module imports this module under
click's name and declares its options with it. The record is read by ``quick_parser``, which is
enough for most command lines, and by ``Declared.build``, which makes a command of click for
everything else: help, wrong usage, completion, manual pages.

Names that are not declarations are those of click, imported when they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import click
    from click import (
        BadParameter,
        ClickException,
        Command,
        Context,
        Parameter,
        UsageError,
        echo,
        exceptions,
        prompt,
    )

    __all__ = [
        "BadParameter",
        "ClickException",
        "Command",
        "Context",
        "Parameter",
        "UsageError",
        "echo",
        "exceptions",
        "prompt",
    ]

F = TypeVar("F", bound=Callable[..., Any])

_PARAMETERS = "__declared_parameters__"
_PASSES = "__declared_passes__"


class DeclaredType:
    """A type of click, by its name there and its arguments."""

    def __init__(self, name: str, *arguments: Any, **named: Any) -> None:
        self.name = name
        self.arguments = arguments
        self.named = named

    def build(self) -> Any:
        """Return the type of click."""
        import click

        if self.name == "Choice":
            from unionmount.cli.choice import NearestChoice

            return NearestChoice(*self.arguments, **self.named)
        made = getattr(click, self.name)
        is_type: bool = isinstance(made, type)
        return made(*self.arguments, **self.named) if is_type else made

    def convert(self, *arguments: Any) -> Any:
        """Convert a value as the type of click does."""
        return self.build().convert(*arguments)


class DeclaredParameter:
    """An option or argument: the names and attributes of its declaration."""

    def __init__(self, kind: str, names: tuple[str, ...], attributes: dict[str, Any]) -> None:
        self.kind = kind  # "option" or "argument"
        self.names = names
        self.attributes = attributes

    def build(self, function: F) -> F:
        """Declare it to click."""
        import click

        attributes = {
            name: value.build() if isinstance(value, DeclaredType) else value
            for name, value in self.attributes.items()
        }
        decorate: Callable[[F], F] = getattr(click, self.kind)(*self.names, **attributes)
        return decorate(function)


class Declared:
    """A command; with ``takes_command``, another command line may follow behind ``--``.

    ``optional`` is an option whose value may be missing: ``--x`` or ``--x=VALUE``.
    """

    def __init__(
        self,
        name: str,
        attributes: dict[str, Any],
        function: Callable[..., Any],
        *,
        takes_command: bool = False,
        optional: str = "",
    ) -> None:
        self.name = name
        self.optional = optional
        self.attributes = attributes
        self.takes_command = takes_command
        self.function = function
        self.passes = getattr(function, _PASSES, None)
        self.parameters: list[DeclaredParameter] = getattr(function, _PARAMETERS, [])[::-1]

    def build(self) -> click.Command:
        """Return the command of click."""
        import click

        function: Any = self.function
        if self.passes is not None:
            function = getattr(click, self.passes)(function)
        for parameter in reversed(self.parameters):
            function = parameter.build(function)
        make: Any = click.command(self.name, **self._classes(), **self.attributes)
        built: click.Command = make(function)
        return built

    def _classes(self) -> dict[str, Any]:
        if self.optional:
            from unionmount.cli.optional_value import command_with_optional_value

            return {"cls": command_with_optional_value(self.optional)}
        if not self.takes_command:
            return {}
        from unionmount.cli.command_behind import CommandWithCommand

        return {"cls": CommandWithCommand}


def command(
    name: str, *, takes_command: bool = False, optional: str = "", **attributes: Any
) -> Callable[[Callable[..., Any]], Declared]:
    """Declare a command."""
    return lambda function: Declared(
        name, attributes, function, takes_command=takes_command, optional=optional
    )


def option(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Declare an option."""
    return _parameter("option", names, attributes)


def argument(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Declare an argument."""
    return _parameter("argument", names, attributes)


def pass_obj(function: F) -> F:
    """Let a command have the settings as its first argument."""
    setattr(function, _PASSES, "pass_obj")
    return function


def pass_context(function: F) -> F:
    """Let a command have click's context as its first argument."""
    setattr(function, _PASSES, "pass_context")
    return function


def Choice(choices: list[str]) -> DeclaredType:  # noqa: N802 - the name that click has
    """One of several words."""
    return DeclaredType("Choice", choices)


def IntRange(min: int | None = None, max: int | None = None) -> DeclaredType:  # noqa: A002, N802
    """A number between two."""
    return DeclaredType("IntRange", min=min, max=max)


BOOL = DeclaredType("BOOL")
UNPROCESSED = DeclaredType("UNPROCESSED")


def _parameter(kind: str, names: tuple[str, ...], attributes: dict[str, Any]) -> Callable[[F], F]:
    def declare(function: F) -> F:
        declared = getattr(function, _PARAMETERS, [])
        setattr(function, _PARAMETERS, [*declared, DeclaredParameter(kind, names, attributes)])
        return function

    return declare


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Return what click has under this name."""
        if name.startswith("__"):
            raise AttributeError(name)
        import click

        return getattr(click, name)
