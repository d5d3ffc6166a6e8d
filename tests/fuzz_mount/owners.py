"""Those who own a directory below the mount, and change it on disk as an enemy would.

An owner's root is the directory: whatever it plants, it walks into nothing but that itself. What is
mounted there it gets from descriptors that were opened before.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random

from differential.worker import AT_EMPTY_PATH, AT_FDCWD, RENAME_EXCHANGE, _call

from fuzz_mount.users import MODES, NAMES, SIZES

_OPEN_TREE, _MOVE_MOUNT = 428, 429  # the same on all architectures
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_MOUNTS_MAX = 4
_PAUSES = (0.0, 0.0, 0.001, 0.005)  # seconds
_libc = ctypes.CDLL(None, use_errno=True)

_MARKS = ("opaque", "redirect", "metacopy", "origin", "whiteout", "impure", "nlink")
_VALUES = (
    *(b"y", b"x", b"", b"a", b"/a/b", b"/", b"../../outside", b"0:0:0104755", b"0:0:0120777"),
    *(b"0:0:020666:block-1-3", b"4294967295:0:07777", b"\0\xff" * 20, b"n" * 300),
)


def _system_call(number: int, *arguments: int | bytes) -> int:
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class Owner:
    """What one owner does. ``targets``: of symlinks; ``trees``: what root's owner may mount."""

    def __init__(
        self, rng: Random, targets: Sequence[str], trees: Sequence[int], where: Callable[[], str]
    ) -> None:
        self._rng = rng
        self._where = where
        self._targets = targets
        self._trees = trees
        self._mounted: list[str] = []
        self._swaps = 0
        plain: list[Callable[[], object]] = [
            self.grow,
            self.grow,
            self.grow,
            self.grow,
            self.mkdir,
            self.write,
            self.write,
            self.symlink,
            self.special,
            self.rename,
            self.exchange,
            self.swap_for_symlink,
            self.swap_for_symlink,
            self.swap_back,
            self.swap_for_special,
            self.whiteout,
            self.mark,
            self.mark,
            self.chmod,
            self.truncate,
            self.link,
            self.remove,
        ]
        if trees:
            plain += [self.mount, self.unmount, self.chown]
        self._choices = plain
        self._next: Callable[[], object] = self.mkdir

    def choose(self) -> str:
        """Choose the next change."""
        self._next = self._rng.choice(self._choices)
        return getattr(self._next, "__name__", "?")

    def act(self) -> bool:
        """Make it; many are impossible at the moment. Users get most of the time."""
        time.sleep(self._rng.choice(_PAUSES))
        try:
            self._next()
        except (OSError, shutil.Error):
            return False
        return True

    def _path(self) -> str:
        depth = self._rng.choice((1, 1, 1, 2, 2, 3))
        prefix = self._where() if self._rng.random() < 0.9 else ""
        return f"{prefix}/" + "/".join(self._rng.choice(NAMES) for _ in range(depth))

    # -- what is ordinary

    def grow(self) -> None:
        """Much of what there is is soon gone."""
        path = self._path()
        for name in NAMES[:2]:
            os.makedirs(f"{path}/{name}", 0o777, exist_ok=True)
        for name in NAMES[2:]:
            with open(f"{path}/{name}", "xb", buffering=0) as file:
                file.write(b"g" * self._rng.choice(SIZES))

    def mkdir(self) -> None:
        os.makedirs(self._path(), exist_ok=True)

    def write(self) -> None:
        fd = os.open(self._path(), os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o644)
        try:
            os.pwrite(fd, b"o" * self._rng.choice(SIZES), self._rng.choice(SIZES))
        finally:
            os.close(fd)

    def rename(self) -> None:
        os.rename(self._path(), self._path())

    def exchange(self) -> None:
        names = os.fsencode(self._path()), os.fsencode(self._path())
        _call("renameat2", AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE)

    def link(self) -> None:
        os.link(self._path(), self._path(), follow_symlinks=False)

    def truncate(self) -> None:
        os.truncate(self._path(), self._rng.choice(SIZES))

    def chmod(self) -> None:
        os.chmod(self._path(), self._rng.choice(MODES))

    def chown(self) -> None:
        os.lchown(self._path(), self._rng.choice((0, 1000, 65534)), -1)

    def remove(self) -> None:
        path = self._path()
        if stat.S_ISDIR(os.lstat(path).st_mode) and self._rng.random() < 0.3:
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)

    # -- what leads astray

    def symlink(self) -> None:
        os.symlink(self._rng.choice(self._targets), self._path())

    def special(self) -> None:
        self._make_special(self._path())

    def _make_special(self, path: str) -> None:
        kind = self._rng.choice(("fifo", "socket", "null", "nowhere", "whiteout"))
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(path)
        else:
            number = {"null": (1, 3), "nowhere": (0, 255), "whiteout": (0, 0)}[kind]
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(*number))

    def _swap(self, make: Callable[[str], object]) -> None:
        path = self._path()
        os.rename(path, f"/swapped{self._swaps % 8}")
        self._swaps += 1
        make(path)

    def swap_for_symlink(self) -> None:
        self._swap(lambda path: os.symlink(self._rng.choice(self._targets), path))

    def swap_for_special(self) -> None:
        self._swap(self._make_special)

    def swap_back(self) -> None:
        path = self._path()
        with suppress(OSError):
            os.unlink(path)
        os.rename(f"/swapped{self._rng.randrange(8)}", path)

    def whiteout(self) -> None:
        path = self._path()
        name = self._rng.choice((".wh..wh..opq", ".wh." + self._rng.choice(NAMES)))
        target = f"{path}/{name}"
        if self._rng.random() < 0.5:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o644))
        else:
            os.symlink(self._rng.choice(self._targets), target)

    def mark(self) -> None:
        prefix = self._rng.choice(("user.", "trusted.") if self._trees else ("user.",))
        name = f"{prefix}overlay.{self._rng.choice(_MARKS)}"
        if self._rng.random() < 0.3:
            name = "user.containers.override_stat"
        os.setxattr(self._path(), name, self._rng.choice(_VALUES), follow_symlinks=False)

    # -- mounts, of root

    def mount(self) -> None:
        if len(self._mounted) >= _MOUNTS_MAX:
            return
        path, tree = self._path(), self._rng.choice(self._trees)
        fd = _system_call(_OPEN_TREE, tree, b"", AT_EMPTY_PATH | _OPEN_TREE_CLONE)
        try:
            here = os.fsencode(path)
            _system_call(_MOVE_MOUNT, fd, b"", AT_FDCWD, here, _MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(fd)
        self._mounted.append(path)

    def unmount(self) -> None:
        if self._mounted:
            path = self._mounted.pop(self._rng.randrange(len(self._mounted)))
            _call("umount2", os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW)
