"""``unionmount cat``."""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import layer_option, platform_option, root_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.cli.settings import Settings
    from unionmount.core import BrowsableTree, Node
    from unionmount.images.platform import Platform

_STEP = 1024 * 1024


@click.command("cat")
@platform_option
@layer_option
@root_option
@click.argument("operands", metavar="IMAGE:PATH…", nargs=-1, required=True)
@click.pass_obj
def command(
    settings: Settings, platform: Platform | None, layer: int | None, operands: tuple[str, ...]
) -> None:
    """Write files of an image to standard output, one after the other.

    IMAGE is anything that "mount" accepts; a CONTAINER is shown with its changes. PATH begins with
    '/'. Symlinks are followed inside the image, as in a chroot; only regular files are read.
    """
    from unionmount.cli.open_image import split_with_path

    split = [(operand, *split_with_path(operand)) for operand in operands]
    sys.stdout.flush()
    for operand, word, path in split:
        _write(settings, operand, word, path, platform=platform, layer=layer)
    sys.stdout.buffer.flush()


def _write(
    settings: Settings,
    operand: str,
    word: str,
    path: bytes,
    *,
    platform: Platform | None,
    layer: int | None,
) -> None:
    from unionmount.browse.paths import follow
    from unionmount.cli.open_image import open_files
    from unionmount.errors import UnionmountError
    from unionmount.system.os_errors import naming
    from unionmount.system.text import printable

    with open_files(settings, word, platform=platform, layer=layer) as view:
        with naming(operand):
            found = follow(view.files, path)
        if found.is_directory:
            raise UnionmountError(f"{printable(operand)}: is a directory")
        if not stat.S_ISREG(found.attributes.mode):
            raise UnionmountError(f"{printable(operand)}: is not a regular file")
        for data in _pieces(view.files, found.attributes.node, operand):
            sys.stdout.buffer.write(data)


def _pieces(files: BrowsableTree, node: Node, operand: str) -> Iterator[bytes]:
    from unionmount.system.os_errors import naming

    offset = 0
    while True:
        with naming(operand):
            data = files.read(node, offset, _STEP)
        if not data:
            return
        yield data
        offset += len(data)
