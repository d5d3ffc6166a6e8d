"""``unionmount tag``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import root_option
from unionmount.errors import UsageError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings


@click.command("tag")
@root_option
@click.argument("source")
@click.argument("name", metavar="NAME[:TAG]")
@click.pass_obj
def command(settings: Settings, source: str, name: str) -> None:
    """Give the image SOURCE of the store another name, which is taken from any other image."""
    from unionmount.images.image import SCRATCH
    from unionmount.images.reference import Reference

    reference = Reference.parse(name)
    if reference.name == Reference.parse(SCRATCH).name:
        raise UsageError(f"'{SCRATCH}' is the empty image and cannot be the name of another one")
    store = settings.store()
    with store.lease("tag", f"tag {reference}") as lease:
        stored = store.find_image(source)
        store.use_image(stored, lease)
        store.tag(stored, reference)
