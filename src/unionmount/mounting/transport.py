"""The way on which requests come from the kernel: /dev/fuse, or queues of FUSE over io_uring.

A mount uses io_uring if ``-o io_uring`` says so, and is refused where that is impossible. The
environment variable UNIONMOUNT_TRANSPORT says it for mounts that have neither ``io_uring`` nor
``noio_uring``. docs/explanation/io-uring.md has the reasons. Nothing here changes the kernel.
"""

from __future__ import annotations

import os
from pathlib import Path

from unionmount.core import probe_io_uring
from unionmount.errors import MountError
from unionmount.mounting.options import MountOptions
from unionmount.system.text import printable

VARIABLE = "UNIONMOUNT_TRANSPORT"
_DEVICE, _RING = "fuse", "io_uring"  # values of the variable
_SWITCH = Path("/sys/module/fuse/parameters/enable_uring")
_PROCESSORS = Path("/sys/devices/system/cpu/possible")


def queues_of(options: MountOptions, *, routed: bool) -> int:
    """Return the number of queues to serve, 0 for /dev/fuse alone; ``routed``: there is a router.

    Raises MountError if io_uring is wanted and cannot be used, with the reason and the remedy.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen not in ("", _DEVICE, _RING):
        raise MountError(
            f"{VARIABLE}={printable(chosen)} names no transport; use {_DEVICE} or {_RING}"
        )
    if options.io_uring and not routed:
        raise MountError(
            "-o io_uring needs the fast path, which this mount has not; leave out -o io_uring, or "
            "the options that Python alone carries out (nofastpath, --no-fastpath, --layers)"
        )
    if options.io_uring and options.passthrough:
        raise MountError(
            "-o io_uring and -o passthrough cannot be combined yet: over io_uring the kernel does "
            "not say whether it took the reply to an open; leave one of them out"
        )
    wanted = chosen == _RING if options.io_uring is None else options.io_uring
    if not wanted or not routed or options.passthrough:
        return 0
    if (reason := why_not()) is not None:
        raise MountError(f"io_uring cannot be used: {reason}, or leave out -o io_uring")
    return _possible_processors()


def why_not() -> str | None:
    """Return why this process cannot use FUSE over io_uring, and what to do; None if it can."""
    try:
        switch = _SWITCH.read_text(encoding="ascii").strip()
    except OSError:
        return (
            "this kernel has no FUSE over io_uring, or the module fuse is not loaded; use Linux "
            "6.14 or newer with CONFIG_FUSE_IO_URING"
        )
    if switch not in ("Y", "1"):
        return (
            f"it is switched off in the kernel; let root write Y to {_SWITCH} (to keep it on, "
            "`options fuse enable_uring=1` in /etc/modprobe.d/fuse.conf)"
        )
    if (error := probe_io_uring()) != 0:
        return (
            f"io_uring_setup(2) fails with {os.strerror(error)}; permit it (sysctl "
            "kernel.io_uring_disabled, or the seccomp profile of a container)"
        )
    if _possible_processors() == 0:
        return f"{_PROCESSORS} does not say how many processors there are; mount /sys"
    return None


def describe(queues: int) -> str:
    """Return the name of the transport of a mount with so many queues; if 0, why not io_uring."""
    if queues:
        return f"io_uring ({queues} queues)"
    return f"/dev/fuse (io_uring: {why_not() or 'asked for with -o io_uring only'})"


def refused(error: int) -> MountError:
    """Return the error of a mount whose queues the kernel did not accept."""
    return MountError(
        f"the kernel did not accept io_uring for this mount: {os.strerror(error)}; mount again, "
        "or leave out -o io_uring"
    )


def _possible_processors() -> int:
    """Return the number of processors that the kernel may ever have; 0 if it cannot be read.

    The kernel makes one queue for each; those that may be plugged in later are among them.
    """
    try:
        ranges = _PROCESSORS.read_text(encoding="ascii").strip().split(",")
        ends = [one.split("-") for one in ranges]
        return sum(int(end[-1]) - int(end[0]) + 1 for end in ends)
    except (OSError, ValueError):
        return 0
