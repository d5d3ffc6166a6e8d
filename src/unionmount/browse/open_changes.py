"""The opening of a container or mount whose changes are to be read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.browse.open import open_container, open_upper_directory
from unionmount.errors import MountError, NotFoundError, UsageError
from unionmount.images.reference import CONTAINER_PREFIX
from unionmount.mounting.mount_words import mount_by_id
from unionmount.mounting.records import MountTable, is_overlay
from unionmount.store.containers import Containers
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.browse.open import OpenChanges
    from unionmount.mounting.records import Record, Status
    from unionmount.store.containers import Container
    from unionmount.store.store import Store


def _as_is(_: str) -> None:
    """Read an image as whoever this process is."""


def open_changes(
    root: Path,
    open_store: Callable[[str | None], Store],
    word: str,
    reading: Callable[[str], None] = _as_is,
) -> tuple[Store, OpenChanges]:
    """Open a mount by its mount point or ID, or a container by its name, mounted or not.

    ``root`` is the store that is searched. ``open_store`` opens it for None, and any other by its
    path, since a mount may belong to another store. The store of what was opened is returned, too.
    ``reading`` is called with the source of the image before anything of it is opened.
    """
    if not word:
        raise UsageError("the name of the container or mount is empty")
    status = _find_mount(root, word)
    if status is not None and status.alive:
        return _open_mount(open_store, status.record, reading)
    store = open_store(None)
    known, name = Containers(store), word.removeprefix(CONTAINER_PREFIX)
    if name in known:
        return store, _open_container(store, known.find(name), reading)
    if status is not None:
        return _open_mount(open_store, status.record, reading)
    raise NotFoundError(f"{printable(word)}: no such container or mount")


def _find_mount(root: Path, word: str) -> Status | None:
    if word.startswith(CONTAINER_PREFIX):
        return None
    table = MountTable.of_user()
    try:
        return table.find(word)
    except NotFoundError:
        return mount_by_id(table, root, word)


def _open_container(
    store: Store, container: Container, reading: Callable[[str], None]
) -> OpenChanges:
    reading(container.image.source)
    return open_container(store, container)


def _open_mount(
    open_store: Callable[[str | None], Store], record: Record, reading: Callable[[str], None]
) -> tuple[Store, OpenChanges]:
    if is_overlay(record.source):
        where = printable(record.mountpoint)
        raise MountError(
            f"{where} is a mount of directories; changes can only be shown for mounts of images"
        )
    store = open_store(record.root)
    if record.container:
        container = Containers(store).find(record.container)
        return store, _open_container(store, container, reading)
    if record.upper:
        reading(record.source)
        return store, open_upper_directory(store, record.source, Path(record.upper))
    raise MountError(f"{printable(record.mountpoint)} is mounted read-only, so it has no changes")
