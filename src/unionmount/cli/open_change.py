"""The opening of a container or mount whose changes are to be shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import MountError, NotFoundError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.open import OpenChanges
    from unionmount.cli.settings import Settings
    from unionmount.mounting.records import Record, Status


def open_changes(settings: Settings, word: str) -> OpenChanges:
    """Open a mount by its mount point or ID, or a container by its name, mounted or not."""
    from unionmount.browse.open import open_container
    from unionmount.cli.container_words import PREFIX, name_of_container
    from unionmount.cli.open_image import read_as_owner
    from unionmount.store.containers import Containers

    status = _find_mount(settings, word)
    if status is not None and status.alive:
        return _open_mount(settings, status.record)
    store = settings.store()
    known, name = Containers(store), name_of_container(word)
    if name in known:
        read_as_owner(settings, PREFIX + name)
        return open_container(store, known.find(name))
    if status is not None:
        return _open_mount(settings, status.record)
    raise NotFoundError(f"{printable(word)}: no such container or mount")


def _find_mount(settings: Settings, word: str) -> Status | None:
    from unionmount.cli.container_words import PREFIX, mount_with_id
    from unionmount.mounting.records import MountTable

    if word.startswith(PREFIX):
        return None
    table = MountTable.of_user()
    try:
        return table.find(word)
    except NotFoundError:
        return mount_with_id(settings, table, word, images=False)


def _open_mount(settings: Settings, record: Record) -> OpenChanges:
    from unionmount.browse.open import open_container, open_upper_directory
    from unionmount.cli.container_words import PREFIX
    from unionmount.cli.open_image import read_as_owner
    from unionmount.mounting.records import is_overlay
    from unionmount.store.containers import Containers

    if is_overlay(record.source):
        where = printable(record.mountpoint)
        raise MountError(
            f"{where} is a mount of directories; changes can only be shown for mounts of images"
        )
    settings.root = record.root  # the mount may belong to another store
    store = settings.store()
    read_as_owner(settings, PREFIX + record.container if record.container else record.source)
    if record.container:
        return open_container(store, Containers(store).find(record.container))
    if record.upper:
        return open_upper_directory(store, record.source, Path(record.upper))
    raise MountError(f"{printable(record.mountpoint)} is mounted read-only, so it has no changes")
