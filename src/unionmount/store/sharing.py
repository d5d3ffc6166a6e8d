"""Sharing a store: its layers, documents and catalogue are readable by a group, or by everybody.

``shared`` in the store says by whom: the number of a group, or ``everybody``. Whoever writes data
into the store opens it before it appears, and asks again afterwards, since ``share`` may have
passed by in between. Containers, indexes of archives elsewhere, locks and leases stay private.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unionmount.errors import StoreError
from unionmount.system.os_errors import storing
from unionmount.system.text import printable

EVERYBODY = "everybody"
_NAME = "shared"
_MAX = 64  # bytes of the file
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_PARTS = ("layers", "blobs")
_FILES = ("version", "images.json", _NAME)


@dataclass(frozen=True, slots=True)
class Readers:
    """Those who may read a store, besides its owner: a group, or everybody."""

    group: int | None = None

    def __str__(self) -> str:
        return EVERYBODY if self.group is None else str(self.group)

    @classmethod
    def parse(cls, text: str) -> Readers:
        """Parse the content of ``shared``; raise ValueError if it is damaged."""
        return cls() if text == EVERYBODY else cls(int(text))


class Sharing:
    """The sharing of one store."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def readers(self) -> Readers | None:
        """Return who may read the store; None if it is not shared."""
        path = self._root / _NAME
        with storing(path):
            try:
                fd = os.open(path, _OPEN)
            except FileNotFoundError:
                return None
        try:
            return Readers.parse(os.read(fd, _MAX).decode("ascii").strip())
        except (ValueError, UnicodeDecodeError):
            where = printable(str(path))
            raise StoreError(f"{where}: damaged; use 'unionmount share' again") from None
        finally:
            os.close(fd)

    def open_up(self, path: Path) -> Readers | None:
        """Open a file, or a directory with its files, to the readers of the store; return them."""
        readers = self.readers()
        if readers is not None:
            for one in _with_contents(path):
                _open_to(one, readers)
        return readers

    def settle(self, path: Path, before: Readers | None) -> None:
        """Do so again after data has appeared, if the readers are others than ``before``."""
        readers = self.readers()
        if readers == before:
            return
        for one in _with_contents(path):
            if readers is None:
                _close(one)
            else:
                _open_to(one, readers)

    def share(self, readers: Readers) -> None:
        """Open what is in the store; what comes later is opened by whoever brings it."""
        _open_to(self._root, readers)  # the first to fail where the group is not one of the owner's
        path = self._root / _NAME
        with storing(path):
            new = path.with_name(f"{_NAME}.new")
            new.write_text(f"{readers}\n", "ascii")
            new.replace(path)
        for one in self._everything():
            _open_to(one, readers)

    def end(self) -> None:
        """Make the store private again."""
        path = self._root / _NAME
        with storing(path):
            path.unlink(missing_ok=True)
        for one in self._everything():
            _close(one)

    def _everything(self) -> Iterator[Path]:
        yield self._root
        for name in _FILES:
            if (self._root / name).exists():
                yield self._root / name
        for name in _PARTS:
            yield from _with_contents(self._root / name)


def _with_contents(path: Path) -> Iterator[Path]:
    """Yield a path after all that is below it, so that nothing is seen half open."""
    if path.is_dir() and not path.is_symlink():
        with storing(path):
            try:
                inner = list(path.iterdir())
            except FileNotFoundError:  # removed meanwhile
                inner = []
        for one in inner:
            yield from _with_contents(one)
    yield path


@contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    """Open a file of the store; None if it was removed meanwhile."""
    with storing(path):
        try:
            fd = os.open(path, _OPEN)
        except FileNotFoundError:
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)


def _open_to(path: Path, readers: Readers) -> None:
    with _opened(path) as fd:
        if fd is None:
            return
        if readers.group is not None:
            os.fchown(fd, -1, readers.group)
        bits = 0o055 if readers.group is None else 0o050
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        os.fchmod(fd, (0o700 if is_directory else 0o600) | (bits if is_directory else bits & 0o044))


def _close(path: Path) -> None:
    with _opened(path) as fd:
        if fd is not None:
            os.fchmod(fd, 0o700 if stat.S_ISDIR(os.fstat(fd).st_mode) else 0o600)
