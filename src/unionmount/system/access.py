"""Whether other users can reach a directory of the host, whatever it contains.

The files of a mount have the owners and modes of the image on disk. A mount may promise that
set-user-ID programs and devices have no power (``nosuid``, ``nodev``), but the disk promises
nothing like that, so it matters who can reach them there.
"""

from __future__ import annotations

import os
import stat

_ENTERED_BY_OTHERS = stat.S_IXGRP | stat.S_IXOTH
_ROOT = 0


def is_closed(fd: int, *, above: bool = False) -> bool:
    """Return whether only this user and root can reach the directory behind ``fd``.

    With ``above``, its own owner and mode do not count, since they may change, but only those of
    its parents.

    Others cannot reach it if it or one of its parents belongs to this user or root and permits no
    one else to pass. The group bits are the maximum that an ACL grants, so they count whoever is in
    the group. The parents are the present ones, from the descriptor upwards, so symlinks in the
    original path do not matter. Other mounts of the directory are not seen.
    """
    owners = (_ROOT, os.geteuid())
    at = _above(fd) if above else os.dup(fd)
    try:
        while True:
            status = os.fstat(at)
            if status.st_uid in owners and not status.st_mode & _ENTERED_BY_OTHERS:
                return True
            next_one = _above(at)
            os.close(at)
            at = next_one
            if os.path.samestat(os.fstat(at), status):  # the root
                return False
    finally:
        os.close(at)


def _above(fd: int) -> int:
    return os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
