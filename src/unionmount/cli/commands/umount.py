"""``unionmount umount``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import root_option
from unionmount.cli.take_away import clean, take_away, tell
from unionmount.errors import MountError, NotFoundError, UnionmountError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.cli.settings import Settings
    from unionmount.mounting.records import MountTable, Record, Status

_PATIENCE = 10.0  # seconds for a daemon to end after its file system is unmounted


@click.command("umount")
@click.argument("targets", metavar="MOUNTPOINT|ID|CONTAINER…", nargs=-1)
@click.option("-a", "--all", "every", is_flag=True, help="Unmount everything that 'ps' lists.")
@click.option(
    "-l", "--lazy", is_flag=True, help="Detach now, and let programs that use the mount finish."
)
@click.option(
    "--kill", is_flag=True, help="End serving processes that are in use, stopped or out of sight."
)
@root_option
@click.pass_obj
def command(
    settings: Settings, targets: tuple[str, ...], every: bool, lazy: bool, kill: bool
) -> int:
    """Unmount images by mount point, ID or container; dead mounts are cleaned up as well.

    A container keeps its changes. CONTAINER is its name, or container:NAME if a directory has that
    name, too.

    An ID may be shortened to a unique prefix.

    With --kill, a mount ends even if it is in use, or is in a mount namespace that cannot be seen
    from here: its process writes all changes to the disk and ends; it is killed only if it does
    not. Programs that use the mount continue, and get errors from its files.

    The command returns when the serving processes have ended, which are waited for in parallel;
    with --lazy, when the mounts are detached. The exit status is 1 if anything is still mounted, or
    a process is stopped and cannot end.
    """
    from unionmount.cli.mountpoint import clean_dead
    from unionmount.mounting.records import MountTable

    if every == bool(targets):
        raise click.UsageError("give mount points (or IDs, containers) or --all, but not both")
    table = MountTable.of_user()
    names = [one.record.id for one in reversed(table.all())] if every else list(targets)
    waiting: list[Record] = []
    try:
        failed = _unmount_all(settings, table, names, waiting, lazy=lazy, kill=kill)
        failed |= _wait(table, waiting)
        clean_dead(table)
    except KeyboardInterrupt:
        _tell_of_interruption(table, waiting)
        raise
    return 1 if failed else 0


def _unmount_all(
    settings: Settings,
    table: MountTable,
    names: Sequence[str],
    waiting: list[Record],
    *,
    lazy: bool,
    kill: bool,
) -> bool:
    """Unmount mounts and put their records into ``waiting``; return whether any failed."""
    failed = False
    for name in _topmost_first(settings, table, names):
        before = len(waiting)
        try:
            if kill:
                _kill_named(settings, table, name)
            else:
                _unmount_named(settings, table, name, waiting, lazy=lazy)
        except UnionmountError as error:
            failed = True
            del waiting[before:]
            print(f"unionmount: {error}", file=sys.stderr)
    return failed


def _topmost_first(settings: Settings, table: MountTable, names: Sequence[str]) -> Sequence[str]:
    """Return the mounts in reverse order of mounting, as one may be on or inside another."""
    from unionmount.cli.container_words import find_mount

    if len(names) < 2:
        return names

    def made(name: str) -> str:
        try:
            return find_mount(table, settings, name).record.created
        except UnionmountError:
            return ""  # reported when it is its turn

    return sorted(names, key=made, reverse=True)


def _unmount_named(
    settings: Settings, table: MountTable, target: str, waiting: list[Record], *, lazy: bool
) -> None:
    from unionmount.cli.container_words import find_mount

    try:
        found = find_mount(table, settings, target)
    except NotFoundError:
        _unmount_unknown(target, lazy=lazy)
        return
    if not found.alive:
        clean(table, found)
        return
    if not lazy:
        waiting.append(found.record)  # first, as an interruption may come at any time
    _unmount_live(found, lazy=lazy)


def _kill_named(settings: Settings, table: MountTable, target: str) -> None:
    from unionmount.cli.container_words import find_mount
    from unionmount.cli.kill_mount import kill_mount

    try:
        found = find_mount(table, settings, target)
    except NotFoundError:
        _unmount_unknown(target, lazy=True)
        return
    kill_mount(table, found, _PATIENCE)


def unmount(table: MountTable, found: Status) -> None:
    """Unmount a mount and wait for its daemon, or clean up after a dead one.

    Raise MountError if the daemon still runs.
    """
    if not found.alive:
        clean(table, found)
        return
    _unmount_live(found, lazy=False)
    for record in _still_served(table, [found.record]):
        raise MountError(_still_running(record)[0])


def end_detached(table: MountTable, found: Status) -> None:
    """End the daemon of a detached mount in use, and name the processes that lose it."""
    from unionmount.cli.container_words import users_of
    from unionmount.mounting.holders import described, flush
    from unionmount.mounting.records import end

    record, users = found.record, users_of(found)
    where = printable(record.mountpoint)
    by = described(users) or "no visible process"
    print(f"unionmount: {where} is detached and used by {by}: ending it", file=sys.stderr)
    _check_runs(record)
    if not flush(users, _PATIENCE):
        raise MountError(f"{where}: process {record.pid} takes too long to write mapped files")
    if not end(record, _PATIENCE) and table.is_served(record):
        raise MountError(_still_running(record)[0])


def _unmount_live(found: Status, *, lazy: bool) -> None:
    from unionmount.mounting.records import LIVE, STARTING, stop

    if found.status == STARTING:
        stop(found.record)
    if found.status == LIVE:
        take_away(found, lazy=lazy)


# ---- waiting -------------------------------------------------------------------------------------


def _wait(table: MountTable, records: Sequence[Record]) -> bool:
    """Wait for daemons; return whether one of them cannot end by itself."""
    failed = False
    for record in _still_served(table, records):
        text, bad = _still_running(record)
        failed |= bad
        print(f"unionmount: {text}", file=sys.stderr)
    return failed


def _tell_of_interruption(table: MountTable, records: Sequence[Record]) -> None:
    from unionmount.system.mountinfo import mounted_at

    for record in records:
        top = mounted_at(record.path)
        if table.is_served(record) and (top is None or top.device != record.device):
            print(f"unionmount: {_still_running(record)[0]}", file=sys.stderr)


def _still_served(table: MountTable, records: Sequence[Record]) -> list[Record]:
    """Return the records whose daemons still run; stopped daemons are not waited for."""
    from unionmount.mounting.records import wait_until_all_gone

    stopped = [one for one in records if _is_stopped(one)]
    wait_until_all_gone([one for one in records if one not in stopped], _PATIENCE)
    return [one for one in records if table.is_served(one)]


def _is_stopped(record: Record) -> bool:
    from unionmount.mounting.records import process_start, process_state

    is_it = process_start(record.pid) == record.started
    return is_it and process_state(record.pid) in ("T", "t")


def _check_runs(record: Record) -> None:
    if _is_stopped(record):
        raise MountError(f"{printable(record.mountpoint)}: {_stopped(record)}")


def _stopped(record: Record) -> str:
    return f"its process {record.pid} is stopped; run 'kill -CONT {record.pid}' first"


def _still_running(record: Record) -> tuple[str, bool]:
    """Describe a daemon that still runs; return whether somebody has to act, too."""
    from unionmount.mounting.holders import described, holders_of
    from unionmount.mounting.records import process_state

    where = f"{printable(record.mountpoint)} is unmounted"
    if _is_stopped(record):
        return f"{where}, but {_stopped(record)}", True
    users = described(holders_of(record.device, besides=record.pid))
    if users:
        why = f"process {record.pid} still serves {users}"
    elif process_state(record.pid) == "D":
        return f"{where}; process {record.pid} waits for a disk and ends when it answers", False
    else:
        why = (
            f"process {record.pid} still writes changes to disk, or serves a process that is not "
            "visible, detached or in another mount namespace"
        )
    return f"{where}; {why} ('unionmount umount --kill {record.id}' ends it)", False


def _unmount_unknown(target: str, *, lazy: bool) -> None:
    """Unmount a mount without a record: another user's, or older than the runtime directory."""
    from unionmount.mounting.fuse_mount import unmount_fuse
    from unionmount.mounting.records import resolved_mountpoint
    from unionmount.system.mountinfo import FILE_SYSTEM, mounted_at

    if not target:  # Path("") would be the working directory
        raise NotFoundError("no mount has an empty name")
    path = resolved_mountpoint(target)
    mounted = mounted_at(path)
    if mounted is None or mounted.file_system != FILE_SYSTEM:
        raise NotFoundError(f"{printable(str(path))}: no image is mounted there")
    tell(unmount_fuse(path, lazy=lazy))
