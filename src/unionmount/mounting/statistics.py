"""The counters of a mount, reported over a socket that only its user can connect to.

The daemon of a mount listens beside its record; each connection gets one JSON document and is
closed. The socket is used by way of a descriptor of its directory, because the path of a Unix
socket must be short.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionmount.core import time_of_bucket
from unionmount.errors import MountError, NotFoundError

if TYPE_CHECKING:
    from unionmount.core import Router, RouterStats

_OPCODES = (
    *("", "LOOKUP", "FORGET", "GETATTR", "SETATTR", "READLINK", "SYMLINK", "", "MKNOD", "MKDIR"),
    *("UNLINK", "RMDIR", "RENAME", "LINK", "OPEN", "READ", "WRITE", "STATFS", "RELEASE", ""),
    *("FSYNC", "SETXATTR", "GETXATTR", "LISTXATTR", "REMOVEXATTR", "FLUSH", "INIT", "OPENDIR"),
    *("READDIR", "RELEASEDIR", "FSYNCDIR", "GETLK", "SETLK", "SETLKW", "ACCESS", "CREATE"),
    *("INTERRUPT", "BMAP", "DESTROY", "IOCTL", "POLL", "NOTIFY_REPLY", "BATCH_FORGET"),
    *("FALLOCATE", "READDIRPLUS", "RENAME2", "LSEEK", "COPY_FILE_RANGE", "SETUPMAPPING"),
    *("REMOVEMAPPING", "SYNCFS", "TMPFILE", "STATX"),
)
_PERCENTILES = (50, 90, 99)
_BACKLOG = 8
_DOCUMENT_MAX = 1 << 20
_PATIENCE = 10.0  # seconds
_CREDENTIALS = struct.Struct("3i")  # struct ucred


def report(stats: RouterStats, transport: str = "") -> dict[str, Any]:
    """Return the counters as a document: messages by type, the transport, and totals."""
    messages = {}
    for opcode in sorted({*stats.fast, *stats.forwarded}):
        times = stats.times.get(opcode, [])
        messages[_name(opcode)] = {
            "fast": stats.fast.get(opcode, 0),
            "forwarded": stats.forwarded.get(opcode, 0),
        } | {f"p{percent}_us": _percentile(times, percent) for percent in _PERCENTILES}
    return {"messages": messages, "transport": transport, **stats.totals}


def _name(opcode: int) -> str:
    known = _OPCODES[opcode] if opcode < len(_OPCODES) else ""
    return known or (f"OPCODE_{opcode}" if opcode else "OTHER")


def _percentile(times: Sequence[int], percent: int) -> float:
    """Return a percentile in microseconds: the middle of its bucket."""
    wanted = max(1, -(-sum(times) * percent // 100))
    seen = 0
    for bucket, count in enumerate(times):
        seen += count
        if count and seen >= wanted:
            middle = (time_of_bucket(bucket) + time_of_bucket(bucket + 1)) / 2
            return round(middle / 1000, 1)
    return 0.0


# ---- the daemon's side ---------------------------------------------------------------------------


class Telling:
    """A client that has not received all of the document yet."""

    def __init__(self, client: socket.socket, document: bytes) -> None:
        self.client = client
        self.deadline = time.monotonic() + _PATIENCE  # a client that does not read is dropped
        self._rest = memoryview(document)

    def fileno(self) -> int:
        """Return the descriptor to wait for until it is writable."""
        return self.client.fileno()

    @property
    def seconds_left(self) -> float:
        """The time for which it is waited for."""
        return max(0.0, self.deadline - time.monotonic())

    def go_on(self) -> bool:
        """Send what the client takes now; return whether more remains."""
        try:
            while self._rest:
                self._rest = self._rest[self.client.send(self._rest) :]
        except BlockingIOError:
            return True
        except OSError:  # the client has gone
            pass
        self.client.close()
        return False


class StatsListener:
    """The socket of a mount, for any event loop; nothing here waits."""

    def __init__(self, listener: socket.socket, router: Router, transport: str) -> None:
        self._listener = listener
        self._router = router
        self._transport = transport
        self.unfinished: list[Telling] = []

    def fileno(self) -> int:
        """Return the descriptor to wait for until it is readable."""
        return self._listener.fileno()

    def accept(self) -> Telling | None:
        """Answer a client; return it if it has not received everything yet."""
        try:
            client, _ = self._listener.accept()
        except OSError:  # it has gone
            return None
        client.setblocking(False)
        document = b""
        with suppress(OSError):
            if _is_allowed(client):
                document = json.dumps(report(self._router.stats(), self._transport)).encode("ascii")
        telling = Telling(client, document)
        return telling if telling.go_on() else None


def _is_allowed(client: socket.socket) -> bool:
    told = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(told)
    return uid in (0, os.geteuid())


@contextmanager
def listening(path: Path, router: Router, transport: str) -> Iterator[StatsListener]:
    """Listen at ``path`` until the block ends."""
    with _listening(path) as listener:
        stats = StatsListener(listener, router, transport)
        try:
            yield stats
        finally:
            for telling in stats.unfinished:
                telling.client.close()


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    with _short_name(path) as name, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        try:
            Path(name).chmod(0o600)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _short_name(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


# ---- the other side ------------------------------------------------------------------------------


def ask_stats(path: Path, where: str) -> dict[str, Any]:
    """Ask the daemon that listens at ``path`` for its counters; ``where`` names its mount."""
    received = bytearray()
    try:
        with _short_name(path) as name, socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(_PATIENCE)
            asking.connect(name)
            while len(received) <= _DOCUMENT_MAX and (part := asking.recv(65536)):
                received += part
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            raise NotFoundError(
                f"{where}: no counters (it is served without the fast path, or has ended)"
            ) from None
        raise MountError(f"{where}: cannot ask its daemon: {error.strerror or error}") from None
    try:
        told = json.loads(received)
    except ValueError:
        raise MountError(f"{where}: its daemon did not answer") from None
    if not isinstance(told, dict):
        raise MountError(f"{where}: its daemon did not answer")
    return told
