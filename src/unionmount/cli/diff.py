"""``unionmount diff``."""

from __future__ import annotations

import json
import stat
import sys
from typing import TYPE_CHECKING, Any

import click

from unionmount.cli.options import root_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.changes import Difference
    from unionmount.cli import Settings


@click.command("diff")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How to print.",
)
@root_option
@click.argument("target")
@click.pass_obj
def command(settings: Settings, target: str, form: str) -> None:
    """Show what was changed in TARGET: a container, or a mount by its mount point or ID.

    One line for each path: A added, C changed, D deleted; a deleted directory is one line, a
    directory that holds something different is C. Compared are type, content, mode, owner, extended
    attributes, modification time and hard links: what only was opened, or written as it was, is not
    listed; what only has another time is. A renamed directory is D there and A here.

    With --format json, "changes" says what of a C is not the same: type, content, mode, owner,
    xattrs, times, links. Bytes of a path that are not UTF-8 are lone surrogates there, U+DC80 to
    U+DCFF, as in Python.
    """
    from unionmount.cli.changed import open_target

    with open_target(settings, target) as opened:
        differences = opened.compare().differences()
        if form == "json":
            _print_json(differences)
        else:
            _print_text(differences)
        opened.check_there()


def _print_text(differences: Iterator[Difference]) -> None:
    from unionmount.reference import printable

    for found in differences:
        sys.stdout.write(f"{found.kind} /{printable(found.path)}\n")


def _print_json(differences: Iterator[Difference]) -> None:
    """Print an array while it is made: it may be long."""
    before = "[\n"
    for found in differences:
        sys.stdout.write(before + "  " + json.dumps(_object(found)))
        before = ",\n"
    sys.stdout.write("[]\n" if before == "[\n" else "\n]\n")


def _object(found: Difference) -> dict[str, Any]:
    from unionmount.changes import TYPE_NAMES

    return {
        "kind": found.kind,
        "path": "/" + found.path.decode("utf-8", "surrogateescape"),
        "type": TYPE_NAMES.get(stat.S_IFMT(found.mode), "unknown"),
        "changes": list(found.changes),
        "size": found.size,
    }
