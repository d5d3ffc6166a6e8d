"""An fsspec file system over an image: ``unionmount://nginx:1.25/etc/os-release``.

fsspec imports this module when such a URL is opened; nothing else of the package imports it. The
rule for URLs, which ``docs/reference/api.md`` explains:

- ``unionmount://IMAGE!/PATH``: the image ends at the first ``!/``, or at a ``!`` at the end.
- ``unionmount://IMAGE/PATH``: without ``!/``, it ends at the first slash, as the host of a URL.
- ``unionmount:///PATH``: the image is named by ``image=``, or by the next URL of a chain. This is
  also the way to name an archive by its absolute path: ``unionmount:///PATH::file:///IMAGE.tar``.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
import weakref
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, Self, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from unionmount.api.images import open_image
from unionmount.api.operands import operand_of
from unionmount.api.tree import seconds_of
from unionmount.errors import NotFoundError, UsageError
from unionmount.sources import Location
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.api.images import Image
    from unionmount.api.tree import File, FileTree

_PREFIX = "unionmount://"
_NAMES = {stat.S_IFREG: "file", stat.S_IFDIR: "directory"}


def split_url(url: str) -> tuple[str, str]:
    """Return the image and the path of a URL, or of a path; the image may be empty."""
    if not url.startswith(_PREFIX):
        return "", url
    rest = url.removeprefix(_PREFIX)
    if rest.startswith("/"):
        return "", rest
    image, mark, path = rest.partition("!/")
    if not mark:
        image, _, path = (rest[:-1], "", "") if rest.endswith("!") else rest.partition("/")
    return image, f"/{path}"


class PathOfImage(str):
    """A path that remembers the image in its URL.

    From the URLs of a list, fsspec takes the paths, and gives them all to the file system of the
    first one, which must refuse those of another image.
    """

    __slots__ = ("image",)

    def __new__(cls, path: str, image: str) -> Self:
        """Take the path, and the image as it is named in the URL."""
        made = super().__new__(cls, path)
        made.image = image
        return made

    image: str

    def __reduce__(self) -> tuple[Any, ...]:
        return PathOfImage, (str(self), self.image)


class OpenedFile(io.BufferedReader):
    """A regular file of an image, open for reading; it can be pickled, and keeps its position."""

    def __init__(self, fs: UnionmountFileSystem, path: str, at: int = 0) -> None:
        """Open a path of a file system."""
        super().__init__(fs.tree.open(path).detach(), fs.blocksize)
        self.size: int = fs.tree.lookup(path).size
        self.path = path
        self.fs = fs
        self.seek(at)

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return OpenedFile, (self.fs, self.path, self.tell())


class _WorkingDirectory:
    """A class attribute with the working directory, as it is each time; empty if it was removed."""

    def __get__(self, _instance: object, _owner: type) -> str:
        try:
            return os.getcwd()  # noqa: PTH109 - text for a key
        except FileNotFoundError:
            return ""


class UnionmountFileSystem(AbstractFileSystem):
    """The files of an image or container, read-only.

    ``image`` is anything that ``unionmount.open_image`` opens; ``layer``, ``platform`` and ``root``
    are its arguments. ``fo``, ``target_protocol`` and ``target_options`` come from a chain of URLs
    and name an archive on this machine. Results have the form of fsspec's ``LocalFileSystem``.

    fsspec keeps an instance for the same arguments, thread and working directory, which does not
    see that a name has moved to another image: ``skip_instance_cache=True`` opens anew. ``close``
    ends an instance. A URL that names another image raises UsageError.
    """

    protocol = "unionmount"
    root_marker = "/"
    blocksize = 128 * 1024
    local_file = False
    # fsspec's key of an instance: a relative path means another file elsewhere
    _extra_tokenize_attributes = ("_working_directory",)
    _working_directory = _WorkingDirectory()

    def __init__(
        self,
        image: str | os.PathLike[str] | None = None,
        *,
        layer: int | None = None,
        platform: str | None = None,
        root: str | os.PathLike[str] | None = None,
        fo: str | None = None,
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Open the image; raise the errors of ``unionmount.open_image``."""
        super().__init__(**options)
        image = None if image is None else operand_of(image)
        if fo is not None:
            if image is not None:
                raise UsageError(
                    f"both '{printable(image)}' and '{printable(fo)}' name an image; in a chain, "
                    "write the path as unionmount:///PATH"
                )
            image = _local_path(fo, target_protocol or "file", target_options or {})
        if not image:
            raise UsageError(
                "no image: write unionmount://IMAGE/PATH, or unionmount:///PATH::file:///IMAGE for "
                "an archive by its absolute path, or give image=IMAGE"
            )
        try:
            self._image: Image = open_image(image, layer=layer, platform=platform, root=root)
        except NotFoundError as error:
            raise NotFoundError(f"{error}{_advice(image)}") from None
        self._word = image
        self._absolute = Location.parse(image).absolute()
        self._names = {"", image}  # in URLs
        self._strip_protocol = partial(_path_in, self._names)  # type: ignore[method-assign]
        self._end = weakref.finalize(self, self._image.close)

    @property
    def tree(self) -> FileTree:
        """The files as ``unionmount.open_image`` returns them."""
        return self._image.tree

    @property
    def fsid(self) -> str:
        """A name that is the same for the same image everywhere."""
        return f"unionmount_{self._image.id}"

    def close(self) -> None:
        """Close the image; files and file systems that share it then raise ValueError."""
        self._end()
        type(self)._cache.pop(self._fs_token, None)  # noqa: SLF001 - there is no public way

    def __reduce__(self) -> tuple[Any, ...]:
        if self._absolute == self._word:
            return cast("tuple[Any, ...]", super().__reduce__())
        return _opened, (self.storage_options | {"image": self._absolute}, self._names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # -- URLs

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        image, inner = split_url(os.fspath(path))
        inner = f"/{inner.strip('/')}"
        return PathOfImage(inner, image) if image else inner

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        image, _ = split_url(path)
        return {"image": image} if image else {}

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path, with the image."""
        path = self._strip_protocol(name)
        if self._word.startswith("/"):  # this would be read as a path inside the image
            return f"{_PREFIX}{path}::file://{self._word}"
        return f"{_PREFIX}{self._word}!{path}"

    # -- looking

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        """Return the attributes of the file that a path leads to."""
        path = self._strip_protocol(path)
        found = self.tree.lookup(path, follow_symlinks=False)
        if not found.is_symlink:
            return _info(path, found)
        row = _info(path, self.tree.lookup(path))
        return row | {"islink": True, "destination": self._target(path)}

    def ls(self, path: str, detail: bool = True, **_options: Any) -> list[Any]:
        """List a directory, or name a file; with ``detail``, symlinks are described themselves."""
        path = self._strip_protocol(path)
        if not self.tree.lookup(path).is_directory:
            rows = [self.info(path)]
        else:
            rows = [self._entry(path.rstrip("/"), entry) for entry in self.tree.list(path)]
        return rows if detail else [row["name"] for row in rows]

    def _entry(self, directory: str, entry: File) -> dict[str, Any]:
        path = f"{directory}/{os.fsdecode(entry.name)}"
        row = _info(path, entry)
        if entry.is_symlink:
            target = self.tree.find(path)
            row |= {"size": target.size if target is not None else 0, "islink": True}
            row["destination"] = self._target(path)
        return row

    def _target(self, path: str) -> str:
        return os.fsdecode(self.tree.readlink(path))

    def exists(self, path: str, **_options: Any) -> bool:
        """Return whether a path leads to a file of any type."""
        return self.tree.exists(self._strip_protocol(path))

    def lexists(self, path: str, **_options: Any) -> bool:
        """Return whether there is a file at a path, or a symlink that leads nowhere."""
        return self.tree.find(self._strip_protocol(path), follow_symlinks=False) is not None

    def isfile(self, path: str) -> bool:
        """Return whether a path leads to a regular file."""
        found = self.tree.find(self._strip_protocol(path))
        return found is not None and found.is_file

    def isdir(self, path: str) -> bool:
        """Return whether a path leads to a directory."""
        found = self.tree.find(self._strip_protocol(path))
        return found is not None and found.is_directory

    def modified(self, path: str) -> datetime:
        """Return the time of the last modification, in UTC."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    def ukey(self, path: str) -> str:
        """Return a text that is another one if the file may be another one."""
        text = f"{self._image.id} {self.info(path)}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    # -- contents

    def _open(self, path: str, mode: str = "rb", **_options: Any) -> OpenedFile:
        if mode != "rb":
            self._refuse(path)
        return OpenedFile(self, path)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_options: Any
    ) -> bytes:
        """Return the bytes of a file from ``start`` to ``end``, which are those of a slice."""
        with OpenedFile(self, self._strip_protocol(path)) as file:
            first, last, _ = slice(start, end).indices(file.size)
            file.seek(first)
            return file.read(max(last - first, 0))

    # -- everything else is refused

    def _refuse(self, path: Any = "", *_arguments: Any, **_options: Any) -> NoReturn:
        """Raise OSError with EROFS."""
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), self._strip_protocol(path))

    def _refuse_second(
        self, _source: Any, path: Any, *_arguments: Any, **_options: Any
    ) -> NoReturn:
        """Raise OSError with EROFS, which names the target."""
        self._refuse(path)

    mkdir = makedirs = rmdir = rm_file = _rm = rm = touch = pipe_file = _refuse
    cp_file = put_file = mv = _refuse_second


def _opened(options: dict[str, Any], names: set[str]) -> UnionmountFileSystem:
    """Return a file system that was pickled, perhaps in another working directory."""
    made = UnionmountFileSystem(**options)
    made._names.update(names)  # noqa: SLF001 - URLs that were pickled name the image as before
    return made


def _path_in(names: set[str], path: Any) -> Any:
    """Return the path of a URL, or of each of several; raise UsageError if it has another image."""
    if isinstance(path, list):
        return [_path_in(names, one) for one in path]
    other, inner = split_url(os.fspath(path))
    if isinstance(path, PathOfImage):
        other = path.image
    if other not in names:
        known = " or ".join(f"'{printable(name)}'" for name in sorted(names - {""}))
        raise UsageError(
            f"this file system shows the image {known}, but the URL names '{printable(other)}'; "
            "open each image with fsspec.open or fsspec.filesystem"
        )
    return f"/{inner.strip('/')}"


def _info(path: str, found: File) -> dict[str, Any]:
    one = found.attributes
    return {
        "name": path,
        "size": found.size,
        "type": _NAMES.get(stat.S_IFMT(found.mode), "other"),
        "islink": False,
        "mode": found.mode,
        "uid": one.uid,
        "gid": one.gid,
        "mtime": seconds_of(one.mtime_ns),
        "ino": int(one.node),
        "nlink": one.nlink,
        "layer": found.layer,
    }


def _local_path(url: str, protocol: str, options: dict[str, Any]) -> str:
    """Return the path on this machine of the archive that the next URL of a chain names."""
    fs = fsspec.filesystem(protocol, **options)
    if isinstance(fs, LocalFileSystem):
        return cast("str", fs._strip_protocol(url))  # noqa: SLF001 - as every file system does
    if not getattr(fs, "local_file", False):
        raise UsageError(
            f"an archive behind {printable(protocol)}:// must be kept on this machine; write "
            f"unionmount:///PATH::simplecache::{printable(fs.unstrip_protocol(url))}"
        )
    with fs.open(url, "rb") as file:
        return cast("str", file.name)


def _advice(image: str) -> str:
    """Return the advice for a URL whose image has slashes, so that only its first part was read."""
    if ":" in image or "/" in image or "@" in image:
        return ""
    return f"; write unionmount://IMAGE!/PATH if '{printable(image)}' is only a part of its name"
