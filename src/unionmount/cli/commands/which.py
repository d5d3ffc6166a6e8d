"""``unionmount which``."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import unionmount.cli.declared as click
from unionmount.cli.options import platform_option, root_option, stream_format_option
from unionmount.cli.output import human_size, print_table
from unionmount.errors import UsageError
from unionmount.system.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.browse.layer_history import Touch
    from unionmount.cli.settings import Settings
    from unionmount.images.config import History
    from unionmount.images.opened import OpenImage
    from unionmount.images.platform import Platform

_HEADER = ("LAYER", "DIFF ID", "DID", "MODE", "SIZE", "STATE", "CREATED BY")
_CREATED_BY_MAX = 60


@click.command("which")
@platform_option
@stream_format_option
@click.option("--no-trunc", is_flag=True, help="Print digests and commands in full.")
@root_option
@click.argument("words", metavar="IMAGE PATH", nargs=-1, required=True)
@click.pass_obj
def command(
    settings: Settings, platform: Platform | None, form: str, no_trunc: bool, words: tuple[str, ...]
) -> None:
    """Show what each layer of IMAGE did to PATH, newest first, and which one is visible.

    A layer added the path, changed it, deleted it, mentioned it (as the parent directory of another
    entry), or hid it by a change to a directory above. Symlinks are followed, except for the last
    component. For a CONTAINER, the layers of its image are shown. IMAGE:PATH is the same.
    """
    from unionmount.browse.layer_history import trace
    from unionmount.cli.name_writer import write_objects
    from unionmount.cli.open_image import open_below
    from unionmount.images.history import steps_of_layers
    from unionmount.system.os_errors import naming

    source, path = _operand(words)
    with open_below(settings, source, platform=platform) as image:
        image.require_indexes()
        with naming(f"{printable(source)}:{printable(os.fsdecode(path))}"):
            settled, touches = trace(image.tree(), path)
        steps = steps_of_layers(image.image.config.history, len(image.layers))
        if form == "table":
            rows = [_row(image, steps, touch, no_trunc) for touch in touches]
            print_table(_HEADER, rows, full=no_trunc)
        else:
            write_objects((_object(image, steps, touch, settled) for touch in touches), form)


def _operand(words: Sequence[str]) -> tuple[str, bytes]:
    """Return the image and the path, which may begin without a slash if it stands by itself."""
    from unionmount.cli.operands import image_and_paths

    if len(words) == 2 and not words[1].startswith("/"):
        words = [words[0], f"/{words[1]}"]
    operands = image_and_paths(words)
    if len(operands) != 1 or operands[0].path is None:
        raise UsageError("which takes one image and one path in it: IMAGE PATH")
    return operands[0].image, operands[0].path


def _row(
    image: OpenImage, steps: Sequence[History | None], touch: Touch, no_trunc: bool
) -> tuple[str, ...]:
    found, diff_id = touch.attributes, image.layers[touch.layer].diff_id
    has_size = found is not None and not stat.S_ISDIR(found.mode)
    return (
        str(touch.layer),
        str(diff_id) if no_trunc else diff_id.short,
        _action(touch),
        stat.filemode(found.mode) if found is not None else "-",
        human_size(found.size) if found is not None and has_size else "-",
        _state(touch),
        created_by(steps[touch.layer], no_trunc=no_trunc),
    )


def _action(touch: Touch) -> str:
    """Return the action, and the way in which it hides lower layers unless that is obvious."""
    if touch.because is not None:
        return f"{touch.action} ({touch.how} /{_shown(touch.because)})"
    return f"{touch.action} ({touch.how})" if touch.how in ("opaque", "replaced") else touch.action


def _state(touch: Touch) -> str:
    hides = ", ".join(map(str, touch.hides))
    state = [f"hides {hides}"] if hides else []
    if touch.hidden_by is not None:
        state.append(f"hidden by {touch.hidden_by}")
    elif touch.attributes is not None:
        state.insert(0, "visible")
    return "; ".join(state) or "-"


def created_by(step: History | None, *, no_trunc: bool = False) -> str:
    """Return the command that made a layer, shortened to fit a table."""
    text = one_line(step.created_by) if step is not None else ""
    return text if no_trunc or len(text) <= _CREATED_BY_MAX else text[: _CREATED_BY_MAX - 1] + "…"


def _shown(path: bytes) -> str:
    return printable(path)


def _object(
    image: OpenImage, steps: Sequence[History | None], touch: Touch, path: bytes
) -> dict[str, Any]:
    from unionmount.browse.diff import TYPE_NAMES
    from unionmount.cli.name_writer import json_path, octal

    found, step = touch.attributes, steps[touch.layer]
    return {
        "path": json_path(path),
        "layer": touch.layer,
        "diff_id": str(image.layers[touch.layer].diff_id),
        "action": touch.action,
        "type": TYPE_NAMES.get(stat.S_IFMT(found.mode), "unknown") if found else None,
        "mode": octal(found.mode) if found else None,
        "uid": found.uid if found else None,
        "gid": found.gid if found else None,
        "size": found.size if found and not stat.S_ISDIR(found.mode) else None,
        "mtime_ns": found.mtime_ns if found else None,
        "visible": touch.is_visible,
        "how": touch.how or None,
        "because": json_path(touch.because) if touch.because is not None else None,
        "hides": list(touch.hides),
        "hidden_by": touch.hidden_by,
        "created_by": step.created_by if step is not None else None,
    }
