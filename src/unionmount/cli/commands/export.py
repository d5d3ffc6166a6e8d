"""``unionmount export``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import layer_option, platform_option, root_option
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.open import OpenView
    from unionmount.browse.paths import Found
    from unionmount.cli.operands import Operand
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform

_STDOUT = "-"


@click.command("export")
@click.option("-o", "--output", default=_STDOUT, metavar="FILE", help="Default: standard output.")
@platform_option
@layer_option
@root_option
@click.argument("words", metavar="IMAGE [PATH]", nargs=-1, required=True)
@click.pass_obj
def command(
    settings: Settings,
    output: str,
    platform: Platform | None,
    layer: int | None,
    words: tuple[str, ...],
) -> None:
    """Write the files of an image or a container as one tar.

    IMAGE is anything that "mount" accepts; a CONTAINER is exported with its changes. PATH begins
    with '/', and IMAGE:PATH is the same; the names in the tar are relative to it. Symlinks are
    followed inside the image, as in a chroot.

    The tar has owners, modes, times, extended attributes, hard links and devices, and no history
    and no config. The same image always gives the same bytes. FILE appears when it is complete, and
    replaces an existing file.
    """
    from unionmount.cli.open_image import open_files
    from unionmount.cli.operands import image_and_paths

    if output == _STDOUT and sys.stdout.isatty():
        raise UsageError("standard output is a terminal; name a file with -o, or redirect it")
    operand, *others = image_and_paths(words)
    if others and not others[0].is_split:
        raise UsageError(
            f"'{printable(others[0].word)}' is no path inside the image, since it does not begin "
            "with '/'; name the file to write with -o"
        )
    if others:
        raise UsageError("a tar has the files of one path; export the others by themselves")
    with open_files(settings, operand.image, platform=platform, layer=layer) as view:
        _export(view, operand, output)


def _export(view: OpenView, operand: Operand, output: str) -> None:
    from unionmount.browse.paths import follow
    from unionmount.transfer.image_files import replaced_file

    with operand.naming():
        found = follow(view.files, operand.start)
    if output == _STDOUT:
        sys.stdout.flush()
        _write(view, found, sys.stdout.fileno(), "standard output")
        return
    with replaced_file(Path(output)) as fd:
        _write(view, found, fd, output)


def _write(view: OpenView, found: Found, fd: int, what: str) -> None:
    from unionmount.extract.export import export_tar
    from unionmount.runtime.container_owners import owners_of

    export_tar(view, found, fd, what, warn, owners_of(view.changes))


def warn(text: str) -> None:
    """Print a warning."""
    print(f"unionmount: {printable(text)}", file=sys.stderr)
