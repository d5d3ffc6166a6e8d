"""The processes that use a mounted or detached file system, found in ``/proc``.

They are recognised by the device of their open files, directories, mappings and mounts. The file
system itself is not asked (statx with ``AT_STATX_DONT_SYNC`` and an empty mask answers from
memory), because its daemon may be stopped. Ordinary users only see their own processes.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unionmount.system.mountinfo import FILE_SYSTEM, mounts
from unionmount.system.text import printable

_AT_FDCWD = -100
_AT_STATX_DONT_SYNC = 0x4000
_STATX_SIZE = 256
_DEVICE = slice(0x88, 0x90)  # stx_dev_major and stx_dev_minor

_SHOWN = 5  # processes that a message names


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that uses a file system; ``path`` in /proc leads there, or is None."""

    pid: int
    name: str
    path: str | None = None
    at: str = ""  # what it uses, as it names it

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


def holders_of(device: str, *, besides: int = 0) -> list[Holder]:
    """Return the processes that use the file system ``device``, without its daemon."""
    seen: set[str] = set()  # mount namespaces
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208
    found: list[Holder] = []
    for pid in pids:
        if pid not in (besides, os.getpid()):
            # A process that ends meanwhile, or may not be inspected, counts as no holder.
            with suppress(OSError):
                found += _held_by(pid, device, seen)
    return found


def described(holders: list[Holder], *, paths: bool = False) -> str:
    """Return some of the holders in one line for a message; empty if there are none."""
    shown = ", ".join(
        f"{one} at {printable(one.at)}" if paths and one.at else str(one)
        for one in holders[:_SHOWN]
    )
    more = len(holders) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def flush(holders: list[Holder], seconds: float) -> bool:
    """Pass changes of mapped files to the daemon; return False if it takes too long.

    All other changes were passed on immediately.
    """
    paths = [one.path for one in holders if one.path is not None]
    # A daemon thread, since it can hang as long as the daemon of the mount does.
    thread = threading.Thread(target=_flush, args=(paths,), daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def _flush(paths: list[str]) -> None:
    for path in paths:
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                done: int = ctypes.CDLL(None, use_errno=True).syncfs(fd)
            finally:
                os.close(fd)
            if done == 0:
                return  # syncs all files of the file system


def _held_by(pid: int, device: str, seen: set[str]) -> Iterator[Holder]:
    directory = f"/proc/{pid}"
    for path, at in _paths(directory, device):
        yield Holder(pid, _name(directory), path, at)
        return
    namespace = os.readlink(f"{directory}/ns/mnt")  # noqa: PTH115
    if namespace in seen:
        return
    seen.add(namespace)
    if namespace != os.readlink("/proc/self/ns/mnt") and _is_mounted(pid, device):  # noqa: PTH115
        yield Holder(pid, f"the mount namespace of {_name(directory)}")


def _paths(directory: str, device: str) -> Iterator[tuple[str, str]]:
    """Yield the files there that a process has open or mapped: a link in /proc, and its target."""
    for name in ("cwd", "root"):
        if _device_of(f"{directory}/{name}") == device:
            yield f"{directory}/{name}", _target(f"{directory}/{name}")
    for name in os.listdir(f"{directory}/fd"):  # noqa: PTH208
        if _device_of(f"{directory}/fd/{name}") == device:
            yield f"{directory}/fd/{name}", _target(f"{directory}/fd/{name}")
    major, _, minor = device.partition(":")
    wanted = f"{int(major):02x}:{int(minor):02x}".encode()
    for line in Path(directory, "maps").read_bytes().splitlines():
        fields = line.split(None, 5)
        if fields[3] == wanted:
            begin, _, end = fields[0].partition(b"-")
            # The names are numbers without leading zeros.
            path = f"{directory}/map_files/{int(begin, 16):x}-{int(end, 16):x}"
            yield path, os.fsdecode(fields[5]) if len(fields) > 5 else ""


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115
    except OSError:
        return ""


def _device_of(path: str) -> str:
    """Return the device of a link in /proc without asking the server of its file system."""
    answer = ctypes.create_string_buffer(_STATX_SIZE)
    statx = ctypes.CDLL(None, use_errno=True).statx
    if statx(_AT_FDCWD, os.fsencode(path), _AT_STATX_DONT_SYNC, 0, answer) != 0:
        return ""
    raw = answer.raw[_DEVICE]
    major, minor = (int.from_bytes(half, sys.byteorder) for half in (raw[:4], raw[4:]))
    return f"{major}:{minor}"


def _is_mounted(pid: int, device: str) -> bool:
    table = Path(f"/proc/{pid}/mountinfo")
    return any(one.device == device and one.file_system == FILE_SYSTEM for one in mounts(table))


def _name(directory: str) -> str:
    return printable(Path(directory, "comm").read_bytes().rstrip(b"\n"))
