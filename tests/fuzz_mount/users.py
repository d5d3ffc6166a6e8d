"""Those who use the mount: all kinds of system calls on few names, so that they meet."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from random import Random
from typing import Any

from differential.worker import RENAME_EXCHANGE, RENAME_NOREPLACE, Operations

NAMES = ("a", "b", "c", "d")
ODD = (".wh.a", ".wh..wh..opq", "..", ".", "n" * 255, "n" * 256, "\udcff", "link", "swapped0")
# mostly such that others go on
MODES = (0o777, 0o777, 0o755, 0o755, 0o777, 0o700, 0o666, 0o4755, 0o2777, 0o1777, 0)
SIZES = (0, 1, 100, 4096, 70_001, 300_000)
XATTRS = (
    *("user.a", "user.overlay.opaque", "user.overlay.redirect", "user.containers.override_stat"),
    *("trusted.overlay.opaque", "security.capability", "system.posix_acl_access"),
)
_ACCESS = (os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_PATH)
_MORE = (0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY)
_NAMELESS = os.O_TMPFILE | os.O_RDWR
_HANDLES = 6

Call = tuple[str, dict[str, Any]]


def some_path(rng: Random) -> str:
    """A path below the root, mostly of the few names."""
    parts = [rng.choice(NAMES) for _ in range(rng.choice((1, 1, 2, 2, 2, 3, 4)))]
    if rng.random() < 0.1:
        parts[rng.randrange(len(parts))] = rng.choice(ODD)
    return "/" + "/".join(parts)


def _placed(call: Call, prefix: str) -> Call:
    """The same call, most paths in the place where everybody is."""
    name, arguments = call
    moved = {
        key: prefix + value
        if key in ("path", "new") and isinstance(value, str) and value.startswith("/")
        else value
        for key, value in arguments.items()
    }
    return name, moved


def _open(rng: Random) -> Call:
    flags = rng.choice(_ACCESS) | rng.choice(_MORE)
    if rng.random() < 0.1:
        flags = _NAMELESS
    where = {"handle": rng.randrange(_HANDLES), "path": some_path(rng)}
    return "open", {**where, "flags": flags, "mode": 0o777}


def _by_handle(rng: Random, handle: int) -> Call:
    offset, size = rng.choice(SIZES), rng.choice(SIZES)
    calls: tuple[Call, ...] = (
        ("close", {}),
        ("read", {"size": size}),
        ("pread", {"offset": offset, "size": size}),
        ("pwrite", {"offset": offset, "data": b"w" * size}),
        ("pwrite", {"offset": offset, "data": b"w" * size}),
        ("lseek", {"offset": offset, "whence": rng.choice((os.SEEK_DATA, os.SEEK_HOLE))}),
        ("ftruncate", {"size": size}),
        ("fsync", {"data_only": rng.random() < 0.5}),
        ("fstat", {}),
        ("fchmod", {"mode": rng.choice(MODES)}),
        ("fsetxattr", {"name": rng.choice(XATTRS), "value": b"y"}),
        ("fgetxattr", {"name": rng.choice(XATTRS)}),
        ("flist", {}),
        ("link_handle", {"new": some_path(rng)}),
        ("unlink_at", {"path": rng.choice(NAMES)}),
        ("futimens", {"atime": 10**18, "mtime": "now"}),
    )
    name, arguments = rng.choice(calls)
    where = "at" if name.endswith("_at") else "handle"
    return name, {where: handle, **arguments}


def _between_handles(rng: Random, handles: list[int]) -> Call:
    at = {"read_offset": rng.choice(SIZES), "write_offset": rng.choice(SIZES)}
    ends = {"reader": rng.choice(handles), "writer": rng.choice(handles)}
    return "copy_file_range", {**ends, "size": rng.choice(SIZES), **at}


def _by_name(rng: Random) -> Call:
    path = some_path(rng)
    kind = rng.choice((stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK))
    flags = rng.choice((0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE))
    calls: tuple[tuple[str, dict[str, Any]], ...] = (
        ("mkdir", {"mode": rng.choice(MODES)}),
        ("mkdir", {"mode": 0o777}),
        ("mkdir", {"mode": 0o777}),
        ("rmdir", {}),
        ("mknod", {"mode": kind | rng.choice(MODES), "device": rng.choice(((0, 0), (1, 3)))}),
        ("link", {"new": some_path(rng)}),
        ("unlink", {}),
        ("rename", {"new": some_path(rng), "flags": flags}),
        ("rename", {"new": some_path(rng), "flags": flags}),
        ("readlink", {}),
        ("list", {}),
        ("list", {}),
        ("stat", {"follow": rng.random() < 0.5}),
        ("stat", {"follow": rng.random() < 0.5}),
        ("chmod", {"mode": rng.choice(MODES)}),
        ("chown", {"uid": rng.choice((0, 1000, 65534)), "gid": -1, "follow": False}),
        ("truncate", {"size": rng.choice(SIZES)}),
        ("setxattr", {"name": rng.choice(XATTRS), "value": b"y", "follow": False}),
        ("getxattr", {"name": rng.choice(XATTRS), "follow": False}),
        ("removexattr", {"name": rng.choice(XATTRS), "follow": False}),
        ("listxattr", {"follow": False}),
        ("name_max", {}),
        ("utimens", {"atime": "now", "mtime": 10**18, "follow": False}),
    )
    name, arguments = rng.choice(calls)
    return name, {"path": path, **arguments}


def _symlink(rng: Random) -> Call:
    return "symlink", {"target": rng.choice(("..", "a", "/a/b", "b/c")), "path": some_path(rng)}


def draw(rng: Random, handles: list[int]) -> Call:
    """The next call. ``handles``: those that are open."""
    dice = rng.random()
    if handles and dice < 0.35:
        return _by_handle(rng, rng.choice(handles))
    if handles and dice < 0.4:
        return _between_handles(rng, handles)
    return rng.choice((*[_open] * 3, *[_by_name] * 6, _symlink))(rng)


class User:
    """What one user does, and whether it ever sees what it must not see."""

    def __init__(self, rng: Random, secret: bytes, where: Callable[[], str]) -> None:
        self._rng = rng
        self._where = where
        self._secret = secret
        self._operations = Operations()
        self._next: Call = ("umask", {"mask": 0})

    def choose(self) -> str:
        """Choose the next call, and describe it."""
        call = draw(self._rng, sorted(self._operations._handles))
        self._next = _placed(call, self._where()) if self._rng.random() < 0.9 else call
        return repr(self._next)

    def act(self) -> bool:
        """Do it; whether it succeeded."""
        name, arguments = self._next
        if name == "open" and arguments["handle"] in self._operations._handles:
            self._operations.run("close", {"handle": arguments["handle"]})
        outcome, result = self._operations.run(name, arguments)
        if outcome == "ok" and self._secret in _bytes_of(result):
            raise AssertionError(f"{name}({arguments}) shows what is in no layer: {result!r:.200}")
        return outcome == "ok"


def _bytes_of(result: object) -> bytes:
    if isinstance(result, bytes):
        return result
    return os.fsencode(repr(result)) if isinstance(result, (str, list)) else b""
