"""``unionmount ps``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from unionmount.cli.options import format_option
from unionmount.cli.output import age_of, print_json, print_table
from unionmount.errors import UnionmountError

if TYPE_CHECKING:
    from unionmount.mounts import MountTable, Status

_HEADER = ("ID", "IMAGE", "MODE", "MOUNTPOINT", "PID", "CREATED", "STATUS")


@click.command("ps")
@click.option("-q", "--quiet", is_flag=True, help="Print IDs only.")
@click.option("--clean", is_flag=True, help="First remove mounts and records of dead daemons.")
@format_option
def command(quiet: bool, clean: bool, form: str) -> int:
    """List mounts, dead ones too.

    STATUS is "starting"; "live"; "detached" (unmounted, but somebody still uses it); "stale" (the
    process that served it is dead, the mount is still there); or "gone" (both are gone).
    """
    from unionmount.mounts import MountTable

    table = MountTable.of_user()
    status = _clean(table) if clean else 0
    found = table.all()
    if form == "json":
        print_json([asdict(one.record) | {"status": one.status} for one in found])
    elif quiet:
        for one in found:
            print(one.record.id)
    else:
        print_table(_HEADER, [_row(one) for one in found])
    return status


def _row(one: Status) -> tuple[str, ...]:
    record = one.record
    return (
        record.id,
        record.image,
        record.mode,
        record.mountpoint,
        str(record.pid),
        age_of(record.created),
        one.status,
    )


def _clean(table: MountTable) -> int:
    from unionmount.cli.umount import clean

    status = 0
    for one in table.all():
        if not one.alive:
            try:
                clean(table, one)
            except UnionmountError as error:
                print(f"unionmount: {error}", file=sys.stderr)
                status = 1
    return status
