"""The C core, as context managers: the only importer of the compiled module.

``Indexer`` turns the tar of a layer into an index file, ``Index`` reads it, ``Tree`` stacks layers.
Headers with the contracts: ``csrc/index_build.h``, ``csrc/index.h``, ``csrc/tree.h``. Calls into C
release the GIL. Paths and names inside the file system are ``bytes``.
"""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NewType

from unionmount._core import ffi, lib
from unionmount.closing import Closing
from unionmount.errors import FormatError, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

Node = NewType("Node", int)
"""The number of a file or directory in a tree; it is also its ``st_ino``."""

ROOT = Node(lib.UM_ROOT_NODE)
NAME_MAX: int = lib.UM_NAME_MAX

_SCAN_BUDGET = 8 * 1024 * 1024  # bytes read between two chances to be interrupted
_LIST_BATCH = 64

_uncleared = ffi.new_allocator(should_clear_after_alloc=False)  # for what C fills


class Attributes(NamedTuple):
    """What ``stat`` shows of a node (see ``struct um_attr``)."""

    node: Node
    mode: int
    nlink: int
    uid: int
    gid: int
    major: int
    minor: int
    size: int
    blocks: int
    mtime_ns: int
    layer: int


class Entry(NamedTuple):
    """One name in a directory; ``next`` is the cookie of the name after it."""

    name: bytes
    next: int
    attributes: Attributes


class Change(NamedTuple):
    """One thing that a layer does to the layers below: ``A`` adds, ``C`` changes, ``D`` deletes."""

    kind: str
    path: bytes
    mode: int
    size: int


class BrokenLink(NamedTuple):
    """A hard link whose target is in no layer; the name is absent from the tree."""

    layer: int
    name: bytes
    target: bytes


class IndexInfo(NamedTuple):
    """Statistics that an index keeps of its layer; sizes in bytes."""

    layer_size: int
    inodes: int
    dirents: int
    files: int
    file_bytes: int
    directories: int
    whiteouts: int
    opaques: int
    acls: int


class Limits(NamedTuple):
    """Bounds of what one layer may hold; 0 stands for the core's default."""

    max_entries: int = 0
    max_strings: int = 0


class _Owner(Closing):
    """Something in C that is closed exactly once."""

    _handle: Any = None

    def close(self) -> None:
        """Release what C holds; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._release(handle)

    def _release(self, handle: Any) -> None:
        raise NotImplementedError

    def __del__(self) -> None:
        self.close()


def _fault_error(code: int, fault: Any, what: str) -> Exception:
    text = ffi.string(fault.text).decode("ascii", "replace")
    where = f"{what}: {text} (at byte {fault.offset})" if text else f"{what}: {os.strerror(-code)}"
    if -code in (errno.EFBIG, errno.E2BIG):
        return LimitExceeded(where)
    if -code in (errno.EBADMSG, errno.ESTALE):
        return FormatError(where)
    return OSError(-code, where)


def _check(code: int) -> int:
    """Turn a negative errno of C into OSError."""
    if code < 0:
        raise OSError(-code, os.strerror(-code))
    return code


class Indexer(_Owner):
    """Builds the index of one layer from its tar, either fed or scanned in place.

    ``what`` names the layer in messages.
    """

    def __init__(self, what: str, limits: Limits = Limits()) -> None:
        self._what = what
        slot = ffi.new("struct um_indexer **")
        c_limits = ffi.new("struct um_index_limits *", tuple(limits))
        self._fault = ffi.new("struct um_fault *")
        _check(lib.um_indexer_open(c_limits, slot))
        self._handle = slot[0]

    def _release(self, handle: Any) -> None:
        lib.um_indexer_close(handle)

    def _checked(self, code: int) -> int:
        if code < 0:
            raise _fault_error(code, self._fault, self._what)
        return code

    def feed(self, data: Buffer) -> None:
        """Take the next bytes of the uncompressed tar; FormatError where they are damaged."""
        view = ffi.from_buffer(data)
        self._checked(lib.um_indexer_feed(self._handle, view, len(view), self._fault))

    def scan(self, fd: int, offset: int, length: int) -> Iterator[None]:
        """Read the headers of the tar at ``offset`` of ``fd``; yields now and then.

        The caller drives the iterator to its end, and may drop it in between to cancel.
        """
        while self._checked(
            lib.um_indexer_scan(self._handle, fd, offset, length, _SCAN_BUDGET, self._fault)
        ):
            yield

    def finish(self, layer_size: int, fd: int) -> None:
        """Write the index to ``fd``; FormatError where the tar ended too early."""
        self._checked(lib.um_indexer_finish(self._handle, layer_size, fd, self._fault))


class Index(_Owner):
    """An index file, mapped and checked; FormatError where it is damaged."""

    def __init__(self, fd: int, what: str) -> None:
        self._what = what
        slot = ffi.new("struct um_index **")
        fault = ffi.new("struct um_fault *")
        code = lib.um_index_open(fd, slot, fault)
        if code < 0:
            raise _fault_error(code, fault, what)
        self._handle = slot[0]

    def _release(self, handle: Any) -> None:
        lib.um_index_close(handle)

    @property
    def info(self) -> IndexInfo:
        """What the index says of its layer as a whole."""
        info = ffi.new("struct um_index_info *")
        lib.um_index_get_info(self._handle, info)
        return IndexInfo(
            info.layer_size,
            info.inodes,
            info.dirents,
            info.files,
            info.file_bytes,
            info.directories,
            info.whiteouts,
            info.opaques,
            info.acls,
        )

    def verify(self) -> None:
        """Check every block now; FormatError names the byte that is wrong."""
        fault = ffi.new("struct um_fault *")
        code = lib.um_index_verify(self._handle, fault)
        if code < 0:
            raise _fault_error(code, fault, self._what)


@dataclass(frozen=True, slots=True)
class TreeLayer:
    """One image layer of a tree: its index and the byte range of its tar in ``fd``."""

    index: Index
    fd: int
    offset: int
    length: int


class Tree(_Owner):
    """Layers, lowest first, as one tree.

    The tree keeps the indexes alive; descriptors stay the caller's and are to be kept open until
    ``close``. Every method may be called from any thread. Errors are OSError with the errno that
    the file system answers.
    """

    def __init__(self, layers: Sequence[TreeLayer]) -> None:
        self._layers = tuple(layers)
        c_layers = ffi.new("struct um_tree_layer[]", max(len(self._layers), 1))
        for slot, layer in zip(c_layers, self._layers, strict=False):
            slot.index = layer.index._handle
            slot.fd, slot.offset, slot.length = layer.fd, layer.offset, layer.length
        out = ffi.new("struct um_tree **")
        _check(lib.um_tree_open(c_layers, len(self._layers), out))
        self._handle = out[0]

    def _release(self, handle: Any) -> None:
        lib.um_tree_close(handle)

    def __len__(self) -> int:
        return len(self._layers)

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        """The attributes of ``name`` in ``directory``; ENOENT, ENOTDIR, ENAMETOOLONG, ESTALE."""
        attr = ffi.new("struct um_attr *")
        _check(lib.um_tree_lookup(self._handle, directory, name, len(name), attr))
        return _attributes(attr)

    def getattr(self, node: Node) -> Attributes:
        """The attributes of a node; ESTALE where there is no such node."""
        attr = ffi.new("struct um_attr *")
        _check(lib.um_tree_getattr(self._handle, node, attr))
        return _attributes(attr)

    def parent(self, directory: Node) -> Node:
        """The directory that ``directory`` is in; the root's is itself. ENOTDIR, ESTALE."""
        node = ffi.new("uint64_t *")
        _check(lib.um_tree_parent(self._handle, directory, node))
        return Node(node[0])

    def resolve(self, path: bytes) -> Attributes:
        """The attributes of ``path`` from the root; symlinks are not followed."""
        attributes = self.getattr(ROOT)
        for name in path.split(b"/"):
            if name not in (b"", b"."):
                attributes = self.lookup(attributes.node, name)
        return attributes

    def list(
        self, directory: Node, cookie: int = 0, count: int = _LIST_BATCH
    ) -> builtins.list[Entry]:
        """Up to ``count`` entries from ``cookie`` on, sorted bytewise; none at the end."""
        entries = ffi.new("struct um_tree_entry[]", count)
        n = _check(lib.um_tree_list(self._handle, directory, cookie, entries, count))
        return [
            Entry(ffi.buffer(e.name, e.name_size)[:], e.next, _attributes(e.attr))
            for e in ffi.unpack(entries, n)
        ]

    def walk(self, directory: Node = ROOT, path: bytes = b"") -> Iterator[tuple[bytes, Attributes]]:
        """All paths below ``directory``, depth first, sorted; the directory itself is left out."""
        pending = [(directory, path, 0)]
        while pending:
            parent, prefix, cookie = pending.pop()
            for entry in self.list(parent, cookie):
                full = prefix + b"/" + entry.name if prefix else entry.name
                yield full, entry.attributes
                if (entry.attributes.mode & 0o170000) == 0o040000:
                    pending.append((parent, prefix, entry.next))
                    pending.append((entry.attributes.node, full, 0))
                    break
                cookie = entry.next
            else:
                if cookie and self.list(parent, cookie, 1):
                    pending.append((parent, prefix, cookie))

    def readlink(self, node: Node) -> bytes:
        """The target of a symlink; EINVAL where the node is none."""
        target = ffi.new("const char **")
        size = ffi.new("size_t *")
        _check(lib.um_tree_readlink(self._handle, node, target, size))
        return bytes(ffi.buffer(target[0], size[0]))

    def read(self, node: Node, offset: int, size: int, *, nowait: bool = False) -> bytes:
        """Up to ``size`` bytes; fewer only at the end.

        EAGAIN where ``nowait`` is set and the disk would have to be waited for.
        """
        buffer = _uncleared("char[]", size)
        flags = lib.UM_READ_NOWAIT if nowait else 0
        n = _check(lib.um_tree_read(self._handle, node, offset, buffer, size, flags))
        return bytes(ffi.buffer(buffer, n))

    def extent(self, node: Node) -> tuple[int, int]:
        """Offset in its layer's tar and length of a file; EINVAL where it is not one run."""
        layer, offset, length = ffi.new("uint32_t *"), ffi.new("uint64_t *"), ffi.new("uint64_t *")
        _check(lib.um_tree_extent(self._handle, node, layer, offset, length))
        return offset[0], length[0]

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """The value of an extended attribute; ENODATA where there is none."""
        return self._sized(lib.um_tree_getxattr, node, name, len(name))

    def listxattr(self, node: Node) -> builtins.list[bytes]:
        """The names of all extended attributes."""
        names = self._sized(lib.um_tree_listxattr, node)
        return names.split(b"\0")[:-1]

    def _sized(self, function: Any, node: Node, *arguments: Any) -> bytes:
        size = _check(function(self._handle, node, *arguments, ffi.NULL, 0))
        if size == 0:
            return b""
        value = ffi.new("char[]", size)
        n = _check(function(self._handle, node, *arguments, value, size))
        return bytes(ffi.buffer(value, n))

    def changes(self, layer: int) -> Iterator[Change]:
        """What ``layer`` (0 is the lowest) does to the layers below, depth first, sorted."""
        slot = ffi.new("struct um_tree_walk **")
        _check(lib.um_tree_walk_open(self._handle, layer, slot))
        try:
            path, path_size = ffi.new("const char **"), ffi.new("size_t *")
            kind, mode, size = ffi.new("char *"), ffi.new("uint32_t *"), ffi.new("uint64_t *")
            while _check(lib.um_tree_walk_next(slot[0], path, path_size, kind, mode, size)):
                yield Change(
                    kind[0].decode("ascii"),
                    bytes(ffi.buffer(path[0], path_size[0])),
                    mode[0],
                    size[0],
                )
        finally:
            lib.um_tree_walk_close(slot[0])

    def broken_links(self) -> Iterator[BrokenLink]:
        """Hard links of all layers that lead nowhere, lowest layer first."""
        name, name_size = ffi.new("char **"), ffi.new("size_t *")
        target, target_size = ffi.new("char **"), ffi.new("size_t *")
        for layer in range(len(self._layers)):
            cursor = ffi.new("uint64_t *")
            while _check(
                lib.um_tree_broken_link(
                    self._handle, layer, cursor, name, name_size, target, target_size
                )
            ):
                yield BrokenLink(
                    layer, _take(name[0], name_size[0]), _take(target[0], target_size[0])
                )


def _take(memory: Any, size: int) -> bytes:
    """Copy bytes that C allocated for us, and free them there."""
    try:
        return bytes(ffi.buffer(memory, size))
    finally:
        lib.um_free(memory)


def _attributes(attr: Any) -> Attributes:
    return Attributes(
        attr.node,
        attr.mode,
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.major,
        attr.minor,
        attr.size,
        attr.blocks,
        attr.mtime * 1_000_000_000 + attr.mtime_nsec,
        attr.layer,
    )
