"""What operations are applied to: file systems over the same lower directories.

A `Subject` mounts; a `Side` is a mount with its directories and the workers that operate on it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import select
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from support.compare import Snapshot
from support.idmapped import idmapped
from support.mounting import is_mounted

from differential.maps import Maps
from differential.worker import Identity, Outcome, Worker, Zygote

COMMAND = (sys.executable, "-m", "unionmount")
PATIENCE = 60.0

_MS_NOSUID, _MS_NODEV, _MNT_DETACH = 2, 4, 2
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, where: Path, kind: str | None, flags: int, data: str) -> None:
    words = [os.fsencode(word) if word is not None else None for word in (source, where, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data)):
        number = ctypes.get_errno()
        raise OSError(number, f"mounting {kind} with {data}: {os.strerror(number)}")


def _umount(where: Path) -> None:
    """Unmount. A server that looks whether its own mount answers keeps it busy for a moment."""
    end = time.monotonic() + PATIENCE
    while _libc.umount2(os.fsencode(where), 0):
        number = ctypes.get_errno()
        if number != errno.EBUSY or time.monotonic() > end:
            raise OSError(number, f"unmounting {where}: {os.strerror(number)}")
        time.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Layout:
    """The directories of one side. ``lowers``: the first is on top; ``image``: the same layers."""

    lowers: tuple[Path, ...]
    upper: Path
    work: Path
    mountpoint: Path
    state: Path
    """What a server keeps besides."""
    image: Path | None = None

    def options(self) -> str:
        """What overlayfs and its kin are told."""
        lowers = ":".join(map(str, self.lowers))
        return f"lowerdir={lowers},upperdir={self.upper},workdir={self.work}"


class Subject(Protocol):
    """A file system with a writable upper."""

    name: str

    def mount(self, layout: Layout) -> None:
        """Mount; returns when the mount is there."""

    def unmount(self, layout: Layout) -> None:
        """Unmount; returns when everything is on disk and no process is left."""

    def log(self) -> str:
        """What the server said that it should not have had to say."""


@contextlib.contextmanager
def mounted(subject: Subject, layout: Layout) -> Iterator[Path]:
    """A mount, whose server has nothing to complain about."""
    subject.mount(layout)
    try:
        yield layout.mountpoint
    finally:
        subject.unmount(layout)
    assert subject.log() == ""


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])


OVERLAYFS_ESCAPES = _release() >= (6, 7)
"""Whether users of overlayfs may set attributes that are called as its marks."""


class KernelOverlay:
    """The kernel's overlayfs, as exact as it can be."""

    EXACT = "index=on,redirect_dir=on,metacopy=off,xino=auto"
    # Without an index, an upper that something else wrote can be mounted over any lower.
    PLAIN = "index=off,redirect_dir=on,metacopy=off,xino=auto"

    def __init__(self, options: str = EXACT) -> None:
        self.name = "overlayfs"
        self.options = options
        self.flags = 0

    def mount(self, layout: Layout) -> None:
        data = f"{layout.options()},{self.options}"
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return _mount("overlay", layout.mountpoint, "overlay", self.flags, data)
            except OSError as error:
                # An unmount returns before the kernel has let go of the upper; nothing tells when.
                if error.errno != errno.EBUSY or time.monotonic() > end:
                    raise
            time.sleep(0.01)

    def unmount(self, layout: Layout) -> None:
        _umount(layout.mountpoint)

    def log(self) -> str:
        return ""


class Served:
    """A file system with a server in the foreground, as root or as an ordinary user."""

    def __init__(self, name: str, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self.prefix = tuple(prefix)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = bytearray()

    def command(self, layout: Layout) -> list[str]:
        raise NotImplementedError

    def mount(self, layout: Layout) -> None:
        state = str(layout.state)
        process = subprocess.Popen(
            [*self.prefix, *self.command(layout)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"UNIONMOUNT_ROOT": state, "UNIONMOUNT_RUNTIME_DIR": state},
        )
        self._process = process
        with Path("/proc/self/mountinfo").open("rb") as table:
            _wait_for_mount(table.fileno(), process, layout.mountpoint)
        if not is_mounted(layout.mountpoint):
            said = process.communicate()[1].decode(errors="replace")
            raise AssertionError(f"{self.name} did not mount: exit {process.returncode}\n{said}")

    def unmount(self, layout: Layout) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.poll() is None:
                _umount(layout.mountpoint)
            else:
                _detach(layout.mountpoint)
            said = process.communicate(timeout=PATIENCE)[1]
        except (subprocess.TimeoutExpired, OSError) as error:
            process.kill()
            _detach(layout.mountpoint)
            said = process.communicate()[1]
            self._log += f"{error}; had to be killed: ".encode()
        # Nobody waits for the answer to a RELEASE, so an unmount may come before it.
        self._log += b"".join(line for line in said.splitlines(True) if b"fuse_release" not in line)
        if process.returncode:
            self._log += f"exit status {process.returncode}\n".encode()

    def log(self) -> str:
        return self._log.decode(errors="replace")


def _detach(mountpoint: Path) -> None:
    _libc.umount2(os.fsencode(mountpoint), _MNT_DETACH)


def _wait_for_mount(table: int, process: subprocess.Popen[bytes], mountpoint: Path) -> None:
    """Wait until it is mounted or the server has ended."""
    pidfd = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(table, select.POLLPRI)
        poll.register(pidfd, select.POLLIN)
        end = time.monotonic() + PATIENCE
        while not is_mounted(mountpoint) and process.poll() is None:
            assert time.monotonic() < end, "nothing was mounted"
            os.lseek(table, 0, os.SEEK_SET)
            os.read(table, 1 << 20)  # what is read is not told again
            if not is_mounted(mountpoint):
                poll.poll(1000)
    finally:
        os.close(pidfd)


class FuseOverlayfs(Served):
    """fuse-overlayfs, to see what this machinery finds in it."""

    def __init__(self) -> None:
        super().__init__("fuse-overlayfs")

    def command(self, layout: Layout) -> list[str]:
        return ["fuse-overlayfs", "-f", "-o", layout.options(), str(layout.mountpoint)]


class Unionmount(Served):
    """`unionmount overlay`."""

    def __init__(self, prefix: Sequence[str] = (), options: str = "") -> None:
        super().__init__("unionmount overlay", prefix)
        self._options = options

    def command(self, layout: Layout) -> list[str]:
        options = layout.options() + self._options
        return [*COMMAND, "overlay", "-f", "-o", options, str(layout.mountpoint)]


class UnionmountImage(Served):
    """`unionmount mount IMAGE` with an upper that the caller names."""

    def __init__(self, prefix: Sequence[str] = (), options: str = "") -> None:
        super().__init__("unionmount mount", prefix)
        self._options = options

    def mount(self, layout: Layout) -> None:
        """Who does something in the mount passes by, and is not to reach what it is kept in."""
        for path in (layout.upper, layout.work):
            path.chmod(0o700)
        super().mount(layout)

    def command(self, layout: Layout) -> list[str]:
        more = ["-o", self._options.strip(",")] if self._options else []
        places = ["--upper", str(layout.upper), "--work", str(layout.work)]
        where = [str(layout.image), str(layout.mountpoint)]
        return [*COMMAND, "mount", "-f", *more, *places, *where]


class PlainDirectory:
    """No union at all: the file system of the upper, filled with what the lowers show together."""

    def __init__(self, flags: int = 0, maps: Maps | None = None) -> None:
        self.name = "plain"
        self._flags, self._maps = flags, maps
        self._mounts = contextlib.ExitStack()

    def mount(self, layout: Layout) -> None:
        if not (layout.upper / "tree").exists():
            self._fill(layout)
        tree = layout.upper / "tree"
        if self._maps:
            mount = idmapped(tree, layout.mountpoint, *self._maps.ranges())
            self._mounts.enter_context(mount)
            return
        _mount(str(tree), layout.mountpoint, None, _MS_BIND, "")
        self._mounts.callback(_umount, layout.mountpoint)
        if self._flags:
            _mount("", layout.mountpoint, None, _MS_BIND | _MS_REMOUNT | self._flags, "")

    def _fill(self, layout: Layout) -> None:
        lowers = ":".join(map(str, layout.lowers))
        options = f"lowerdir={lowers}:{layout.work},redirect_dir=on,metacopy=off,xino=auto"
        _mount("overlay", layout.mountpoint, "overlay", _MS_RDONLY, options)
        try:
            copy_tree(layout.mountpoint, layout.upper / "tree")
        finally:
            _umount(layout.mountpoint)

    def unmount(self, _layout: Layout) -> None:
        self._mounts.close()

    def log(self) -> str:
        return ""


_MS_RDONLY, _MS_REMOUNT, _MS_BIND = 1, 32, 4096
NO_DEVICES_NO_SETUID = _MS_NODEV | _MS_NOSUID


# ---- copying -----------------------------------------------------------------------------------


def copy_tree(source: Path, target: Path) -> None:
    """Copy everything, hard links and holes included."""
    links: dict[tuple[int, int], Path] = {}
    directories: list[tuple[Path, Path]] = []

    def copy(one: Path, other: Path) -> None:
        status = one.lstat()
        known = links.get((status.st_dev, status.st_ino))
        if known is not None:
            os.link(known, other, follow_symlinks=False)
            return
        if stat.S_ISDIR(status.st_mode):
            other.mkdir()
            directories.append((one, other))
            for child in sorted(os.listdir(one)):
                copy(one / child, other / child)
        else:
            links[status.st_dev, status.st_ino] = other
            _copy_file(one, other, status)
        _copy_attributes(one, other, status)

    copy(source, target)
    for one, other in reversed(directories):
        status = one.lstat()
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))


def _copy_file(one: Path, other: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        other.symlink_to(os.readlink(one))
    elif stat.S_ISREG(status.st_mode):
        with one.open("rb") as reader, other.open("wb") as writer:
            for number, block in enumerate(iter(lambda: reader.read(4096), b"")):
                if block.strip(b"\0"):
                    writer.seek(number * 4096)
                    writer.write(block)
            writer.truncate(status.st_size)
    else:
        os.mknod(other, status.st_mode, status.st_rdev)


def _copy_attributes(one: Path, other: Path, status: os.stat_result) -> None:
    os.chown(other, status.st_uid, status.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        os.chmod(other, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(one, follow_symlinks=False):
        with contextlib.suppress(OSError):  # user.* of a symlink can be listed, no more
            value = os.getxattr(one, name, follow_symlinks=False)
            os.setxattr(other, name, value, follow_symlinks=False)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(other, ns=times, follow_symlinks=False)


# ---- sides -------------------------------------------------------------------------------------


@dataclass
class Side:
    """One mount and the processes that operate on it; ``mounted`` between `enter` and `leave`."""

    subject: Subject
    layout: Layout
    zygote: Zygote
    identities: Sequence[Identity]
    observer: Identity
    mounted: bool = False
    _workers: dict[str, Worker] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.subject.name

    def enter(self) -> None:
        """Mount, and start the workers."""
        self.subject.mount(self.layout)
        self.mounted = True
        for identity in (*self.identities, self.observer):
            worker = self.zygote.worker(identity, self.layout.mountpoint)
            self._workers[identity.name] = worker
        for worker in self._workers.values():
            worker.wait()

    def leave(self) -> None:
        """End the workers, and unmount."""
        while self._workers:
            self._workers.popitem()[1].close()
        if self.mounted:
            self.mounted = False
            self.subject.unmount(self.layout)

    def abandon(self) -> None:
        """The same, whatever state it is in."""
        with contextlib.suppress(OSError, AssertionError):
            self.leave()
        while is_mounted(self.layout.mountpoint):
            _detach(self.layout.mountpoint)

    def do(self, who: str, name: str, arguments: dict[str, Any]) -> Outcome:
        """One operation."""
        return self._workers[who](name, **arguments)

    def _observe(self, question: str) -> Any:
        kind, value = self._workers[self.observer.name](question)
        assert kind == "ok", f"{self.name}: {question}: {kind} {value}"
        return value

    def snapshot(self) -> Snapshot:
        """The whole tree."""
        found: Snapshot = self._observe("snapshot")
        return found

    def numbers(self) -> dict[bytes, tuple[int, int, int]]:
        """Inode numbers."""
        found: dict[bytes, tuple[int, int, int]] = self._observe("numbers")
        return found

    def hold(self) -> None:
        """Keep the inode numbers of everything that is there from being used again."""
        self._observe("hold")


def as_user(uid: int) -> tuple[str, ...]:
    """The command that runs another one as an ordinary user, who can read what root can read."""
    return (
        *("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"),
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
    )
