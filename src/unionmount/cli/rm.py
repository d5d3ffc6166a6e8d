"""``unionmount rm``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from unionmount.cli.options import root_option
from unionmount.errors import MountError, UnionmountError

if TYPE_CHECKING:
    from unionmount.cli import Settings
    from unionmount.containers import Containers


@click.command("rm")
@click.option("-f", "--force", is_flag=True, help="Unmount what is mounted first, as umount does.")
@root_option
@click.argument("names", metavar="CONTAINER…", nargs=-1, required=True)
@click.pass_obj
def command(settings: Settings, names: tuple[str, ...], force: bool) -> int:
    """Remove containers, with all that was changed in them. A mounted one is refused."""
    from unionmount.containers import Containers

    known = Containers(settings.store())
    failed = False
    for name in names:
        try:
            _remove(settings, known, name, force=force)
        except UnionmountError as error:
            failed = True
            print(f"unionmount: {error}", file=sys.stderr)
    known.clean()
    return 1 if failed else 0


def _remove(settings: Settings, known: Containers, word: str, *, force: bool) -> None:
    from unionmount.cli.targets import in_use, mount_of, name_of_container
    from unionmount.cli.umount import unmount
    from unionmount.containers import ContainerInUse
    from unionmount.mounts import MountTable

    table, root, name = MountTable.of_user(), settings.store_root(), name_of_container(word)
    mounted = mount_of(table, root, name) if force and name in known else None
    if mounted is not None:
        unmount(table, mounted, lazy=False)
    try:
        known.remove(name)
    except ContainerInUse:
        hint = "" if force else "; unmount it first, or use rm -f"
        raise MountError(f"{in_use(table, root, name)}{hint}") from None
