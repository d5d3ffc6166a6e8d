"""Containers that run: a directory for each in the runtime directory of the user.

::

    <runtime>/run/ID/lock         held (flock) by the monitor as long as it lives
    <runtime>/run/ID/state.json   what others need to know
    <runtime>/run/ID/socket       of the monitor, for clients
    <runtime>/run/ID/bundle/      config.json and the host's files
    <runtime>/run/ID/root         a link to the mount point
    <runtime>/run/                held (flock) while a directory in it is made or cleaned away
    <runtime>/oci/                the state of the OCI runtime

A name is unique in a store, and a user may have several stores. ID is ``NAME+STORE``, with twelve
hex digits for the store; it is also the name by which the OCI runtime knows the container, and that
of its control group. A directory whose lock is free was left by a monitor that was killed, and is
cleaned by whoever finds it, whatever its store.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unionmount.errors import MountError, NotFoundError
from unionmount.store.containers import is_name
from unionmount.system.closing import Closing
from unionmount.system.os_errors import raising
from unionmount.system.remove_tree import remove_tree
from unionmount.system.text import printable

_MAX_STATE = 64 * 1024
_PAUSE = 0.01  # seconds between two looks at a monitor
_STORE_DIGITS = 12
_OCI = "oci"


@dataclass(frozen=True, slots=True)
class LiveState:
    """What others need to know of a container that runs."""

    monitor: int  # process numbers
    pid: int
    runtime: str  # path of the OCI runtime
    rootless: bool
    mount: str  # ID of the mount
    command: str
    terminal: bool
    started: str


class LiveContainer(Closing):
    """The directory of a container that this process monitors."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @property
    def id(self) -> str:
        """The name by which the OCI runtime knows the container."""
        return self.path.name

    @property
    def oci(self) -> Path:
        """The directory in which the OCI runtime keeps its state."""
        return self.path.parent.parent / _OCI

    @property
    def bundle(self) -> Path:
        """The directory of the bundle."""
        return self.path / "bundle"

    def write(self, state: LiveState) -> None:
        """Publish the state."""
        new = self.path / "state.new"
        new.write_text(json.dumps(asdict(state)), encoding="ascii")
        new.rename(self.path / "state.json")

    def listen(self) -> socket.socket:
        """Return the socket for clients."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.setblocking(False)
        with _short(self.path) as short:
            listener.bind(f"{short}/socket")
        listener.listen()
        return listener

    def fileno(self) -> int:
        """Return the descriptor that holds the lock."""
        return self._lock

    def abandon(self) -> None:
        """Leave the directory to a child, which has the lock, too."""
        lock, self._lock = self._lock, -1
        os.close(lock)

    def close(self) -> None:
        """Remove the directory, and give up the lock; a second call does nothing."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            remove_tree(self.path)
            os.close(lock)


class LiveContainers:
    """The containers of a user that run; those that are named are of one store."""

    def __init__(self, runtime: Path, root: Path) -> None:
        """``root`` is the directory of the store, which need not exist."""
        self._directory = runtime / "run"
        self._root = root
        self.oci = runtime / _OCI

    def id(self, name: str) -> str:
        """Return the name of a container among those of all stores.

        NotFoundError for what is no name of one.
        """
        if not is_name(name):
            raise NotFoundError(f"container '{printable(name)}' is not running")
        return f"{name}+{_store_word(self._root)}"

    def begin(self, name: str) -> LiveContainer:
        """Make the directory of a container that is to run; MountError if it runs already."""
        with self.exclusive():
            return self.begin_alone(self.id(name))

    def begin_alone(self, entry: str) -> LiveContainer:
        """Do the same for an ID where the caller is in ``exclusive``."""
        path = self._directory / entry
        with raising(MountError, f"directory {path}"):
            self.oci.mkdir(0o700, exist_ok=True)
            path.mkdir(0o700, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise MountError(f"container '{entry.partition('+')[0]}' is running") from None
        with raising(MountError, f"directory {path}"):
            (path / "bundle").mkdir(0o700, exist_ok=True)
        return LiveContainer(path, lock)

    def entries(self) -> list[str]:
        """Return the IDs of all containers that have a directory here, of all stores."""
        with suppress(FileNotFoundError):
            return sorted(path.name for path in self._directory.iterdir())
        return []

    def dead(self) -> list[str]:
        """Return the IDs of those whose monitor is dead; the caller is in ``exclusive``."""
        return [entry for entry in self.entries() if not self._is_held(entry)]

    def states(self) -> Iterator[LiveState]:
        """Yield the states of all containers that run, of all stores."""
        for entry in self.entries():
            with suppress(NotFoundError, MountError):  # it is about to start, or has ended
                yield self.state_of(entry)

    def path(self, name: str) -> Path:
        """Return the directory of a container; NotFoundError for what is no name of one."""
        return self._directory / self.id(name)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other processes from making and cleaning directories meanwhile."""
        with raising(MountError, f"directory {self._directory}"):
            self._directory.mkdir(0o700, parents=True, exist_ok=True)
            lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def state(self, name: str) -> LiveState:
        """Return the state of a container that runs; NotFoundError if it does not."""
        return self.state_of(self.id(name))

    def state_of(self, entry: str) -> LiveState:
        """Do the same for an ID."""
        path = self._directory / entry
        try:
            with (path / "state.json").open("rb") as file:
                return _parse(json.loads(file.read(_MAX_STATE)))
        except (FileNotFoundError, NotADirectoryError):
            name = printable(entry.partition("+")[0])
            raise NotFoundError(f"container '{name}' is not running") from None
        except (ValueError, TypeError, KeyError):
            raise MountError(f"{path / 'state.json'}: damaged") from None

    def bundle(self, name: str) -> Path:
        """Return the directory of a container's bundle."""
        return self.path(name) / "bundle"

    def is_running(self, name: str) -> bool:
        """Return whether a monitor holds the lock of a container."""
        return is_name(name) and self._is_held(self.id(name))

    def _is_held(self, entry: str) -> bool:
        try:
            lock = os.open(self._directory / entry / "lock", os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def connect(self, name: str) -> socket.socket:
        """Return a connection to the monitor of a container.

        A monitor that is about to start or to end is waited for: after its end, the container can
        be run again.
        """
        while True:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with suppress(OSError), _short(self.path(name)) as short:
                client.connect(f"{short}/socket")
                return client
            client.close()
            if not self.is_running(name):
                raise NotFoundError(f"container '{printable(name)}' is not running")
            time.sleep(_PAUSE)


def _store_word(root: Path) -> str:
    """Return digits for a store, which are the same whatever path leads to its directory."""
    try:
        found = root.stat()
        place = f"{found.st_dev}:{found.st_ino}"
    except OSError:  # there is no such store, so none of its containers runs
        place = os.path.realpath(root)
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:_STORE_DIGITS]


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a path of a directory that is short enough for the name of a socket."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _parse(row: Any) -> LiveState:
    return LiveState(
        monitor=int(row["monitor"]),
        pid=int(row["pid"]),
        runtime=str(row["runtime"]),
        rootless=bool(row["rootless"]),
        mount=str(row["mount"]),
        command=str(row["command"]),
        terminal=bool(row["terminal"]),
        started=str(row["started"]),
    )
