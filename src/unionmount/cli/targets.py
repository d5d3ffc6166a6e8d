"""Containers as users name them, and the mounts that belong to them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionmount.errors import MountError, NotFoundError
from unionmount.reference import CONTAINER_PREFIX, printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from unionmount.mounts import MountTable, Status

PREFIX = CONTAINER_PREFIX

_OVERLAY = "lowerdir="


def overlay_source(lower: Iterable[Path]) -> str:
    """How directories that are mounted are recorded, the top one first: no image is called so."""
    return _OVERLAY + ":".join(str(path).replace("\\", r"\\").replace(":", r"\:") for path in lower)


def is_overlay(source: str) -> bool:
    """Whether that is what was recorded."""
    return source.startswith(_OVERLAY)


def name_of_container(word: str) -> str:
    """The name in ``NAME`` or ``container:NAME``."""
    return word.removeprefix(PREFIX)


def mount_of(table: MountTable, root: Path, name: str) -> Status | None:
    """The mount of a container of the store ``root``: the live one, else what is left of one."""
    store = os.path.realpath(root)
    found = [
        one
        for one in table.all()
        if one.record.container == name and os.path.realpath(one.record.root) == store
    ]
    return next((one for one in reversed(found) if one.alive), found[-1] if found else None)


def find_mount(table: MountTable, root: Path, word: str) -> Status:
    """The mount with this ID, at this mount point, or of this container."""
    if not word.startswith(PREFIX):
        try:
            return table.find(word)
        except NotFoundError:
            pass
    found = mount_of(table, root, name_of_container(word))
    if found is None:
        raise NotFoundError(f"{printable(word)}: no such mount")
    return found


def in_use(table: MountTable, root: Path, name: str) -> MountError:
    """Who uses a container that is locked, as an error."""
    status = mount_of(table, root, name)
    if status is None or not status.alive:
        return MountError(f"container '{name}' is in use, by no mount that 'ps' knows of")
    where = printable(status.record.mountpoint)
    return MountError(f"container '{name}' is in use: mounted at {where} ({status.status})")
