"""What `history` promises after changes and syncs."""

from __future__ import annotations

from collections.abc import Sequence

from faults.history import History
from faults.model import Model
from faults.steps import Step

_MADE: list[Step] = [{"do": "create", "path": "file"}, {"do": "create", "path": "other"}]
_WRITTEN: Step = {"do": "append", "path": "file", "data": "12345\n"}
_REMOVED: Step = {"do": "unlink", "path": "other"}
_WRITTEN_OVER: Step = {"do": "overwrite", "path": "file", "data": "67890\n"}


def _promised(*steps: Step, sync: str = "fsync") -> tuple[int, Sequence[int]]:
    """The change that the tree is not older than after a sync, and the version of the data."""
    history = History(Model())
    history.extend([*_MADE, *steps, {"do": sync, "path": "file"}])
    floor = history.floor(len(history.steps), 0)
    return floor.changes, sorted(floor.data.values())


def test_a_sync_keeps_what_came_before_the_last_change_of_the_inode() -> None:
    assert _promised(_REMOVED, _WRITTEN) == (4, [1])


def test_bytes_written_over_others_are_no_change_of_the_inode() -> None:
    """Within a tick the times stay; ext4 then syncs the bytes, and not the removal before them."""
    assert _promised(_WRITTEN, _REMOVED, _WRITTEN_OVER) == (3, [2])


def test_bytes_written_over_others_change_a_time_that_was_set() -> None:
    touched: Step = {"do": "utime", "path": "file", "mtime": 10**18}
    assert _promised(_WRITTEN, touched, _REMOVED, _WRITTEN_OVER) == (6, [2])


def test_fdatasync_promises_data_alone() -> None:
    assert _promised(_REMOVED, _WRITTEN, sync="fdatasync") == (0, [1])
