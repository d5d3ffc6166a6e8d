"""The mounts of a container besides its root: those that every container has, and the user's.

Types, options and paths are those of podman (containers/common, ``pkg/config/default.go``, and
``pkg/specgen/generate`` of podman).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from unionmount.errors import UsageError

_TERMINAL_GROUP = 5  # of terminals: "tty" in most distributions
_CLOSED = ("nosuid", "noexec", "nodev")

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/fs/selinux",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
)
"""Files that would tell or give a container too much; a runtime covers them."""

READ_ONLY_PATHS = (
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount of the runtime specification; ``destination`` is absolute, in the container."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...] = ()

    def row(self) -> dict[str, Any]:
        """Return it in the form of config.json."""
        return {
            "destination": self.destination,
            "type": self.type,
            "source": self.source,
            "options": list(self.options),
        }


def bind(source: str, destination: str, *options: str) -> Mount:
    """Return a bind mount that receives no mounts from the host."""
    if not destination.startswith("/"):
        raise UsageError(f"'{destination}' is not an absolute path of the container")
    access = () if "ro" in options or "rw" in options else ("rw",)
    return Mount(destination, "bind", source, ("rbind", "rprivate", *access, *options))


def mode_of(mount: Mount) -> int:
    """Return the mode for the mount point of a mount, which a runtime gives to a tmpfs there."""
    if mount.type != "tmpfs":
        return 0o755
    given = [one.removeprefix("mode=") for one in mount.options if one.startswith("mode=")]
    octal = [one for one in given if re.fullmatch("[0-7]{1,5}", one)]
    return int(octal[-1], 8) & 0o7777 if octal else 0o1777  # what the kernel does


def host_file_mount(source: str, destination: str, *, read_only: bool) -> Mount:
    """Return the mount of a file that the container gets from here."""
    closed = ("ro", *_CLOSED) if read_only else ()
    return Mount(destination, "bind", source, ("bind", "rprivate", *closed))


def standard_mounts(
    *, own_network: bool, rootless: bool, terminal_group: bool, privileged: bool = False
) -> list[Mount]:
    """Return the mounts that every container has.

    ``terminal_group``: whether the user namespace has the group of terminals. Without root, only
    the owner of a network namespace may mount its sysfs; others get that of the host.
    """
    access = ("rprivate", "rw") if privileged else ("ro",)
    pts = ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")
    shm = (*_CLOSED, "mode=1777", "size=65536k")
    if rootless and not own_network:
        sys = Mount("/sys", "bind", "/sys", ("rprivate", *_CLOSED, "ro", "rbind"))
    else:
        sys = Mount("/sys", "sysfs", "sysfs", (*_CLOSED, *access))
    dev = ("nosuid", "noexec", "strictatime", "mode=755", "size=65536k")
    group = (f"gid={_TERMINAL_GROUP}",) if terminal_group else ()
    return [
        Mount("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
        Mount("/dev", "tmpfs", "tmpfs", dev),
        sys,
        Mount("/dev/pts", "devpts", "devpts", (*pts, *group)),
        Mount("/dev/mqueue", "mqueue", "mqueue", _CLOSED),
        Mount("/dev/shm", "tmpfs", "shm", shm),  # noqa: S108 - of the container
    ]


def cgroup_mount(*, privileged: bool = False) -> Mount:
    """Return the mount of the control groups."""
    writable = "rw" if privileged else "ro"
    options = ("rprivate", *_CLOSED, "relatime", writable)
    return Mount("/sys/fs/cgroup", "cgroup", "cgroup", options)
