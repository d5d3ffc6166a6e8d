"""Options that several subcommands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _set_root(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.obj.root = value


def root_option(function: F) -> F:
    """``--root`` after the subcommand, too."""
    option = click.option(
        "--root",
        metavar="DIR",
        expose_value=False,
        callback=_set_root,
        help="The store; default $UNIONMOUNT_ROOT or the user's own.",
    )
    return option(function)


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


def layer_option(function: F) -> F:
    """``--layer``: the image as it was when that layer was made."""
    option = click.option(
        "--layer",
        metavar="N",
        type=click.IntRange(min=0),
        help="Take the image as of layer N; 0 is the lowest.",
    )
    return option(function)


def stream_format_option(function: F) -> F:
    """``--format`` of what may be long."""
    option = click.option(
        "--format",
        "form",
        type=click.Choice(["table", "json", "jsonl"]),
        default="table",
        help="How to print.",
    )
    return option(function)
