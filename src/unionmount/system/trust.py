"""Whose marks are believed: what others may have written to directories that are mounted.

Extended attributes below ``trusted.`` can be set by who is privileged in the initial user
namespace, those below ``user.`` by everybody who may write to a file. Marks that only hide are
believed from everybody. A redirect, a metacopy or an override_stat shows what somebody else's
directory holds, or gives somebody else's rights: docs/explanation/layers.md, "Whose marks count".
"""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

from unionmount.system.access import is_closed

_FIRST_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO of the kernel: it never changes
_CAP_SYS_ADMIN = 21


class OverrideStat(Enum):
    """Where ``user.containers.override_stat`` of lower directories is believed."""

    NEVER = "0"
    OWN = ""  # on objects that are this user's, or root's, alone
    ALWAYS = "2"


def reads_trusted() -> bool:
    """Whether this process may read attributes below ``trusted.``: then it needs no others."""
    return _in_first_user_namespace() and is_admin()


def has_identity() -> bool:
    """Whether what this user owns can be told from what strangers own.

    In a user namespace everybody whom it does not know is shown as one user; who *is* that user
    can't tell.
    """
    return _in_first_user_namespace() or os.geteuid() != _stranger()


def is_ours(fd: int) -> bool:
    """Whether nobody else gets to the directory ``fd``, so that all marks in it are this user's."""
    return has_identity() and is_closed(fd)


def is_own(status: os.stat_result) -> bool:
    """Whether an object is this user's, or root's."""
    return has_identity() and status.st_uid in (os.geteuid(), 0)


def _in_first_user_namespace() -> bool:
    try:
        return Path("/proc/self/ns/user").stat().st_ino == _FIRST_USER_NAMESPACE
    except FileNotFoundError:  # a kernel without user namespaces
        return True


def is_admin() -> bool:
    """Whether this process has CAP_SYS_ADMIN in its user namespace."""
    # The name of the program is a line of it, and may be any bytes.
    for line in Path("/proc/self/status").read_bytes().splitlines():
        if line.startswith(b"CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def _stranger() -> int:
    return int(Path("/proc/sys/kernel/overflowuid").read_text())
