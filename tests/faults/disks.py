"""Mounts whose upper is on a disk of the test's own, and what has to hold when a change fails."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from support.commands import Commands
from support.compare import Snapshot, differences, snapshot

from faults.killed import Place

Change = Callable[[Path], object]
"""Something to do to a mount, given its top."""


def overlay_place(
    commands: Commands, lowers: Sequence[Path], disk: Path, mountpoint: Path, *options: str
) -> Place:
    """An overlay with upper and work directory on ``disk``; the first lower layer is on top."""
    upper, work = disk / "upper", disk / "work"
    for path in (upper, work, mountpoint):
        path.mkdir(parents=True)
        path.chmod(0o700)
    lower = f"lowerdir={':'.join(map(str, lowers))}"
    words = ",".join((lower, f"upperdir={upper}", f"workdir={work}", *options))
    return Place(commands, ("overlay", "-o", words), mountpoint, upper, work)


def fails(place: Place, change: Change, *codes: int) -> bool:
    """Whether a change fails; then with one of the codes, and nothing is changed."""
    before = snapshot(place.mountpoint)
    try:
        change(place.mountpoint)
    except OSError as error:
        assert error.errno in codes, error  # noqa: PT017 - which one, of several
    else:
        return False
    assert place.left_in_work() == [], "what was not finished is left"
    check_same(before, place.mountpoint)
    return True


def check_same(before: Snapshot, top: Path) -> None:
    """A tree is as it was."""
    assert differences(before, snapshot(top)) == []


def check_survival(place: Place) -> None:
    """Mounted again, everything is as it was."""
    before = snapshot(place.mountpoint)
    place.unmount()
    place.mount()
    assert place.left_in_work() == []
    check_same(before, place.mountpoint)


def write_until_full(path: Path, piece: int = 1 << 16) -> int:
    """Write until an error; which one."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(os.urandom(piece))
        except OSError as error:
            return error.errno or 0
