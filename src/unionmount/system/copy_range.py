"""Copying bytes between descriptors inside the kernel, where it can."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from unionmount.errors import SizeMismatch
from unionmount.system.files import write_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.system.files import FileRange

_PIECE = 1024 * 1024
_AT_ONCE = 64 * 1024 * 1024  # bytes in one call, between which the process can be interrupted
# Errors of copy_file_range(2) and sendfile(2) that are about the kinds of both files.
_OTHERWISE = (
    *(errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EPERM),
)


def copy_range(data: FileRange, target: int, what: str) -> None:
    """Write a range of a file to ``target`` at its position; SizeMismatch if it ends early.

    ``target`` may be a pipe or a socket. What can be shared between files of one file system is.
    """
    done = 0
    for way in (_copy, _send, _read_and_write):
        done = _in_one_way(way, data, target, done)
        if done == data.length:
            return
    raise SizeMismatch(what, data.length, done)


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at an offset."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def _in_one_way(
    way: Callable[[int, int, int, int], int], data: FileRange, target: int, done: int
) -> int:
    """Copy as far as one way leads; return how many bytes are copied in all."""
    while done < data.length:
        size = min(data.length - done, _AT_ONCE)
        try:
            copied = way(data.fd, data.offset + done, target, size)
        except OSError as error:
            if error.errno not in _OTHERWISE or way is _read_and_write:
                raise
            return done
        if copied == 0:
            return done
        done += copied
    return done


def _copy(source: int, offset: int, target: int, size: int) -> int:
    return os.copy_file_range(source, target, size, offset_src=offset)


def _send(source: int, offset: int, target: int, size: int) -> int:
    return os.sendfile(target, source, offset, size)


def _read_and_write(source: int, offset: int, target: int, size: int) -> int:
    data = os.pread(source, min(size, _PIECE), offset)
    write_all(target, data)
    return len(data)
