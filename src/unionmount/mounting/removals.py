"""A watch on the directories of another tool's image: the log says if they are removed.

A hold keeps the tool from removing them, but nobody can keep root from doing so by force. What is
gone then fails with ESTALE, unless the kernel has it in its cache.
"""

from __future__ import annotations

import ctypes
import logging
import os
import struct
import threading
from typing import TYPE_CHECKING

from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

_EVENT = struct.Struct("iIII")  # inotify_event, before its name
_MOVED_FROM, _DELETE, _ONLYDIR = 0x40, 0x200, 0x01000000
_ROOM = 64 * 1024


def watch(paths: Sequence[Path], name: str) -> None:
    """Log one line when one of the directories is removed or moved away; return at once.

    Its parent is watched, since a directory that is open here tells of its end only later. Where no
    more watches are permitted, nothing is logged.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    if fd < 0:
        return
    watched: dict[tuple[int, bytes], Path] = {}
    for path in paths:
        # Tools remove the directory itself, or move the one above it away first.
        for one in (path, path.parent):
            wanted = _MOVED_FROM | _DELETE | _ONLYDIR
            number = libc.inotify_add_watch(fd, os.fsencode(one.parent), wanted)
            if number >= 0:
                watched[number, os.fsencode(one.name)] = path
    thread = threading.Thread(target=_wait, args=(fd, watched, name), daemon=True, name="removals")
    thread.start()


def _wait(fd: int, watched: dict[tuple[int, bytes], Path], name: str) -> None:
    while True:
        events, at = os.read(fd, _ROOM), 0
        while at < len(events):
            number, _, _, size = _EVENT.unpack_from(events, at)
            at += _EVENT.size
            found = watched.get((number, events[at : at + size].rstrip(b"\0")))
            at += size
            if found is not None:
                log.error(
                    "%s: its layer %s was removed; files that are gone fail with ESTALE",
                    *(printable(name), printable(str(found))),
                )
                os.close(fd)
                return
