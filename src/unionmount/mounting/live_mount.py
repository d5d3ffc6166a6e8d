"""A mounted file system, as the process that serves it sees it."""

from __future__ import annotations

import _thread
import errno
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import MountError
from unionmount.mounting.fuse_mount import BusyError, unmount_fuse, widen_read_ahead
from unionmount.system.closing import Closing
from unionmount.system.mountinfo import mountpoints_of, unique_id
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.mounting.lifetime import LeftNamespace
    from unionmount.mounting.statistics import StatsListener

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def wanted_signals() -> list[signal.Signals]:
    """Return the signals that the caller did not ignore."""
    return [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]


class LiveMount:
    """A mounted file system, identified by its device, since it may be moved or bind-mounted.

    ``ended``: the kernel has closed the connection, usually because it is not mounted any more.
    Then another file system may reuse the number of its device.
    """

    def __init__(self, mountpoint: Path, device: str) -> None:
        self.mountpoint = mountpoint
        self.device = device
        # The root is held open, so that nobody unmounts it before it was seen to answer.
        self._root: int | None = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.unique = unique_id(mountpoint)  # now: it does not show where the daemon goes
        # Unmounts for a daemon in a user namespace: with the device, and whether it has ended.
        self.outside: Callable[[str, bool], None] | None = None
        self.left: LeftNamespace | None = None  # the namespace of the mount, if the daemon left it
        self.given_up = False  # whether the daemon ends, even if mounts remain
        self.ended = False

    @property
    def device_number(self) -> int:
        """The number of its device."""
        major, _, minor = self.device.partition(":")
        return os.makedev(int(major), int(minor))

    def answers(self) -> bool:
        """Return whether the file system answers; False if another one is mounted there by now."""
        assert self._root is not None, "asked once"
        try:
            os.statvfs(self._root)
            return os.fstat(self._root).st_dev == self.device_number
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Close the root, so that others can unmount the file system."""
        root, self._root = self._root, None
        if root is not None:
            os.close(root)

    def unmount(self) -> None:
        """Unmount the file system everywhere; its users keep their open files."""
        if self.outside is not None:
            self.outside(self.device, self.ended)
        elif self.left is None:
            self._unmount_here()
        else:
            self.left.run(self._unmount_here)

    def _unmount_here(self) -> None:
        unmount_device(self.device, ended=self.ended)


def unmount_device(device: str, *, ended: bool) -> None:
    """Unmount what has a device, everywhere; ``ended``: only if it has lost its server."""
    for place in mountpoints_of(device):
        if ended and not _is_dead(place):
            continue  # another file system
        try:
            note = unmount_fuse(place)
        except BusyError:
            note = unmount_fuse(place, lazy=True)
        if note:
            log.warning("%s", note)


def _is_dead(mountpoint: Path) -> bool:
    """Return whether the file system at the mount point has lost its server."""
    try:
        os.statvfs(mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


class Announcement(Closing):
    """A thread that asks a new mount whether it answers, and what follows from its answer.

    The thread may wait until the connection is closed. Nobody waits for it but ``finish``, which is
    called once its descriptor is readable.
    """

    def __init__(self, mount: LiveMount, ready: Callable[[], None]) -> None:
        self._mount = mount
        self._ready = ready
        self._answer: bool | OSError = False
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC)
        self.finished = False

    def close(self) -> None:
        """Wait for the answer no more."""
        if not self.finished:
            self.finished = True
            os.close(self._reader)

    def begin(self) -> None:
        """Ask."""
        _thread.start_new_thread(self._ask, ())

    def fileno(self) -> int:
        """Return the descriptor to wait for until it is readable."""
        return self._reader

    def finish(self) -> None:
        """Say that the mount is ready; MountError if it is not."""
        self.close()
        where = printable(str(self._mount.mountpoint))
        if isinstance(self._answer, OSError):
            why = self._answer.strerror
            raise MountError(f"the new mount at {where} does not answer: {why}")
        if not self._answer:
            raise MountError(f"{where} was unmounted before it was ready")
        widen_read_ahead(self._mount.device)  # not before INIT was answered, which would undo it
        self._ready()

    def _ask(self) -> None:
        try:
            self._answer = self._mount.answers()
        except OSError as error:
            self._answer = error
        os.close(self._writer)  # the descriptor of ``finish`` becomes readable


class Serving:
    """What a mount needs while it is served, by the router alone or with Python."""

    def __init__(self, mount: LiveMount, announcement: Announcement) -> None:
        self.mount = mount
        self.announcement = announcement
        # Of the router, None without it; the first is readable once the mount is gone.
        self.router_ended: int | None = None
        self.stats: StatsListener | None = None
        self.unheeded = 0  # signals that came, and of which nothing followed yet
        self._unmounted = False

    def heed_signal(self) -> bool:
        """Unmount at the first signal; return False at the second, when serving is to end."""
        if self._unmounted:
            self.mount.given_up = True
            return False
        self._unmounted = True
        try:
            self.mount.unmount()
        except MountError:
            log.exception("after a signal")
        return True
