"""The API for programs: an image as an object, and a mount as a context manager.

``docs/reference/api.md`` describes it with examples. Paths inside an image are absolute and may
have any type of ``Path``; names in results are ``bytes``. Errors are those of ``errors``, and
OSError with the path if something inside the image does not exist or has the wrong type.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import stat
import sys
import tempfile
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path as HostPath
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from unionmount import core
from unionmount.browse.open import OpenOptions, open_view
from unionmount.browse.paths import Found, follow
from unionmount.errors import MountError
from unionmount.images.history import steps_of_layers
from unionmount.images.platform import Platform
from unionmount.store.layer_import import ImportLimits
from unionmount.store.location import default_root
from unionmount.store.store import Store
from unionmount.system.closing import Closing
from unionmount.system.os_errors import naming
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import trio

    from unionmount.browse.open import OpenView
    from unionmount.core import Attributes, Change, LayerSummary
    from unionmount.images.config import Config, History
    from unionmount.images.manifest import Manifest
    from unionmount.images.reference import Digest

Path = str | bytes | PurePosixPath
"""A path inside an image; text stands for bytes like file names in Python (surrogateescape)."""

_BATCH = 256
_BUFFER = 128 * 1024
_PATIENCE = 10.0  # seconds for a mount to end before it is asked again
_LAST_WORDS = 4096  # bytes of messages


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
    """The files of an image by path; usable from any thread while the image is open."""

    def __init__(self, view: OpenView) -> None:
        self._view: OpenView | None = view

    def _close(self) -> None:
        self._view = None

    @property
    def _files(self) -> core.BrowsableTree:
        if self._view is None:
            raise ValueError("the image is closed")
        return self._view.files

    def lookup(self, path: Path, *, follow_symlinks: bool = True) -> File:
        """Return the file at a path; raise FileNotFoundError, NotADirectoryError or ELOOP."""
        with naming(_text(path)):
            return _file(follow(self._files, _bytes(path), last=follow_symlinks))

    def exists(self, path: Path) -> bool:
        """Return whether a path leads to a file of any type."""
        try:
            self.lookup(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                return False
            raise
        return True

    def list(self, path: Path = "/") -> Iterator[File]:
        """Yield the entries of a directory, sorted bytewise."""
        top = self.lookup(path)
        prefix, cookie = top.path.rstrip(b"/") + b"/", 0
        with naming(_text(path)):
            while entries := self._files.list(top.attributes.node, cookie, _BATCH):
                for entry in entries:
                    yield File(prefix + entry.name, entry.attributes)
                cookie = entries[-1].next

    def walk(self, path: Path = "/") -> Iterator[File]:
        """Yield everything below a directory, depth first and sorted."""
        top = self.lookup(path)
        if not top.is_directory:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), _text(path))
        for found, attributes in self._files.walk(top.attributes.node, top.path.strip(b"/")):
            yield File(b"/" + found, attributes)

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
        with naming(_text(path)):
            found = follow(self._files, _bytes(path), last=False)
            return self._files.readlink(found.attributes.node)

    def xattrs(self, path: Path, *, follow_symlinks: bool = True) -> dict[bytes, bytes]:
        """Return the extended attributes."""
        node = self.lookup(path, follow_symlinks=follow_symlinks).attributes.node
        with naming(_text(path)):
            return {name: self._files.getxattr(node, name) for name in self._files.listxattr(node)}


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
        with naming(_text(self._file.path)):
            node = self._file.attributes.node
            data = self._tree._files.read(node, self._at, size)  # noqa: SLF001 - its own kind
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def _bytes(path: Path) -> bytes:
    return os.fsencode(path)


def _text(path: Path) -> str:
    return os.fsdecode(path)


def _file(found: Found) -> File:
    return File(b"/" + found.path, found.attributes)


# ---- images --------------------------------------------------------------------------------------


class Layer:
    """One layer of an open image."""

    def __init__(self, image: Image, number: int, step: History | None) -> None:
        opened = image._view.image.layers[number]  # noqa: SLF001 - its own kind
        self._image = image
        self.number = number
        self.diff_id: Digest = opened.diff_id
        self.size: int = opened.length  # of its tar
        self.created_by = step.created_by if step is not None else ""

    def changes(self) -> Iterator[Change]:
        """Yield the changes to lower layers, depth first and sorted: kind, path, mode and size."""
        view = self._image._view  # noqa: SLF001
        view.image.require_indexes()
        for change in view.tree.changes(self.number):
            yield change._replace(path=b"/" + change.path)

    def __repr__(self) -> str:
        return f"<Layer {self.number} {self.diff_id.short}>"


class Image(Closing):
    """An open image, or a container with its changes; close it, or use it as a context manager."""

    def __init__(self, view: OpenView) -> None:
        """Take over ``view``."""
        self._view = view
        self.name: str = view.image.name
        self.tree = FileTree(view)

    @property
    def config(self) -> Config:
        """The config of the image; ``config.runtime`` has Cmd, Env and so on."""
        return self._view.image.image.config

    @property
    def manifest(self) -> Manifest:
        """The manifest; ``manifest.raw`` has its bytes."""
        return self._view.image.image.manifest

    @property
    def id(self) -> Digest:
        """The digest of the config."""
        return self._view.image.image.id

    @property
    def history(self) -> tuple[History, ...]:
        """The steps that made the image, oldest first."""
        return self.config.history

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, lowest first."""
        count = len(self._view.image.layers)
        steps = steps_of_layers(self.history, len(self.config.diff_ids))
        return tuple(Layer(self, number, steps[number]) for number in range(count))

    def usage(self) -> tuple[LayerSummary, ...]:
        """Return what each layer did, and how many of its bytes the image does not show."""
        self._view.image.require_indexes()
        return self._view.tree.summarise().layers

    def close(self) -> None:
        """Close everything, ``tree`` included; a second call does nothing."""
        self.tree._close()  # noqa: SLF001 - its own kind
        self._view.close()

    def __repr__(self) -> str:
        return f"<Image {self.name} {self.id.short}>"


def open_image(
    ref: str,
    *,
    layer: int | None = None,
    platform: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Image:
    """Open what ``unionmount mount`` would mount: an archive, a layout, a name or a container.

    With ``layer``, the image is opened as of that layer. ``root`` is the store, by default the
    user's. Nothing is changed, except that compressed layers are imported into the store once.
    """
    looking = OpenOptions(Platform.parse(platform) if platform else None, layer)
    with ExitStack() as stack:
        view = stack.enter_context(open_view(_store(root), ref, looking))
        image = Image(view)
        stack.pop_all()
    return image


def _store(root: str | os.PathLike[str] | None) -> Store:
    place = HostPath(root) if root is not None else default_root(os.environ)
    return Store(place.absolute(), ImportLimits.from_environment(os.environ))


# ---- mounts --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mounted:
    """A live mount: its mount point and the process that serves it."""

    path: HostPath
    pid: int


@asynccontextmanager
async def mount(
    ref: str,
    mountpoint: str | os.PathLike[str] | None = None,
    *,
    writable: bool = False,
    ephemeral: bool = False,
    name: str | None = None,
    upper: str | os.PathLike[str] | None = None,
    upper_open: bool = False,
    layer: int | None = None,
    layers: bool = False,
    platform: str | None = None,
    options: str = "",
    root: str | os.PathLike[str] | None = None,
) -> AsyncIterator[Mounted]:
    """Mount an image or container for the duration of a block, under trio.

    The mount is read-only unless ``writable``, ``ephemeral``, ``name`` or ``upper`` is given; the
    arguments have the meaning of the options of ``unionmount mount``. A separate process serves the
    mount. When the block ends, for any reason, the mount is gone and changes are on disk; programs
    that still have files open lose them after some seconds.
    """
    import trio  # noqa: PLC0415 - programs that only read images need no trio

    changes = writable or ephemeral or name is not None or upper is not None
    flags = {"--ro": not changes and not layers and layer is None}
    flags |= {"--ephemeral": ephemeral, "--layers": layers, "--upper-open": upper_open}
    values = {"--name": name, "--upper": upper, "--layer": layer, "--platform": platform}
    values |= {"--root": root, "-o": options or None}
    arguments = [option for option, is_given in flags.items() if is_given]
    for option, value in values.items():
        if value is not None:
            arguments += [option, str(value)]
    arguments += ["--", ref, *([] if mountpoint is None else [os.fspath(mountpoint)])]
    command = [sys.executable, "-m", "unionmount", "mount", "--foreground", *arguments]
    with tempfile.TemporaryFile() as messages:
        process = await trio.lowlevel.open_process(
            command,
            stdout=-1,  # a pipe, as in subprocess
            stderr=messages,
            start_new_session=True,  # signals of the terminal are handled here
        )
        try:
            yield Mounted(await _announced(process, messages), process.pid)
        finally:
            await _end(process)


async def _announced(process: trio.Process, messages: IO[bytes]) -> HostPath:
    """Wait for the process to print its mount point; raise MountError if it fails."""
    assert process.stdout is not None
    said = b""
    async for data in process.stdout:
        said += data
        if said.endswith(b"\n"):
            return HostPath(os.fsdecode(said.removesuffix(b"\n")))
    await process.wait()
    messages.seek(max(messages.seek(0, io.SEEK_END) - _LAST_WORDS, 0))
    lines = messages.read().decode("utf-8", "replace").splitlines()
    text = printable(lines[-1].removeprefix("unionmount: ")) if lines else "no message"
    raise MountError(text)


async def _end(process: trio.Process) -> None:
    """Unmount; processes that still use the mount get some time, but not forever."""
    import trio  # noqa: PLC0415

    with trio.CancelScope(shield=True):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if process.returncode is None:
                process.send_signal(number)
            with trio.move_on_after(_PATIENCE):
                await process.wait()
                break
        if process.stdout is not None:
            await process.stdout.aclose()
