"""A place in the store where layers are written before they appear."""

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

from unionmount.system.files import fsync_directory
from unionmount.system.os_errors import storing

SPOOL_NAME = "spool"


class Staging(Closing):
    """A temporary directory of the store that belongs to this process while it is open.

    It is held by a flock, which dies with the process: a directory that nobody holds is garbage,
    and ``clean`` removes it. What is published leaves it by one rename.
    """

    def __init__(self, tmp: Path) -> None:
        self.path = tmp / secrets.token_hex(16)
        with storing(tmp), _lock_directory(tmp, fcntl.LOCK_SH):
            # the lock on tmp keeps cleaners away until ours is taken
            self.path.mkdir(0o700)
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def create(self, name: str) -> int:
        """A new file in here, open for reading and writing; the caller closes it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with storing(self.path):
            return os.open(self.path / name, flags, 0o600)

    def nameless(self) -> int:
        """A new file in the store that vanishes when it is closed; the caller closes it."""
        fd = self.create(SPOOL_NAME)
        with storing(self.path):
            (self.path / SPOOL_NAME).unlink()
        return fd

    @contextmanager
    def spool(self) -> Iterator[int]:
        """A nameless file for the length of a block."""
        fd = self.nameless()
        try:
            yield fd
        finally:
            os.close(fd)

    def publish(self, target: Path) -> bool:
        """Rename the whole directory to ``target``; False where there is one already."""
        with storing(target):
            os.fsync(self._fd)
            try:
                self.path.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                return False
            fsync_directory(target.parent)
        return True

    def publish_file(self, name: str, target: Path) -> None:
        """Rename one file to ``target``, in place of what is there."""
        with storing(target):
            (self.path / name).replace(target)
            fsync_directory(target.parent)

    def keep_lock(self) -> int:
        """A descriptor that holds the lock on the directory also after it was published."""
        return os.dup(self._fd)

    def close(self) -> None:
        """Remove what was not published, and let go."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # what stays is removed by a later ``clean``
                remove_tree(self.path)
            os.close(fd)

    @staticmethod
    def clean(tmp: Path) -> None:
        """Remove what processes left that are dead."""
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
