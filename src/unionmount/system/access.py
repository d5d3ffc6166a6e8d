"""Whether other users get to a directory of the host, whatever is made in it.

What a mount keeps on disk has the owners and modes that the image says. A mount may promise that
set-user-ID programs and devices have no power (``nosuid``, ``nodev``); the disk promises nothing of
the kind. So it matters who can walk there.
"""

from __future__ import annotations

import os
import stat

_ENTERED_BY_OTHERS = stat.S_IXGRP | stat.S_IXOTH
_ROOT = 0


def is_closed(fd: int, *, above: bool = False) -> bool:
    """Return whether nobody but this user, and root, gets to the directory that ``fd`` is open on.

    With ``above`` its own owner and mode do not count, for they may change: only what is on the way
    to it does.

    Nobody else gets there where it, or a directory on the way to it, belongs to one of the two and
    lets nobody else pass. The bits of the group say what an ACL grants at most, so they count
    whoever is in the group. The way is the one that the directory has now, from the descriptor up:
    whoever owns a symlink of the path that led here decides nothing. Where the directory is mounted
    elsewhere, too, that is another way, and is not seen.
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
