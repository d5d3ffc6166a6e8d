"""Leases: digests that running processes still use, and locks of layers that are being fetched.

::

    <root>/leases/<random>            a lease, locked (flock) while it is held
    <root>/locks/<alg>-<hex>          the lock (flock) for fetching that layer

A lease is a file of lines. Each line is appended by one write, so its holder may die at any moment:
an incomplete line was never confirmed. The lock belongs to the open file, not to a process:
children that are forked hold it, too, until the last one closes it or ends. A lease that is not
held is garbage.

Leases are created, extended and read under the lock of the store (see docs/explanation/store.md).
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unionmount.errors import InvalidReference, StoreError
from unionmount.images.reference import Digest
from unionmount.system.closing import Closing
from unionmount.system.files import write_all
from unionmount.system.os_errors import storing
from unionmount.system.text import printable

Locking = Callable[[], AbstractContextManager[None]]
"""A function that holds the lock of the store."""

_MAX_LEASE = 64 * 1024 * 1024
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Holding:
    """The content of a lease that is held."""

    kind: str
    what: str  # for people: "mounted at /x"
    pid: int  # of its creator or last user; others may hold it by now
    digests: frozenset[Digest]
    images: frozenset[Digest]  # IDs of images in use


class Lease(Closing):
    """Digests that this process and its children need of the store, until it is closed."""

    def __init__(self, path: Path, locked: Locking, kind: str, what: str) -> None:
        self.path = path
        self._locked = locked
        self._said: set[tuple[str, str]] = set()
        with locked(), storing(path):
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL
            self._fd = os.open(path, flags | _FLAGS, 0o600)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                self._add([{"kind": kind, "what": what, "pid": os.getpid()}])
            except BaseException:
                path.unlink(missing_ok=True)
                os.close(self._fd)
                raise

    def protect(self, *digests: Digest) -> None:
        """Protect digests from garbage collection; call it before checking whether they exist."""
        self._say("need", digests)

    def protect_image(self, image_id: Digest) -> None:
        """Mark an image as in use, so that it is not removed."""
        self._say("image", [image_id])

    def describe(self, what: str) -> None:
        """Describe the use of the lease for people, and record this process as its user."""
        with self._locked(), storing(self.path):
            self._add([{"what": what, "pid": os.getpid()}])

    def _say(self, word: str, digests: Iterable[Digest]) -> None:
        new = [(word, str(one)) for one in digests if (word, str(one)) not in self._said]
        if new:
            with self._locked(), storing(self.path):
                self._add([{word: text} for _, text in new])
            self._said.update(new)

    def _add(self, lines: Iterable[dict[str, Any]]) -> None:
        before = os.fstat(self._fd).st_size
        try:
            write_all(self._fd, "".join(json.dumps(line) + "\n" for line in lines).encode("ascii"))
        except OSError:
            os.ftruncate(self._fd, before)  # half a line would damage the next one
            raise

    def close(self) -> None:
        """Release the lease; its last holder removes the file. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            _remove_unheld(self.path)


def held_leases(directory: Path) -> list[Holding]:
    """Return all leases that are held; the caller holds the lock of the store."""
    found = []
    with storing(directory):
        paths = sorted(directory.iterdir())
    for path in paths:
        raw = _read_held(path)
        if raw is not None:
            found.append(_parse(path, raw))
    return found


def clean(directory: Path, *, dry_run: bool = False) -> list[Path]:
    """Remove leases or locks that are not held; the caller holds the lock of the store."""
    with storing(directory):
        paths = sorted(directory.iterdir())
    gone = [path for path in paths if _is_unheld(path)]
    if not dry_run:
        for path in gone:
            _remove_unheld(path)
    return gone


class LayerLock(Closing):
    """The lock for fetching a layer, so that others wait and then find it in the store."""

    def __init__(self, directory: Path, diff_id: Digest) -> None:
        self.path = directory / f"{diff_id.algorithm}-{diff_id.hex}"
        self._fd = -1

    def try_acquire(self) -> bool:
        """Try to acquire the lock without waiting; return whether this process holds it."""
        while self._fd < 0:
            with storing(self.path):
                fd = os.open(self.path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                return False
            except BaseException:
                os.close(fd)
                raise
            if _is_at(self.path, fd):
                self._fd = fd
            else:  # its last holder has just removed the file
                os.close(fd)
        return True

    def close(self) -> None:
        """Release the lock; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # a file that remains is garbage
                self.path.unlink()
            os.close(fd)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, bool] | None]:
    """Open a lease; yield the file and whether nobody else holds it, or None if it is gone."""
    with storing(path):
        try:
            fd = os.open(path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            fd = -1
    if fd < 0:
        yield None
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield fd, False
        else:
            yield (fd, True) if _is_at(path, fd) else None
    finally:
        os.close(fd)


def _is_unheld(path: Path) -> bool:
    with _opened(path) as found:
        return found is not None and found[1]


def _remove_unheld(path: Path) -> None:
    with suppress(OSError, StoreError), _opened(path) as found:  # a file that remains is garbage
        if found is not None and found[1]:
            path.unlink()


def _read_held(path: Path) -> bytes | None:
    with _opened(path) as found:
        if found is None or found[1]:
            return None
        with storing(path), open(found[0], "rb", closefd=False) as file:
            raw = file.read(_MAX_LEASE + 1)
    if len(raw) > _MAX_LEASE:
        raise StoreError(f"{path}: more than {_MAX_LEASE} bytes")
    return raw


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _parse(path: Path, raw: bytes) -> Holding:
    first: dict[str, Any] = {}
    said: dict[str, set[Digest]] = {"need": set(), "image": set()}
    try:
        for text in raw.split(b"\n")[:-1]:
            line: dict[str, Any] = json.loads(text)
            for word in said.keys() & line.keys():
                said[word].add(Digest.parse(line[word]))
            first |= {key: line[key] for key in line.keys() - said.keys()}
        facts = str(first.get("kind", "")), str(first.get("what", "")), int(first.get("pid", 0))
    except (ValueError, TypeError, AttributeError, RecursionError, InvalidReference) as error:
        raise StoreError(f"{path}: damaged lease: {printable(str(error))}") from None
    return Holding(*facts, frozenset(said["need"]), frozenset(said["image"]))


def new_path(directory: Path) -> Path:
    """Return the path of a new lease."""
    return directory / secrets.token_hex(8)
