"""``unionmount diff``."""

from __future__ import annotations

import json
import stat
import sys
from typing import TYPE_CHECKING, Any

import click

from unionmount.cli.options import check_form, root_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.changes import Difference
    from unionmount.cli import Settings


@click.command("diff")
@click.option(
    "--format",
    "form",
    metavar="FORM|TEMPLATE",
    default="text",
    callback=check_form("text", "json", "jsonl"),
    help="text, json, jsonl, or a Go template: '{{.Kind}} {{.Path}}'.",
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
    U+DCFF, as in Python. Fields of a template: .Kind .Path .Type .Changes .Size
    """
    from unionmount.cli.changed import open_target

    with open_target(settings, target) as opened:
        differences = opened.compare().differences()
        _print(form, differences)
        opened.check_there()


def _print(form: str, differences: Iterator[Difference]) -> None:
    if form == "text":
        _print_text(differences)
    elif form == "json":
        _print_json(differences)
    elif form == "jsonl":
        for found in differences:
            sys.stdout.write(json.dumps(_object(found)) + "\n")
    else:
        _print_template(form, differences)


def _print_template(text: str, differences: Iterator[Difference]) -> None:
    from unionmount.cli.output import Row, print_by_template

    rows = (Row.of(_object(found)) for found in differences)
    print_by_template("formatter.diffContext", text, rows)


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
