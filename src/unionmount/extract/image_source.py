"""The files of an image or container, read from its layers and its changes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from unionmount.browse.diff import GONE, REPLACED, xattrs_of
from unionmount.core import PlainMembers
from unionmount.errors import FormatError
from unionmount.extract.items import CopyItem, Piece
from unionmount.system.files import FileRange
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.browse.open import OpenView
    from unionmount.browse.owners import Owners
    from unionmount.browse.paths import Found
    from unionmount.core import Attributes, BrowsableTree, DirectoryEntry, Node, Tree
    from unionmount.extract.items import PlainTarget
    from unionmount.images.opened import OpenLayer

_STEP = 1024 * 1024
_BATCH = 256
_BLOCK = 512  # the unit of Attributes.blocks


class _Stored(NamedTuple):
    """A file that is contiguous in the tar of a layer."""

    range: FileRange

    def pieces(self) -> Iterator[Piece]:
        """Yield the content."""
        done = 0
        while done < self.range.length:
            size = min(_STEP, self.range.length - done)
            data = os.pread(self.range.fd, size, self.range.offset + done)
            if not data:
                return
            yield done, data
            done += len(data)


@dataclass(frozen=True, slots=True)
class _Read:
    """A file that only the tree can read: it is sparse, or in the changes of a container."""

    files: BrowsableTree
    node: Node
    size: int
    sparse: bool

    @property
    def range(self) -> None:
        """There is none."""
        return

    def pieces(self) -> Iterator[Piece]:
        """Yield the content; zeros of a sparse file are left out."""
        done = 0
        while done < self.size:
            data = self.files.read(self.node, done, min(_STEP, self.size - done))
            if not data:
                return
            if not self.sparse or data.count(0) < len(data):
                yield done, data
            done += len(data)


class ImageSource:
    """The items at and below a path; ``warn`` is told of what a container in use has removed.

    ``owners`` are the maps of the user who has run the container.
    """

    def __init__(
        self,
        view: OpenView,
        found: Found,
        warn: Callable[[str], None],
        owners: Owners | None = None,
    ) -> None:
        self._files = view.files
        self._tree: Tree = view.tree
        self._layers: Sequence[OpenLayer] = view.image.layers
        self._upper = view.upper
        self._found = found
        self._warn = warn
        self._owners = owners
        self._linked: dict[Node, bytes] = {}  # the first paths of files with several
        self._members: PlainMembers | None = None  # of a directory
        self._target: PlainTarget | None = None

    def items(self, target: PlainTarget | None = None) -> Iterator[CopyItem]:
        """Yield the top, and all that is below it, in a fixed order.

        A directory is followed by the files in it, and then by those below: tar(1) restores its
        time after the last one. Plain files of an image are added to ``target`` in their place in
        this order, and not yielded; it must have added each item when the next one is taken.
        """
        if not stat.S_ISDIR(self._found.attributes.mode):
            yield from self._below_top()
            return
        with PlainMembers(self._tree) as members:
            self._members = members
            self._target = target if self._upper is None else None
            yield from self._below_top()

    def _below_top(self) -> Iterator[CopyItem]:
        pending = [(b"", self._found.attributes)]
        while pending:
            path, attributes = pending.pop()
            if (item := self._item(path, attributes)) is None:
                continue
            yield item
            if stat.S_ISDIR(attributes.mode):
                below: list[tuple[bytes, Attributes]] = []
                yield from self._files_in(path, attributes.node, below)
                pending += below[::-1]

    def _files_in(
        self, directory: bytes, node: Node, below: list[tuple[bytes, Attributes]]
    ) -> Iterator[CopyItem]:
        """Yield what is in a directory, but for directories, which are added to ``below``."""
        prefix = directory + b"/" if directory else b""
        for entry in self._listed(directory, node):
            path, attributes = prefix + entry.name, entry.attributes
            if stat.S_ISDIR(attributes.mode):
                below.append((path, attributes))
            elif (item := self._item(path, attributes)) is not None:
                yield item

    def _listed(self, path: bytes, directory: Node) -> Iterator[DirectoryEntry]:
        """Yield the entries of a directory; none of one that was removed meanwhile.

        Entries that the target takes by itself are left out.
        """
        cookie, count = 0, _BATCH
        while True:
            if self._target is not None and self._members is not None:
                cookie = self._target.put_plain(self._members, directory, path, cookie)
                count = 1
            try:
                entries = self._files.list(directory, cookie, count)
            except OSError as error:
                if self._upper is not None and error.errno in GONE:
                    return
                raise OSError(error.errno, error.strerror, b"/" + self._full(path)) from error
            if not entries:
                return
            yield from entries
            cookie = entries[-1].next

    def _item(self, path: bytes, found: Attributes) -> CopyItem | None:
        """Return an item; None for what is no longer there."""
        try:
            return self._made(path, found)
        except OSError as error:
            if self._upper is None or error.errno not in REPLACED:
                raise
            self._warn(f"/{printable(self._full(path))}: left out, since it was removed meanwhile")
            return None

    def _full(self, path: bytes) -> bytes:
        return b"/".join(part for part in (self._found.path, path) if part)

    def _made(self, path: bytes, found: Attributes) -> CopyItem:
        is_file = stat.S_ISREG(found.mode)
        link = self._linked.get(found.node) if found.nlink > 1 else None
        if is_file and found.layer == self._upper and found.size and link is None:
            self._files.read(found.node, 0, 0)  # opens it, so that it stays what it is
            found = self._files.getattr(found.node)
        xattrs = xattrs_of(self._files, found.node)
        target = self._files.readlink(found.node) if stat.S_ISLNK(found.mode) else b""
        if found.nlink > 1 and link is None and not stat.S_ISDIR(found.mode):
            self._linked[found.node] = path
        if self._owners is not None and found.layer == self._upper:
            found = self._owners.owned(found)
        return CopyItem(
            path,
            found.mode,
            found.uid,
            found.gid,
            found.mtime_ns,
            found.size if is_file and link is None else 0,
            (found.major, found.minor),
            target,
            link,
            xattrs,
            self._content(found) if is_file and link is None else None,
        )

    def _content(self, found: Attributes) -> _Stored | _Read:
        if found.layer < len(self._layers):
            try:
                offset, length = self._tree.extent(found.node)
            except OSError as error:
                if error.errno != errno.EINVAL:  # it is not contiguous
                    raise
            else:
                return _Stored(self._range(found, offset, length))
        sparse = found.blocks * _BLOCK < found.size
        return _Read(self._files, found.node, found.size, sparse)

    def _range(self, found: Attributes, offset: int, length: int) -> FileRange:
        layer = self._layers[found.layer]
        if length != found.size or offset + length > layer.length:
            raise FormatError(f"the index of layer {layer.diff_id} does not fit its tar")
        if self._members is not None:  # most of the layer is needed soon
            self._members.read_ahead(found.layer, offset)
        return FileRange(layer.data_fd, layer.offset + offset, length)
