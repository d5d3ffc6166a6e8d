"""``unionmount cat``."""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import layer_option, platform_option, root_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.cli.operands import Operand
    from unionmount.cli.settings import Settings
    from unionmount.core import BrowsableTree, Node
    from unionmount.images.platform import Platform

_STEP = 1024 * 1024


@click.command("cat")
@platform_option
@layer_option
@root_option
@click.argument("words", metavar="IMAGE PATH…", nargs=-1, required=True)
@click.pass_obj
def command(
    settings: Settings, platform: Platform | None, layer: int | None, words: tuple[str, ...]
) -> None:
    """Write files of an image to standard output, one after the other.

    IMAGE is anything that "mount" accepts; a CONTAINER is shown with its changes. PATH begins with
    '/'; IMAGE:PATH is the same, and several images can be given. Symlinks are followed inside the
    image, as in a chroot; only regular files are read.
    """
    from unionmount.cli.open_image import check_images, open_files
    from unionmount.cli.operands import by_image, with_paths

    operands = with_paths(words)
    check_images(settings, operands, platform=platform, layer=layer)
    sys.stdout.flush()
    for image, group in by_image(operands):
        with open_files(settings, image, platform=platform, layer=layer) as view:
            for operand in group:
                _write(view.files, operand)
    sys.stdout.buffer.flush()


def _write(files: BrowsableTree, operand: Operand) -> None:
    from unionmount.browse.paths import follow
    from unionmount.errors import UnionmountError
    from unionmount.system.text import printable

    with operand.naming():
        found = follow(files, operand.start)
    if found.is_directory:
        raise UnionmountError(f"{printable(operand.word)}: is a directory")
    if not stat.S_ISREG(found.attributes.mode):
        raise UnionmountError(f"{printable(operand.word)}: is not a regular file")
    for data in _pieces(files, found.attributes.node, operand):
        sys.stdout.buffer.write(data)


def _pieces(files: BrowsableTree, node: Node, operand: Operand) -> Iterator[bytes]:
    offset = 0
    while True:
        with operand.naming():
            data = files.read(node, offset, _STEP)
        if not data:
            return
        yield data
        offset += len(data)
