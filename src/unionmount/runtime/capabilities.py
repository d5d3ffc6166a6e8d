"""Capabilities of a container: the default set, and the changes of a command line.

The rules are those of containers/common, ``pkg/capabilities`` (``MergeCapabilities``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

from unionmount.errors import UsageError
from unionmount.system.text import printable

# In the order of their numbers in linux/capability.h.
_NAMES = (  # noqa: SIM905 - a list has a line for each name
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME "
    "SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG "
    "WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
).split()
KNOWN = tuple(f"CAP_{name}" for name in _NAMES)
"""All capabilities of Linux 5.9 and later, by their numbers."""

_DEFAULT = (  # noqa: SIM905
    "CHOWN DAC_OVERRIDE FOWNER FSETID KILL NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID "
    "SYS_CHROOT"
).split()
DEFAULT = tuple(f"CAP_{name}" for name in _DEFAULT)
"""The capabilities that podman gives to a container by default."""

_ALL = "ALL"


def bounding_set(status: Path = Path("/proc/self/status")) -> tuple[str, ...]:
    """Return the capabilities that this process can pass on; none can be added to them."""
    found = re.search(
        r"^CapBnd:\s*([0-9a-fA-F]+)$", status.read_text(encoding="ascii"), re.MULTILINE
    )
    bits = int(found[1], 16) if found else 0
    return tuple(name for number, name in enumerate(KNOWN) if bits >> number & 1)


def merged(
    add: Iterable[str],
    drop: Iterable[str],
    bounding: Collection[str] = KNOWN,
    default: Collection[str] = DEFAULT,
) -> tuple[str, ...]:
    """Return the default set with additions and removals, as far as possible, sorted by name.

    ``bounding`` are the capabilities that this process can pass on; ``ALL`` stands for them. Raise
    UsageError for an unknown name, and for one that is both added and dropped.
    """
    added, dropped = [_normal(name) for name in add], [_normal(name) for name in drop]
    both = sorted(set(added) & set(dropped))
    if both:
        raise UsageError(f"capability {both[0]} is both added and dropped; choose one")
    if _ALL in dropped:
        base: set[str] = set()
    elif _ALL in added:
        base = set(bounding) - set(dropped)
    else:
        base = set(default) - set(dropped)
    return tuple(sorted((base | set(added)) & set(bounding)))


def _normal(text: str) -> str:
    """Return the full name of a capability in capital letters."""
    name = text.upper()
    if name == _ALL:
        return name
    full = name if name.startswith("CAP_") else f"CAP_{name}"
    if full not in KNOWN:
        raise UsageError(f"unknown capability '{printable(text)}'; capabilities(7) lists them")
    return full
