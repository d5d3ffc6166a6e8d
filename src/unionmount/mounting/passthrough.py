"""Passthrough: the kernel reads and writes files of the upper on the disk itself.

``-o passthrough`` is carried out or refused with a reason, never ignored
(docs/explanation/router.md, "Passthrough").
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from unionmount.errors import MountError
from unionmount.system.trust import is_admin_of_host

if TYPE_CHECKING:
    from unionmount.core import Router

_PATIENCE = 5.0  # seconds until the kernel has taken the answer to its INIT, which comes at once
_INSTEAD = "leave -o passthrough away"
_REASONS = {
    errno.EOPNOTSUPP: "this kernel cannot pass files through: that needs Linux 6.9 with "
    "CONFIG_FUSE_PASSTHROUGH",
    errno.ELOOP: "the upper directory is on a file system that is stacked on others, such as an "
    "overlayfs; put it on a disk",
    errno.EPERM: "the kernel permits it to root outside of user namespaces only (CAP_SYS_ADMIN)",
}


def check_passthrough(*, writable: bool, routed: bool, counts_access: bool) -> None:
    """Refuse passthrough where it cannot be, as far as that is known before the mount."""
    if not is_admin_of_host():
        raise _refusal(_REASONS[errno.EPERM])
    if not writable:
        raise _refusal("files of the upper are passed through, and a read-only mount has none")
    if not routed:
        raise _refusal("the router does it, which nofastpath or UNIONMOUNT_FASTPATH=0 switches off")
    if not counts_access:
        raise _refusal(
            "the disk counts access times of files that are passed through; add -o relatime"
        )


def try_passthrough(router: Router, directory: int) -> None:
    """Pass a nameless file of the upper's disk through; raise MountError where that fails.

    The kernel refuses with EPERM until it has taken the router's answer to its INIT, which nothing
    announces.
    """
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=directory)
    except OSError as error:
        raise _refusal(
            f"a file cannot be opened with O_TMPFILE in the upper directory: {error.strerror}"
        ) from error
    try:
        _try_file(router, fd)
    except OSError as error:
        raise _refusal(_REASONS.get(error.errno or 0, str(error))) from error
    finally:
        os.close(fd)


def _try_file(router: Router, fd: int) -> None:
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return router.try_passthrough(fd)
        except PermissionError:
            if time.monotonic() > end:
                raise
        time.sleep(0.001)


def _refusal(why: str) -> MountError:
    return MountError(f"mount option passthrough is refused: {why}; or {_INSTEAD}")
