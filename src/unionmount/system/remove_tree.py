"""The removal of a directory with everything in it, even if others control its contents.

Paths are not followed: everything is reached through descriptors. Directories that their owner may
not change (mode 0555, in the tree of an image) get more permissions first. A tree may be deeper
than the limits of descriptors and paths: each directory is moved to the top before it is emptied,
so that a few descriptors suffice. At a mount point, the removal stops.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from unionmount.system.os_errors import naming

_FLAGS = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove the directory ``path``; an OSError names it, even if it is about an entry."""
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with naming(path):
            _remove(parent, path.name)
    finally:
        os.close(parent)


def _remove(parent: int, name: str) -> None:
    with _entered(parent, name) as top:
        device = os.fstat(top).st_dev
        fresh = _fresh_names()
        waiting = _empty(top, lambda subdirectory: subdirectory)
        while waiting:
            with _entered(top, waiting[-1]) as directory:
                if os.fstat(directory).st_dev != device:
                    raise OSError(errno.EBUSY, "something is mounted in it")

                def lift(subdirectory: str, source: int = directory) -> str:
                    lifted = next(fresh)
                    os.rename(subdirectory, lifted, src_dir_fd=source, dst_dir_fd=top)
                    return lifted

                found = _empty(directory, lift)
            os.rmdir(waiting.pop(), dir_fd=top)
            waiting += found
    os.rmdir(name, dir_fd=parent)


def _fresh_names() -> Iterator[str]:
    """Yield unused names, as an earlier removal may have been interrupted."""
    token = secrets.token_hex(8)
    number = 0
    while True:
        yield f"removed-{token}-{number}"
        number += 1


@contextmanager
def _entered(parent: int, name: str) -> Iterator[int]:
    """Open a directory for reading, and let its owner change it."""
    _open_up(parent, name)
    fd = os.open(name, _FLAGS, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_up(parent: int, name: str) -> None:
    fd = os.open(name, _FLAGS | os.O_PATH, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if ~mode & stat.S_IRWXU and os.geteuid():
            # An O_PATH descriptor cannot be changed in another way.
            os.chmod(f"/proc/self/fd/{fd}", mode | stat.S_IRWXU)  # noqa: PTH101
    finally:
        os.close(fd)


def _empty(directory: int, lift: Callable[[str], str]) -> list[str]:
    """Unlink all files in ``directory``; ``lift`` directories, and return their new names."""
    with os.scandir(directory) as listed:
        entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listed]
    found = []
    for name, is_directory in entries:
        if is_directory:
            _open_up(directory, name)  # moving a directory changes its ".."
            found.append(lift(name))
        else:
            os.unlink(name, dir_fd=directory)
    return found
