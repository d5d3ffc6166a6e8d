"""Opening files that users name, and files in directories that others control.

They may be anything: a FIFO without a writer, a device with side effects, or a symlink that leads
elsewhere. So a file is first examined (``O_PATH`` opens nothing) and then opened by its descriptor.
A path that a user named may contain symlinks; one below a directory of somebody else may not, in
any component.

Output appears by a rename. A symlink is followed, unless another user put it into a directory that
everybody can write to; that is the kernel's rule of protected_symlinks, which does not cover
renames.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import (
    FormatError,
    LimitExceeded,
    NotRegular,
    SizeMismatch,
    UsageError,
)
from unionmount.system.os_errors import naming
from unionmount.system.text import printable
from unionmount.system.waiting import HOW_TO_WAIT, timeout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


_KINDS = (
    (stat.S_ISREG, "a regular file"),
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
_NULL = os.makedev(1, 3)  # /dev/null: empty, and discards writes
_MAX_LINKS = 40  # the limit of Linux for one path
_LOOK_AGAIN = 0.05  # seconds between two looks at the other end of a pipe
_STEP = 64 * 1024
_PIECE = 1024 * 1024  # bytes that are read of a range at once

Named = str | Path


def kind_of(mode: int) -> str:
    """Return the type of a file in words."""
    return next((text for fits, text in _KINDS if fits(mode)), "something unknown")


def not_regular(path: Named, mode: int) -> NotRegular:
    """Return the error for another type of file."""
    return NotRegular(printable(str(path)), kind_of(mode))


def open_regular(path: Named, *, follow: bool = True, flags: int = os.O_RDONLY) -> int:
    """Open a regular file; raise NotRegular for any other, OSError if that is impossible."""
    with _looked_at(path, None, follow=follow) as (found, status):
        if not stat.S_ISREG(status.st_mode):
            raise not_regular(path, status.st_mode)
        return _reopened(found, flags, path)


def open_below(root: int, path: str, where: str) -> int:
    """Open a regular file below a directory, without following symlinks in ``path``.

    Raise NotRegular for any other file, OSError if that is impossible; ``where`` names the
    directory.
    """
    *above, last = path.split("/")
    here = root
    try:
        for number, name in enumerate(above):
            shown = f"{where}/{'/'.join(above[: number + 1])}"
            with _looked_at(name, here, follow=False) as (found, status):
                if stat.S_ISLNK(status.st_mode):
                    raise not_regular(shown, status.st_mode)
                if not stat.S_ISDIR(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), shown)
                before, here = here, os.dup(found)
            if before != root:
                os.close(before)
        with _looked_at(last, here, follow=False) as (found, status):
            if not stat.S_ISREG(status.st_mode):
                raise not_regular(f"{where}/{path}", status.st_mode)
            return _reopened(found, os.O_RDONLY, f"{where}/{path}")
    finally:
        if here != root:
            os.close(here)


def read_document(
    path: Named,
    limit: int,
    environment: Mapping[str, str],
    check: Callable[[], object] | None = None,
) -> bytes:
    """Read a small file; raise LimitExceeded if it is larger than ``limit``.

    ``<(command)`` and /dev/null are accepted; raise NotRegular for any other file. While a command
    is waited for, ``check`` is called, and may raise.
    """
    with _looked_at(path, None, follow=True) as (found, status):
        if _is_null(status):
            return b""
        if _is_pipe(found, status):
            opened = _reopened(found, os.O_RDONLY | os.O_NONBLOCK, path)
        elif stat.S_ISREG(status.st_mode):
            opened = _reopened(found, os.O_RDONLY, path)
        else:
            raise not_regular(path, status.st_mode)
    data = bytearray()
    try:
        while len(data) <= limit and (part := _part(opened, path, environment, check)):
            data += part
    finally:
        os.close(opened)
    if len(data) > limit:
        raise LimitExceeded(f"{printable(str(path))}: larger than {limit} bytes")
    return bytes(data)


def _part(
    opened: int, path: Named, environment: Mapping[str, str], check: Callable[[], object] | None
) -> bytes:
    seconds = timeout_of(environment)
    end = time.monotonic() + seconds
    waiting = select.poll()  # select(2) supports no descriptors beyond 1023
    waiting.register(opened, select.POLLIN)
    while not waiting.poll(_LOOK_AGAIN * 1000):
        if check is not None:
            check()
        if time.monotonic() >= end:
            raise UsageError(
                f"{printable(str(path))}: nothing was written to it in {seconds:g} s "
                f"({HOW_TO_WAIT})"
            )
    return os.read(opened, _STEP)


@contextmanager
def opened_for_library(path: Named) -> Iterator[str]:
    """Yield the name of a regular file for a library that opens files itself."""
    fd = open_regular(path)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def open_stream(
    path: Named,
    environment: Mapping[str, str],
    *,
    fifo: bool,
    waiting: Callable[[], object] | None = None,
) -> tuple[int, bytes]:
    """Open a file for sequential reading: a regular file, a pipe, and with ``fifo`` a FIFO.

    Also return the bytes that were already read. A FIFO must be opened by a writer in bounded time;
    ``waiting`` is called while there is none. Raise NotRegular for any other file.
    """
    with _looked_at(path, None, follow=True) as (found, status):
        if stat.S_ISREG(status.st_mode) or _is_pipe(found, status):
            return _reopened(found, os.O_RDONLY, path), b""
        if not stat.S_ISFIFO(status.st_mode) or not fifo:
            raise not_regular(path, status.st_mode)
        opened = _reopened(found, os.O_RDONLY | os.O_NONBLOCK, path)
    try:
        first = _wait_for_writer(opened, path, environment, waiting)
        os.set_blocking(opened, True)
    except BaseException:
        os.close(opened)
        raise
    return opened, first


def _wait_for_writer(
    opened: int, path: Named, environment: Mapping[str, str], waiting: Callable[[], object] | None
) -> bytes:
    """Wait until a writer opens a FIFO; return the bytes that this has read."""
    seconds = timeout_of(environment)
    end = time.monotonic() + seconds
    while True:
        try:
            data = os.read(opened, 1)
        except BlockingIOError:  # a writer has opened it, and has written nothing so far
            return b""
        if data:
            return data
        if time.monotonic() >= end:
            raise UsageError(
                f"{printable(str(path))}: a FIFO to which nothing was written in {seconds:g} s "
                f"({HOW_TO_WAIT})"
            )
        if waiting is not None:
            waiting()
        time.sleep(_LOOK_AGAIN)


# -- what is written


def open_for_writing(path: Named, environment: Mapping[str, str]) -> int | None:
    """Open a file that is written to directly: a pipe, a FIFO or /dev/null.

    Return None for a regular or missing file, which is replaced instead. Raise NotRegular for any
    other file. A FIFO must be opened by a reader in bounded time, and must not be a trap of another
    user.
    """
    try:
        with _looked_at(path, None, follow=True) as (found, status):
            if stat.S_ISREG(status.st_mode):
                return None
            if _is_null(status) or _is_pipe(found, status):
                return _reopened(found, os.O_WRONLY, path)
            if not stat.S_ISFIFO(status.st_mode):
                raise not_regular(path, status.st_mode)
            target = resolved(path)
            _refuse_planted(target.parent.stat(), status, target)
            return _with_reader(found, path, environment)
    except FileNotFoundError:
        return None
    except PermissionError:
        resolved(path)  # says why, where the kernel does not follow another user's symlink
        raise


def _with_reader(found: int, path: Named, environment: Mapping[str, str]) -> int:
    seconds = timeout_of(environment)
    end = time.monotonic() + seconds
    while True:
        try:
            opened = _reopened(found, os.O_WRONLY | os.O_NONBLOCK, path)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        else:
            os.set_blocking(opened, True)
            return opened
        if time.monotonic() >= end:
            raise UsageError(
                f"{printable(str(path))}: a FIFO from which nothing was read in {seconds:g} s "
                f"({HOW_TO_WAIT})"
            )
        time.sleep(_LOOK_AGAIN)


def resolved(path: Named) -> Path:
    """Resolve the symlinks of a path for writing; its last component may be missing.

    Raise PermissionError for a symlink of another user in a directory that everybody can write to.
    """
    pending = Path(path).absolute().parts[:0:-1]
    names, here, links = list(pending), Path("/"), 0
    while names:
        name = names.pop()
        if name == "..":
            here = here.parent
            continue
        try:
            status = (here / name).lstat()
        except FileNotFoundError:
            here /= name
            continue
        if not stat.S_ISLNK(status.st_mode):
            here /= name
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        _refuse_planted(here.stat(), status, here / name)
        target = (here / name).readlink()
        if target.is_absolute():
            here = Path("/")
        names += [part for part in reversed(target.parts) if part != "/"]
    return here


def _refuse_planted(directory: os.stat_result, status: os.stat_result, path: Path) -> None:
    """Raise PermissionError for another user's file in a directory that all can write to."""
    shared = directory.st_mode & stat.S_IWOTH
    if shared and status.st_uid not in (os.geteuid(), directory.st_uid):
        text = (
            f"{kind_of(status.st_mode)} of another user in a directory that everybody can write to"
        )
        raise PermissionError(errno.EACCES, text, str(path))


# -- what is there


@contextmanager
def _looked_at(
    path: Named, dir_fd: int | None, *, follow: bool
) -> Iterator[tuple[int, os.stat_result]]:
    """Examine a file without opening it; yield an ``O_PATH`` descriptor and the status."""
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(path, flags, dir_fd=dir_fd)
    try:
        yield fd, os.fstat(fd)
    finally:
        os.close(fd)


def _reopened(found: int, flags: int, path: Named) -> int:
    try:
        return os.open(f"/proc/self/fd/{found}", flags | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None


def _is_null(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL


def _is_pipe(found: int, status: os.stat_result) -> bool:
    """Return whether it is a nameless pipe with another end, such as ``<(command)``."""
    if not stat.S_ISFIFO(status.st_mode):
        return False
    with suppress(OSError):
        return str(Path(f"/proc/self/fd/{found}").readlink()).startswith("pipe:[")
    return False


@dataclass(frozen=True, slots=True)
class FileRange:
    """Some bytes of an open file; the descriptor is borrowed."""

    fd: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """The identity of a file, which shows whether it was replaced or changed."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, fd: int) -> FileIdentity:
        """Return the identity of the file behind a descriptor."""
        return cls.of_status(os.fstat(fd))

    @classmethod
    def of_status(cls, status: os.stat_result) -> FileIdentity:
        """Return the identity of a file from its status."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    def check(self, fd: int, what: str) -> None:
        """Raise FormatError if the file has changed."""
        if FileIdentity.of(fd) != self:
            raise FormatError(f"{what}: changed while it was read")


def fsync_directory(path: Path) -> None:
    """Sync the entries of a directory."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def pieces_of(data: FileRange, what: str) -> Iterator[bytes]:
    """Read a range in pieces; raise SizeMismatch if the file ends early."""
    done = 0
    while done < data.length:
        with naming(what):
            piece = os.pread(data.fd, min(_PIECE, data.length - done), data.offset + done)
        if not piece:
            raise SizeMismatch(what, data.length, done)
        done += len(piece)
        yield piece


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of ``data``, in several steps if necessary."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
