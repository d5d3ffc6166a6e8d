"""A directory of the host as the tar of a layer: owners, modes, xattrs, links and devices.

The same directory gives the same bytes: entries are sorted, and nothing but their attributes
counts. Nothing is opened by a path: whoever changes the directory meanwhile cannot lead this
elsewhere. As ``tar --one-file-system``, a directory of another file system is there, but empty.

An ordinary user sees a directory as it is on disk. Where containers/storage or a mount of such a
user has kept an owner in ``user.containers.override_stat``, that counts, if only this user or root
could set it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.formats.tar_writer import END, Member, can_hold, header, padding
from unionmount.system.os_errors import naming, reason_of
from unionmount.system.text import printable

if TYPE_CHECKING:
    from pathlib import Path

Warn = Callable[[str], None]

_STEP = 1024 * 1024
_NANO = 1_000_000_000
_GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)  # removed, or replaced by another type
_OVERRIDE = "user.containers.override_stat"
_OF_THE_HOST = frozenset({"security.selinux"})
_OVERRIDE_TEXT = re.compile(
    r"(?P<uid>[0-9]{1,10}):(?P<gid>[0-9]{1,10}):(?P<mode>[0-7]{1,6})"
    r"(?::(?P<type>dir|file|symlink|pipe|socket|(?:block|char)-[0-9]{1,10}-[0-9]{1,10}))?"
)
_TYPES = {"pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK}
_TYPES |= {"block": stat.S_IFBLK, "char": stat.S_IFCHR}
_NO_ID = (1 << 32) - 1


@dataclass(slots=True)
class _PlaceInTree:
    """A directory that is being read."""

    fd: int
    path: bytes
    names: Iterator[bytes]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a tar records of a file."""

    mode: int
    uid: int
    gid: int
    device: tuple[int, int]

    @classmethod
    def of(cls, found: os.stat_result) -> _Recorded:
        device = os.major(found.st_rdev), os.minor(found.st_rdev)
        return cls(found.st_mode, found.st_uid, found.st_gid, device)


def _close(places: list[_PlaceInTree]) -> None:
    for place in places:
        os.close(place.fd)


class DirectoryTar:
    """The tar of a directory; ``skipped`` is a directory whose entries are left out.

    No time in it is later than ``epoch``, in seconds since 1970, if that is given.
    """

    def __init__(
        self, top: Path, warn: Warn, *, epoch: int | None = None, skipped: Path | None = None
    ) -> None:
        self._top = top
        self._warn = warn
        self._latest = None if epoch is None else epoch * _NANO
        self._skipped = _identity(skipped.stat()) if skipped is not None else None
        self._linked: dict[tuple[int, int], bytes] = {}
        self._device = 0
        self._me = os.geteuid()

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes of the tar; errors name the file."""
        with ExitStack() as stack:
            places: list[_PlaceInTree] = []
            stack.callback(_close, places)
            with naming(printable(str(self._top))):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                fd = os.open(self._top, flags)
            places.append(_PlaceInTree(fd, b"", iter(())))
            found = os.fstat(fd)
            self._device = found.st_dev
            yield self._directory(fd, found, b".")
            places[-1].names = self._names(places[-1])
            while places:
                name = next(places[-1].names, None)
                if name is None:
                    os.close(places.pop().fd)
                else:
                    yield from self._entry(places, name)
            yield END

    def _where(self, path: bytes) -> str:
        return printable(f"{self._top}/{os.fsdecode(path)}")

    def _names(self, place: _PlaceInTree) -> Iterator[bytes]:
        with naming(self._where(place.path)):
            found = os.fstat(place.fd)
            if _identity(found) == self._skipped:
                self._warn(f"{self._where(place.path)}: left out, as it is the store itself")
                return iter(())
            if found.st_dev != self._device:
                return iter(())
            return iter(sorted(map(os.fsencode, os.listdir(place.fd))))  # noqa: PTH208

    def _entry(self, places: list[_PlaceInTree], name: bytes) -> Iterator[bytes]:
        """Yield an entry of the last directory, and enter it if it is one."""
        above = places[-1]
        path = above.path + b"/" + name if above.path else name
        try:
            found = os.stat(name, dir_fd=above.fd, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                places.append(_PlaceInTree(os.open(name, flags, dir_fd=above.fd), path, iter(())))
                fd = places[-1].fd
                pieces = iter((self._directory(fd, os.fstat(fd), path),))
                places[-1].names = self._names(places[-1])
            elif stat.S_ISREG(found.st_mode):
                pieces = self._file(above.fd, name, path)
            else:
                pieces = self._special(above.fd, name, path, found)
        except OSError as error:
            if error.errno not in _GONE:
                raise self._failed(error, path) from error
            self._warn(f"{self._where(path)}: left out, since it was removed meanwhile")
            return
        yield from pieces

    def _directory(self, fd: int, found: os.stat_result, path: bytes) -> bytes:
        status, xattrs = self._overridden(found, _xattrs(fd))
        return self._header(path, found, status, xattrs)

    def _special(
        self, directory: int, name: bytes, path: bytes, found: os.stat_result
    ) -> Iterator[bytes]:
        """Return a symlink, device or FIFO."""
        if not can_hold(found.st_mode):
            self._warn(f"{self._where(path)}: left out, since a tar cannot hold a socket")
            return iter(())
        first = self._first_name(found, path)
        if first is not None:
            return iter((self._link(path, first),))
        target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(found.st_mode) else b""
        place = f"/proc/self/fd/{directory}/".encode() + name
        xattrs = {name: value for name, value in _xattrs(place).items() if name != _OVERRIDE}
        return iter((self._header(path, found, _Recorded.of(found), xattrs, target=target),))

    def _file(self, directory: int, name: bytes, path: bytes) -> Iterator[bytes]:
        """Open a file, and return its header and content."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=directory)
        try:
            found = os.fstat(fd)
            _check_regular(found)
            first = self._first_name(found, path)
            status, xattrs = self._overridden(found, _xattrs(fd) if first is None else {})
            if first is not None:
                head, size = self._link(path, first), 0
            elif not can_hold(status.mode):
                self._warn(f"{self._where(path)}: left out, since a tar cannot hold a socket")
                head, size = b"", 0
            else:
                size = found.st_size if stat.S_ISREG(status.mode) else 0
                head = self._header(path, found, status, xattrs, size=size)
        except BaseException:
            os.close(fd)
            raise
        return self._content(fd, path, head, size)

    def _content(self, fd: int, path: bytes, head: bytes, size: int) -> Iterator[bytes]:
        """Yield a header and ``size`` bytes of a file, which is closed."""
        try:
            yield head
            left = size
            while left:
                piece = self._read(fd, min(_STEP, left), path)
                if not piece:
                    self._warn(f"{self._where(path)}: was truncated meanwhile, filled with zeros")
                    while left:
                        zeros = bytes(min(_STEP, left))
                        left -= len(zeros)
                        yield zeros
                    break
                left -= len(piece)
                yield piece
            yield padding(size)
        finally:
            os.close(fd)

    def _read(self, fd: int, size: int, path: bytes) -> bytes:
        try:
            return os.read(fd, size)
        except OSError as error:
            raise self._failed(error, path) from error

    def _failed(self, error: OSError, path: bytes) -> OSError:
        """Return an error that names the file, whose name is made only for it."""
        return OSError(error.errno, reason_of(error), self._where(path))

    def _first_name(self, found: os.stat_result, path: bytes) -> bytes | None:
        """Return the first name of a file that was written before; None if this is the first."""
        if found.st_nlink == 1:
            return None
        first = self._linked.setdefault(_identity(found), path)
        return None if first is path else first

    def _link(self, path: bytes, first: bytes) -> bytes:
        return header(Member(path, target=first, hard_link=True))

    def _header(
        self,
        path: bytes,
        found: os.stat_result,
        status: _Recorded,
        xattrs: dict[str, bytes],
        *,
        size: int = 0,
        target: bytes = b"",
    ) -> bytes:
        mtime = found.st_mtime_ns
        return header(
            Member(
                name=path,
                mode=status.mode,
                uid=status.uid,
                gid=status.gid,
                size=size,
                mtime_ns=mtime if self._latest is None else min(mtime, self._latest),
                device=status.device,
                target=target,
                xattrs=self._stored(path, xattrs),
            )
        )

    def _stored(self, path: bytes, xattrs: dict[str, bytes]) -> dict[bytes, bytes]:
        """Return extended attributes by their names in a layer."""
        stored = {}
        for name, value in xattrs.items():
            try:
                stored[core.stored_name(os.fsencode(name))] = value
            except PermissionError:  # a mark of a container's storage, which no image has
                continue
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                self._warn(
                    f"{self._where(path)}: attribute {printable(name)} left out, since a layer "
                    "cannot hold its name"
                )
        return stored

    def _overridden(
        self, found: os.stat_result, xattrs: dict[str, bytes]
    ) -> tuple[_Recorded, dict[str, bytes]]:
        """Return the status that override_stat says, if it counts, and the other attributes."""
        text = xattrs.pop(_OVERRIDE, None)
        status = _Recorded.of(found)
        trusted = found.st_uid in (self._me, 0) and not found.st_mode & 0o022
        match = _OVERRIDE_TEXT.fullmatch(text.decode("latin-1")) if text and trusted else None
        if match is None:
            return status, xattrs
        uid, gid, mode = int(match["uid"]), int(match["gid"]), int(match["mode"], 8)
        if max(uid, gid) >= _NO_ID or mode > 0o177777:
            return status, xattrs
        kind, *device = (match["type"] or "").split("-")
        named = _TYPES.get(kind, stat.S_IFMT(mode) if not kind else 0)
        stands = stat.S_ISREG(found.st_mode) and named in _TYPES.values()
        numbers = (int(device[0]), int(device[1])) if device else status.device
        if max(numbers) > _NO_ID:
            return status, xattrs
        type_ = named if stands else stat.S_IFMT(found.st_mode)
        return _Recorded(type_ | stat.S_IMODE(mode), uid, gid, numbers), xattrs


def _check_regular(found: os.stat_result) -> None:
    """Raise ENOENT for a file that was replaced since it was listed."""
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _xattrs(place: int | bytes) -> dict[str, bytes]:
    """Return the extended attributes of an open file, or of the one at a path."""
    found = {}
    follow = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
            return {}
        raise
    for name in names:
        if name in _OF_THE_HOST:
            continue
        try:
            found[name] = os.getxattr(place, name, follow_symlinks=follow)
        except OSError as error:
            # The kernel lists attributes that it does not hand out.
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP, errno.EPERM):
                raise
    return found
