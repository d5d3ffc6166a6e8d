"""Containers and changes as functions: what there is, what differs, and images made of it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from unionmount.api.images import open_image_view, store_at
from unionmount.api.operands import operand_of
from unionmount.api.transfer_thread import TransferProgress
from unionmount.api.transfers import ImageInStore, Tell, image_in_store
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.api.tree import Path as PathInside
    from unionmount.browse.diff import Difference
    from unionmount.browse.open import OpenChanges, OpenView
    from unionmount.images.reference import Digest
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import Store


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container of the store, and its mount if it has one.

    ``status`` is one that ``unionmount ps -a`` shows: live, starting, detached, running, stale or
    gone with a mount, else stopped, or exited after a run. ``created`` is a time as in ISO 8601.
    """

    name: str
    image: str
    image_id: Digest
    created: str
    upper: Path
    status: str
    mountpoint: Path | None
    pid: int | None  # of the process that serves the mount


def containers(*, root: str | os.PathLike[str] | None = None) -> tuple[ContainerInfo, ...]:
    """Return the containers of the store, oldest first; nothing is changed or cleaned up.

    Raise StoreError if one is damaged.
    """
    from unionmount.mounting.mount_words import mount_of
    from unionmount.mounting.records import MountTable
    from unionmount.runtime.live import LiveContainers
    from unionmount.runtime.run_record import read_record
    from unionmount.store.containers import Containers

    store, table = store_at(root), MountTable.of_user()
    live, found = LiveContainers(table.directory, store.root), []
    for one in Containers(store).all():
        mounted = mount_of(table, store.root, one.name)
        if live.is_running(one.name):
            status = "running"
        elif mounted is not None:
            status = mounted.status
        else:
            status = "stopped" if read_record(one.path) is None else "exited"
        record = None if mounted is None else mounted.record
        found.append(
            ContainerInfo(
                *(one.name, one.image.name, one.image.id, one.created, one.upper, status),
                mountpoint=None if record is None else Path(record.mountpoint),
                pid=record.pid if record is not None and mounted and mounted.alive else None,
            )
        )
    return tuple(found)


def diff(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str] | None = None,
    *,
    platform: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Iterator[Difference]:
    """Yield the paths that changed in a container or mount, or that differ between two images.

    With one argument, that is a container, or a mount by its mount point or ID. With two, each is
    anything that ``open_image`` opens. A difference has ``kind`` (A, C or D), ``path`` (absolute,
    bytes), ``changes``, and the attributes ``before`` and ``after``; they are sorted by path. What
    is compared stays open until the iterator ends or is closed.
    """
    if after is not None:
        yield from _between(before, after, platform, root)
        return
    with _changes(before, root) as (_, opened):
        for found in opened.compare().differences():
            yield replace(found, path=b"/" + found.path)
        opened.check_there()


def _between(
    before: str | os.PathLike[str],
    after: str | os.PathLike[str],
    platform: str | None,
    root: str | os.PathLike[str] | None,
) -> Iterator[Difference]:
    from unionmount.browse.image_diff import differences

    with (
        open_image_view(before, platform=platform, root=root) as older,
        open_image_view(after, platform=platform, root=root) as newer,
    ):
        for found in differences(older, newer):
            yield replace(found, path=b"/" + found.path)


@contextmanager
def _changes(
    target: str | os.PathLike[str], root: str | os.PathLike[str] | None
) -> Iterator[tuple[Store, OpenChanges]]:
    from unionmount.browse.open_changes import open_changes

    store, opened = open_changes(
        store_at(root).root,
        lambda other: store_at(other if other is not None else root),
        operand_of(target),
    )
    with opened:
        yield store, opened


def commit(
    target: str | os.PathLike[str],
    name: str,
    *,
    message: str = "",
    author: str = "",
    changes: Sequence[str] = (),
    exclude: Sequence[str] = (),
    squash: bool = False,
    epoch: int | None = None,
    root: str | os.PathLike[str] | None = None,
    progress: Tell | None = None,
) -> ImageInStore:
    """Make an image ``name`` of a container or mount, as ``unionmount commit`` does.

    ``changes`` are instructions such as ``CMD ["sh"]``, ``exclude`` patterns of paths that are left
    out. With ``squash``, the image has one layer. ``epoch`` (seconds since 1970) is the time of its
    creation, and no file is newer. ``progress`` gets the size of the new layer so far; if it
    raises, or Ctrl-C interrupts this, no image and no layer is made.
    """
    from unionmount.committing import CommitRequest
    from unionmount.committing import commit as make
    from unionmount.images.reference import Reference
    from unionmount.runtime.container_owners import owners_of
    from unionmount.squash import commit_squashed

    reference, warnings = Reference.parse(name), list[str]()
    with _changes(target, root) as (store, opened):
        request = CommitRequest(
            name=reference,
            message=message,
            author=author,
            instructions=tuple(changes),
            epoch=epoch,
            excluded=tuple(exclude),
            owners=owners_of(opened.upper),
        )
        run = commit_squashed if squash else make
        stored = run(store, opened, request, warnings.append, _told(progress))
    return image_in_store(stored, warnings)


def _told(tell: Tell | None) -> Progress | None:
    """Return the function that the packages below call for progress."""
    if tell is None:
        return None

    def told(what: str, done: int, total: int | None) -> None:
        tell(TransferProgress(what, done, total))

    return told


def export(
    ref: str | os.PathLike[str],
    output: str | os.PathLike[str] | BinaryIO,
    path: PathInside = "/",
    *,
    layer: int | None = None,
    platform: str | None = None,
    root: str | os.PathLike[str] | None = None,
    progress: Tell | None = None,
) -> tuple[str, ...]:
    """Write the files of an image or container as one tar, as ``unionmount export`` does.

    ``ref`` is anything that ``open_image`` opens. ``output`` is a file that appears when it is
    complete, or an open file with a descriptor, such as a pipe. The names in the tar are relative
    to ``path``. The result says what was left out. ``progress`` gets the size of the tar so far; if
    it raises, a file does not appear.
    """
    from unionmount.transfer.image_files import replaced_file

    if output == "":
        raise UsageError("the path of the output is empty")
    with open_image_view(ref, layer=layer, platform=platform, root=root) as view:
        if isinstance(output, str | os.PathLike):
            with replaced_file(Path(output)) as fd:
                return _write(view, path, fd, os.fspath(output), progress)
        output.flush()
        name = str(getattr(output, "name", "the output"))
        return _write(view, path, _descriptor(output), name, progress)


def _descriptor(output: BinaryIO) -> int:
    try:
        return output.fileno()
    except (AttributeError, io.UnsupportedOperation):
        raise UsageError(
            f"the output ({type(output).__name__}) has no file descriptor; give a path, a pipe or "
            "tempfile.TemporaryFile()"
        ) from None


def _write(
    view: OpenView, path: PathInside, fd: int, what: str, tell: Tell | None
) -> tuple[str, ...]:
    from unionmount.browse.paths import follow
    from unionmount.extract.export import export_tar
    from unionmount.runtime.container_owners import owners_of
    from unionmount.system.os_errors import naming

    warnings: list[str] = []
    with naming(os.fsdecode(path)):
        found = follow(view.files, os.fsencode(path))
    owners = owners_of(view.changes)
    export_tar(view, found, fd, printable(what), warnings.append, owners, _told(tell))
    return tuple(warnings)
