"""``unionmount share``."""

from __future__ import annotations

import grp
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import root_option
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.store.sharing import Readers


@click.command("share")
@click.option("--group", metavar="GROUP", help="Let the members of a group read the images.")
@click.option("--everybody", is_flag=True, help="Let all users read the images.")
@click.option("--off", is_flag=True, help="Let nobody else read them any more.")
@root_option
@click.pass_obj
def command(settings: Settings, group: str | None, everybody: bool, off: bool) -> None:
    """Let others read the images of the store, those that come later, too.

    Others name the store with --additional-store. They can read all layers and documents, but not
    containers, and change nothing. Without an option, print who may read the store.
    """
    if (group is not None) + everybody + off > 1:
        raise click.UsageError("choose one of --group, --everybody and --off")
    from unionmount.store.sharing import Readers

    store = settings.store()
    if off:
        store.sharing.end()
    elif group is not None or everybody:
        store.sharing.share(Readers() if group is None else Readers(_number_of(group)))
    readers = store.sharing.readers()
    print(f"{printable(str(store.root))}: {_described(readers)}")
    if readers is not None and (closed := _closed_above(store.root, readers)) is not None:
        where = printable(str(closed))
        text = f"they cannot enter {where} yet; 'chmod a+x' on it lets them pass"
        print(f"unionmount: {text}", file=sys.stderr)


def _number_of(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        if group.isdecimal() and len(group) < 10:
            return int(group)
        raise UsageError(f"no group '{printable(group)}'") from None


def _described(readers: Readers | None) -> str:
    if readers is None:
        return "not shared"
    if readers.group is None:
        return "shared with everybody"
    try:
        name = grp.getgrgid(readers.group).gr_name
    except KeyError:
        name = str(readers.group)
    return f"shared with group {name}"


def _closed_above(root: Path, readers: Readers) -> Path | None:
    """Return the topmost directory on the way to the store that its readers cannot enter."""
    for path in reversed(root.resolve().parents):
        status = path.stat()
        mine = readers.group is not None and status.st_gid == readers.group
        if not status.st_mode & (stat.S_IXGRP if mine else stat.S_IXOTH):
            return path
    return None
