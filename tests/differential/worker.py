"""Processes that operate on one mount, each as one user, told what to do over a socket.

Run as a program this is the *zygote*: it holds a socket to the tests and forks one *worker* for
every session that they ask for. A worker changes its root to the mount, so that absolute symlinks
and `..` stay inside; becomes its user; and then does one operation for each request until the
socket is closed. It needs nothing but the standard library, all of it imported before the fork.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import pickle
import signal
import socket
import stat
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.compare import OTHER_ACLS, snapshot

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

CAP_DAC_READ_SEARCH, CAP_SYS_CHROOT, CAP_SYS_ADMIN = 2, 18, 21
_PR_SET_KEEPCAPS = 8
_CAPABILITY_VERSION = 0x20080522

Outcome = tuple[str, Any]
"""("ok", result) or ("error", errno)."""


Names = list[str]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a worker is. ``observer``: may read everything, whatever the modes say."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    observer: bool = False


# ---- messages ----------------------------------------------------------------------------------


def send(connection: socket.socket, message: object) -> None:
    """Send one message."""
    data = pickle.dumps(message)
    connection.sendall(struct.pack("<I", len(data)) + data)


def receive(connection: socket.socket) -> Any:
    """The next message; EOFError when the other side is gone."""
    (size,) = struct.unpack("<I", _exactly(connection, 4))
    return pickle.loads(_exactly(connection, size))


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(min(size - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


# ---- system calls that os does not have ----------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)


def _call(function: str, *arguments: Any) -> int:
    result: int = getattr(_libc, function)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_int64), ("nsec", ctypes.c_int64))


Time = int | str
"""Nanoseconds, "now" or "omit"."""


def _timespec(time: Time) -> _Timespec:
    if isinstance(time, str):
        return _Timespec(0, UTIME_NOW if time == "now" else UTIME_OMIT)
    return _Timespec(time // 10**9, time % 10**9)


def _set_capabilities(*numbers: int) -> None:
    mask = sum(1 << number for number in numbers)
    header = struct.pack("<Ii", _CAPABILITY_VERSION, 0)
    data = struct.pack("<6I", mask, mask, 0, mask >> 32, mask >> 32, 0)
    _call("capset", header, data)


class Mapping:
    """A shared mapping, also behind the end of the file; mmap.mmap refuses that."""

    SIZE = 1 << 18

    def __init__(self, fd: int, write: bool) -> None:
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        function = _libc.mmap
        function.restype = ctypes.c_void_p
        address = function(None, self.SIZE, protection, mmap.MAP_SHARED, fd, ctypes.c_int64(0))
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        self._address, self._fd = address, os.dup(fd)

    def _end(self) -> int:
        return min(os.fstat(self._fd).st_size, self.SIZE)  # behind it there is SIGBUS

    def read(self, offset: int, size: int) -> bytes:
        size = min(size, self._end() - offset)
        return ctypes.string_at(self._address + offset, size) if size > 0 else b""

    def write(self, offset: int, data: bytes) -> int:
        size = max(min(len(data), self._end() - offset), 0)
        if size:
            ctypes.memmove(self._address + offset, data, size)
        return size

    def sync(self) -> None:
        _call("msync", ctypes.c_void_p(self._address), ctypes.c_size_t(self.SIZE), 4)  # MS_SYNC

    def close(self) -> None:
        _call("munmap", ctypes.c_void_p(self._address), ctypes.c_size_t(self.SIZE))
        os.close(self._fd)


# ---- operations --------------------------------------------------------------------------------


def _facts(status: os.stat_result) -> dict[str, Any]:
    is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    is_directory = stat.S_ISDIR(status.st_mode)
    return {
        "mode": status.st_mode,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "size": 0 if is_directory else status.st_size,
        "nlink": 0 if is_directory else status.st_nlink,
        "mtime": status.st_mtime_ns,
        "rdev": status.st_rdev if is_device else 0,
    }


class Operations:
    """One method for each operation; what it returns is compared, and so is the errno it raises."""

    def __init__(self) -> None:
        self._handles: dict[int, int] = {}
        self._maps: dict[int, Mapping] = {}

    def run(self, name: str, arguments: dict[str, Any]) -> Outcome:
        """Do one operation."""
        try:
            return "ok", getattr(self, name)(**arguments)
        except OSError as error:
            return "error", error.errno
        except KeyError:
            return "error", errno.EBADF  # opening it succeeded on other sides only

    # -- handles

    def open(self, handle: int, path: str, flags: int, mode: int = 0o666) -> None:
        # without waiting for the other end of a FIFO
        self._handles[handle] = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, mode)

    def open_at(self, handle: int, at: int, path: str, flags: int, mode: int = 0o666) -> None:
        flags |= os.O_NONBLOCK | os.O_CLOEXEC
        self._handles[handle] = os.open(path, flags, mode, dir_fd=self._handles[at])

    def close(self, handle: int) -> None:
        os.close(self._handles.pop(handle))

    def read(self, handle: int, size: int) -> bytes:
        return os.read(self._handles[handle], size)

    def pread(self, handle: int, offset: int, size: int) -> bytes:
        return os.pread(self._handles[handle], size, offset)

    def write(self, handle: int, data: bytes) -> int:
        return os.write(self._handles[handle], data)

    def pwrite(self, handle: int, offset: int, data: bytes) -> int:
        return os.pwrite(self._handles[handle], data, offset)

    def lseek(self, handle: int, offset: int, whence: int) -> int | None:
        fd = self._handles[handle]
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None  # each file system has positions of its own in directories
        return os.lseek(fd, offset, whence)

    def ftruncate(self, handle: int, size: int) -> None:
        os.ftruncate(self._handles[handle], size)

    def fsync(self, handle: int, data_only: bool = False) -> None:
        (os.fdatasync if data_only else os.fsync)(self._handles[handle])

    def fstat(self, handle: int) -> dict[str, Any]:
        return _facts(os.fstat(self._handles[handle]))

    def fchmod(self, handle: int, mode: int) -> None:
        os.fchmod(self._handles[handle], mode)

    def fchown(self, handle: int, uid: int, gid: int) -> None:
        if (uid, gid) != (-1, -1) or _may_chown_to_nobody(self._handles[handle]):
            os.fchown(self._handles[handle], uid, gid)

    def futimens(self, handle: int, atime: Time, mtime: Time) -> None:
        times = (_Timespec * 2)(_timespec(atime), _timespec(mtime))
        _call("futimens", self._handles[handle], times)

    def fsetxattr(self, handle: int, name: str, value: bytes, flags: int = 0) -> None:
        os.setxattr(self._handles[handle], name, value, flags)

    def fgetxattr(self, handle: int, name: str) -> bytes:
        return os.getxattr(self._handles[handle], name)

    def flist(self, handle: int) -> Names:
        # What appeared since the last rewind may be listed or not (POSIX readdir); btrfs does not.
        os.lseek(self._handles[handle], 0, os.SEEK_SET)
        return sorted(os.listdir(self._handles[handle]))

    def copy_file_range(
        self, reader: int, writer: int, size: int, read_offset: int, write_offset: int
    ) -> int:
        """Copy all that there is: a file system may do it in as many steps as it likes (btrfs
        clones the whole blocks first).
        """
        source, target = self._handles[reader], self._handles[writer]
        done = 0
        while done < size:
            at = (read_offset + done, write_offset + done)
            copied = os.copy_file_range(source, target, size - done, *at)
            if copied == 0:
                break
            done += copied
        return done

    # -- shared mappings

    def map(self, mapping: int, handle: int, write: bool) -> None:
        fd = self._handles[handle]
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.ENODEV, "not a file")  # what a device does is not of interest
        self._maps[mapping] = Mapping(fd, write)

    def map_read(self, mapping: int, offset: int, size: int) -> bytes:
        return self._maps[mapping].read(offset, size)

    def map_write(self, mapping: int, offset: int, data: bytes) -> int:
        return self._maps[mapping].write(offset, data)

    def map_sync(self, mapping: int) -> None:
        self._maps[mapping].sync()

    def unmap(self, mapping: int) -> None:
        self._maps.pop(mapping).close()

    # -- names

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def mkdir_at(self, at: int, path: str, mode: int) -> None:
        os.mkdir(path, mode, dir_fd=self._handles[at])

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def mknod(self, path: str, mode: int, device: tuple[int, int] = (0, 0)) -> None:
        os.mknod(path, mode, os.makedev(*device))

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, path)

    def link(self, path: str, new: str, follow: bool = False) -> None:
        os.link(path, new, follow_symlinks=follow)

    def link_handle(self, handle: int, new: str) -> None:
        fd = self._handles[handle]
        _call("linkat", fd, b"", AT_FDCWD, os.fsencode(new), AT_EMPTY_PATH)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def unlink_at(self, at: int, path: str) -> None:
        os.unlink(path, dir_fd=self._handles[at])

    def rename(self, path: str, new: str, flags: int = 0) -> None:
        _call("renameat2", AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(new), flags)

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def list(self, path: str) -> Names:
        return sorted(os.listdir(path))

    def access(self, path: str, mode: int, effective: bool = False) -> bool:
        return os.access(path, mode, effective_ids=effective)

    # -- attributes

    def stat(self, path: str, follow: bool = True) -> dict[str, Any]:
        return _facts(os.stat(path, follow_symlinks=follow))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int, follow: bool = True) -> None:
        if (uid, gid) != (-1, -1) or _may_chown_to_nobody(path, follow=follow):
            os.chown(path, uid, gid, follow_symlinks=follow)

    def utimens(self, path: str, atime: Time, mtime: Time, follow: bool = True) -> tuple[int, int]:
        """Walking the path once more could read the symlink itself, and change its access time."""
        times = (_Timespec * 2)(_timespec(atime), _timespec(mtime))
        flags = 0 if follow else AT_SYMLINK_NOFOLLOW
        fd = os.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        try:
            _call("utimensat", AT_FDCWD, os.fsencode(path), times, flags)
            status = os.fstat(fd)
        finally:
            os.close(fd)
        return (status.st_atime_ns if isinstance(atime, int) else 0), status.st_mtime_ns

    def truncate(self, path: str, size: int) -> None:
        """Truncate; where the size stays, POSIX has the times set and Linux' disks do not. FUSE
        can't tell that from open(O_TRUNC), which always sets them: so they are set here.
        """
        same = False
        with suppress(OSError):
            same = os.stat(path).st_size == size
        os.truncate(path, size)
        if same:
            os.utime(path)

    def setxattr(
        self, path: str, name: str, value: bytes, flags: int = 0, follow: bool = True
    ) -> None:
        os.setxattr(path, name, value, flags, follow_symlinks=follow)

    def getxattr(self, path: str, name: str, follow: bool = True) -> bytes:
        return os.getxattr(path, name, follow_symlinks=follow)

    def removexattr(self, path: str, name: str, follow: bool = True) -> None:
        os.removexattr(path, name, follow_symlinks=follow)

    def listxattr(self, path: str, follow: bool = True) -> Names:
        names = os.listxattr(path, follow_symlinks=follow)
        return sorted(name for name in names if not name.startswith(OTHER_ACLS.decode()))

    def name_max(self, path: str) -> int:
        return os.statvfs(path).f_namemax

    def umask(self, mask: int) -> int:
        return os.umask(mask)

    # -- what an observer is asked

    def snapshot(self) -> Any:
        return snapshot(Path("/"))

    def numbers(self) -> dict[bytes, tuple[int, int, int]]:
        """Of each path: device, inode number, and the inode number that its directory lists."""
        top = os.lstat(b"/")
        found = {b"": (top.st_dev, top.st_ino, top.st_ino)}
        pending = [b""]
        while pending:
            directory = pending.pop()
            with os.scandir(b"/" + directory) as entries:
                for entry in entries:
                    path = directory + b"/" + entry.name if directory else entry.name
                    status = entry.stat(follow_symlinks=False)
                    found[path] = (status.st_dev, status.st_ino, entry.inode())
                    if stat.S_ISDIR(status.st_mode):
                        pending.append(path)
        return found

    def hold(self) -> int:
        """Keep a handle of every object, so that no inode number is used a second time."""
        for path in self.numbers():
            handle = os.open(b"/" + path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            self._handles[-len(self._handles) - 1] = handle
        return len(self._handles)


def become(identity: Identity, root: str) -> None:
    """Change to the user, and then to the root directory, which other users may not reach."""
    if not identity.uid:
        os.chroot(root)
        os.chdir("/")
        return
    _call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    _set_capabilities(CAP_SYS_CHROOT, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN)
    os.chroot(root)
    os.chdir("/")
    if not identity.observer:
        _set_capabilities()


def _work(connection: socket.socket, identity: Identity, root: str) -> None:
    os.umask(0o022)
    try:
        become(identity, root)
    except OSError as error:
        send(connection, ("error", error.errno))
        return
    send(connection, ("ok", os.getpid()))
    operations = Operations()
    while True:
        try:
            name, arguments = receive(connection)
        except EOFError:
            return
        send(connection, operations.run(name, arguments))


def _start(control: socket.socket, connection: socket.socket, request: Any) -> None:
    if os.fork():
        return
    control.close()
    try:
        _work(connection, *request)
    except BaseException:  # noqa: BLE001 - whatever it is, it must not go on as a zygote
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def main() -> None:
    """Fork workers until the tests close the socket."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the tests end, and close the socket
    control = socket.socket(fileno=int(sys.argv[1]))
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 1)
        if not data:
            return
        with socket.socket(fileno=descriptors[0]) as connection:
            _start(control, connection, pickle.loads(data))


class Zygote:
    """The tests' end: a process that forks workers."""

    def __init__(self) -> None:
        import subprocess  # noqa: PLC0415 - not needed in the zygote itself

        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = "import sys; sys.path.insert(0, sys.argv[2]); import differential.worker as w;"
        command = [sys.executable, "-c", program + "w.main()", str(other.fileno())]
        tests = str(Path(__file__).parent.parent)
        self._process = subprocess.Popen([*command, tests], pass_fds=[other.fileno()])
        other.close()

    def worker(self, identity: Identity, root: Path) -> Worker:
        """A new process that is ``identity`` and sees ``root`` only."""
        ours, theirs = socket.socketpair()
        with theirs:
            request = pickle.dumps((identity, str(root)))
            socket.send_fds(self._control, [request], [theirs.fileno()])
        return Worker(ours, identity)

    def close(self) -> None:
        """End the process; its workers end with their sockets."""
        self._control.close()
        self._process.wait()


def _may_chown_to_nobody(file: str | int, *, follow: bool = True) -> bool:
    """Whether a change of the owner to nobody else has the effect that it has on disks; it can't be
    told from a write, which others may do, and root to a file with a capability
    (docs/explanation/router.md).
    """
    status = os.stat(file, follow_symlinks=follow)
    if os.geteuid() != 0:
        return status.st_uid == os.geteuid()
    try:
        os.getxattr(file, "security.capability", follow_symlinks=follow)
    except OSError:
        return True
    return False


class Worker:
    """The tests' end of one process."""

    PATIENCE = 60.0

    def __init__(self, connection: socket.socket, identity: Identity) -> None:
        self.identity = identity
        self._connection = connection
        self._pidfd = -1
        connection.settimeout(self.PATIENCE)

    def wait(self) -> None:
        """Wait until it is there; apart from the constructor, so that several start at once."""
        outcome = self._receive()
        assert outcome[0] == "ok", f"{self.identity.name} can't enter the mount: {outcome}"
        self._pidfd = os.pidfd_open(outcome[1])

    def __call__(self, name: str, /, **arguments: Any) -> Outcome:
        """Do one operation; ("lost", why) where the worker does not answer any more."""
        try:
            send(self._connection, (name, arguments))
        except OSError as error:
            return "lost", str(error)
        return self._receive()

    def _receive(self) -> Outcome:
        try:
            outcome: Outcome = receive(self._connection)
        except TimeoutError:
            return "lost", "no answer"
        except (EOFError, OSError):
            return "lost", "the worker died"
        return outcome

    def close(self) -> None:
        """End the process and wait until it let go of the mount."""
        import select  # noqa: PLC0415

        self._connection.close()
        if self._pidfd < 0:
            return
        if not select.select([self._pidfd], [], [], self.PATIENCE)[0]:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            select.select([self._pidfd], [], [], self.PATIENCE)
        os.close(self._pidfd)
