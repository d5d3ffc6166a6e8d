"""Containers: writable layers in the store, each on top of one image.

::

    <root>/containers/<name>/container.json  the container and the digests of its image
    <root>/containers/<name>/upper           the changes (docs/explanation/upper.md)
    <root>/containers/<name>/work            the work directory of the upper

A container appears and disappears by a rename. A process that uses its directories holds a lock
(flock) on it, which ends with the process: the daemon of a mount for as long as the mount lives, or
the process that removes it. An *ephemeral* container whose lock is free is garbage.

A container refers to its image by digests, since names move to other images. Its layers are in the
store, except for those of an ephemeral container, which is mounted only once.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionmount.errors import InvalidReference, NotFoundError, StoreError, UsageError
from unionmount.images.image import SCRATCH
from unionmount.images.reference import Digest
from unionmount.store.store import StoredImage
from unionmount.system.closing import Closing
from unionmount.system.files import fsync_directory, write_all
from unionmount.system.os_errors import storing
from unionmount.system.remove_tree import remove_tree
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.store.staging import Staging
    from unionmount.store.store import Store
from unionmount.store.container_names import ADJECTIVES, ANIMALS, ATTEMPTS

_DOCUMENT = "container.json"
_MAX_DOCUMENT = 1024 * 1024
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")


class ContainerInUse(StoreError):
    """A container is mounted, or being removed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"container '{name}' is in use")
        self.name = name


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """The image of a container: its name when the container was made, and its digests."""

    source: str  # as the user wrote it
    name: str  # printable
    id: Digest
    manifest: Digest
    unpacked: bool = False  # the layers are directories of another tool, so not in the store

    @property
    def stored(self) -> StoredImage:
        """The image as an entry of the catalogue, without its names."""
        return StoredImage((), self.manifest, self.id, 0)


@dataclass(frozen=True, slots=True)
class Container:
    """A container, as its document describes it."""

    name: str
    path: Path
    image: ContainerImage
    created: str
    ephemeral: bool

    @property
    def upper(self) -> Path:
        """The upper directory, with the changes."""
        return self.path / "upper"

    @property
    def work(self) -> Path:
        """The work directory of the upper."""
        return self.path / "work"


class HeldContainer(Closing):
    """A container that is locked by this process and its children until it is closed."""

    def __init__(self, container: Container, lock: int) -> None:
        self.container = container
        self._lock = lock

    def close(self) -> None:
        """Release the lock, unless a child still holds it."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


class Containers:
    """The containers of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._directory = store.root / "containers"

    def create(
        self, image: ContainerImage, name: str | None = None, *, ephemeral: bool = False
    ) -> HeldContainer:
        """Create a container and hold its lock; without a name, it gets a random one."""
        self.check_new(name)
        with self._store.staging() as staging, ExitStack() as stack:
            with storing(staging.path):
                (staging.path / "upper").mkdir(0o700)
                (staging.path / "work").mkdir(0o700)
                lock = staging.keep_lock()
            stack.callback(os.close, lock)
            for chosen in [name] if name is not None else _names():
                container = self._new(chosen, image, ephemeral=ephemeral)
                _write(staging, container)
                if staging.publish(container.path):
                    stack.pop_all()
                    return HeldContainer(container, lock)
        raise _taken(name)

    def check_new(self, name: str | None) -> None:
        """Raise an error if ``create`` cannot succeed with this name."""
        if name is not None:
            check_name(name)
            if name in self:
                raise _taken(name)

    def _new(self, name: str, image: ContainerImage, *, ephemeral: bool) -> Container:
        created = datetime.now(UTC).isoformat()
        return Container(name, self._directory / name, image, created, ephemeral)

    def find(self, name: str) -> Container:
        """Return the container of this name."""
        path = self._path(name)
        with storing(path):
            try:
                raw = _read(path / _DOCUMENT)
            except FileNotFoundError:
                if not path.exists():
                    raise _unknown(name) from None
                raise
        return _parse(path, raw)

    def __contains__(self, name: str) -> bool:
        return is_there(self._store.root, name)

    def all(self, damaged: Callable[[StoreError], None] | None = None) -> list[Container]:
        """Return all containers, oldest first; unreadable ones are passed to ``damaged``."""
        found = []
        for name in self._names():
            try:
                found.append(self.find(name))
            except NotFoundError:  # removed meanwhile
                continue
            except StoreError as error:
                if damaged is None:
                    raise
                damaged(error)
        return sorted(found, key=lambda one: (one.created, one.name))

    def users_of(self, image_id: Digest) -> list[str]:
        """Return the names of the containers that need an image, which cannot be removed."""
        return [one.name for one in self.all() if one.image.id == image_id and not one.ephemeral]

    def hold(self, name: str) -> HeldContainer:
        """Lock a container; raise ContainerInUse if another process holds the lock."""
        with self._locked(name) as lock:
            return HeldContainer(self.find(name), os.dup(lock))

    def rename(self, name: str, new: str) -> None:
        """Give a container another name, unless it is in use or the name is taken."""
        self.check_new(new)
        with self._locked(name):
            path = self._directory / name
            container = self.find(name)
            with self._store.staging() as staging, storing(path):
                _write(staging, replace(container, name=new))
                target = self._directory / new
                try:
                    path.rename(target)  # containers are never empty, so none is replaced
                except OSError as error:
                    if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                        raise _taken(new) from None
                    raise
                (staging.path / _DOCUMENT).rename(target / _DOCUMENT)
                fsync_directory(target)
                fsync_directory(self._directory)

    def remove(self, name: str) -> None:
        """Remove a container with all its changes, unless it is in use."""
        with self._locked(name):
            self._remove(name)

    def discard(self, held: HeldContainer) -> None:
        """Remove a container that the caller holds, and close it."""
        with held:
            self._remove(held.container.name)

    def clean(self) -> None:
        """Remove ephemeral containers whose daemons died."""
        for name in self._names():
            # One that is damaged, in use or gone is left alone.
            with suppress(StoreError, NotFoundError):
                if self.find(name).ephemeral:
                    self.remove(name)

    def _remove(self, name: str) -> None:
        path = self._directory / name
        with self._store.staging() as staging, storing(path):
            gone = staging.path / "container"
            try:
                path.rename(gone)
            except FileNotFoundError:
                raise _unknown(name) from None
            fsync_directory(self._directory)
            remove_tree(gone)

    def _path(self, name: str) -> Path:
        if not is_name(name):
            raise _unknown(name)
        return self._directory / name

    def _names(self) -> list[str]:
        with storing(self._directory):
            return [path.name for path in self._directory.iterdir() if is_name(path.name)]

    @contextmanager
    def _locked(self, name: str) -> Iterator[int]:
        """Hold the lock of an existing container."""
        path = self._path(name)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        with storing(path):
            try:
                fd = os.open(path, flags)
            except FileNotFoundError:
                raise _unknown(name) from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ContainerInUse(name) from None
            if not _is_at(
                path, fd
            ):  # removed, and perhaps created again, before this lock was acquired
                raise ContainerInUse(name) if path.exists() else _unknown(name)
            yield fd
        finally:
            os.close(fd)


def is_there(root: Path, name: str) -> bool:
    """Return whether the store at ``root`` has a container of this name; create nothing."""
    return is_name(name) and (root / "containers" / name).is_dir()


def is_name(text: str) -> bool:
    """Return whether a name is valid for a container."""
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> None:
    """Raise UsageError if a name is not valid for a container."""
    if not is_name(name):
        raise UsageError(
            f"'{printable(name)}' is not a valid container name; use letters, digits, '_', '.' and "
            "'-', at most 64 characters, and begin with a letter or digit"
        )
    if name == SCRATCH:
        raise UsageError(f"'{SCRATCH}' is the empty image and cannot be a container's name")


def _names() -> Iterator[str]:
    """Yield random names: two words, and after many attempts with a number, too."""
    for _ in range(ATTEMPTS):
        yield f"{secrets.choice(ADJECTIVES)}-{secrets.choice(ANIMALS)}"
    while True:
        words = f"{secrets.choice(ADJECTIVES)}-{secrets.choice(ANIMALS)}"
        yield f"{words}-{secrets.token_hex(4)}"


def _taken(name: str | None) -> StoreError:
    return StoreError(f"container '{name}' already exists")


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(f"no container '{printable(name)}'")


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _write(staging: Staging, container: Container) -> None:
    document = {
        "name": container.name,
        "image": container.image.name,
        "source": container.image.source,
        "id": str(container.image.id),
        "manifest": str(container.image.manifest),
        "unpacked": container.image.unpacked,
        "created": container.created,
        "ephemeral": container.ephemeral,
    }
    with storing(staging.path):
        (staging.path / _DOCUMENT).unlink(missing_ok=True)
    fd = staging.create(_DOCUMENT)
    try:
        with storing(staging.path):
            write_all(fd, json.dumps(document, indent=1).encode("ascii"))
            os.fsync(fd)
    finally:
        os.close(fd)


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        return file.read(_MAX_DOCUMENT)


def _parse(path: Path, raw: bytes) -> Container:
    try:
        document: Any = json.loads(raw)
        image = ContainerImage(
            source=_text(document["source"]),
            name=_text(document["image"]),
            id=Digest.parse(document["id"]),
            manifest=Digest.parse(document["manifest"]),
            unpacked=document.get("unpacked") is True,
        )
        created, ephemeral = _text(document["created"]), document["ephemeral"] is True
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidReference):
        raise StoreError(f"{path / _DOCUMENT}: damaged") from None
    return Container(path.name, path, image, created, ephemeral)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
