"""``unionmount browse``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import layer_option, platform_option, root_option
from unionmount.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform
    from unionmount.screen.stacks import Stacks


@click.command("browse")
@platform_option
@layer_option
@root_option
@click.argument("source", metavar="IMAGE")
@click.pass_context
def command(
    context: click.Context, platform: Platform | None, layer: int | None, source: str
) -> None:
    """Look into an image on the screen: its layers, what each changed, and all files.

    IMAGE is anything that "mount" accepts; a CONTAINER is shown with its changes as the topmost
    layer. The list on the left has the layers, the tree on the right what the chosen one added
    (A), changed (C) and deleted (D). Files can be filtered, looked into and extracted. "?" shows
    all keys; those of dive do the same here.
    """
    _check_terminal()
    _check_textual()
    settings: Settings = context.obj
    from unionmount.cli.open_image import open_files
    from unionmount.screen.stacks import Stacks

    with (
        open_files(settings, source, platform=platform, layer=layer) as view,
        Stacks(view, source) as stacks,
    ):
        status = _run(stacks)
    context.exit(status)


def _run(stacks: Stacks) -> int:
    from unionmount.screen.app import run_screen

    return run_screen(stacks)


def _check_terminal() -> None:
    """Raise UsageError unless there is a terminal to draw on and to read keys from."""
    names = ("input", "output", "error")
    for name, stream in zip(names, (sys.stdin, sys.stdout, sys.stderr), strict=True):
        if not stream.isatty():
            raise UsageError(
                f"browse needs a terminal, and standard {name} is none; use ls, find or layers"
            )
    if os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError("browse needs a terminal that can move the cursor, and TERM is 'dumb'")


def _check_textual() -> None:
    from importlib.util import find_spec

    if find_spec("textual") is None:
        raise NotFoundError(
            "browse needs the package textual; install it: pip install 'unionmount[browse]'"
        )
