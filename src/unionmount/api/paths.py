"""Path objects over the files of an image, with the interface of ``pathlib`` for reading."""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import re
import stat
from functools import partial
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal, overload

from unionmount.api.tree import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from unionmount.api.tree import File, FileTree, Path

_MAGIC = re.compile(r"[*?\[]")
_RECURSIVE = "**"
_READING = {"r", "rt", "tr", "rb", "br"}
_BLOCK = 4096  # st_blksize


class ImagePath:
    """An absolute path inside an image, with the methods of ``pathlib.Path`` that only read.

    It is a ``Traversable`` of ``importlib.resources.abc``. Symlinks are resolved as in a chroot, so
    that no path leads out of the image. It is not a path of the host: there is no ``__fspath__``,
    and ``open(path)`` refuses it. Methods raise what those of ``pathlib`` raise, and ValueError
    after the image was closed.
    """

    __slots__ = ("_path", "_tree")

    def __init__(self, tree: FileTree, path: Path = "/") -> None:
        """Name a path of a tree; a relative one begins at the root."""
        self._tree = tree
        self._path = PurePosixPath("/" + os.fsdecode(path).lstrip("/"))

    # -- the path itself

    @property
    def name(self) -> str:
        """The last component; empty for the root."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The last component without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The end of the last component from its last dot on."""
        return self._path.suffix

    @property
    def suffixes(self) -> list[str]:
        """All suffixes of the last component."""
        return self._path.suffixes

    @property
    def parts(self) -> tuple[str, ...]:
        """The components; the first is ``/``."""
        return self._path.parts

    @property
    def parent(self) -> ImagePath:
        """The path without its last component; symlinks are not looked at."""
        return self._at(self._path.parent)

    @property
    def parents(self) -> Sequence[ImagePath]:
        """All paths above, the nearest first."""
        return tuple(map(self._at, self._path.parents))

    def joinpath(self, *others: str | os.PathLike[str]) -> ImagePath:
        """Return the path with others below it; an absolute one begins at the root again."""
        return self._at(self._path.joinpath(*others))

    def __truediv__(self, other: str | os.PathLike[str]) -> ImagePath:
        return self.joinpath(other)

    def with_name(self, name: str) -> ImagePath:
        """Return the path with another last component."""
        return self._at(self._path.with_name(name))

    def with_stem(self, stem: str) -> ImagePath:
        """Return the path with another last component, and the same suffix."""
        return self._at(self._path.with_stem(stem))

    def with_suffix(self, suffix: str) -> ImagePath:
        """Return the path with another suffix."""
        return self._at(self._path.with_suffix(suffix))

    def relative_to(self, other: ImagePath | str | PurePosixPath) -> PurePosixPath:
        """Return the path from another one on; raise ValueError if it is not below that one."""
        return self._path.relative_to(_pure(other))

    def is_relative_to(self, other: ImagePath | str | PurePosixPath) -> bool:
        """Return whether it is another path or below that one."""
        return self._path.is_relative_to(_pure(other))

    def match(self, pattern: str) -> bool:
        """Return whether the path matches a pattern, as ``PurePath.match`` does."""
        return self._path.match(pattern)

    def as_posix(self) -> str:
        """Return the path as text."""
        return str(self._path)

    def __str__(self) -> str:
        return str(self._path)

    def __bytes__(self) -> bytes:
        return os.fsencode(self._path)

    def __repr__(self) -> str:
        return f"ImagePath({str(self._path)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImagePath):
            return NotImplemented
        return self._tree is other._tree and self._path == other._path

    def __hash__(self) -> int:
        return hash((id(self._tree), self._path))

    def __lt__(self, other: ImagePath) -> bool:
        return self._path < other._path

    def _at(self, path: PurePosixPath) -> ImagePath:
        return ImagePath(self._tree, path)

    # -- the file at the path

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the attributes as ``os.stat`` does; the number of the device is 0."""
        found = self._tree.lookup(self._path, follow_symlinks=follow_symlinks)
        return _stat_result(found)

    def lstat(self) -> os.stat_result:
        """Return the attributes of a symlink itself."""
        return self.stat(follow_symlinks=False)

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether the path leads to a file of any type."""
        return self._tree.find(self._path, follow_symlinks=follow_symlinks) is not None

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a regular file."""
        return self._has_type(stat.S_ISREG, follow_symlinks=follow_symlinks)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Return whether it is a directory."""
        return self._has_type(stat.S_ISDIR, follow_symlinks=follow_symlinks)

    def is_symlink(self) -> bool:
        """Return whether it is a symlink."""
        return self._has_type(stat.S_ISLNK, follow_symlinks=False)

    def is_fifo(self) -> bool:
        """Return whether it is a named pipe."""
        return self._has_type(stat.S_ISFIFO)

    def is_socket(self) -> bool:
        """Return whether it is a socket."""
        return self._has_type(stat.S_ISSOCK)

    def is_block_device(self) -> bool:
        """Return whether it is a block device."""
        return self._has_type(stat.S_ISBLK)

    def is_char_device(self) -> bool:
        """Return whether it is a character device."""
        return self._has_type(stat.S_ISCHR)

    def _has_type(self, test: Callable[[int], bool], *, follow_symlinks: bool = True) -> bool:
        found = self._tree.find(self._path, follow_symlinks=follow_symlinks)
        return found is not None and test(found.mode)

    def samefile(self, other: ImagePath | str | PurePosixPath) -> bool:
        """Return whether both paths lead to the same file of this image."""
        theirs = self._tree.lookup(_pure(other))
        return self._tree.lookup(self._path).attributes.node == theirs.attributes.node

    def readlink(self) -> PurePosixPath:
        """Return the target of a symlink, which may be relative."""
        return PurePosixPath(os.fsdecode(self._tree.readlink(self._path)))

    def resolve(self) -> ImagePath:
        """Return the path without symlinks and ``..``; raise FileNotFoundError if there is none."""
        return ImagePath(self._tree, self._tree.lookup(self._path).path)

    # -- contents

    @overload
    def open(
        self,
        mode: Literal["r", "rt", "tr"] = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> io.TextIOWrapper: ...

    @overload
    def open(self, mode: Literal["rb", "br"], buffering: int = -1) -> io.BufferedReader: ...

    @overload
    def open(self, mode: str, buffering: int = -1, *arguments: Any, **named: Any) -> IO[Any]: ...

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,  # noqa: ARG002 - for the sake of pathlib's interface
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open a regular file for reading, as ``pathlib.Path.open`` does; it is seekable.

        Modes that write raise OSError with EROFS. ``buffering`` has no effect.
        """
        if mode not in _READING:
            if set(mode) & set("wax+"):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self._path))
            raise ValueError(f"invalid mode: {mode!r}")
        data = self._tree.open(self._path)
        if "b" in mode:
            return data
        return io.TextIOWrapper(data, encoding, errors, newline)

    def read_bytes(self) -> bytes:
        """Return the content of a regular file."""
        return self._tree.read(self._path)

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Return the content of a regular file as text."""
        with self.open(encoding=encoding, errors=errors) as file:
            return file.read()

    # -- directories

    def iterdir(self) -> Iterator[ImagePath]:
        """Yield the entries of a directory, sorted bytewise."""
        for entry in self._tree.list(self._path):
            yield self.joinpath(os.fsdecode(entry.name))

    def walk(self) -> Iterator[tuple[ImagePath, list[str], list[str]]]:
        """Yield each directory with the names of its directories and of everything else.

        It is ``pathlib.Path.walk`` from the top, which enters no symlinks: names that are removed
        from the first list are not entered. What is no directory yields nothing.
        """
        pending = [self] if self.is_dir() else []
        while pending:
            here = pending.pop()
            directories: list[str] = []
            others: list[str] = []
            for entry in self._tree.list(str(here)):
                (directories if entry.is_directory else others).append(os.fsdecode(entry.name))
            yield here, directories, others
            pending += [here / name for name in reversed(directories)]

    def glob(self, pattern: str) -> Iterator[ImagePath]:
        """Yield the paths below that match a pattern, as ``pathlib.Path.glob`` in Python 3.13 does.

        ``**`` stands for any number of directories and enters no symlinks; at the end, it matches
        files as well. With a slash at the end, only directories match.
        """
        names = [name for name in pattern.split("/") if name not in ("", ".")]
        if pattern.startswith("/"):
            raise NotImplementedError("Non-relative patterns are unsupported")
        if not names:
            raise ValueError(f"Unacceptable pattern: {pattern!r}")
        directories_only = pattern.endswith("/")
        seen: set[ImagePath] = set()
        for found in _matching(self, names, directories_only=directories_only):
            if found not in seen and (not directories_only or found.is_dir()):
                seen.add(found)
                yield found

    def rglob(self, pattern: str) -> Iterator[ImagePath]:
        """Yield the paths that match a pattern in this directory or any below."""
        if pattern.startswith("/"):
            raise NotImplementedError("Non-relative patterns are unsupported")
        yield from self.glob(f"{_RECURSIVE}/{pattern}")


def _matching(
    path: ImagePath, names: Sequence[str], *, directories_only: bool
) -> Iterator[ImagePath]:
    """Yield what the components of a pattern match below a path; some may come twice.

    With ``directories_only``, ``**`` at the end is not extended by files and symlinks.
    """
    below = partial(_matching, names=names[1:], directories_only=directories_only)
    if not names:
        yield path
    elif names[0] == _RECURSIVE:
        for place, _, others in path.walk():
            yield from below(place)
            if not names[1:] and not directories_only:
                yield from (place / name for name in others)
    elif not _MAGIC.search(names[0]):
        child = path / names[0]
        if path.is_dir() and child.exists(follow_symlinks=bool(names[1:])):
            yield from below(child)
    elif path.is_dir():
        matches = re.compile(fnmatch.translate(names[0])).match
        for child in path.iterdir():
            if matches(child.name):
                yield from below(child)


def _pure(path: ImagePath | str | PurePosixPath) -> PurePosixPath:
    return PurePosixPath(str(path))


def _stat_result(found: File) -> os.stat_result:
    one = found.attributes
    times = {"st_atime": one.atime_ns, "st_mtime": one.mtime_ns, "st_ctime": one.ctime_ns}
    more: dict[str, Any] = {name: seconds_of(time) for name, time in times.items()}
    more |= {f"{name}_ns": time for name, time in times.items()}
    more |= {"st_blksize": _BLOCK, "st_blocks": one.blocks}
    more |= {"st_rdev": os.makedev(one.major, one.minor)}
    seconds = [time // 10**9 for time in times.values()]
    numbers = (one.mode, one.node, 0, one.nlink, one.uid, one.gid, one.size, *seconds)
    return os.stat_result(numbers, more)
