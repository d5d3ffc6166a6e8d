"""Who may have written marks: whether others get to a directory, and whose an object is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from users import NOBODY

from unionmount.trust import has_identity, is_closed, is_own, reads_trusted


@pytest.mark.parametrize(
    ("outer", "inner", "closed"),
    [
        (0o755, 0o755, False),
        (0o700, 0o755, True),
        (0o755, 0o700, True),
        (0o744, 0o755, True),
        (0o711, 0o755, False),
        (0o750, 0o755, False),
        (0o1777, 0o777, False),
    ],
)
def test_a_closed_directory_is_one_that_nobody_else_gets_to(
    public_tmp: Path, outer: int, inner: int, closed: bool
) -> None:
    place = public_tmp / "outer" / "inner"
    place.mkdir(parents=True)
    place.parent.chmod(outer)
    place.chmod(inner)
    assert is_closed(place) is closed
    link = public_tmp / "link"
    link.symlink_to(place)
    assert is_closed(link) is closed


@pytest.mark.needs("root")
def test_what_another_user_closed_is_open_to_him(public_tmp: Path) -> None:
    place = public_tmp / "his"
    place.mkdir(0o700)
    os.chown(place, NOBODY, NOBODY)
    assert not is_closed(place)


@pytest.mark.parametrize(
    ("mode", "own"), [(0o755, True), (0o775, False), (0o757, False), (0o4711, True)]
)
def test_what_others_may_write_to_is_not_ones_own(tmp_path: Path, mode: int, own: bool) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    assert is_own(path.stat()) is own


@pytest.mark.needs("root")
def test_what_another_user_owns_is_not_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o600)
    os.chown(path, NOBODY, NOBODY)
    assert not is_own(path.stat())


@pytest.mark.needs("root")
def test_root_of_the_first_namespace_reads_trusted_attributes(tmp_path: Path) -> None:
    os.setxattr(tmp_path, "trusted.test", b"x")
    assert (reads_trusted(), has_identity()) == (True, True)
