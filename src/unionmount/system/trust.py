"""Trust in marks that others may have written to mounted directories.

Only users who are privileged in the initial user namespace can set extended attributes below
``trusted.``; everybody who can write to a file can set those below ``user.``. Marks that only hide
are believed from everybody. A redirect, a metacopy or an override_stat would show the contents of
another directory, or grant permissions: see docs/explanation/layers.md, "Whose marks count".
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

from unionmount.system.access import is_closed

_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO of the kernel, which never changes
_CAP_SYS_ADMIN = 21


class OverrideStat(Enum):
    """The files in lower directories whose ``override_stat`` is believed, and if uppers need it.

    The values are those of fuse-overlayfs' option ``xattr_permissions``. With the last two, every
    file in the upper has the attribute.
    """

    NEVER = "0"
    OWN = ""  # files that only this user, or only root, can change
    PRIVILEGED = "1"  # the same; in uppers, only the privileged can set the attribute
    ALWAYS = "2"

    @property
    def in_uppers(self) -> bool:
        """Whether every file and directory of an upper has the attribute."""
        return self in (OverrideStat.PRIVILEGED, OverrideStat.ALWAYS)


def reads_trusted() -> bool:
    """Return whether this process can read attributes below ``trusted.``."""
    return is_admin_of_host()


def has_identity() -> bool:
    """Return whether this user's files can be distinguished from those of others.

    A user namespace shows all unknown users as one; a process of that user cannot distinguish them.
    """
    return _in_first_user_namespace() or os.geteuid() != _stranger()


def is_ours(fd: int) -> bool:
    """Return whether only this user can reach the directory ``fd``, so its marks are trusted."""
    return has_identity() and is_closed(fd)


def is_own(status: os.stat_result) -> bool:
    """Return whether a file belongs to this user or to root."""
    return has_identity() and status.st_uid in (os.geteuid(), 0)


def _in_first_user_namespace() -> bool:
    try:
        return Path("/proc/self/ns/user").stat().st_ino == _FIRST_USER_NAMESPACE
    except FileNotFoundError:  # a kernel without user namespaces
        return True


def is_admin_of_host() -> bool:
    """Return whether this process has CAP_SYS_ADMIN in the initial user namespace."""
    return _in_first_user_namespace() and is_admin()


def is_admin() -> bool:
    """Return whether this process has CAP_SYS_ADMIN in its user namespace."""
    # One of the lines is the name of the program, which may be any bytes.
    for line in Path("/proc/self/status").read_bytes().splitlines():
        if line.startswith(b"CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def _stranger() -> int:
    return int(Path("/proc/sys/kernel/overflowuid").read_text())
