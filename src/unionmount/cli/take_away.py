"""Unmounting one file system, or what a dead daemon left of one."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from unionmount.errors import MountError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.mounting.records import MountTable, Status


def clean(table: MountTable, found: Status, *, keep_log: bool = False) -> None:
    """Remove a dead mount and its record; nobody can use what is dead, so it goes lazily."""
    from unionmount.mounting.records import STALE

    if found.status == STALE:
        take_away(found, lazy=True)
    table.forget(found.record, keep_log=keep_log)


def take_away(found: Status, *, lazy: bool) -> None:
    """Unmount a record's file system, and no other one that was mounted over it."""
    from unionmount.mounting.fuse_mount import BusyError, unmount_fuse
    from unionmount.mounting.holders import described, holders_of
    from unionmount.system.mountinfo import mounted_at

    record = found.record
    top = mounted_at(record.path)
    if top is not None and top.device != record.device:
        where = printable(record.mountpoint)
        raise MountError(f"{where}: something else is mounted over it; unmount that first")
    try:
        tell(unmount_fuse(record.path, lazy=lazy))
    except BusyError:
        users = described(holders_of(record.device, besides=record.pid), paths=True)
        raise BusyError(record.path, users) from None


def tell(note: str) -> None:
    """Say on standard error in which way something was unmounted, if not in the usual one."""
    if note:
        print(f"unionmount: {note}", file=sys.stderr)
