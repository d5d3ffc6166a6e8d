"""Files and directories that images are written to, each of which appears when it is complete."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, Self

from unionmount.errors import UsageError
from unionmount.formats.tar_writer import END, Member, header, padding
from unionmount.system.files import fsync_directory, open_for_writing, resolved, write_all
from unionmount.system.os_errors import naming
from unionmount.system.remove_tree import remove_tree
from unionmount.system.text import printable

# -- where it goes


class FileWriter(Protocol):
    """A writer of files by path: each once, and directories before their entries."""

    def has(self, path: str, size: int) -> bool:
        """Return whether a blob of a layout is there already, so that it need not be written."""

    def directory(self, path: str) -> None:
        """Make a directory."""

    def file(self, path: str, size: int, chunks: Iterable[bytes]) -> None:
        """Write a file of ``size`` bytes."""


class TarWriter:
    """A writer of a tar, in pieces that ``write`` takes; ``finish`` ends the tar."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    @classmethod
    def to_file(cls, fd: int, what: str) -> Self:
        """Return a writer to a borrowed descriptor; ``what`` names the file in messages."""

        def write(data: bytes) -> None:
            with naming(what):
                write_all(fd, data)

        return cls(write)

    def has(self, path: str, size: int) -> bool:  # noqa: ARG002
        """Return False: everything is new."""
        return False

    def directory(self, path: str) -> None:
        """Add a directory."""
        self._write(header(Member(path.encode(), stat.S_IFDIR | 0o755)))

    def file(self, path: str, size: int, chunks: Iterable[bytes]) -> None:
        """Add a file."""
        self._write(header(Member(path.encode(), stat.S_IFREG | 0o644, size=size)))
        for chunk in chunks:
            self._write(chunk)
        self._write(padding(size))

    def finish(self) -> None:
        """Write the end."""
        self._write(END)


class DirectoryWriter:
    """A writer to an existing, empty directory."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def has(self, path: str, size: int) -> bool:  # noqa: ARG002
        """Return False: everything is new."""
        return False

    def directory(self, path: str) -> None:
        """Make a directory."""
        with naming(self._top / path):
            (self._top / path).mkdir()

    def file(self, path: str, size: int, chunks: Iterable[bytes]) -> None:  # noqa: ARG002
        """Write a file and sync it."""
        where = self._top / path
        with naming(where):
            fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fill_file(fd, chunks, where)


def fill_file(fd: int, chunks: Iterable[bytes], where: str | Path) -> None:
    """Write all chunks to a new file, sync it, and close ``fd``; errors name ``where``."""
    try:
        for chunk in chunks:
            with naming(where):
                write_all(fd, chunk)
        with naming(where):
            os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def replaced_file(path: Path) -> Iterator[int]:
    """Open a descriptor for writing ``path``, which appears, complete, when the block ends.

    Pipes, FIFOs and ``/dev/null`` are written to directly.
    """
    stream = open_for_writing(path, os.environ)
    if stream is not None:
        try:
            yield stream
        finally:
            os.close(stream)
        return
    target = resolved(path)  # a symlink keeps leading to the file
    temporary = target.with_name(_temporary_name())
    with naming(path):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            yield fd
            with naming(path):
                os.fsync(fd)
        finally:
            os.close(fd)
        with naming(path):
            temporary.replace(target)
            fsync_directory(target.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Create a directory that appears as ``path``, complete, when the block ends.

    An empty directory may exist there; anything else is refused.
    """
    if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{printable(str(path))}: exists and is not an empty directory")
    target = resolved(path)
    temporary = target.with_name(_temporary_name())
    with naming(path):
        temporary.mkdir()
    try:
        yield temporary
        with naming(path):
            for directory, _, _ in os.walk(temporary):
                fsync_directory(Path(directory))
            temporary.rename(target)
            fsync_directory(target.parent)
    except BaseException:
        with suppress(OSError):
            remove_tree(temporary)
        raise


def _temporary_name() -> str:
    return f".unionmount-{secrets.token_hex(8)}"
