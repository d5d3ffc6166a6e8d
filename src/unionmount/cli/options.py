"""Options that several subcommands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _set_root(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.obj.root = value


def _add_store(context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> None:
    context.obj.additional += value


def root_option(function: F) -> F:
    """``--root`` and ``--additional-store`` after the subcommand, too."""
    additional = click.option(
        "--additional-store",
        metavar="DIR",
        multiple=True,
        expose_value=False,
        callback=_add_store,
        help="A store to read, too, where ours lacks something; repeatable.",
    )
    option = click.option(
        "--root",
        metavar="DIR",
        expose_value=False,
        callback=_set_root,
        help="The store; default $UNIONMOUNT_ROOT or the user's own.",
    )
    return option(additional(function))


def platform_option(function: F) -> F:
    """``--platform``, as text."""
    option = click.option(
        "--platform",
        metavar="OS/ARCH[/VARIANT]",
        help="Take the image for this platform; default this machine's.",
    )
    return option(function)


def format_option(function: F) -> F:
    """``--format``."""
    option = click.option(
        "--format",
        "form",
        type=click.Choice(["table", "json"]),
        default="table",
        help="How to print.",
    )
    return option(function)
