"""``unionmount ps``."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from unionmount.cli.options import format_option, root_option
from unionmount.cli.output import age_of, print_json, print_table
from unionmount.errors import UnionmountError

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.cli import Settings
    from unionmount.containers import Container
    from unionmount.mounts import MountTable, Status

_HEADER = ("ID", "CONTAINER", "IMAGE", "MODE", "MOUNTPOINT", "PID", "CREATED", "STATUS")
_NONE = "-"
_STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Listed:
    """One line: a mount, or a container that is not mounted."""

    name: str  # that -q prints
    row: tuple[str, ...]
    json: dict[str, Any]


@click.command("ps")
@click.option("-a", "--all", "every", is_flag=True, help="List containers not mounted, too.")
@click.option("-q", "--quiet", is_flag=True, help="Print IDs only; of a container its name.")
@click.option("--clean", is_flag=True, help="First remove mounts and records of dead daemons.")
@format_option
@root_option
@click.pass_obj
def command(settings: Settings, every: bool, quiet: bool, clean: bool, form: str) -> int:
    """List mounts, dead ones too, and with --all the containers of the store.

    STATUS is "starting"; "live"; "detached" (unmounted, but somebody still uses it); "stale" (the
    process that served it is dead, the mount is still there); "gone" (both are gone); or "stopped"
    (a container that is not mounted).
    """
    from unionmount.mounts import MountTable

    table = MountTable.of_user()
    failed = _clean(table) if clean else False

    def damaged(error: UnionmountError) -> None:
        nonlocal failed
        failed = True
        print(f"unionmount: {error}", file=sys.stderr)

    mounted = table.all()
    found = [_mount(one) for one in mounted]
    if every:
        found += [_container(one) for one in _not_mounted(settings, mounted, damaged)]
    if form == "json":
        print_json([one.json for one in found])
    elif quiet:
        for one in found:
            print(one.name)
    else:
        print_table(_HEADER, [one.row for one in found])
    return 1 if failed else 0


def _mount(one: Status) -> Listed:
    record = one.record
    row = (
        record.id,
        record.container or _NONE,
        record.image,
        record.mode,
        record.mountpoint,
        str(record.pid),
        age_of(record.created),
        one.status,
    )
    return Listed(record.id, row, asdict(record) | {"status": one.status})


def _container(one: Container) -> Listed:
    age = age_of(one.created)
    row = (_NONE, one.name, one.image.name, _NONE, _NONE, _NONE, age, _STOPPED)
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
        "status": _STOPPED,
    }
    return Listed(one.name, row, json)


def _not_mounted(
    settings: Settings, mounted: list[Status], damaged: Callable[[UnionmountError], None]
) -> list[Container]:
    """Containers of the store that no daemon serves."""
    from unionmount.containers import Containers

    store = settings.store()
    known = Containers(store)
    known.clean()
    root = os.path.realpath(store.root)
    served = {
        one.record.container
        for one in mounted
        if one.alive and os.path.realpath(one.record.root) == root
    }
    return [one for one in known.all(damaged) if one.name not in served]


def _clean(table: MountTable) -> bool:
    """Whether anything dead could not be removed."""
    from unionmount.cli.umount import clean

    failed = False
    for one in table.all():
        if not one.alive:
            try:
                clean(table, one)
            except UnionmountError as error:
                print(f"unionmount: {error}", file=sys.stderr)
                failed = True
    return failed
