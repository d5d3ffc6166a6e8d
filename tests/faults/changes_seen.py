"""inotify: to be there at the very moment when something happens in a directory."""

from __future__ import annotations

import ctypes
import os
import select
from pathlib import Path

from unionmount.system.closing import Closing

_CHANGES = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200  # modify, attrib, moved, create, delete
_FORGOTTEN = 0x8000  # the watch is gone with its directory
_HEADER = 16

_libc = ctypes.CDLL(None, use_errno=True)


class ChangesSeen(Closing):
    """Counts what happens in directories, not what happens below them."""

    def __init__(self) -> None:
        self._fd = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        assert self._fd >= 0, os.strerror(ctypes.get_errno())

    def watch(self, directory: Path) -> None:
        """Count what happens in a directory from now on."""
        number = _libc.inotify_add_watch(self._fd, os.fsencode(directory), _CHANGES)
        assert number >= 0, f"{directory}: {os.strerror(ctypes.get_errno())}"

    def wait(self, changes: int, *until: int, seconds: float = 30.0) -> int:
        """Wait for so many changes, or for one of the descriptors; how many were missing."""
        poll = select.poll()
        for fd in (self._fd, *until):
            poll.register(fd, select.POLLIN)
        while changes > 0:
            ready = {fd for fd, _ in poll.poll(seconds * 1000)}
            assert ready, "nothing happened"
            if self._fd in ready:
                changes -= self._read()
            elif ready:
                break
        return max(changes, 0)

    def _read(self) -> int:
        data = os.read(self._fd, 1 << 16)
        at = found = 0
        while at < len(data):
            mask = int.from_bytes(data[at + 4 : at + 8], "little")
            found += not mask & _FORGOTTEN
            at += _HEADER + int.from_bytes(data[at + 12 : at + 16], "little")
        return found

    def close(self) -> None:
        """Count no more; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
