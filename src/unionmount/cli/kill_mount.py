"""Ending a mount whatever keeps it: ``unionmount umount --kill``."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from unionmount.errors import MountError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.mounting.records import MountTable, Status


def kill_mount(table: MountTable, found: Status, patience: float) -> None:
    """End a mount and its daemon; MountError where the daemon can't even be killed.

    What was written is on disk, unless the daemon does not end in ``patience`` seconds and is
    killed.
    """
    from unionmount.cli.take_away import clean, take_away
    from unionmount.mounting.holders import described, flush, holders_of
    from unionmount.mounting.records import LIVE, end, kill, resume, wait_until_gone

    record, where = found.record, printable(found.record.mountpoint)
    if not found.alive:
        clean(table, found)
        return
    resume(record)
    users = holders_of(record.device, besides=record.pid) if record.device else []
    if users:
        used = described(users, paths=True)
        print(f"unionmount: {where} is used by {used}: ending it", file=sys.stderr)
    flush(users, patience)
    if found.status == LIVE:
        with suppress(MountError):  # the daemon itself can, or what it leaves is dead
            take_away(found, lazy=True)
    if not end(record, patience) and table.is_served(record):
        kill(record)
        print(
            f"unionmount: {where}: process {record.pid} did not end and was killed",
            file=sys.stderr,
        )
        if not wait_until_gone(record, patience):
            raise MountError(f"{where}: process {record.pid} waits for a disk and can't be killed")
    for one in table.all():
        if one.record.id == record.id and not one.alive:
            clean(table, one)
