"""The FUSE connection of another process's daemon."""

from __future__ import annotations

import ctypes
import os
import select
from contextlib import suppress
from pathlib import Path

_DEVICE = "/dev/fuse"
_PIDFD_GETFD = 438


def is_connected(pid: int) -> bool | None:
    """Return whether the file system of the daemon ``pid`` still exists; None if unknown.

    While it exists, no other file system can have its device number. The answer comes from poll(2)
    of the daemon's own descriptor, which reports an error after the last unmount; nothing is read
    from it. Only root and the user of the daemon may look.
    """
    with suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            found = [_poll(process, number) for number in _descriptors(pid)]
        finally:
            os.close(process)
        known = [one for one in found if one is not None]
        return any(known) if known else None
    return None


def _descriptors(pid: int) -> list[int]:
    """Return the numbers of the descriptors of /dev/fuse that a process has."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            if os.readlink(link) == _DEVICE:  # noqa: PTH115 - Path has no text as it stands
                links.append(int(link.name))
    return links


def _poll(process: int, number: int) -> bool | None:
    fd = ctypes.CDLL(None).syscall(_PIDFD_GETFD, process, number, 0)
    if fd < 0:
        return None
    try:
        poll = select.poll()
        poll.register(fd, 0)
        return not poll.poll(0)
    finally:
        os.close(fd)
