"""``unionmount layers``."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.commands.which import created_by
from unionmount.cli.options import (
    RegistryOptions,
    platform_option,
    root_option,
    stream_format_option,
)
from unionmount.cli.output import human_size, print_table
from unionmount.cli.remote_image import is_remote, read_remote_image, remote_options
from unionmount.errors import NotFoundError, UnionmountError, UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.browse.layer_waste import Thresholds, TopFiles
    from unionmount.cli.settings import Settings
    from unionmount.core import Change, LayerSummary, PathVersions, Summary
    from unionmount.images.config import Config, History
    from unionmount.images.image import ImageDocuments
    from unionmount.images.opened import OpenImage, OpenLayer
    from unionmount.images.platform import Platform

_COUNTS = ("ADDED", "CHANGED", "DELETED", "WASTED")
_HEADER = ("LAYER", "DIFF ID", "SIZE", *_COUNTS, "CREATED BY")
_REMOTE_HEADER = ("LAYER", "DIGEST", "SIZE", *_COUNTS, "CREATED BY")
_BAR = 20  # columns


@dataclass(frozen=True, slots=True)
class _LayersWanted:
    """What is printed, and in which form."""

    form: str
    no_trunc: bool
    top: int
    thresholds: Thresholds


@click.command("layers")
@platform_option
@stream_format_option
@click.option("--no-trunc", is_flag=True, help="Print digests and commands in full.")
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(min=1, max=100_000),
    help="List the N largest and most wasted files, and those in several layers.",
)
@click.option(
    "--min-efficiency",
    metavar="SHARE",
    help="Fail (exit status 1) if the efficiency is less than SHARE: 0.9, or 90%.",
)
@click.option(
    "--max-wasted",
    metavar="SIZE|SHARE",
    help="Fail if more bytes are wasted: 20MB, or 5% of the bytes in files.",
)
@remote_options
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
    top: int | None,
    min_efficiency: str | None,
    max_wasted: str | None,
    remote: bool,
    registry: RegistryOptions,
) -> None:
    """Show the layers of the image SOURCE, or what layer NUMBER changes.

    Layers are numbered from 0, the lowest. SIZE is the size of the layer's tar. WASTED are the
    bytes of its files that the image does not show, because layers above replace or delete them.
    The efficiency of an image is computed as "dive" does: the sum over all paths of the smallest
    file that a layer has there, divided by the sum of all files that layers have there. A layer
    that deletes a path has 0 bytes there, and hard links count once. Other than in dive, deleting a
    directory deletes the files in it.

    With NUMBER, one line is printed for each path: A added, C changed, D deleted.

    With --remote, or docker://NAME, only the manifest and the config are fetched from a registry.
    SIZE is then that of the layer as it is transferred, and "-" stands for all that only the layer
    itself tells.
    """
    wanted = _LayersWanted(form, no_trunc, top or 0, _thresholds(min_efficiency, max_wasted))
    of_files = top is not None or min_efficiency is not None or max_wasted is not None
    if number is not None and of_files:
        raise UsageError("--top, --min-efficiency and --max-wasted are for the image, not a layer")
    if is_remote(source, remote, registry):
        if number is not None or of_files:
            raise UsageError(
                "NUMBER, --top, --min-efficiency and --max-wasted need the layers; pull the image"
            )
        _print_remote(read_remote_image(settings, registry, source, platform).image, wanted)
        return
    _print_image(settings, source, platform, number, wanted)


def _thresholds(min_efficiency: str | None, max_wasted: str | None) -> Thresholds:
    from unionmount.browse.layer_waste import Allowance, Share, Thresholds

    return Thresholds(
        Share.parse(min_efficiency, "--min-efficiency") if min_efficiency is not None else None,
        Allowance.parse(max_wasted, "--max-wasted") if max_wasted is not None else None,
    )


def _print_image(
    settings: Settings,
    source: str,
    platform: Platform | None,
    number: int | None,
    wanted: _LayersWanted,
) -> None:
    from unionmount.browse.layer_waste import Thresholds, top_files
    from unionmount.cli.open_image import open_below

    with open_below(settings, source, platform=platform) as image:
        counted = number is not None or wanted.top or wanted.thresholds != Thresholds()
        if image.is_unpacked and not counted:
            _print_unpacked(image, wanted)
            return
        image.require_indexes()
        if number is not None:
            _print_changes(image, number, wanted.form)
            return
        tree = image.tree()
        summary = tree.summarise()
        top = top_files(tree, wanted.top) if wanted.top else None
        if wanted.form == "table":
            _print_layers(image, summary, no_trunc=wanted.no_trunc)
            if top is not None:
                _print_top(top)
        else:
            _write(image, summary, top, wanted.form)
    missed = wanted.thresholds.missed(summary)
    if missed:
        sys.stdout.flush()
        raise UnionmountError(f"{printable(source)}: {'; '.join(missed)}")


def _steps(config: Config, layers: int) -> list[History | None]:
    from unionmount.images.history import steps_of_layers

    return steps_of_layers(config.history, layers)


# ---- the table ---------------------------------------------------------------------------------


def _print_layers(image: OpenImage, summary: Summary, *, no_trunc: bool) -> None:
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
        for number, (layer, did, step) in enumerate(_layer_rows(image, summary))
    ]
    print_table(_HEADER, rows, full=no_trunc)
    print()
    if sys.stdout.isatty():
        _print_bars(image, summary)
    print(_sentence(summary))


def _layer_rows(
    image: OpenImage, summary: Summary
) -> Iterator[tuple[OpenLayer, LayerSummary, History | None]]:
    steps = _steps(image.image.config, len(image.layers))
    return zip(image.layers, summary.layers, steps, strict=True)


def _sentence(summary: Summary) -> str:
    from unionmount.browse.layer_waste import wasted_bytes

    wasted, everything = wasted_bytes(summary)
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


# ---- files ---------------------------------------------------------------------------------------


def _print_top(top: TopFiles) -> None:
    """Print a table for each list that is not empty."""
    if top.largest:
        print("\nLargest files that the image shows:\n")
        print_table(
            ("SIZE", "LAYER", "PATH"),
            [(human_size(one.shown), _newest(one), _shown(one)) for one in top.largest],
        )
    if top.wasted:
        print("\nMost wasted files:\n")
        print_table(
            ("WASTED", "IN LAYERS", "PATH"),
            [(human_size(one.wasted), _parts(one, hidden=True), _shown(one)) for one in top.wasted],
        )
    if top.repeated:
        print("\nFiles that several layers have:\n")
        print_table(
            ("SUM", "IN LAYERS", "PATH"),
            [(human_size(_sum(one)), _parts(one), _shown(one)) for one in top.repeated],
        )


def _shown(one: PathVersions) -> str:
    return f"/{shown_path(one.path)}"


def _sum(one: PathVersions) -> int:
    return one.shown + one.wasted


def _newest(one: PathVersions) -> str:
    return str(max(version.layer for version in one.versions if version.shown))


def _parts(one: PathVersions, *, hidden: bool = False) -> str:
    """Return the layers that have a path, each with its bytes; only wasted ones if ``hidden``."""
    return ", ".join(
        f"{version.layer} ({human_size(version.bytes)})"
        for version in one.versions
        if not hidden or (version.bytes and not version.shown)
    )


# ---- objects -------------------------------------------------------------------------------------


def _write(image: OpenImage, summary: Summary, top: TopFiles | None, form: str) -> None:
    """Print the layers; with files, one object for everything, or lines that name their list."""
    from unionmount.browse.layer_waste import wasted_bytes
    from unionmount.cli.name_writer import write_objects

    layers = _objects(image, summary)
    if top is None:
        write_objects(layers, form)
        return
    lists = {
        "largest": map(_file_object, top.largest),
        "wasted": map(_file_object, top.wasted),
        "repeated": map(_file_object, top.repeated),
    }
    if form == "jsonl":
        lines = {"layers": layers, **lists}
        write_objects(({"list": name} | one for name, some in lines.items() for one in some), form)
        return
    wasted, everything = wasted_bytes(summary)
    found = {
        "efficiency": round(summary.efficiency, 6),
        "bytes": everything,
        "wasted_bytes": wasted,
        "layers": list(layers),
        **{name: list(some) for name, some in lists.items()},
    }
    print(json.dumps(found, indent=2))


def _file_object(one: PathVersions) -> dict[str, Any]:
    from unionmount.cli.name_writer import json_path

    versions = [
        {"layer": version.layer, "bytes": version.bytes, "shown": version.shown}
        for version in one.versions
    ]
    return {
        "path": json_path(one.path),
        "shown": one.shown,
        "wasted": one.wasted,
        "versions": versions,
    }


def _objects(image: OpenImage, summary: Summary) -> Iterator[dict[str, Any]]:
    for number, (layer, did, step) in enumerate(_layer_rows(image, summary)):
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


# ---- an image of a registry ----------------------------------------------------------------------


def _print_remote(image: ImageDocuments, wanted: _LayersWanted) -> None:
    from unionmount.cli.name_writer import write_objects

    steps = _steps(image.config, len(image.layers))
    if wanted.form != "table":
        write_objects(_remote_objects(image, steps), wanted.form)
        return
    rows = [
        (
            str(number),
            str(layer.digest) if wanted.no_trunc else layer.digest.short,
            human_size(layer.size),
            *("-" for _ in _COUNTS),
            created_by(step, no_trunc=wanted.no_trunc),
        )
        for number, (layer, step) in enumerate(zip(image.layers, steps, strict=True))
    ]
    print_table(_REMOTE_HEADER, rows, full=wanted.no_trunc)


def _remote_objects(
    image: ImageDocuments, steps: Sequence[History | None]
) -> Iterator[dict[str, Any]]:
    """Yield the same keys as for an image that is here, and those of a layer in transport."""
    unknown = dict.fromkeys(("size", "added", "changed", "deleted", "bytes", "wasted"))
    rows = zip(image.layers, image.diff_ids, steps, strict=True)
    for number, (layer, diff_id, step) in enumerate(rows):
        yield {
            "layer": number,
            "diff_id": str(diff_id),
            **unknown,
            "created": step.created if step is not None else None,
            "created_by": step.created_by if step is not None else None,
            "efficiency_of_image": None,
            "digest": str(layer.digest),
            "media_type": layer.media_type,
            "compressed_size": layer.size,
        }


# ---- an image of another tool's store ------------------------------------------------------------


def _print_unpacked(image: OpenImage, wanted: _LayersWanted) -> None:
    """Print what the tool has recorded; the layers were never counted here."""
    from unionmount.cli.name_writer import write_objects

    steps = _steps(image.image.config, len(image.layers))
    layers = list(zip(image.layers, steps, strict=True))
    if wanted.form != "table":
        write_objects((_unpacked_object(*row) for row in enumerate(layers)), wanted.form)
        return
    rows = [
        (
            str(number),
            str(layer.diff_id) if wanted.no_trunc else layer.diff_id.short,
            human_size(layer.length),
            *("-" for _ in _COUNTS),
            created_by(step, no_trunc=wanted.no_trunc),
        )
        for number, (layer, step) in enumerate(layers)
    ]
    print_table(_HEADER, rows, full=wanted.no_trunc)


def _unpacked_object(number: int, row: tuple[OpenLayer, History | None]) -> dict[str, Any]:
    layer, step = row
    unknown = dict.fromkeys(("added", "changed", "deleted", "bytes", "wasted"))
    return {
        "layer": number,
        "diff_id": str(layer.diff_id),
        "size": layer.length,
        **unknown,
        "created": step.created if step is not None else None,
        "created_by": step.created_by if step is not None else None,
        "efficiency_of_image": None,
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
    return printable(path)
