"""The table of mounts, which the kernel provides in ``/proc/self/mountinfo``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from unionmount.system.values import dataclass

FILE_SYSTEM = "fuse.unionmount"

_TABLE = Path("/proc/self/mountinfo")
_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountedAt:
    """A line of the table; ``device`` is "major:minor", equal for all mounts of one file system."""

    device: str
    mountpoint: Path
    file_system: str
    source: str


def mounts(table: Path = _TABLE) -> Iterator[MountedAt]:
    """Yield all mounts, in the order of mounting."""
    for line in table.read_bytes().splitlines():
        fields = line.split(b" ")
        kind = fields.index(b"-", 6)  # follows the optional fields
        yield MountedAt(
            device=fields[2].decode("ascii"),
            mountpoint=Path(os.fsdecode(_unescape(fields[4]))),
            file_system=fields[kind + 1].decode("ascii", "replace"),
            source=os.fsdecode(_unescape(fields[kind + 2])),
        )


def mounted_at(mountpoint: Path) -> MountedAt | None:
    """Return the topmost file system mounted at ``mountpoint``."""
    found = None
    for mount in mounts():
        if mount.mountpoint == mountpoint:
            found = mount
    return found


def mountpoints_of(device: str) -> list[Path]:
    """Return the visible mount points of ``device``, the last one mounted first."""
    top = {mount.mountpoint: mount.device for mount in mounts()}
    return [mountpoint for mountpoint, of in reversed(top.items()) if of == device]


def _unescape(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes((int(match[1], 8),)), field)
