"""``unionmount rm``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import root_option
from unionmount.errors import MountError, NotFoundError, UnionmountError

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.mounting.records import MountTable, Status
    from unionmount.store.containers import Containers


@click.command("rm")
@click.option(
    "-f", "--force", is_flag=True, help="Unmount mounted containers first, as umount does."
)
@root_option
@click.argument("names", metavar="CONTAINER|ID…", nargs=-1, required=True)
@click.pass_obj
def command(settings: Settings, names: tuple[str, ...], force: bool) -> int:
    """Remove containers with all their changes; mounted containers are refused.

    With --force they are unmounted first. A container in use stays, unless it was detached before
    (umount --lazy): then the processes that use it are named, and lose it after a last sync. ID is
    that of a mount, as shown by ps; if the mount has no container, it is unmounted and nothing else
    is removed.
    """
    from unionmount.store.containers import Containers

    failed = False
    for name in names:
        try:
            _remove(settings, name, force=force)
        except UnionmountError as error:
            failed = True
            print(f"unionmount: {error}", file=sys.stderr)
    Containers(settings.store()).clean()
    return 1 if failed else 0


def _remove(settings: Settings, word: str, *, force: bool) -> None:
    from unionmount.cli.container_words import PREFIX, mount_with_id, name_of_container
    from unionmount.mounting.mount_words import mount_of
    from unionmount.mounting.records import MountTable
    from unionmount.store.containers import Containers

    table, name = MountTable.of_user(), name_of_container(word)
    known = Containers(settings.store())
    if name not in known and not word.startswith(PREFIX):
        found = mount_with_id(settings, table, word, images=False)
        if found is not None and not found.record.container:
            _remove_mount(table, found, force=force)
            return
        if found is not None:
            settings = settings.with_root(found.record.root)
            known, name = Containers(settings.store()), found.record.container
    if name in known:
        _end_run(settings, name, force=force)
        if name not in known:  # it was to be removed with its end
            return
    mounted = mount_of(table, settings.store_root(), name) if name in known else None
    _remove_container(settings, table, known, name, mounted if force else None)


def _end_run(settings: Settings, name: str, *, force: bool) -> None:
    """Kill a container that runs, and wait until it has ended."""
    from unionmount.cli.live_containers import end, live_containers

    live = live_containers(settings)
    if not live.is_running(name):
        return
    if not force:
        raise MountError(f"container '{name}' is running; stop it first, or use rm -f")
    end(live, name)


def _remove_mount(table: MountTable, found: Status, *, force: bool) -> None:
    """Unmount a mount that has no container."""
    from unionmount.cli.container_words import with_users
    from unionmount.system.text import printable

    if found.alive and not force:
        where = printable(found.record.mountpoint)
        raise MountError(
            f"{found.record.id} is mounted at {where} ({with_users(found)}); "
            "unmount it first, or use rm -f"
        )
    _end(table, found)


def _remove_container(
    settings: Settings, table: MountTable, known: Containers, name: str, mounted: Status | None
) -> None:
    """Remove a container after ending ``mounted``, its mount."""
    from unionmount.cli.container_words import in_use
    from unionmount.cli.take_away import clean
    from unionmount.mounting.mount_words import mounts_of
    from unionmount.store.containers import ContainerInUse

    if mounted is not None:
        _end(table, mounted)
    try:
        known.remove(name)
    except ContainerInUse:
        hint = "" if mounted is not None else "; unmount it first, or use rm -f"
        raise MountError(f"{in_use(table, settings.store_root(), name)}{hint}") from None
    except NotFoundError:
        if mounted is None:  # the container of an ephemeral mount is removed with it
            raise
    for one in mounts_of(table, settings.store_root(), name):
        if not one.alive:
            clean(table, one)


def _end(table: MountTable, found: Status) -> None:
    from unionmount.cli.commands.umount import end_detached, unmount
    from unionmount.mounting.records import DETACHED

    if found.status == DETACHED:
        end_detached(table, found)
    else:
        unmount(table, found)
