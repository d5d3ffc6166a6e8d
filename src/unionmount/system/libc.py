"""Calls into the C library that Python 3.11 does not have: mount(2), unshare(2) and their kind."""

from __future__ import annotations

import ctypes
import os

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_REC = 1 << 14
MS_POSIXACL = 1 << 16
MS_SLAVE = 1 << 19
MS_RELATIME = 1 << 21
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

CLONE_FS = 0x200
CLONE_NEWNS = 0x20000
CLONE_NEWUSER = 0x10000000


def call(name: str, *arguments: bytes | int | None) -> None:
    """Call a function that returns -1 and sets errno where it fails; OSError then."""
    converted = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*converted) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
