"""Ends of a mount that nobody asks for: with a process, and with a mount namespace.

The kernel removes a mount namespace, with all mounts in it, when the last process in it ends. A
daemon that stayed in the namespace of its mount would keep both alive for ever. So it leaves for a
private copy in which its mount is gone. When the last other process of the namespace ends, the
kernel takes the mount away and closes the connection, and the daemon ends. The copy keeps only the
mounts that the daemon finds files in, since a file system that is unmounted in the original stays
in use as long as the copy has it, too.

The namespace of process 1 lasts as long as the machine, or the container, so nobody leaves it.
Where process 1 is hidden, by a user namespace or a security module, the machine's first mount
namespace is known by its number.

The daemon of an ordinary user, for whom fusermount3 has mounted, stays: leaving takes
CAP_SYS_ADMIN. In a user namespace of its own the daemon would have it, but all mounts of the copy
would be locked there, so that it could not let go of the mount; the owners of lower directories
would be unknown; and there would be no way back to unmount at SIGTERM
(tests/mounting/test_users_namespaces.py).
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unionmount.system import libc
from unionmount.system.mountinfo import FILE_SYSTEM, mounts

_OWN = Path("/proc/thread-self/ns/mnt")
_FIRST = Path("/proc/1/ns/mnt")
_SYSTEM = (Path("/proc"), Path("/sys"), Path("/dev"))
# MNT_NS_INIT_INO of include/uapi/linux/nsfs.h since Linux 6.18; before, the first number of all.
_FIRST_NUMBERS = (0xEFFFFFF8, 0xF0000000)


def let_terminate() -> None:
    """Have SIGTERM obeyed, though a caller may have had it ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def end_with(process: int) -> None:
    """Send this process SIGTERM, which unmounts, when the process of the pidfd ends."""

    def wait() -> None:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="lifetime").start()


@dataclass(frozen=True, slots=True)
class LeftNamespace:
    """The mount namespace that this process was in; nothing here keeps it alive."""

    identity: tuple[int, int]

    def run(self, action: Callable[[], None]) -> None:
        """Call ``action`` in a thread that is in the namespace, as long as any process is."""
        failures: list[BaseException] = []

        def enter() -> None:
            fd = self._open()
            if fd is None:
                return
            try:
                libc.call("unshare", libc.CLONE_FS)  # the root directory is this thread's own
                libc.call("setns", fd, libc.CLONE_NEWNS)
                action()
            except BaseException as error:  # noqa: BLE001 - raised by the caller
                failures.append(error)
            finally:
                os.close(fd)

        thread = threading.Thread(target=enter, name="namespace")
        thread.start()
        thread.join()
        for error in failures:
            raise error

    def _open(self) -> int | None:
        """A descriptor of the namespace, from any process in it."""
        for name in os.listdir("/proc"):  # noqa: PTH208
            if not name.isdecimal():
                continue
            with suppress(OSError):  # it ended, or is another user's
                fd = os.open(f"/proc/{name}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
                if _identity(os.fstat(fd)) == self.identity:
                    return fd
                os.close(fd)
        return None


def leave_namespace(kept: Iterable[Path]) -> LeftNamespace | None:
    """Leave the mount namespace for a copy, where the namespace may end before us.

    The copy has the mounts on which the paths ``kept`` are, and those of the system itself. Must be
    called before any thread is started. None where this process stays.
    """
    if os.geteuid() or _lasts() or len(os.listdir("/proc/self/task")) > 1:  # noqa: PTH208
        return None
    left = LeftNamespace(_identity(_OWN.stat()))
    try:
        libc.call("unshare", libc.CLONE_NEWNS)
    except OSError:  # without the privilege, which fusermount3 had
        return None
    # before anything is unmounted: that must not reach the original
    libc.call("mount", None, b"/", None, libc.MS_REC | libc.MS_SLAVE, None)
    needed = _above([*_SYSTEM, *kept])
    for mounted in reversed(list(mounts())):
        if mounted.file_system == FILE_SYSTEM or mounted.mountpoint not in needed:
            with suppress(OSError):  # covered by another one, or locked by the kernel
                flags = libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW
                libc.call("umount2", os.fsencode(mounted.mountpoint), flags)
    return left


def _above(paths: Iterable[Path]) -> frozenset[Path]:
    """Return the paths and all directories above them."""
    found = [Path(os.path.realpath(path)) for path in paths]
    return frozenset(one for path in found for one in (path, *path.parents))


def _lasts() -> bool:
    """Whether process 1 is in the same namespace."""
    try:
        return _identity(_FIRST.stat()) == _identity(_OWN.stat())
    except PermissionError:
        return _OWN.stat().st_ino in _FIRST_NUMBERS
    except OSError:  # there is no /proc to tell
        return True


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
