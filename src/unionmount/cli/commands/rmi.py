"""``unionmount rmi``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import root_option
from unionmount.errors import UnionmountError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.store.garbage import Removed


@click.command("rmi")
@click.option(
    "-f", "--force", is_flag=True, help="Remove an ID with several names, or a last name in use."
)
@root_option
@click.argument("images", metavar="IMAGE…", nargs=-1, required=True)
@click.pass_obj
def command(settings: Settings, images: tuple[str, ...], force: bool) -> int:
    """Remove images, and layers that are then unused.

    If an image has several names, only the given one is removed. An ID stands for all names, and
    needs -f if there are several. An image that a container or a mount uses stays; with -f its last
    name can be removed.
    """
    from unionmount.store.containers import Containers
    from unionmount.store.garbage import remove_image

    store = settings.store()
    known = Containers(store)
    failed = False
    for image in images:
        try:
            _print(remove_image(store, known, image, force=force))
        except UnionmountError as error:
            failed = True
            print(f"unionmount: {error}", file=sys.stderr)
    return 1 if failed else 0


def _print(removed: Removed) -> None:
    for word in removed.untagged:
        print(f"Untagged: {word}")
    for item in removed.items:
        if item.kind in ("image", "layer"):
            print(f"Deleted: {item.name}")
    if removed.left:
        text = f"unionmount: its layers remain, and 'prune' can remove them: {removed.left}"
        print(text, file=sys.stderr)
