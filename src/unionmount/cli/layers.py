"""``unionmount layers``."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from unionmount.cli.options import platform_option, root_option
from unionmount.cli.output import human_size, print_table
from unionmount.errors import NotFoundError

if TYPE_CHECKING:
    from unionmount.cli import Settings
    from unionmount.image import Config
    from unionmount.layer import OpenImage

_HEADER = ("LAYER", "DIFF ID", "SIZE", "ADDED", "CHANGED", "DELETED", "CREATED BY")
_CREATED_BY_MAX = 60


@click.command("layers")
@platform_option
@root_option
@click.argument("source")
@click.argument("number", type=click.IntRange(min=0), required=False)
@click.pass_obj
def command(settings: Settings, source: str, number: int | None, platform: str | None) -> None:
    """Show the layers of the image SOURCE, or what layer NUMBER changes.

    Layers are numbered from 0, the lowest. With NUMBER one line for each path: A added, C changed,
    D deleted.
    """
    from unionmount.cli.opening import open_source

    with open_source(settings, source, platform=platform) as image:
        if number is None:
            print_table(_HEADER, list(_rows(image)))
        else:
            _print_changes(image, number)


def _rows(image: OpenImage) -> Iterator[tuple[str, ...]]:
    tree = image.tree()
    commands = _created_by(image.image.config)
    for number, layer in enumerate(image.layers):
        counts = Counter(change.kind for change in tree.changes(number))
        yield (
            str(number),
            layer.diff_id.short,
            human_size(layer.length),
            *(str(counts[kind]) for kind in "ACD"),
            commands[number] if number < len(commands) else "",
        )


def _created_by(config: Config) -> list[str]:
    """The command that made each layer, cut to one line of a table."""
    made = [" ".join(step.created_by.split()) for step in config.history if not step.empty_layer]
    return [c if len(c) <= _CREATED_BY_MAX else c[: _CREATED_BY_MAX - 1] + "…" for c in made]


def _print_changes(image: OpenImage, number: int) -> None:
    if number >= len(image.layers):
        raise NotFoundError(f"there is no layer {number}, the image has {len(image.layers)}")
    for change in image.tree().changes(number):
        sys.stdout.write(f"{change.kind} /{shown_path(change.path)}\n")


def shown_path(path: bytes) -> str:
    """A path of the image without what a terminal would obey."""
    from unionmount.reference import printable

    return printable(path)
