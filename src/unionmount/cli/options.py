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


_FORMS = ("table", "json", "jsonl")


def list_format_option(function: F) -> F:
    """``--format`` of a list that ``output.Listing`` prints: a form, or a Go template."""
    option = click.option(
        "--format",
        "form",
        metavar="FORM|TEMPLATE",
        default="table",
        callback=check_form(*_FORMS),
        help="table, json, jsonl, or a Go template: '{{.ID}}', 'table {{.ID}}\\t{{.Size}}'.",
    )
    return option(function)


def check_form(*forms: str) -> Callable[[click.Context, click.Parameter, str], str]:
    """A check of ``--format``: one of these forms, the first where nothing is said, or a template.

    What is neither is a mistake; docker would print it as it is.
    """

    def check(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
        if value and value not in forms and "{{" not in value:
            known = ", ".join(forms)
            raise click.BadParameter(f"'{value}' is none of {known}, and no template")
        return value or forms[0]

    return check
