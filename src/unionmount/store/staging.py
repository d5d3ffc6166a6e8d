"""Staging directories, in which layers are written before they appear in the store."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.system.closing import Closing
from unionmount.system.remove_tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.store.sharing import Sharing

from unionmount.system.files import fsync_directory
from unionmount.system.os_errors import storing

SPOOL_NAME = "spool"


class Staging(Closing):
    """A temporary directory of the store that belongs to this process while it is open.

    It is held by a flock, which ends with the process: a directory that is not held is garbage, and
    ``clean`` removes it. A layer is published by one rename.
    """

    def __init__(self, tmp: Path) -> None:
        self.path = tmp / secrets.token_hex(16)
        with storing(tmp), _lock_directory(tmp, fcntl.LOCK_SH):
            # The lock on tmp keeps cleaners away until this directory is locked.
            self.path.mkdir(0o700)
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def create(self, name: str) -> int:
        """Create a file for reading and writing, which the caller closes."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with storing(self.path):
            return os.open(self.path / name, flags, 0o600)

    def nameless(self) -> int:
        """Create a nameless file, which vanishes when the caller closes it."""
        fd = self.create(SPOOL_NAME)
        with storing(self.path):
            (self.path / SPOOL_NAME).unlink()
        return fd

    @contextmanager
    def spool(self) -> Iterator[int]:
        """Create a nameless file for the duration of a block."""
        fd = self.nameless()
        try:
            yield fd
        finally:
            os.close(fd)

    def publish(self, target: Path, sharing: Sharing | None = None) -> bool:
        """Rename the whole directory to ``target``; return False if that exists.

        With ``sharing`` it is open to the readers of the store.
        """
        before = None if sharing is None else sharing.open_up(self.path)
        with storing(target):
            os.fsync(self._fd)
            try:
                self.path.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                return False
            fsync_directory(target.parent)
        if sharing is not None:
            sharing.settle(target, before)
        return True

    def publish_file(self, name: str, target: Path, sharing: Sharing | None = None) -> None:
        """Rename one file to ``target``, which is replaced."""
        before = None if sharing is None else sharing.open_up(self.path / name)
        with storing(target):
            (self.path / name).replace(target)
            fsync_directory(target.parent)
        if sharing is not None:
            sharing.settle(target, before)

    def keep_lock(self) -> int:
        """Return a descriptor that keeps the lock on the directory even after it is published."""
        return os.dup(self._fd)

    def close(self) -> None:
        """Remove everything that was not published, and release the lock."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # a later ``clean`` removes the rest
                remove_tree(self.path)
            os.close(fd)

    @staticmethod
    def clean(tmp: Path) -> None:
        """Remove the directories of dead processes."""
        with suppress(BlockingIOError), _lock_directory(tmp, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for path in tmp.iterdir():
                with suppress(OSError), _lock_directory(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    remove_tree(path)


@contextmanager
def _lock_directory(path: Path, operation: int) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, operation)
        yield
    finally:
        os.close(fd)
