"""The records of live mounts, one file for each, in the runtime directory of the user.

The daemon of a mount holds a lock (flock) on its record as long as it lives. So process numbers
need not be trusted: a process that gets the lock knows that the daemon is gone, however it ended,
and may clean up.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import select
import signal
import stat
import time
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unionmount.errors import InvalidReference, MountError, NotFoundError
from unionmount.mounting.connection import is_connected
from unionmount.mounting.fuse_mount import StillMountedError
from unionmount.system.mountinfo import FILE_SYSTEM, mounted_at, mounts, unique_id
from unionmount.system.os_errors import raising
from unionmount.system.text import printable

_ID_BYTES = 6
_BEGINNING = re.compile(r"[0-9a-f]{1,12}")  # of an ID
_ASKED_AGAIN = 0.2  # seconds
_OVERLAY = "lowerdir="  # the beginning of the source of an overlay mount
_NAME_MAX = 60  # characters of an image's name in the name of a mount point

STARTING = "starting"
LIVE = "live"
DETACHED = "detached: still in use"
STALE = f"stale: {os.strerror(errno.ENOTCONN)}"
GONE = "gone"


@dataclass(frozen=True, slots=True)
class Record:
    """A mount: its source, its mount point, and the process that serves it."""

    id: str
    image: str
    source: str
    mode: str
    mountpoint: str
    automatic: bool  # the mount point was created here and is removed with the mount
    pid: int
    started: int  # start time of the process in ticks since boot, as process numbers are reused
    created: str
    root: str  # of the store
    device: str = ""  # "major:minor" of the file system, once it is mounted
    container: str = ""  # its name in the store
    upper: str = ""  # the directory that takes the changes
    image_id: str = ""  # empty for a mount of directories
    layers: int = 0  # the number of layers that are shown; 0 for all
    options: str = ""  # that mount(8) gave about the image, as mount.unionmount reads them
    hold: str = ""  # what keeps the image in the store of another tool
    mount: int = 0  # the unique ID of the mount; 0 if the kernel knows none

    @classmethod
    def new(
        cls,
        *,
        image: str,
        source: str,
        mountpoint: Path | None,
        root: str,
        mode: str = "ro",
        container: str = "",
        upper: str = "",
        image_id: str = "",
        layers: int = 0,
    ) -> Record:
        """Return a record for a mount that this process will serve."""
        return cls(
            id=os.urandom(_ID_BYTES).hex(),
            image=image,
            source=source,
            mode=mode,
            mountpoint=str(mountpoint or ""),
            automatic=mountpoint is None,
            pid=os.getpid(),
            started=process_start(os.getpid()) or 0,
            created=_now(),
            root=root,
            container=container,
            upper=upper,
            image_id=image_id,
            layers=layers,
        )

    @property
    def path(self) -> Path:
        """The mount point."""
        return Path(self.mountpoint)


@dataclass(frozen=True, slots=True)
class Status:
    """A record and the state of its mount."""

    record: Record
    status: str
    mode: str  # now; a remount changes it

    @property
    def alive(self) -> bool:
        """Whether the daemon runs."""
        return self.status in (STARTING, LIVE, DETACHED)


class MountTable:
    """The records in one runtime directory."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime
        self._records = runtime / "mounts"

    @property
    def directory(self) -> Path:
        """The runtime directory."""
        return self._runtime

    @classmethod
    def of_user(cls) -> MountTable:
        """Return the table of the user that runs this process."""
        return cls(runtime_directory())

    def log_path(self, mount_id: str) -> Path:
        """Return the path of the log of a daemon."""
        return self._records / f"{mount_id}.log"

    def socket_path(self, mount_id: str) -> Path:
        """Return the path of the socket on which a daemon reports its counters."""
        return self._records / f"{mount_id}.stats"

    def make_mountpoint(self, record: Record, *, private: bool = False) -> Path:
        """Create a mount point, named after the image; no other user reaches a private one."""
        word = re.sub(r"[^A-Za-z0-9._-]+", "-", record.image).strip(".-")[-_NAME_MAX:] or "image"
        if private:
            above = self._runtime / "roots"
            above.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            above = self._runtime / "mnt"
        path = above / f"{word}-{record.id}"
        path.mkdir(parents=True, mode=0o755)
        return path

    def check_visible(self, mountpoint: Path) -> None:
        """Raise MountError if a mount would hide the table, in which it has to be recorded."""
        where = self._runtime.resolve()
        if where.is_relative_to(mountpoint.resolve()):
            raise MountError(
                f"mount point {printable(str(mountpoint))} holds the runtime directory "
                f"{printable(str(where))}, where the mount is to be recorded"
            )

    @contextmanager
    def held(self, record: Record) -> Iterator[HeldRecord]:
        """Keep ``record`` in the table, locked, until the block ends."""
        with raising(MountError, f"record {self._records}"):
            self._records.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = HeldRecord(self._records / f"{record.id}.json", record)
        try:
            yield held
        except StillMountedError:  # it must be found to be unmounted
            held.let_go()
            raise
        except BaseException:
            held.remove()
            raise
        held.remove()

    def all(self) -> list[Status]:
        """Return every record with its status, oldest first."""
        found = [one for path in self._records.glob("*.json") if (one := _examine(path))]
        ours = [m for m in mounts() if m.file_system == FILE_SYSTEM]
        table = [(m.device, m.mountpoint) for m in ours]
        read_only = {(m.device, m.mountpoint): m.read_only for m in ours}
        found = [(_moved(record, table) if alive else record, alive) for record, alive in found]
        served = {(record.device, record.path) for record, alive in found if alive}
        states = []
        for record, alive in found:
            # Device numbers are reused: a dead mount does not have the device of a live one.
            mounted = {place: ro for place, ro in read_only.items() if alive or place not in served}
            status = _status(record, mounted.keys(), alive=alive)
            is_ro = mounted.get((record.device, record.path), record.mode == "ro")
            states.append(Status(record, status, "ro" if is_ro else "rw"))
        return sorted(states, key=lambda one: (one.record.created, one.record.id))

    def has_dead(self) -> bool:
        """Return whether a record is there whose daemon does not live; reads no record."""
        return any(_is_free(path) for path in self._records.glob("*.json"))

    def is_served(self, record: Record) -> bool:
        """Return whether a daemon holds the lock on a mount's record, and so lives."""
        found = _examine(self._records / f"{record.id}.json")
        return found is not None and found[1]

    def beginning_with(self, word: str) -> Status:
        """Return the record whose ID begins so; raise InvalidReference if there are several."""
        found = []
        if is_id(word):
            found = [one for one in self.all() if one.record.id.startswith(word)]
        if len(found) > 1:
            known = ", ".join(
                f"{one.record.id} ({printable(one.record.container or one.record.mountpoint)})"
                for one in found
            )
            raise InvalidReference(f"'{word}' is ambiguous, as several IDs begin with it: {known}")
        for one in found:
            return one
        raise NotFoundError(f"{printable(word)}: no such mount")

    def find(self, target: str) -> Status:
        """Return the record with this ID, or of the topmost or last mount at this mount point."""
        if not target:  # Path("") would be the working directory
            raise NotFoundError("no mount has an empty name")
        path = resolved_mountpoint(target)
        top = mounted_at(path)
        known = self.all()
        found = [one for one in known if one.record.id == target]
        placed = [one for one in reversed(known) if one.record.path == path]
        found += [one for one in placed if top is not None and one.record.device == top.device]
        for one in (*found, *placed):
            return one
        raise NotFoundError(f"{printable(target)}: no such mount")

    def ended_logs(self) -> list[Path]:
        """Return the logs of mounts whose daemons are gone."""
        # They are listed first: a daemon has its record before its log.
        logs = sorted(self._records.glob("*.log"))
        alive = {one.record.id for one in self.all() if one.alive}
        return [path for path in logs if path.stem not in alive]

    def forget(self, record: Record, *, keep_log: bool = False) -> None:
        """Remove the record of a dead daemon and its other files.

        With ``keep_log`` its log stays unless it is empty. Raise MountError if a daemon serves the
        mount after all.
        """
        if self.is_served(record):
            raise MountError(
                f"{printable(record.mountpoint)}: still served by process {record.pid}"
            )
        if record.automatic:
            with suppress(OSError):
                record.path.rmdir()
        if not (keep_log and _has_text(self.log_path(record.id))):
            self.log_path(record.id).unlink(missing_ok=True)
        self.socket_path(record.id).unlink(missing_ok=True)
        (self._records / f"{record.id}.json").unlink(missing_ok=True)


class HeldRecord:
    """A record on disk whose lock this process holds."""

    def __init__(self, path: Path, record: Record) -> None:
        self.record = record
        self._path = path
        self._fd = self._write(record)

    def update(self, **changes: str | int) -> None:
        """Change fields by replacing the file; the old and the new one are both locked."""
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        old, self._fd = self._fd, self._write(self.record)
        os.close(old)

    def remove(self) -> None:
        """Remove the record and release the lock."""
        self._path.unlink(missing_ok=True)
        self.let_go()

    def let_go(self) -> None:
        """Release the lock and keep the record, as if the daemon had died."""
        os.close(self._fd)

    def _write(self, record: Record) -> int:
        temporary = self._path.with_suffix(f".{os.getpid()}")
        with raising(MountError, f"record {self._path}"):
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with raising(MountError, f"record {self._path}"), open(fd, "wb", closefd=False) as file:
                fcntl.flock(fd, fcntl.LOCK_EX)
                file.write(json.dumps(asdict(record), indent=1).encode("ascii"))
                file.flush()
                temporary.rename(self._path)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        return fd


def overlay_source(lower: Iterable[Path]) -> str:
    """Return the recorded source of an overlay mount, topmost directory first; no image has such a
    name.
    """
    return _OVERLAY + ":".join(str(path).replace("\\", r"\\").replace(":", r"\:") for path in lower)


def is_overlay(source: str) -> bool:
    """Return whether a recorded source is that of an overlay mount."""
    return source.startswith(_OVERLAY)


def _now() -> str:
    """Return the time as ISO 8601 has it."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{date}.{nanoseconds // 1000:06d}+00:00"


def _has_text(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def is_id(word: str) -> bool:
    """Return whether ``word`` can be an ID, or the beginning of one."""
    return _BEGINNING.fullmatch(word) is not None


def runtime_directory() -> Path:
    """Return the directory of records and automatic mount points, created if necessary.

    It is ``UNIONMOUNT_RUNTIME_DIR``; for root ``/run/unionmount`` (the directory of a login is
    removed with the login, but root's mounts must stay); for others below ``XDG_RUNTIME_DIR`` or
    else ``/tmp``, provided that it belongs to the user alone. The root of a
    user namespace to which ``/run`` does not belong, as in rootless podman, counts as the user who
    created the namespace.
    """
    if chosen := os.environ.get("UNIONMOUNT_RUNTIME_DIR"):
        directory, mode = Path(chosen).absolute(), 0o755
    elif os.geteuid() == 0 and Path("/run").stat().st_uid == 0:
        directory, mode = Path("/run/unionmount"), 0o755
    else:
        directory, mode = _user_directory(), 0o700
    try:
        directory.mkdir(mode=mode, parents=True, exist_ok=True)
        _check_owner(directory)
    except OSError as error:
        raise MountError(f"runtime directory {directory}: {error.strerror}") from None
    return directory


def _user_directory() -> Path:
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given.startswith("/"):
        with suppress(OSError):
            if Path(given).stat().st_uid == os.geteuid():  # su(1) keeps the variable
                return Path(given) / "unionmount"
    return Path(f"/tmp/unionmount-{_user_outside()}")  # noqa: S108, checked by _check_owner


def _user_outside() -> int:
    """The user's ID; for the root of a user namespace, the one that it has outside."""
    uid = os.geteuid()
    if uid != 0:
        return uid
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        inside, outside, _ = map(int, line.split())
        if inside == 0:
            return outside
    return uid


def _check_owner(directory: Path) -> None:
    status = directory.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if not ours or status.st_mode & 0o022:
        raise MountError(f"runtime directory {directory} does not belong to this user alone")


def process_start(pid: int) -> int | None:
    """Return the start time of process ``pid`` in ticks since boot; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[19])


def process_state(pid: int) -> str:
    """Return the state of process ``pid`` as a letter of ps(1); empty if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return fields[0].decode("ascii")


def stop(record: Record) -> None:
    """Ask the daemon of ``record`` to unmount; one that is just starting does so once it serves.

    A daemon that was asked before ends even if files are open, after syncing its changes.
    """
    with _process_of(record) as process:
        if process is not None:
            signal.pidfd_send_signal(process, signal.SIGTERM)


def wait_until_gone(record: Record, seconds: float) -> bool:
    """Wait for the daemon of ``record`` to end; return False if it still runs after ``seconds``."""
    return not wait_until_all_gone([record], seconds)


def end(record: Record, seconds: float) -> bool:
    """End the daemon of ``record`` even if it is in use; return False if it still runs."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        stop(record)  # the second signal ends it, and further ones do nothing
        if wait_until_gone(record, min(_ASKED_AGAIN, left)):
            return True
    return False


def wait_until_all_gone(records: Iterable[Record], seconds: float) -> list[Record]:
    """Wait for daemons in parallel; return the records of those that run after ``seconds``."""
    deadline = time.monotonic() + seconds
    poll, waiting = select.poll(), {}
    with ExitStack() as stack:
        for record in records:
            process = stack.enter_context(_process_of(record))
            if process is not None:
                poll.register(process, select.POLLIN)
                waiting[process] = record
        while waiting and (ended := poll.poll(max(0.0, deadline - time.monotonic()) * 1000)):
            for process, _ in ended:
                poll.unregister(process)
                del waiting[process]
    return list(waiting.values())


def kill(record: Record) -> None:
    """End the daemon of ``record`` whatever it does, stopped or waiting; changes may be lost."""
    with _process_of(record) as process:
        if process is not None:
            signal.pidfd_send_signal(process, signal.SIGKILL)


def resume(record: Record) -> None:
    """Let the daemon of ``record`` go on where somebody has stopped it."""
    with _process_of(record) as process:
        if process is not None:
            signal.pidfd_send_signal(process, signal.SIGCONT)


@contextmanager
def _process_of(record: Record) -> Iterator[int | None]:
    """Open the daemon's process; yield None if it ended, even if its number was reused."""
    try:
        process = os.pidfd_open(record.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield process if process_start(record.pid) == record.started else None
    except ProcessLookupError:
        pass  # it has just ended
    finally:
        os.close(process)


def resolved_mountpoint(target: str) -> Path:
    """Return the path of a mount point without asking the mounted file system.

    Its server may not answer.
    """
    parent, name = os.path.split(target.rstrip("/"))
    if name not in ("", ".", ".."):
        path = Path(os.path.realpath(parent or "."), name)
        if mounted_at(path) is not None:
            return path
    return Path(os.path.realpath(target))


def _examine(path: Path) -> tuple[Record, bool] | None:
    """Return the record in ``path`` and whether its daemon lives; None if it was removed."""
    while True:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            alive = not _lock(fd)
            if alive or _is_at(path, fd):
                record = _read(fd)
                return None if record is None else (record, alive)
        finally:
            os.close(fd)


def _is_free(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # removed meanwhile, or for others to judge
        return False
    try:
        return _lock(fd)
    finally:
        os.close(fd)


def _lock(fd: int) -> bool:
    """Return whether no daemon holds the lock; other readers do not count."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, fd: int) -> bool:
    """Return whether ``path`` is still the open file; an updated record is another file."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _read(fd: int) -> Record | None:
    """Parse a record; return None if it is not valid, which only the user can cause."""
    try:
        return Record(**json.loads(os.pread(fd, 1 << 20, 0)))
    except (ValueError, TypeError):
        return None


def _moved(record: Record, table: Sequence[tuple[str, Path]]) -> Record:
    """Return the record with the present path of its mount, whose parents may be renamed.

    Where the mount has gone, its device number may be another mount's already.
    """
    places = [place for device, place in table if device == record.device]
    if not places or record.path in places:
        return record
    connected = is_connected(record.pid) if process_start(record.pid) == record.started else None
    if connected is None:  # bind mounts of it are not found then
        places = [place for place in places if unique_id(place) in (0, record.mount)]
    if not places or connected is False:
        return record
    return replace(record, mountpoint=str(places[0]))


def _status(record: Record, table: Container[tuple[str, Path]], *, alive: bool) -> str:
    mounted = (record.device, record.path) in table
    if alive and not record.device:
        return STARTING
    if alive:
        return LIVE if mounted else DETACHED
    return STALE if mounted else GONE
