"""Adding images to an OCI image layout that exists.

Blobs are written first, each complete before it has its name; index.json is replaced at the end. So
a reader, and an error in the middle, see the old list, with blobs at most that nothing needs. The
list is changed under a lock (flock) of the directory, so of two that add at once none is lost.

Names move as with skopeo: an older image with the same name stays in the list, without the name.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from unionmount.errors import FormatError, UnionmountError
from unionmount.images.build import compact_json
from unionmount.images.json_fields import load_json
from unionmount.images.manifest import ImageIndex
from unionmount.images.media_types import FULL_NAME, REF_NAME
from unionmount.images.reference import Digest
from unionmount.sources.layout import INDEX, MARKER, DirectoryFiles, OciLayout, read_range
from unionmount.system.closing import Closing
from unionmount.system.files import FileRange, open_below, pieces_of
from unionmount.system.os_errors import naming
from unionmount.system.waiting import HOW_TO_WAIT, timeout_of
from unionmount.transfer.image_files import DirectoryWriter, fill_file, new_directory

if TYPE_CHECKING:
    from pathlib import Path

    from unionmount.transfer.image_files import FileWriter

Row = dict[str, Any]

_LOOK_AGAIN = 0.05  # seconds between two looks at a lock


def is_layout(path: Path) -> bool:
    """Return whether a directory has the marker of an OCI layout."""
    return path.is_dir() and os.path.lexists(path / MARKER)


@contextmanager
def layout_directory(path: Path) -> Iterator[FileWriter]:
    """Open a layout to write: one that exists grows, and a new one appears complete at the end."""
    if is_layout(path):
        with GrowingLayout(path) as writer:
            yield writer
            writer.finish()
    else:
        with new_directory(path) as directory:
            yield DirectoryWriter(directory)


class GrowingLayout(Closing):
    """A FileWriter into a layout that exists; ``finish`` lists what was written."""

    def __init__(self, path: Path) -> None:
        """Open a layout; raise FormatError if it is none, or damaged."""
        files = DirectoryFiles(path)
        try:
            self.what = files.what
            OciLayout(files, "")  # checks the marker and the list
        finally:
            files.close()
        self._good: set[str] = set()
        self._added: bytes | None = None
        self._top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the directory."""
        top, self._top = self._top, -1
        if top >= 0:
            os.close(top)

    def has(self, path: str, size: int) -> bool:
        """Return whether a blob is there and undamaged; raise NotRegular if it is no file."""
        if path in self._good:
            return True
        algorithm, digits = path.split("/")[1:]
        expected = Digest.parse(f"{algorithm}:{digits}")
        try:
            with naming(f"{self.what}/{path}"):
                fd = open_below(self._top, path, self.what)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(fd).st_size != size:
                return False
            hasher = expected.hasher()
            for piece in pieces_of(FileRange(fd, 0, size), f"{self.what}/{path}"):
                hasher.update(piece)
        finally:
            os.close(fd)
        if hasher.hexdigest() == expected.hex:
            self._good.add(path)
        return path in self._good

    def directory(self, path: str) -> None:
        """Make a directory, unless it is there; raise OSError if something else is there."""
        above, _, name = path.rpartition("/")
        where = f"{self.what}/{path}"
        with self._opened(above) as parent, suppress(FileExistsError), naming(where):
            os.mkdir(name, dir_fd=parent)
        with self._opened(path):
            pass

    def file(self, path: str, size: int, chunks: Iterable[bytes]) -> None:
        """Write a blob, unless it is there; the list of ``index.json`` is kept for ``finish``."""
        if path == INDEX:
            self._added = b"".join(chunks)
        elif path != MARKER and not self.has(path, size):
            above, _, name = path.rpartition("/")
            with self._opened(above) as parent:
                self._replace(parent, name, chunks, f"{self.what}/{path}")
            self._good.add(path)

    def finish(self) -> None:
        """List what was added; raise an error if the layout is busy, or is none any more."""
        if self._added is None:
            return
        self._lock()
        what = f"{self.what}: {INDEX}"
        with naming(f"{self.what}/{INDEX}"):
            fd = open_below(self._top, INDEX, self.what)
        try:
            known = read_range(FileRange(fd, 0, os.fstat(fd).st_size), what)
        finally:
            os.close(fd)
        made = merged_rows(known, self._added, what)
        ImageIndex.parse(made, what)  # which checks that it is not too long
        if load_json(made, what) != load_json(known, what):
            self._replace(self._top, INDEX, [made], f"{self.what}/{INDEX}")

    def _lock(self) -> None:
        seconds = timeout_of(os.environ)
        end = time.monotonic() + seconds
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(self._top, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
                return
            if time.monotonic() >= end:
                raise UnionmountError(
                    f"{self.what}: another process has locked it for {seconds:g} s; try again "
                    f"later ({HOW_TO_WAIT})"
                )
            _check_cancelled()
            time.sleep(_LOOK_AGAIN)

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """Open a directory of the layout, without following symlinks."""
        here = os.dup(self._top)
        try:
            for name in filter(None, path.split("/")):
                with naming(f"{self.what}/{path}"):
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                    found = os.open(name, flags, dir_fd=here)
                os.close(here)
                here = found
            yield here
        finally:
            os.close(here)

    def _replace(self, parent: int, name: str, chunks: Iterable[bytes], where: str) -> None:
        """Write a file that appears complete; it is written beside ``index.json`` before."""
        temporary = f".unionmount-{secrets.token_hex(8)}"
        with naming(where):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(temporary, flags, 0o666, dir_fd=self._top)
        try:
            fill_file(fd, chunks, where)
            with naming(where):
                os.rename(temporary, name, src_dir_fd=self._top, dst_dir_fd=parent)
                os.fsync(parent)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._top)
            raise


def _check_cancelled() -> None:
    """Raise trio.Cancelled in a thread of a task that was cancelled."""
    import trio  # noqa: PLC0415 - save needs it only where it waits

    with suppress(RuntimeError):  # no thread of trio's
        trio.from_thread.check_cancelled()


def merged_rows(known: bytes, added: bytes, what: str) -> bytes:
    """Return an index.json with the entries of both; the names of ``added`` are theirs alone.

    Fields that are not known here stay. An entry without a name is dropped if the same manifest is
    added, with a name or without.
    """
    ImageIndex.parse(known, what)
    document, rows = load_json(known, what), load_json(added, what)["manifests"]
    if not isinstance(document, dict):
        raise FormatError(f"{what}: not an object")
    old: list[Row] = document.get("manifests") or []
    new = [_unambiguous(row, old) for row in rows]
    digests = {row["digest"] for row in new}
    kept = [row for row in (_renamed(row, new) for row in old) if row not in new]
    kept = [row for row in kept if _names(row) or row["digest"] not in digests]
    return compact_json(document | {"manifests": kept + new})


def _names(row: Row) -> dict[str, str]:
    annotations = row.get("annotations") or {}
    return {key: annotations[key] for key in (FULL_NAME, REF_NAME) if key in annotations}


def _unambiguous(row: Row, known: Sequence[Row]) -> Row:
    """Return an entry whose short name is replaced by the full one if another image has it."""
    names = _names(row)
    full, short = names.get(FULL_NAME), names.get(REF_NAME)
    others = (
        one
        for one in map(_names, known)
        if one.get(REF_NAME) == short and one.get(FULL_NAME, full) != full
    )
    if full is None or short is None or next(others, None) is None:
        return row
    return row | {"annotations": row["annotations"] | {REF_NAME: full}}


def _renamed(row: Row, added: Sequence[Row]) -> Row:
    """Return an older entry, without the name that another manifest of ``added`` has now."""
    own = set(_names(row).items())
    if not any(own & set(_names(one).items()) for one in added):
        return row
    left = {
        key: value for key, value in row["annotations"].items() if key not in (FULL_NAME, REF_NAME)
    }
    bare = {key: value for key, value in row.items() if key != "annotations"}
    return bare | ({"annotations": left} if left else {})
