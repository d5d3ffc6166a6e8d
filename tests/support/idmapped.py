"""Idmapped bind mounts of the kernel: the oracle for maps of owners."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unionmount.system.id_map import IdRange

_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_AT_EMPTY_PATH, _MOUNT_ATTR_IDMAP = 0x1000, 0x00100000
_AT_FDCWD = -100


class _Attributes(ctypes.Structure):
    """``struct mount_attr``."""

    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")
    )


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


@contextmanager
def _namespace(users: tuple[IdRange, ...], groups: tuple[IdRange, ...]) -> Iterator[int]:
    """A user namespace in which stored IDs are the inner ones and shown IDs the outer ones."""
    with subprocess.Popen(["unshare", "-U", "cat"], stdin=subprocess.PIPE) as held:
        own = Path("/proc/self/ns/user").readlink()
        while Path(f"/proc/{held.pid}/ns/user").readlink() == own:  # until unshare has done it
            os.sched_yield()
        for name, ranges in (("uid_map", users), ("gid_map", groups)):
            lines = "".join(f"{one.stored} {one.shown} {one.size}\n" for one in ranges)
            Path(f"/proc/{held.pid}/{name}").write_text(lines)
        fd = os.open(f"/proc/{held.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


@contextmanager
def idmapped(
    source: Path, where: Path, users: tuple[IdRange, ...], groups: tuple[IdRange, ...]
) -> Iterator[Path]:
    """``source`` bind-mounted at ``where`` with its owners shown by the maps."""
    with _namespace(users, groups) as namespace:
        tree = _call(
            _OPEN_TREE,
            _AT_FDCWD,
            os.fsencode(source),
            ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC),
        )
        try:
            wanted = _Attributes(attr_set=_MOUNT_ATTR_IDMAP, userns_fd=namespace)
            size = ctypes.c_size_t(ctypes.sizeof(wanted))
            _call(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(wanted), size)
            _call(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(where), _MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(tree)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)
