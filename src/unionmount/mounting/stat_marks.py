"""The attribute that holds owners and modes in a live directory: ``override_stat``, by three names.

containers/storage and fuse-overlayfs since 1.14 call it ``user.containers.override_stat``, earlier
versions of fuse-overlayfs ``user.fuseoverlayfs.override_stat``, and with ``xattr_permissions=1`` it
is ``security.fuseoverlayfs.override_stat``. One directory uses one name, which its root has.
"""

from __future__ import annotations

import os
import stat
from enum import Enum

from unionmount.errors import MountError
from unionmount.system.trust import OverrideStat, is_own

_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class StatName(Enum):
    """A name of ``override_stat``; the first one on the root of a directory counts."""

    SECURITY = "security.fuseoverlayfs.override_stat"
    CONTAINERS = "user.containers.override_stat"
    FUSE = "user.fuseoverlayfs.override_stat"


def stat_name(fd: int, *, closed: bool, trusting: bool = False) -> StatName | None:
    """Return the name that the root ``fd`` of a layer has; None if it has none.

    If others could have set an attribute, it does not count: with another name, all others of the
    layer would be ignored. ``closed``: nobody else can reach the directory. ``trusting``: any name
    counts.
    """
    try:
        names = os.listxattr(fd)
    except OSError:  # its file system has none
        return None
    status = os.fstat(fd)
    own = trusting or is_own(status)
    users = trusting or (own and (closed or not status.st_mode & _WRITTEN_BY_OTHERS))
    for name in StatName:
        if name.value in names and (own if name is StatName.SECURITY else users):
            return name
    return None


def upper_stat_name(
    fd: int, wanted: OverrideStat, *, closed: bool, fresh: bool, shown: str
) -> StatName:
    """Return the name for an upper; raise MountError if it has one that was not asked for.

    A new upper gets the name that fuse-overlayfs reads in all versions up to 1.16. Engines that
    expect a later one have given the directory the name that all versions since 1.14 read.
    """
    # Who can write to the root of an upper could replace everything in it anyway.
    found = stat_name(fd, closed=closed, trusting=wanted.in_uppers)
    privileged = wanted is OverrideStat.PRIVILEGED
    if wanted.in_uppers:
        if found is not None and (found is StatName.SECURITY) is not privileged:
            raise MountError(
                f"upper directory {shown}: its owners and modes are in {found.value}, which -o"
                f" xattr_permissions={wanted.value} would ignore; mount it with"
                f" xattr_permissions={2 if privileged else 1}"
            )
        if privileged:
            return StatName.SECURITY
        return found or (StatName.FUSE if fresh else StatName.CONTAINERS)
    return found or StatName.CONTAINERS


def record_stat(fd: int, name: StatName) -> None:
    """Give the root of an upper its owner and mode in an attribute, as it has them now."""
    try:
        value = os.getxattr(fd, name.value)
    except OSError:
        now = os.fstat(fd)
        value = f"{now.st_uid}:{now.st_gid}:{stat.S_IMODE(now.st_mode):04o}:dir".encode()
    try:
        os.setxattr(fd, name.value, value)
    except PermissionError:
        raise MountError(
            f"{name.value} can't be set here: only the administrator (CAP_SYS_ADMIN outside of user"
            " namespaces) may do that; use -o xattr_permissions=2"
            if name is StatName.SECURITY
            else f"{name.value} can't be set: the upper directory belongs to somebody else"
        ) from None
