"""``unionmount rename``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import root_option

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings


@click.command("rename")
@root_option
@click.argument("name", metavar="CONTAINER")
@click.argument("new", metavar="NAME")
@click.pass_obj
def command(settings: Settings, name: str, new: str) -> None:
    """Give a container another name; one that is mounted or running is refused."""
    from unionmount.cli.container_words import in_use, name_of_container
    from unionmount.mounting.records import MountTable
    from unionmount.store.containers import ContainerInUse, Containers

    old = name_of_container(name)
    try:
        Containers(settings.store()).rename(old, new)
    except ContainerInUse:
        raise in_use(MountTable.of_user(), settings.store_root(), old) from None
