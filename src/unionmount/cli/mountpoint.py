"""The directory to mount on: made where it is asked for, and checked before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.cli.start_mount import check_place
from unionmount.errors import MountError
from unionmount.system.os_errors import raising
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.mounting.records import MountTable


@contextmanager
def place_of(
    mountpoint: str | None,
    *,
    over: bool = False,
    mkdir: bool = False,
    advice: str = "unmount it, or cover it with --over",
) -> Iterator[Path | None]:
    """The mount point as an absolute path; what was made of it goes where the block fails.

    An error where nothing can be mounted there, or an image is already and ``over`` was not said.
    Dead mounts of the user's are cleaned away first, for one may be in the way.
    """
    from unionmount.mounting.records import MountTable

    clean_dead(MountTable.of_user())
    made = _make(Path(os.path.realpath(mountpoint))) if mkdir and mountpoint else []
    try:
        where = check_place(mountpoint)
        if where is not None and not over:
            _check_free(where, advice)
        yield where
    except BaseException:
        for path in reversed(made):
            with suppress(OSError):
                path.rmdir()
        raise


def clean_dead(table: MountTable) -> None:
    """Remove mounts and records of dead daemons; their messages stay until the next prune."""
    if not table.has_dead():  # the usual case, told quickly
        return
    from unionmount.cli.take_away import clean

    for one in table.all():
        if not one.alive:
            with suppress(MountError):  # 'ps' goes on to list it
                clean(table, one, keep_log=True)


def _check_free(where: Path, advice: str) -> None:
    from unionmount.system.mountinfo import FILE_SYSTEM, mounted_at

    top = mounted_at(where)
    if top is not None and top.file_system == FILE_SYSTEM:
        raise MountError(
            f"{printable(top.source)} is mounted at {printable(str(where))} already: {advice}"
        )


def _make(where: Path) -> list[Path]:
    """Make a directory and those above it; returns those that were not there."""
    missing = [path for path in (where, *where.parents) if not path.exists()][::-1]
    with raising(MountError, f"mount point {where}"):
        for path in missing:
            path.mkdir(exist_ok=True)
    return missing
