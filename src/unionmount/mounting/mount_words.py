"""Mounts by the words that users write for them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionmount.errors import NotFoundError
from unionmount.mounting.records import is_id
from unionmount.store.containers import is_there

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from unionmount.mounting.records import MountTable, Status


def mount_of(table: MountTable, root: Path, name: str) -> Status | None:
    """Return the mount of a container of the store ``root``: the live one, else the last one."""
    found = mounts_of(table, root, name)
    return next((one for one in reversed(found) if one.alive), found[-1] if found else None)


def mounts_of(table: MountTable, root: Path, name: str) -> list[Status]:
    """Return all records of mounts of a container of the store ``root``, oldest first."""
    if not name:  # the records of mounts without a container have no name
        return []
    store = os.path.realpath(root)
    return [
        one
        for one in table.all()
        if one.record.container == name and os.path.realpath(one.record.root) == store
    ]


def mount_by_id(
    table: MountTable, root: Path, word: str, is_taken: Callable[[str], bool] = lambda _: False
) -> Status | None:
    """Return the mount with the ID ``word``, or one that begins so if nothing has that name.

    A container of the store ``root``, a file, and what ``is_taken`` knows go before beginnings.
    """
    if not is_id(word):
        return None
    for one in table.all():
        if one.record.id == word:
            return one
    if is_there(root, word) or os.path.lexists(word) or is_taken(word):
        return None
    try:
        return table.beginning_with(word)
    except NotFoundError:
        return None
