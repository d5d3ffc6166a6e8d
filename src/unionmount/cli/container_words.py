"""The words for containers on the command line, and the mounts of a container."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionmount.errors import InvalidReference, MountError, NotFoundError
from unionmount.images.reference import CONTAINER_PREFIX
from unionmount.store.containers import is_there
from unionmount.system.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from unionmount.cli.settings import Settings
    from unionmount.mounting.holders import Holder
    from unionmount.mounting.records import MountTable, Status

PREFIX = CONTAINER_PREFIX


def name_of_container(word: str) -> str:
    """Return the name in ``NAME`` or ``container:NAME``."""
    return word.removeprefix(PREFIX)


def find_mount(table: MountTable, settings: Settings, word: str) -> Status:
    """Return the mount with this ID or mount point, or of this container.

    A prefix of an ID is enough unless a container or a file has that name. For an ID or a mount
    point, there need not be a place for the store.
    """
    from unionmount.mounting.mount_words import mount_of

    if not word.startswith(PREFIX):
        try:
            return table.find(word)
        except NotFoundError:
            pass
    root = settings.store_root()
    found = mount_of(table, root, name_of_container(word))
    if found is not None:
        return found
    if not word:
        raise NotFoundError("no mount has an empty name")
    if word.startswith(PREFIX) or is_there(root, word) or os.path.lexists(word):
        raise NotFoundError(f"{printable(word)}: no such mount")
    return table.beginning_with(word)


def mount_with_id(
    settings: Settings, table: MountTable, word: str, *, images: bool = True
) -> Status | None:
    """Return the mount with the ID ``word``, or one that begins so if nothing has that name.

    With ``images``, names and IDs of images go first, too.
    """
    from unionmount.mounting.mount_words import mount_by_id

    def is_taken(name: str) -> bool:
        return images and _is_image(settings, name)

    return mount_by_id(table, settings.store_root(), word, is_taken)


def _is_image(settings: Settings, word: str) -> bool:
    try:
        settings.store().find_image(word)
    except NotFoundError:
        return False
    except InvalidReference:  # the ID is ambiguous, so there are images
        return True
    return True


def in_use(table: MountTable, root: Path, name: str) -> MountError:
    """Return the error for a locked container, which names the mount that uses it."""
    from unionmount.mounting.mount_words import mount_of
    from unionmount.runtime.live import LiveContainers

    if LiveContainers(table.directory, root).is_running(name):
        return MountError(f"container '{name}' is running; 'unionmount exec' runs more in it")
    status = mount_of(table, root, name)
    if status is None or not status.alive:
        return MountError(f"container '{name}' is in use, but not by a mount that 'ps' lists")
    where = printable(status.record.mountpoint)
    state = with_users(status)
    return MountError(f"container '{name}' is in use: mounted at {where} ({state})")


def users_of(status: Status) -> list[Holder]:
    """Return the visible processes that still use a detached mount."""
    from unionmount.mounting.holders import holders_of
    from unionmount.mounting.records import DETACHED

    record = status.record
    return holders_of(record.device, besides=record.pid) if status.status == DETACHED else []


def with_users(status: Status) -> str:
    """Return the status of a mount and, if it is detached, the processes that use it."""
    from unionmount.mounting.holders import described

    by = described(users_of(status))
    return f"{status.status} by {by}" if by else status.status
