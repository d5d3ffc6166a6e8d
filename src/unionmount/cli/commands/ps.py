"""``unionmount ps``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import list_format_option, root_option
from unionmount.cli.output import Listing, ListRow, age_of
from unionmount.errors import UnionmountError

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.cli.settings import Settings
    from unionmount.mounting.records import MountTable, Status
    from unionmount.runtime.live import LiveState
    from unionmount.store.containers import Container

_NONE = "-"
_STOPPED = "stopped"
_HEADS = {
    "ID": "ID",
    "Container": "CONTAINER",
    "Names": "NAMES",
    "Image": "IMAGE",
    "Source": "SOURCE",
    "Mode": "MODE",
    "Mountpoint": "MOUNTPOINT",
    "Pid": "PID",
    "CreatedSince": "CREATED",
    "RunningFor": "CREATED",
    "CreatedAt": "CREATED AT",
    "Status": "STATUS",
    "Command": "COMMAND",
}
_TABLE = (
    r"{{.ID}}\t{{.Container}}\t{{.Image}}\t{{.Mode}}\t{{.Mountpoint}}\t{{.Pid}}"
    r"\t{{.CreatedSince}}\t{{.Status}}"
)
_LISTING = Listing("formatter.ContainerContext", _HEADS, _TABLE)
_WITH_COMMANDS = Listing("formatter.ContainerContext", _HEADS, _TABLE + r"\t{{.Command}}")


@click.command("ps")
@click.option(
    "-a", "--all", "every", is_flag=True, help="List containers that are not mounted, too."
)
@click.option("-q", "--quiet", is_flag=True, help="Print IDs only; for a container its name.")
@click.option("--clean", is_flag=True, help="First remove mounts and records of dead daemons.")
@list_format_option
@root_option
@click.pass_obj
def command(settings: Settings, every: bool, quiet: bool, clean: bool, form: str) -> int:
    """List mounts, including dead ones, and with --all the containers of the store.

    STATUS is "starting"; "live"; "detached" (unmounted, but still in use: the processes that can be
    seen are named, and are "holders" in JSON); "running" (by "run"); "stale" (the serving process
    is dead, but the mount is still there); "gone" (both are gone); "exited", with the status of the
    last "run"; or "stopped" (a container that is not mounted). With --all each container is listed
    once. The table has the COMMAND of containers if one runs or ran.

    Fields of a template: .ID .Container .Image .Source .Mode .Mountpoint .Pid .CreatedSince
    .CreatedAt .Status .Command
    """
    from unionmount.cli.live_containers import live_containers
    from unionmount.mounting.records import MountTable

    table = MountTable.of_user()
    failed = _clean(table) if clean else False

    def damaged(error: UnionmountError) -> None:
        nonlocal failed
        failed = True
        print(f"unionmount: {error}", file=sys.stderr)

    live_containers(settings)  # takes away what dead monitors have left
    mounted = _each_container_once(table.all()) if every else table.all()
    running = _running(settings)
    found = [_mount(one, running.get(one.record.id)) for one in mounted]
    if every:
        left = _not_mounted(settings, mounted, damaged)
        found += [_container(one, damaged) for one in left]
    if quiet:
        for row in found:
            print(row.fields["ID"] if row.json["id"] else row.fields["Container"])
    else:
        ran = any(row.fields["Command"] != _NONE for row in found)
        (_WITH_COMMANDS if ran else _LISTING).show(form, found)
    return 1 if failed else 0


def _fields(**known: str) -> dict[str, str]:
    """Return the fields of a line; those without a value are absent."""
    created = known.pop("Created")
    ages = {"CreatedSince": age_of(created), "RunningFor": age_of(created), "CreatedAt": created}
    fields = dict.fromkeys(_HEADS, _NONE) | known | ages
    return fields | {"Names": fields["Container"]}


def _running(settings: Settings) -> dict[str, LiveState]:
    """Return the containers that run, by the IDs of their mounts."""
    from unionmount.cli.live_containers import live_containers

    return {state.mount: state for state in live_containers(settings).states()}


def _mount(one: Status, running: LiveState | None) -> ListRow:
    from unionmount.cli.container_words import users_of
    from unionmount.mounting.holders import described

    record, users = one.record, [] if running else users_of(one)
    by = described(users)
    status = "running" if running else one.status
    fields = _fields(
        ID=record.id,
        Container=record.container or _NONE,
        Image=record.image,
        Source=record.source,
        Mode=one.mode,
        Mountpoint=record.mountpoint,
        Pid=str(record.pid),
        Created=record.created,
        Status=f"{status} by {by}" if by else status,
        Command=running.command if running else _NONE,
    )
    holders = [{"pid": user.pid, "name": user.name} for user in users]
    command = running.command if running else None
    more = {"mode": one.mode, "status": status, "holders": holders, "command": command}
    return ListRow(fields, asdict(record) | more)


def _container(one: Container, damaged: Callable[[UnionmountError], None]) -> ListRow:
    from unionmount.runtime.run_record import read_record

    run, status = None, _STOPPED
    try:
        run = read_record(one.path)
    except UnionmountError as error:
        damaged(error)
    if run is not None:
        status = "exited" if run.exit_status is None else f"exited ({run.exit_status})"
    fields = _fields(
        Container=one.name,
        Image=one.image.name,
        Source=one.image.source,
        Created=one.created,
        Status=status,
        Command=_NONE if run is None else run.command,
    )
    json = {
        "id": None,
        "image": one.image.name,
        "source": one.image.source,
        "mode": None,
        "mountpoint": None,
        "pid": None,
        "created": one.created,
        "root": str(one.path.parent.parent),
        "container": one.name,
        "upper": str(one.upper),
        "image_id": str(one.image.id),
        "status": status,
        "command": None if run is None else run.command,
    }
    return ListRow(fields, json)


def _not_mounted(
    settings: Settings, mounted: list[Status], damaged: Callable[[UnionmountError], None]
) -> list[Container]:
    """Return the containers of the store that no listed mount belongs to."""
    from unionmount.store.containers import Containers

    store = settings.store()
    known = Containers(store)
    known.clean()
    root = os.path.realpath(store.root)
    listed = {one.record.container for one in mounted if os.path.realpath(one.record.root) == root}
    return [one for one in known.all(damaged) if one.name not in listed]


def _each_container_once(mounted: list[Status]) -> list[Status]:
    """Return the mounts; of each container only the live one, or else the last dead one."""
    best: dict[tuple[str, str], Status] = {}
    for one in mounted:
        key = (one.record.container, os.path.realpath(one.record.root))
        before = best.get(key)
        if before is None or one.alive or not before.alive:
            best[key] = one
    chosen = {one.record.id for one in best.values()}
    return [one for one in mounted if not one.record.container or one.record.id in chosen]


def _clean(table: MountTable) -> bool:
    """Remove dead mounts and records; return whether any could not be removed."""
    from unionmount.cli.take_away import clean

    failed = False
    for one in table.all():
        if not one.alive:
            try:
                clean(table, one)
            except UnionmountError as error:
                print(f"unionmount: {error}", file=sys.stderr)
                failed = True
    return failed
