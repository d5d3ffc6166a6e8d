"""``unionmount umount``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unionmount.cli.options import root_option
from unionmount.errors import MountError, NotFoundError, UnionmountError
from unionmount.reference import printable

if TYPE_CHECKING:
    from unionmount.cli import Settings
    from unionmount.mounts import MountTable, Record, Status

_PATIENCE = 10.0  # seconds that a daemon has to end after its file system is unmounted


@click.command("umount")
@click.argument("targets", metavar="MOUNTPOINT|ID|CONTAINER…", nargs=-1)
@click.option("-a", "--all", "every", is_flag=True, help="Unmount everything that 'ps' lists.")
@click.option("-l", "--lazy", is_flag=True, help="Detach now, and let programs that use it finish.")
@root_option
@click.pass_obj
def command(settings: Settings, targets: tuple[str, ...], every: bool, lazy: bool) -> int:
    """Unmount images, by mount point, ID or container; dead mounts are cleaned up as well.

    A container keeps its changes. CONTAINER is its name, or container:NAME where a
    directory is called so, too.

    Returns when the serving process has ended, with --lazy when the mount is detached.
    """
    from unionmount.mounts import MountTable

    if every == bool(targets):
        raise click.UsageError("give either mount points (IDs, containers), or --all")
    table = MountTable.of_user()
    names = [one.record.id for one in reversed(table.all())] if every else list(targets)
    failed = False
    for name in names:
        try:
            _unmount_named(settings, table, name, lazy=lazy)
        except UnionmountError as error:
            failed = True
            print(f"unionmount: {error}", file=sys.stderr)
    return 1 if failed else 0


def _unmount_named(settings: Settings, table: MountTable, target: str, *, lazy: bool) -> None:
    from unionmount.cli.targets import find_mount

    try:
        found = find_mount(table, settings.store_root(), target)
    except NotFoundError:
        _unmount_unknown(target, lazy=lazy)
        return
    unmount(table, found, lazy=lazy)


def unmount(table: MountTable, found: Status, *, lazy: bool) -> None:
    """Unmount what was found and wait for its daemon, or clean up after a dead one."""
    if found.alive:
        _unmount_live(found, lazy=lazy)
    else:
        clean(table, found)


def clean(table: MountTable, found: Status) -> None:
    """Remove a dead mount and its record; nobody can use what is dead, so it goes lazily."""
    from unionmount.mounts import STALE

    if found.status == STALE:
        _take_away(found.record, lazy=True)
    table.forget(found.record)


def _unmount_live(found: Status, *, lazy: bool) -> None:
    from unionmount.mounts import LIVE, STARTING, stop, wait_until_gone

    record = found.record
    if found.status == STARTING:
        stop(record)
    if found.status == LIVE:
        _take_away(record, lazy=lazy)
    if not lazy and not wait_until_gone(record, _PATIENCE):
        _say_still_running(record)


def _take_away(record: Record, *, lazy: bool) -> None:
    """Unmount a record's file system, and no other one that was mounted over it."""
    from unionmount.fusemount import unmount_fuse
    from unionmount.mountinfo import mounted_at

    top = mounted_at(record.path)
    if top is not None and top.device != record.device:
        where = printable(record.mountpoint)
        raise MountError(f"{where}: something else is mounted over it; unmount that first")
    unmount_fuse(record.path, lazy=lazy)


def _say_still_running(record: Record) -> None:
    text = (
        f"{printable(record.mountpoint)} is unmounted; process {record.pid} still writes changes "
        "to disk, or serves who uses it, detached or in another mount namespace"
    )
    print(f"unionmount: {text}", file=sys.stderr)


def _unmount_unknown(target: str, *, lazy: bool) -> None:
    """Unmount what has no record: another user's, or older than the runtime directory."""
    from unionmount.fusemount import unmount_fuse
    from unionmount.mountinfo import FILE_SYSTEM, mounted_at

    if not target:  # as a path it would be the working directory
        raise NotFoundError("no mount has an empty name")
    path = Path(os.path.realpath(target))
    mounted = mounted_at(path)
    if mounted is None or mounted.file_system != FILE_SYSTEM:
        raise NotFoundError(f"{printable(str(path))}: no image is mounted there")
    unmount_fuse(path, lazy=lazy)
