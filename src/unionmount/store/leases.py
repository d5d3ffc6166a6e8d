"""Who needs what of a store just now: leases, and the locks of layers that are being fetched.

::

    <root>/leases/<random>            a lease, locked (flock) while somebody holds it
    <root>/locks/<alg>-<hex>          who has the lock (flock) fetches that layer

A lease is a file of lines. Each is written by one call and only added, so whoever holds the lease
may die at any moment: a line without its end was never promised to anybody. The lock belongs to the
open file, not to a process: what is forked holds it too, until the last one closes it or ends. A
lease that nobody holds says nothing and is garbage.

Leases are made, added to, and looked at under the lock of the store (docs/explanation/store.md says
why).
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
"""Takes the lock of the store for a while."""

_MAX_LEASE = 64 * 1024 * 1024
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class Holding:
    """What a lease that is held says."""

    kind: str
    what: str  # for people: "mounted at /x"
    pid: int  # of who made it, or described it last; others may hold it by now
    needs: frozenset[Digest]
    images: frozenset[Digest]  # images in use, by ID


class Lease(Closing):
    """Says what this process, and children that it forks, need of the store; until closed."""

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

    def need(self, *digests: Digest) -> None:
        """Keep these, where they are there; to be called before asking whether they are."""
        self._say("need", digests)

    def image(self, image_id: Digest) -> None:
        """Say that an image is in use: it is not removed then."""
        self._say("image", [image_id])

    def describe(self, what: str) -> None:
        """Say for people what the lease is for, and who has it, now that it is known."""
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
            os.ftruncate(self._fd, before)  # half a line would spoil the next one
            raise

    def close(self) -> None:
        """Let go; the last one who does takes the lease away. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
            _remove_unheld(self.path)


def held_leases(directory: Path) -> list[Holding]:
    """What is said by leases that are held; the caller has the lock of the store."""
    found = []
    with storing(directory):
        paths = sorted(directory.iterdir())
    for path in paths:
        raw = _read_held(path)
        if raw is not None:
            found.append(_parse(path, raw))
    return found


def clean(directory: Path, *, dry_run: bool = False) -> list[Path]:
    """Remove leases or locks that nobody holds; the caller has the lock of the store."""
    with storing(directory):
        paths = sorted(directory.iterdir())
    gone = [path for path in paths if _is_unheld(path)]
    if not dry_run:
        for path in gone:
            _remove_unheld(path)
    return gone


class LayerLock(Closing):
    """The right to fetch a layer: who has it does, others wait and then find the layer there."""

    def __init__(self, directory: Path, diff_id: Digest) -> None:
        self.path = directory / f"{diff_id.algorithm}-{diff_id.hex}"
        self._fd = -1

    def try_acquire(self) -> bool:
        """Whether it is ours now; does not wait."""
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
            else:  # who had it has just taken the file away
                os.close(fd)
        return True

    def close(self) -> None:
        """Give it back; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # the file is garbage, and removed as such
                self.path.unlink()
            os.close(fd)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, bool] | None]:
    """The open file, and whether nobody else holds it: then we do; None where it is gone."""
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
    with suppress(OSError, StoreError), _opened(path) as found:  # what stays is garbage
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
    """Where a new lease is made."""
    return directory / secrets.token_hex(8)
