"""Who gets to a directory: a second user is the oracle, who tries."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from support.users import NOBODY, call_as

from unionmount.system.access import is_closed

ACCESS = "system.posix_acl_access"
THIRD = 4321


def closed(path: Path, *, above: bool = False) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return is_closed(fd, above=above)
    finally:
        os.close(fd)


def enters(path: Path) -> bool:
    """Whether somebody else can name what is in the directory, which is made for this."""
    (path / "inside").touch()

    def attempt() -> bool:
        (path / "inside").lstat()
        return True

    with suppress(PermissionError):
        return bool(call_as(NOBODY, attempt))
    return False


def chain(top: Path, places: Sequence[tuple[int, int]]) -> Path:
    """Directories inside of each other, by mode and owner; the innermost is returned."""
    made = [top]
    for number, _ in enumerate(places):
        made.append(made[-1] / str(number))
        made[-1].mkdir()
    for path, (mode, owner) in zip(made[1:], places, strict=True):
        os.chown(path, owner, owner)
        path.chmod(mode)
    return made[-1]


OPEN = [
    [(0o755, 0)],
    [(0o755, 0), (0o711, 0)],
    [(0o701, 0)],
    [(0o777, 0), (0o755, 0)],
    [(0o755, NOBODY), (0o700, NOBODY)],  # closed to others than its owner, who is one of them
    [(0o700, NOBODY), (0o755, 0)],
]
CLOSED = [
    [(0o700, 0)],
    [(0o755, 0), (0o700, 0)],
    [(0o700, 0), (0o755, 0)],
    [(0o700, 0), (0o777, NOBODY), (0o777, NOBODY)],
    [(0o755, NOBODY), (0o600, 0)],
    [(0o766, 0)],  # what can be read is names only
    [(0o1766, 0), (0o755, 0)],
]


@pytest.mark.needs("root")
@pytest.mark.parametrize(
    ("places", "is_open"), [(one, True) for one in OPEN] + [(one, False) for one in CLOSED]
)
def test_it_is_closed_where_nobody_else_gets_in(
    public_tmp: Path, places: list[tuple[int, int]], is_open: bool
) -> None:
    path = chain(public_tmp, places)
    assert enters(path) == is_open
    assert closed(path) != is_open


@pytest.mark.needs("root")
def test_a_directory_of_a_third_user_is_open(public_tmp: Path) -> None:
    """Who that is, is not asked: it is somebody else."""
    assert not closed(chain(public_tmp, [(0o700, THIRD)]))


@pytest.mark.needs("root")
def test_a_group_and_an_acl_let_in(public_tmp: Path) -> None:
    path = chain(public_tmp, [(0o710, 0)])
    assert not closed(path)
    path.chmod(0o700)
    assert closed(path)
    entries = [(0x01, 7, 2**32 - 1), (0x02, 5, NOBODY), (0x04, 0, 2**32 - 1)]
    entries += [(0x10, 5, 2**32 - 1), (0x20, 0, 2**32 - 1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    os.setxattr(path, ACCESS, acl)
    assert enters(path)
    assert not closed(path)
    path.chmod(0o700)  # the mask
    assert not enters(path)
    assert closed(path)


@pytest.mark.needs("root")
def test_the_way_is_that_of_the_directory_not_of_the_path(public_tmp: Path) -> None:
    """A symlink in a closed directory does not close what it leads to; nor the other way round."""
    outside = chain(public_tmp, [(0o755, 0)])
    hidden = chain(public_tmp / "0", [(0o700, 0), (0o755, 0)])
    (hidden / "link").symlink_to(outside)
    assert not closed(hidden / "link")
    (outside / "link").symlink_to(hidden)
    assert closed(outside / "link")


def test_an_ordinary_users_own_directory(tmp_path: Path) -> None:
    """``tmp_path`` is below a directory that pytest keeps to its user."""
    inside = tmp_path / "inside"
    inside.mkdir(0o755)
    assert closed(inside)


@pytest.mark.needs("root")
def test_what_closes_it_may_stand_above(public_tmp: Path) -> None:
    alone = chain(public_tmp, [(0o700, 0)])
    assert closed(alone)
    assert not closed(alone, above=True)
    below = chain(alone, [(0o755, 0)])
    assert closed(below)
    assert closed(below, above=True)
