"""The devices of the host, which a privileged container gets as well."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from unionmount.runtime.mounts import Mount

_DEV = Path("/dev")
# Directories and devices that each container has of its own, as podman leaves them out.
_OWN_DIRECTORIES = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})
_OWN_DEVICES = frozenset({"console"})
_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
_MAX_DEPTH = 8
_TERMINALS = ("/dev/tty", "/dev/ptmx")
_BOUND = ("slave", "nosuid", "noexec", "rw", "rbind")


def devices(top: Path = _DEV) -> tuple[dict[str, Any], ...]:
    """Return the devices of the host in the form of config.json."""
    return tuple(_below(top, str(_DEV), _MAX_DEPTH))


def device_mounts(top: Path = _DEV) -> list[Mount]:
    """Return bind mounts of the devices, for a runtime that may not make any.

    Terminals are those of the container, as podman has it. What the user may not open on the host,
    root of the container may not open either.
    """
    paths = [row["path"] for row in devices(top)]
    return [Mount(one, "bind", one, _BOUND) for one in paths if not one.startswith(_TERMINALS)]


def _below(directory: Path, shown: str, depth: int) -> Iterator[dict[str, Any]]:
    with suppress(OSError):
        for entry in sorted(os.scandir(directory), key=lambda one: one.name):
            path = f"{shown}/{entry.name}"
            with suppress(FileNotFoundError):
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    if depth and entry.name not in _OWN_DIRECTORIES:
                        yield from _below(directory / entry.name, path, depth - 1)
                elif stat.S_IFMT(info.st_mode) in _KINDS and entry.name not in _OWN_DEVICES:
                    yield _row(path, info)


def _row(path: str, info: os.stat_result) -> dict[str, Any]:
    return {
        "path": path,
        "type": _KINDS[stat.S_IFMT(info.st_mode)],
        "major": os.major(info.st_rdev),
        "minor": os.minor(info.st_rdev),
        "fileMode": info.st_mode & 0o777,
        "uid": info.st_uid,
        "gid": info.st_gid,
    }
