"""Single changes of a tree, each of one effect, and the program that makes them on a mount.

Run as ``python steps.py TOP < steps``, the program writes ``begin`` and ``end`` of each step to its
standard output, and stops where the file system does. It needs the standard library alone.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any

DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
"""What calls fail with once the daemon is gone."""

_AT_FDCWD = -100
EXCHANGE = 2

Step = dict[str, Any]
"""``do``: the name of a change; the rest are its arguments. Paths are relative to the top."""

_libc = ctypes.CDLL(None, use_errno=True)


def _write(path: str, flags: int, data: bytes, offset: int | None = None) -> None:
    fd = os.open(path, flags, 0o644)
    try:
        if offset is not None:
            os.lseek(fd, offset, os.SEEK_SET)
        os.write(fd, data)
    finally:
        os.close(fd)


def _exchange(path: str, to: str) -> None:
    words = (os.fsencode(path), os.fsencode(to))
    if _libc.renameat2(_AT_FDCWD, words[0], _AT_FDCWD, words[1], EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _sync(path: str, sync: Callable[[int], None]) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def apply(step: Step) -> None:  # noqa: C901, PLR0912 - one line for each
    """Make a change in the working directory."""
    path = step["path"]
    match step["do"]:
        case "append":
            _write(path, os.O_WRONLY | os.O_APPEND, step["data"].encode())
        case "overwrite":
            _write(path, os.O_WRONLY, step["data"].encode(), 0)
        case "truncate":
            os.truncate(path, step["size"])
        case "chmod":
            os.chmod(path, step["mode"])  # noqa: PTH101
        case "chown":
            os.chown(path, step["uid"], step["gid"], follow_symlinks=False)
        case "utime":
            os.utime(path, ns=(step["mtime"], step["mtime"]), follow_symlinks=False)
        case "setxattr":
            os.setxattr(path, step["name"], step["value"].encode())
        case "removexattr":
            os.removexattr(path, step["name"])
        case "create":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        case "mkdir":
            os.mkdir(path, 0o755)  # noqa: PTH102
        case "symlink":
            os.symlink(step["target"], path)  # noqa: PTH211
        case "mkfifo":
            os.mkfifo(path, 0o600)
        case "link":
            os.link(path, step["to"], follow_symlinks=False)
        case "unlink":
            os.unlink(path)  # noqa: PTH108
        case "rmdir":
            os.rmdir(path)  # noqa: PTH106
        case "rename":
            os.rename(path, step["to"])  # noqa: PTH104
        case "exchange":
            _exchange(path, step["to"])
        case "fsync":
            _sync(path, os.fsync)
        case "fdatasync":
            _sync(path, os.fdatasync)
        case unknown:
            raise ValueError(unknown)


def _run(steps: list[Step]) -> None:
    for number, step in enumerate(steps):
        os.write(1, b"begin %d\n" % number)
        try:
            apply(step)
        except OSError as error:
            if error.errno not in DEAD:
                os.write(1, b"failed %d %s\n" % (number, os.fsencode(str(error))))
            return
        os.write(1, b"end %d\n" % number)


def _main() -> None:
    os.umask(0o022)
    steps = json.load(sys.stdin)
    try:
        os.chdir(sys.argv[1])
    except OSError as error:
        if error.errno not in DEAD:
            raise
    else:
        _run(steps)


if __name__ == "__main__":
    _main()
