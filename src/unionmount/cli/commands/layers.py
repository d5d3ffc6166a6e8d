"""``unionmount layers``."""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.commands.which import created_by
from unionmount.cli.options import platform_option, root_option, stream_format_option
from unionmount.cli.output import human_size, print_table
from unionmount.errors import NotFoundError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.core import Change, LayerSummary, Summary
    from unionmount.images.config import History
    from unionmount.images.opened import OpenImage
    from unionmount.images.platform import Platform

_HEADER = ("LAYER", "DIFF ID", "SIZE", "ADDED", "CHANGED", "DELETED", "WASTED", "CREATED BY")
_BAR = 20  # columns


@click.command("layers")
@platform_option
@stream_format_option
@click.option("--no-trunc", is_flag=True, help="Print digests and commands in full.")
@root_option
@click.argument("source")
@click.argument("number", type=click.IntRange(min=0), required=False)
@click.pass_obj
def command(
    settings: Settings,
    source: str,
    number: int | None,
    platform: Platform | None,
    form: str,
    no_trunc: bool,
) -> None:
    """Show the layers of the image SOURCE, or what layer NUMBER changes.

    Layers are numbered from 0, the lowest. SIZE is the size of the layer's tar. WASTED are the
    bytes of its files that the image does not show, because layers above replace or delete them.
    The efficiency of an image is computed as "dive" does: the sum over all paths of the smallest
    file that a layer has there, divided by the sum of all files that layers have there. A layer
    that deletes a path has 0 bytes there, and hard links count once.

    With NUMBER, one line is printed for each path: A added, C changed, D deleted.
    """
    from unionmount.cli.name_writer import write_objects
    from unionmount.cli.open_image import open_below

    with open_below(settings, source, platform=platform) as image:
        if number is not None:
            _print_changes(image, number, form)
        elif form == "table":
            _print_layers(image, no_trunc=no_trunc)
        else:
            write_objects(_objects(image), form)


def _steps(image: OpenImage) -> list[History | None]:
    from unionmount.images.history import steps_of_layers

    return steps_of_layers(image.image.config.history, len(image.layers))


# ---- the table ---------------------------------------------------------------------------------


def _print_layers(image: OpenImage, *, no_trunc: bool) -> None:
    summary = image.tree().summarise()
    rows = [
        (
            str(number),
            str(layer.diff_id) if no_trunc else layer.diff_id.short,
            human_size(layer.length),
            str(did.added),
            str(did.changed),
            str(did.deleted),
            human_size(did.wasted),
            created_by(step, no_trunc=no_trunc),
        )
        for number, (layer, did, step) in enumerate(
            zip(image.layers, summary.layers, _steps(image), strict=True)
        )
    ]
    print_table(_HEADER, rows, full=no_trunc)
    print()
    if sys.stdout.isatty():
        _print_bars(image, summary)
    print(_sentence(summary))


def _sentence(summary: Summary) -> str:
    wasted = sum(layer.wasted for layer in summary.layers)
    everything = sum(layer.bytes for layer in summary.layers)
    return (
        f"Efficiency {_percent(summary)}: {human_size(wasted)} of {human_size(everything)} "
        "in files are wasted"
    )


def _percent(summary: Summary) -> str:
    """Format the efficiency, which is below 100 % if anything is wasted."""
    return f"{int(summary.efficiency * 1000) / 10:.1f} %"


def _print_bars(image: OpenImage, summary: Summary) -> None:
    """Print a bar for each layer: its share of the image, and the wasted part."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    largest = max((layer.bytes for layer in summary.layers), default=0)
    width = len(str(len(image.layers)))
    for number, layer in enumerate(summary.layers):
        used, wasted = _bar(layer, largest)
        console.print(
            Text.assemble(
                f"{number:>{width}} ",
                ("█" * used, "green"),
                ("▒" * wasted, "red"),
                " " * (_BAR - used - wasted),
                f" {human_size(layer.bytes)}",
                f", {human_size(layer.wasted)} wasted" if layer.wasted else "",
            ),
            no_wrap=True,
        )


def _bar(layer: LayerSummary, largest: int) -> tuple[int, int]:
    """Return the columns for shown and wasted bytes, at least one for each that is not 0."""
    if not layer.bytes:
        return 0, 0
    columns = max(-(-layer.bytes * _BAR // largest), 1)
    wasted = -(-layer.wasted * columns // layer.bytes)
    return columns - wasted, wasted


def _objects(image: OpenImage) -> Iterator[dict[str, Any]]:
    summary = image.tree().summarise()
    rows = zip(image.layers, summary.layers, _steps(image), strict=True)
    for number, (layer, did, step) in enumerate(rows):
        yield {
            "layer": number,
            "diff_id": str(layer.diff_id),
            "size": layer.length,
            "added": did.added,
            "changed": did.changed,
            "deleted": did.deleted,
            "bytes": did.bytes,
            "wasted": did.wasted,
            "created": step.created if step is not None else None,
            "created_by": step.created_by if step is not None else None,
            "efficiency_of_image": round(summary.efficiency, 6),
        }


# ---- one layer ---------------------------------------------------------------------------------


def _print_changes(image: OpenImage, number: int, form: str) -> None:
    from unionmount.cli.name_writer import write_objects
    from unionmount.images.opened import no_such_layer

    if number >= len(image.layers):
        raise NotFoundError(no_such_layer(number, len(image.layers)))
    changes = image.tree().changes(number)
    if form != "table":
        write_objects(map(_change_object, changes), form)
        return
    for change in changes:
        sys.stdout.write(f"{change.kind} /{shown_path(change.path)}\n")


def _change_object(change: Change) -> dict[str, Any]:
    from unionmount.browse.diff import TYPE_NAMES
    from unionmount.cli.name_writer import json_path, octal

    deleted = change.kind == "D"
    return {
        "kind": change.kind,
        "path": json_path(change.path),
        "type": None if deleted else TYPE_NAMES.get(stat.S_IFMT(change.mode), "unknown"),
        "mode": None if deleted else octal(change.mode),
        "size": None if deleted else change.size,
    }


def shown_path(path: bytes) -> str:
    """Return a path of the image with control characters escaped."""
    from unionmount.system.text import printable

    return printable(path)
