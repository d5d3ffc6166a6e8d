"""The keeper of a mount: a child of its daemon that stays outside, and survives it.

It releases the hold on an image of another tool when the daemon ends, however that happens. Where
the daemon is in a user namespace, and can unmount nothing there, the keeper unmounts, too. It is
forked before the daemon has a lock, a mount or a thread, and keeps no descriptor but its end of a
socket, whose end of file tells that the daemon has ended.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from unionmount.errors import MountError, UnionmountError
from unionmount.mounting.live_mount import unmount_device
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.sources.holds import Hold

log = logging.getLogger(__name__)

_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_MAX_REQUEST = 64  # bytes: a device, and whether the connection has ended
_MAX_ANSWER = 4096


class Keeper:
    """The daemon's end of the socket."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self._pid = pid
        self._channel = channel

    def unmount(self, device: str, ended: bool) -> None:
        """Have the keeper unmount; raise MountError with its message if that fails.

        ``ended``: only what has lost its server. Raise BrokenPipeError if the keeper was killed, so
        that nobody can unmount: the daemon ends then, and umount clears what is left.
        """
        try:
            self._channel.sendall(f"{device} {int(ended)}".encode("ascii"))
            answer = self._channel.recv(_MAX_ANSWER)
        except OSError:
            answer = b""
        if not answer:
            raise BrokenPipeError(errno.EPIPE, "the keeper of the mount has ended; use umount")
        if answer != b"+":
            raise MountError(os.fsdecode(answer[1:]))

    def finish(self) -> None:
        """Let the keeper release the hold, and wait for that; log its message if it fails."""
        self._channel.shutdown(socket.SHUT_WR)
        said = self._channel.recv(_MAX_ANSWER)
        self._channel.close()
        os.waitpid(self._pid, 0)
        if said:
            log.error("%s", os.fsdecode(said))


@contextmanager
def kept(hold: Hold | None) -> Iterator[Keeper]:
    """Have a keeper until the block ends; then the hold is released."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            _keep(theirs.detach(), hold)
        finally:
            os._exit(1)
    theirs.close()
    keeper = Keeper(pid, ours)
    try:
        yield keeper
    finally:
        keeper.finish()


def _keep(fd: int, hold: Hold | None) -> None:
    os.setsid()  # what ends the daemon's session does not end this
    for one in _IGNORED:
        signal.signal(one, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _IGNORED)
    channel = _alone(fd)
    while request := channel.recv(_MAX_REQUEST):
        device, _, ended = request.decode("ascii").partition(" ")
        channel.send(_told(partial(unmount_device, device, ended=ended == "1")) or b"+")
    if hold is not None:
        failed = _told(hold.release)
        with suppress(OSError):  # the daemon was killed; the note stays for the next mount
            channel.send(failed[1:])
    os._exit(0)


def _alone(fd: int) -> socket.socket:
    """Close all descriptors but this one, and have the standard ones lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.dup2(fd, 3, inheritable=False)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    return socket.socket(fileno=3)


def _told(action: Callable[[], None]) -> bytes:
    """Return ``-`` with the message of an action that fails; nothing of one that succeeds."""
    try:
        action()
    except UnionmountError as error:
        return b"-" + os.fsencode(printable(str(error)))[: _MAX_ANSWER - 1]
    return b""
