"""Extraction of files of an image into a directory of the host.

A file or tree appears under its own name when it is complete; until then it is in a directory
that is removed if anything goes wrong. Everything is made by single names in open directories,
and no link is followed, so nothing outside of the target can be reached. The image's owners, set-ID
bits and devices do not become those of the host.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unionmount.core import View
from unionmount.system.os_errors import naming, reason_of
from unionmount.system.remove_tree import remove_tree
from unionmount.system.text import printable

if TYPE_CHECKING:
    from pathlib import Path

    from unionmount.core import Attributes, BrowsableTree

_STEP = 1 << 20
_BATCH = 256
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_BITS = 0o777  # permissions without set-user-ID, set-group-ID and the sticky bit


class Stopped(Exception):
    """The user has stopped an extraction; nothing of it is left."""


@dataclass(slots=True)
class Extracting:
    """What was extracted so far, and the files that were left out, with reasons."""

    files: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)
    stop: bool = False

    def check(self) -> None:
        """Raise Stopped if the user wants no more."""
        if self.stop:
            raise Stopped


Extract = Callable[["BrowsableTree", bytes, "Path", Extracting], None]
"""Extracts a path of a tree into a directory, under its last name."""


def extract(files: BrowsableTree, path: bytes, target: Path, progress: Extracting) -> None:
    """Extract a file or a whole directory; a name that is in ``target`` already is an error."""
    target.mkdir(parents=True, exist_ok=True)
    found = files.resolve(path)
    name = _checked(path.rpartition(b"/")[2] or b"root")
    shown = printable(os.fsdecode(os.fsencode(target / os.fsdecode(name))))
    with naming(printable(str(target))):
        top = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with naming(shown):
            _refuse_existing(top, name)
        part = f".unionmount-{secrets.token_hex(8)}"
        os.mkdir(part, 0o700, dir_fd=top)
        try:
            with _opened(os.open(part, _DIRECTORY, dir_fd=top)) as fd, naming(shown):
                _Writer(files, progress).write(fd, name, found)
                _move(fd, name, top, is_directory=stat.S_ISDIR(found.mode))
        finally:
            remove_tree(target / part)
    finally:
        os.close(top)


def _checked(name: bytes) -> bytes:
    """Return a name that stands for itself; an index has no others."""
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, f"'{printable(name)}' cannot be the name of a file")
    return name


def _refuse_existing(directory: int, name: bytes) -> None:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _move(source: int, name: bytes, target: int, *, is_directory: bool) -> None:
    """Move what is complete to its place, where nothing must be."""
    if not is_directory:
        try:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            pass  # a device that was left out
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):  # no hard links on this disk
                raise
            _refuse_existing(target, name)
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        return
    _refuse_existing(target, name)
    # A directory that is to be moved must be writable; rename(2) changes its "..".
    with _opened(os.open(name, _DIRECTORY, dir_fd=source)) as fd:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        os.fchmod(fd, mode | stat.S_IRWXU)
        os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        os.fchmod(fd, mode)


@contextmanager
def _opened(fd: int) -> Iterator[int]:
    try:
        yield fd
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Entered:
    """A directory that is being written: its descriptor, attributes and remaining entries."""

    fd: int
    attributes: Attributes
    entries: Iterator[tuple[bytes, Attributes]]


class _Writer:
    """The writing of one tree; directories are descriptors, so paths can have any length."""

    def __init__(self, files: BrowsableTree, progress: Extracting) -> None:
        self._files = files
        self._progress = progress

    def write(self, directory: int, name: bytes, found: Attributes) -> None:
        """Write a file, or a directory with everything in it."""
        if not stat.S_ISDIR(found.mode):
            self._file(directory, name, found)
            return
        stack = [self._enter(directory, name, found)]
        try:
            while stack:
                at = stack[-1]
                entry = next(at.entries, None)
                if entry is None:
                    self._leave(stack.pop())
                elif stat.S_ISDIR(entry[1].mode):
                    stack.append(self._enter(at.fd, _checked(entry[0]), entry[1]))
                else:
                    self._file(at.fd, _checked(entry[0]), entry[1])
        finally:
            for left in stack:
                os.close(left.fd)

    def _enter(self, directory: int, name: bytes, found: Attributes) -> _Entered:
        self._progress.check()
        os.mkdir(name, 0o700, dir_fd=directory)
        self._progress.files += 1
        fd = os.open(name, _DIRECTORY, dir_fd=directory)
        return _Entered(fd, found, self._entries(found))

    def _leave(self, done: _Entered) -> None:
        with _opened(done.fd) as fd:
            os.fchmod(fd, done.attributes.mode & _NO_BITS)
            os.utime(fd, ns=(done.attributes.mtime_ns, done.attributes.mtime_ns))

    def _entries(self, found: Attributes) -> Iterator[tuple[bytes, Attributes]]:
        cookie = 0
        while entries := self._files.list(found.node, cookie, _BATCH):
            cookie = entries[-1].next
            for entry in entries:
                yield entry.name, entry.attributes
                if isinstance(self._files, View) and not stat.S_ISDIR(entry.attributes.mode):
                    self._files.forget(entry.attributes.node)

    def _file(self, directory: int, name: bytes, found: Attributes) -> None:
        self._progress.check()
        kind = stat.S_IFMT(found.mode)
        if kind == stat.S_IFREG:
            self._regular(directory, name, found)
        elif kind == stat.S_IFLNK:
            os.symlink(self._files.readlink(found.node), name, dir_fd=directory)
            times = (found.mtime_ns, found.mtime_ns)
            os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
        else:
            self._progress.skipped.append(f"{printable(name)}: devices and sockets are left out")
            return
        self._progress.files += 1

    def _regular(self, directory: int, name: bytes, found: Attributes) -> None:
        with _opened(os.open(name, _NEW, 0o600, dir_fd=directory)) as fd:
            for offset in range(0, found.size, _STEP):
                self._progress.check()
                data = self._files.read(found.node, offset, min(_STEP, found.size - offset))
                self._progress.bytes += len(data)
                if data.count(0) != len(data):  # holes stay holes
                    _write_all(fd, data, offset)
            os.ftruncate(fd, found.size)
            os.fchmod(fd, found.mode & _NO_BITS)
            os.utime(fd, ns=(found.mtime_ns, found.mtime_ns))


def _write_all(fd: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, offset)
        left, offset = left[written:], offset + written


def failure(path: bytes, error: OSError) -> str:
    """Return why a path was not extracted, on one line."""
    where = printable(os.fsdecode(error.filename)) if error.filename else "/" + printable(path)
    return f"{where}: {reason_of(error)}"
