"""The files of a directory of the host, which others may change while it is read.

Every directory is opened beneath the top in one system call that follows no symlink. A file is
examined before it is opened, so that no FIFO is waited for and no device is touched.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from unionmount import core
from unionmount.extract.items import CopyItem, Piece
from unionmount.extract.itself import Place
from unionmount.system.files import FileRange
from unionmount.system.os_errors import naming
from unionmount.system.text import printable

_STEP = 1024 * 1024
_BLOCK = 512
_NOT_OF_THE_FILE = frozenset({b"security.selinux"})  # a label that belongs to the host
_NO_HOLES = (errno.EINVAL, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class _Opened:
    """The content of an open file."""

    fd: int
    size: int
    sparse: bool

    @property
    def range(self) -> FileRange | None:
        """The whole file, unless it has holes."""
        return None if self.sparse else FileRange(self.fd, 0, self.size)

    def pieces(self) -> Iterator[Piece]:
        """Yield what is not in holes."""
        at = 0
        while at < self.size and (start := _seek(self.fd, at, os.SEEK_DATA)) is not None:
            end = _seek(self.fd, start, os.SEEK_HOLE)
            at = self.size if end is None else min(end, self.size)
            while start < at and (data := os.pread(self.fd, min(_STEP, at - start), start)):
                yield start, data
                start += len(data)


def _seek(fd: int, offset: int, how: int) -> int | None:
    """Return the next data or hole; None if there is none."""
    try:
        return os.lseek(fd, offset, how)
    except OSError as error:
        if error.errno in _NO_HOLES:
            return offset if how == os.SEEK_DATA else None
        if error.errno != errno.ENXIO:
            raise
        return None


class HostSource:
    """The items at and below a path of the host.

    ``top`` is a descriptor (O_PATH) of the file itself, which is borrowed; ``attributes`` says
    whether extended attributes are read. What the copy itself makes may be below the top: nothing
    is taken from the directories ``avoided``, or from the file system ``avoided_device``.
    """

    def __init__(
        self, top: int, shown: str, warn: Callable[[str], None], *, attributes: bool
    ) -> None:
        self._top = top
        self._where = shown.rstrip("/")
        self._warn = warn
        self._attributes = attributes
        self._linked: dict[tuple[int, int], bytes] = {}
        self.avoided: set[Place] = set()
        self.avoided_device: int | None = None

    @property
    def top(self) -> int:
        """The descriptor of the top."""
        return self._top

    def items(self) -> Iterator[CopyItem]:
        """Yield the top, and all that is below it in a fixed order."""
        yield from self._item(b"", self._top, os.fstat(self._top))
        pending = [b""] if stat.S_ISDIR(os.fstat(self._top).st_mode) else []
        while pending:
            directory = pending.pop()
            below: list[bytes] = []
            for path, item in self._inside(directory):
                if stat.S_ISDIR(item.mode):
                    below.append(path)
                yield item
            pending += below[::-1]

    def _inside(self, directory: bytes) -> Iterator[tuple[bytes, CopyItem]]:
        with naming(self._shown(directory)):
            fd = core.open_within(self._top, directory or b".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            if directory and self._is_avoided(os.fstat(fd)):  # it was put there meanwhile
                return
            with naming(self._shown(directory)), os.scandir(fd) as entries:
                names = sorted(os.fsencode(entry.name) for entry in entries)
            for name in names:
                path = directory + b"/" + name if directory else name
                for item in self._named(fd, name, path):
                    yield path, item
        finally:
            os.close(fd)

    def _named(self, directory: int, name: bytes, path: bytes) -> Iterator[CopyItem]:
        """Yield the item of a name, if it is still there."""
        with naming(self._shown(path)):
            try:
                flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(name, flags, dir_fd=directory)
            except FileNotFoundError:
                self._warn(f"{self._shown(path)}: left out, since it was removed meanwhile")
                return
        try:
            status = os.fstat(fd)
            if self._is_avoided(status):
                self._warn(f"{self._shown(path)}: left out, since it is what is copied into")
            else:
                yield from self._item(path, fd, status)
        finally:
            os.close(fd)

    def _is_avoided(self, status: os.stat_result) -> bool:
        place = status.st_dev, status.st_ino
        is_there = place in self.avoided or status.st_dev == self.avoided_device
        return is_there and stat.S_ISDIR(status.st_mode)

    def _shown(self, path: bytes) -> str:
        return printable(self._where + "/" + os.fsdecode(path)) if path else self._where or "/"

    def _item(self, path: bytes, fd: int, status: os.stat_result) -> Iterator[CopyItem]:
        """Yield one item, whose content can be read until the next one."""
        key = status.st_dev, status.st_ino
        link = None
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            link = self._linked.get(key)
            self._linked.setdefault(key, path)
        if stat.S_ISREG(status.st_mode) and link is None:
            with naming(self._shown(path)):
                opened = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                status = os.fstat(opened)
                sparse = status.st_blocks * _BLOCK < status.st_size
                content = _Opened(opened, status.st_size, sparse)
                yield self._made(path, fd, status, content=content)
            finally:
                os.close(opened)
            return
        yield self._made(path, fd, status, link=link)

    def _made(
        self,
        path: bytes,
        fd: int,
        status: os.stat_result,
        *,
        link: bytes | None = None,
        content: _Opened | None = None,
    ) -> CopyItem:
        is_link = stat.S_ISLNK(status.st_mode)
        return CopyItem(
            path,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            content.size if content is not None else 0,
            (os.major(status.st_rdev), os.minor(status.st_rdev)),
            os.readlink(b"", dir_fd=fd) if is_link else b"",
            link,
            self._xattrs(fd) if self._attributes and not is_link and link is None else {},
            content,
        )

    def _xattrs(self, fd: int) -> dict[bytes, bytes]:
        found, path = {}, f"/proc/self/fd/{fd}"
        try:
            names = [os.fsencode(name) for name in os.listxattr(path)]
        except OSError:  # the file system has none
            return {}
        for name in names:
            if name not in _NOT_OF_THE_FILE:
                with suppress(OSError):  # removed meanwhile, or not for this user
                    found[name] = os.getxattr(path, name)
        return found
