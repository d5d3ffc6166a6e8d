"""The files of an image or container by path: attributes, directories and contents.

Paths inside an image are absolute and may have any type of ``Path``; names in results are
``bytes``. What does not exist or has the wrong type raises OSError with the path.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from unionmount.browse.paths import Found, follow
from unionmount.system.os_errors import naming

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from unionmount import core
    from unionmount.api.shared_view import SharedView
    from unionmount.core import Attributes, DirectoryEntry

Path = str | bytes | PurePosixPath
"""A path inside an image; text stands for bytes like file names in Python (surrogateescape)."""

_NOWHERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
_BATCH = 256
_BUFFER = 128 * 1024


@dataclass(frozen=True, slots=True)
class File:
    """A file of a tree and its attributes; sizes are in bytes, times in nanoseconds since 1970."""

    path: bytes  # absolute, without symlinks in its directories
    attributes: Attributes

    @property
    def name(self) -> bytes:
        """The last component of the path; empty for the root."""
        return self.path.rpartition(b"/")[2]

    @property
    def mode(self) -> int:
        """Type and permissions, as in ``st_mode``."""
        return self.attributes.mode

    @property
    def size(self) -> int:
        """The size of a file, or of the target of a symlink."""
        return self.attributes.size

    @property
    def layer(self) -> int:
        """The number of the file's layer; for a change in a container, one more than all layers."""
        return self.attributes.layer

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symlink."""
        return stat.S_ISLNK(self.mode)


class FileTree:
    """The files of an image by path; any threads may use them while the image is open."""

    def __init__(self, shared: SharedView) -> None:
        self._shared = shared
        # The view of a container is for one thread at a time; the layers of an image are not.
        self._turn: AbstractContextManager[Any] = (
            nullcontext() if shared.description.upper is None else threading.Lock()
        )

    @contextmanager
    def _using(self) -> Iterator[core.BrowsableTree]:
        """Keep the files open during a block; raise ValueError if the image is closed."""
        with self._shared as view, self._turn:
            yield view.files

    def lookup(self, path: Path, *, follow_symlinks: bool = True) -> File:
        """Return the file at a path; raise FileNotFoundError, NotADirectoryError or ELOOP."""
        with naming(_text(path)), self._using() as files:
            return _file(follow(files, _bytes(path), last=follow_symlinks))

    def find(self, path: Path, *, follow_symlinks: bool = True) -> File | None:
        """Return the file at a path; None if the path leads nowhere."""
        try:
            return self.lookup(path, follow_symlinks=follow_symlinks)
        except UnicodeEncodeError:  # no file has such a name
            return None
        except OSError as error:
            if error.errno in _NOWHERE:
                return None
            raise

    def exists(self, path: Path) -> bool:
        """Return whether a path leads to a file of any type."""
        return self.find(path) is not None

    def list(self, path: Path = "/") -> Iterator[File]:
        """Yield the entries of a directory, sorted bytewise."""
        top = self.lookup(path)
        prefix, cookie = top.path.rstrip(b"/") + b"/", 0
        with naming(_text(path)):
            while entries := self._batch(top, cookie):
                for entry in entries:
                    yield File(prefix + entry.name, entry.attributes)
                cookie = entries[-1].next

    def _batch(self, directory: File, cookie: int) -> Sequence[DirectoryEntry]:
        with self._using() as files:
            return files.list(directory.attributes.node, cookie, _BATCH)

    def walk(self, path: Path = "/") -> Iterator[File]:
        """Yield everything below a directory, depth first and sorted."""
        top = self.lookup(path)
        if not top.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), _text(path))
        with self._using() as files:
            below = files.walk(top.attributes.node, top.path.strip(b"/"))
        while True:
            with self._using():
                item = next(below, None)
            if item is None:
                return
            yield File(b"/" + item[0], item[1])

    def open(self, path: Path) -> io.BufferedReader:
        """Open a regular file for reading bytes; it is seekable."""
        found = self.lookup(path)
        if found.is_directory:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), _text(path))
        if not found.is_file:
            raise OSError(errno.EINVAL, "is not a regular file", _text(path))
        return io.BufferedReader(_RawFile(self, found), _BUFFER)

    def read(self, path: Path) -> bytes:
        """Return the content of a regular file."""
        with self.open(path) as file:
            return file.read()

    def readlink(self, path: Path) -> bytes:
        """Return the target of a symlink."""
        with naming(_text(path)), self._using() as files:
            found = follow(files, _bytes(path), last=False)
            return files.readlink(found.attributes.node)

    def _read(self, file: File, offset: int, size: int) -> bytes:
        with naming(_text(file.path)), self._using() as files:
            return files.read(file.attributes.node, offset, size)

    def xattrs(self, path: Path, *, follow_symlinks: bool = True) -> dict[bytes, bytes]:
        """Return the extended attributes."""
        node = self.lookup(path, follow_symlinks=follow_symlinks).attributes.node
        with naming(_text(path)), self._using() as files:
            return {name: files.getxattr(node, name) for name in files.listxattr(node)}


class _RawFile(io.RawIOBase):
    """A regular file of a tree."""

    def __init__(self, tree: FileTree, file: File) -> None:
        self._tree = tree
        self._file = file
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}
        if whence not in starts:
            raise ValueError(f"invalid whence: {whence}")
        at = starts[whence] + offset
        if at < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        size = max(min(len(view), self._file.size - self._at), 0)
        data = self._tree._read(self._file, self._at, size)  # noqa: SLF001 - its own kind
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def seconds_of(nanoseconds: int) -> float:
    """Return seconds since 1970, rounded as those of ``os.stat`` are."""
    whole, rest = divmod(nanoseconds, 10**9)
    return whole + 1e-9 * rest


def _bytes(path: Path) -> bytes:
    return os.fsencode(path)


def _text(path: Path) -> str:
    return os.fsdecode(path)


def _file(found: Found) -> File:
    return File(b"/" + found.path, found.attributes)
