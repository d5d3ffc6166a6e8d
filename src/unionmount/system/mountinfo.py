"""The table of mounts, which the kernel provides in ``/proc/…/mountinfo``."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE_SYSTEM = "fuse.unionmount"

_TABLE = Path("/proc/thread-self/mountinfo")  # one thread may be in another mount namespace
# include/uapi/linux/stat.h
_AT_FDCWD = -100
_AT_NO_AUTOMOUNT, _AT_STATX_DONT_SYNC = 0x800, 0x4000
_STATX_MNT_ID_UNIQUE = 0x4000
_STX_MNT_ID = 0x90

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class MountedAt:
    """A line of the table; ``device`` is "major:minor", equal for all mounts of one file system."""

    device: str
    mountpoint: Path
    file_system: str
    source: str
    flags: frozenset[str] = frozenset()  # of the mount: ro, nosuid, noatime, …
    options: frozenset[str] = frozenset()  # of the file system

    @property
    def read_only(self) -> bool:
        """Whether the kernel refuses all changes here."""
        return "ro" in self.flags or "ro" in self.options


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
            flags=_words(fields[5]),
            options=_words(fields[kind + 3]),
        )


def mounted_at(mountpoint: Path) -> MountedAt | None:
    """Return the topmost file system mounted at ``mountpoint``."""
    found = None
    for mount in mounts():
        if mount.mountpoint == mountpoint:
            found = mount
    return found


def unique_id(mountpoint: Path) -> int:
    """Return the ID of the topmost mount at ``mountpoint``, which no later mount gets.

    It is 0 before Linux 6.8, and where nothing can be found out. No file system is asked.
    """
    room = ctypes.create_string_buffer(256)  # struct statx
    flags = _AT_NO_AUTOMOUNT | _AT_STATX_DONT_SYNC
    path = os.fsencode(mountpoint)
    if ctypes.CDLL(None).statx(_AT_FDCWD, path, flags, _STATX_MNT_ID_UNIQUE, room) != 0:
        return 0
    (mask,) = struct.unpack_from("=I", room, 0)
    (number,) = struct.unpack_from("=Q", room, _STX_MNT_ID)
    return int(number) if mask & _STATX_MNT_ID_UNIQUE else 0


def mountpoints_of(device: str) -> list[Path]:
    """Return the visible mount points of ``device``, the last one mounted first."""
    top = {mount.mountpoint: mount.device for mount in mounts()}
    return [mountpoint for mountpoint, of in reversed(top.items()) if of == device]


def _words(field: bytes) -> frozenset[str]:
    return frozenset(os.fsdecode(field).split(","))


def _unescape(field: bytes) -> bytes:
    return _OCTAL.sub(lambda match: bytes((int(match[1], 8),)), field)
