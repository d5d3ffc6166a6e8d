"""A directory of the host as the target of a copy, or the root of a mount that lives.

Others may change the directory meanwhile, and put symlinks, mount points or other files in the
place of what was there. So every directory is opened beneath the root in one system call that
follows no symlink, or inside the root of a container; within it, each call takes one name. Files
are made without a name, and get one when they are complete. Attributes are set by descriptor, and
only where the descriptor is what this process made.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress

from unionmount import core
from unionmount.errors import UnionmountError
from unionmount.extract.items import CopyItem
from unionmount.extract.itself import Place, place_of
from unionmount.extract.target import CopyPolicy, Target, temporary_name
from unionmount.system.copy_range import copy_range, write_at
from unionmount.system.text import printable

_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_HOP = 4000  # bytes of a path that are resolved by one system call
_NO_NAMELESS = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS)

_Identity = tuple[int, int, int]  # device, inode, and owner, since inodes are used again


class HostTarget(Target[int]):
    """A directory of the host; ``root`` is its descriptor, which is borrowed."""

    def __init__(
        self,
        root: int,
        base: bytes,
        policy: CopyPolicy,
        warn: Callable[[str], None],
        *,
        inside: bool = False,
        shown: str = "/",
    ) -> None:
        """Use ``root``; messages name the files in it as below ``shown``."""
        super().__init__(base, policy, warn, inside=inside)
        self._root = root
        self._where = shown.rstrip("/")
        self._seen: dict[bytes, _Identity] = {}  # directories whose attributes will be set
        self._has_nameless = True

    def _shown(self, path: bytes) -> str:
        return self._where + super()._shown(path)

    @property
    def device(self) -> int:
        """The file system of the root."""
        return os.fstat(self._root).st_dev

    def top(self) -> Place:
        """Return the directory that everything is copied into, once it is there."""
        fd = self._opened(self._base, _PATH)
        try:
            return place_of(fd)
        finally:
            os.close(fd)

    # ---- directories -----------------------------------------------------------------------------

    def _open(self, path: bytes) -> int:
        return self._opened(path, _PATH)

    def _opened(self, path: bytes, flags: int) -> int:
        """Open a directory; a path that is too long for one call is opened in hops."""
        here, rest = self._root, path or b"."
        try:
            while len(rest) > _HOP and not self._inside:
                cut = rest.rindex(b"/", 0, _HOP)
                before, here = here, core.open_within(here, rest[:cut], _PATH)
                if before != self._root:
                    os.close(before)
                rest = rest[cut + 1 :]
            return core.open_within(here, rest, flags, in_root=self._inside)
        finally:
            if here != self._root:
                os.close(here)

    def _close(self, directory: int) -> None:
        os.close(directory)

    def _mode(self, parent: int, name: bytes) -> int | None:
        try:
            return os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return None

    def _make_directory(self, parent: int, name: bytes, item: CopyItem) -> None:  # noqa: ARG002
        os.mkdir(name, 0o700, dir_fd=parent)
        if not self._inside and self._status(parent, name).st_uid != os.geteuid():
            raise _replaced()

    def _note_directory(self, parent: int | None, path: bytes, item: CopyItem) -> None:
        super()._note_directory(parent, path, item)
        if parent is None:
            found = os.fstat(self._root)
        else:
            found = self._status(parent, path.rpartition(b"/")[2])
        self._seen[path] = _identity(found)

    def _status(self, parent: int, name: bytes) -> os.stat_result:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def _set_directory(self, path: bytes, item: CopyItem) -> None:
        fd = self._opened(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = os.fstat(fd)
            if self._seen.pop(path) != _identity(found):
                raise _replaced()
            self._dress(fd, item)
        finally:
            os.close(fd)

    # ---- files -----------------------------------------------------------------------------------

    def _make_file(self, parent: int, name: bytes, item: CopyItem, *, exists: bool) -> None:
        fd, temporary = self._new_file(parent)
        try:
            _write(fd, item, name)
            self._dress(fd, item)
            if temporary is None and not exists and self._named(fd, parent, name):
                return
            if temporary is None:
                temporary = temporary_name()
                self._give_name(fd, parent, temporary)
            self._rename(parent, temporary, name)
            temporary = None
        finally:
            os.close(fd)
            if temporary is not None:
                self._remove(parent, temporary)

    def _new_file(self, parent: int) -> tuple[int, bytes | None]:
        """Make a file without a name, where the file system has such; else with another name."""
        if self._has_nameless:
            flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
            try:
                return os.open(b".", flags, 0o600, dir_fd=parent), None
            except OSError as error:
                if error.errno not in _NO_NAMELESS:
                    raise
                self._has_nameless = False
        name = temporary_name()
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=parent), name

    def _named(self, fd: int, parent: int, name: bytes) -> bool:
        """Give a file its name; return False if somebody else has taken that meanwhile."""
        try:
            self._give_name(fd, parent, name)
        except FileExistsError:
            return False
        return True

    def _give_name(self, fd: int, parent: int, name: bytes) -> None:
        path = f"/proc/self/fd/{fd}".encode("ascii")
        os.link(path, name, dst_dir_fd=parent, follow_symlinks=True)

    def _make_special(self, parent: int, name: bytes, item: CopyItem) -> None:
        if stat.S_ISLNK(item.mode):
            os.symlink(item.target, name, dir_fd=parent)
        else:
            kind = stat.S_IFMT(item.mode)
            os.mknod(name, kind | 0o600, os.makedev(*item.device), dir_fd=parent)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            found = os.fstat(fd)
            if stat.S_IFMT(found.st_mode) != stat.S_IFMT(item.mode):
                raise _replaced()
            if not self._inside and found.st_uid != os.geteuid():
                raise _replaced()
            self._dress(f"/proc/self/fd/{fd}", item)
        finally:
            os.close(fd)

    def _link(self, above: bytes, first: bytes, parent: int, name: bytes) -> None:
        self._check_no_own_link(above)
        fd = self._open(above)
        try:
            os.link(first, name, src_dir_fd=fd, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(fd)

    def _rename(self, parent: int, name: bytes, new: bytes) -> None:
        os.rename(name, new, src_dir_fd=parent, dst_dir_fd=parent)

    def _remove(self, parent: int, name: bytes) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=parent)

    # ---- attributes ------------------------------------------------------------------------------

    def _dress(self, file: int | str, item: CopyItem) -> None:
        """Set the attributes of a file by its descriptor, or by the path of one."""
        owner, found = self.policy.owner_of(item), os.stat(file)  # noqa: PTH116
        if owner is not None and owner != (found.st_uid, found.st_gid):
            self._give(file, owner)
        self._set_xattrs(file, self.policy.xattrs(item))
        if not stat.S_ISLNK(item.mode):
            os.chmod(file, self.policy.mode(item))  # noqa: PTH101
        os.utime(file, ns=(item.mtime_ns, item.mtime_ns))

    def _give(self, file: int | str, owner: tuple[int, int]) -> None:
        try:
            os.chown(file, *owner)
        except OSError as error:
            if not self._inside:
                raise
            # The mount checks permissions, or the container has no such user.
            self._refuse(b"owner", error)

    def _set_xattrs(self, file: int | str, xattrs: Mapping[bytes, bytes]) -> None:
        for name, value in xattrs.items():
            try:
                os.setxattr(file, name, value)
            except OSError as error:
                self._refuse(name, error)


def _write(fd: int, item: CopyItem, name: bytes) -> None:
    """Write the content of a file."""
    assert item.content is not None, "regular files have one"
    data = item.content.range
    if data is not None:
        copy_range(data, fd, printable(name))
        return
    for offset, piece in item.content.pieces():
        write_at(fd, piece, offset)
    os.ftruncate(fd, item.size)


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino, found.st_uid


def _replaced() -> UnionmountError:
    return UnionmountError("somebody else replaced a file of the copy meanwhile; it was ended")
