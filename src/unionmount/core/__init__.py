"""The C core, as context managers: the only importer of the compiled module.

``Indexer`` turns the tar of a layer into an index file, ``Index`` reads it, ``Tree`` stacks layers,
``Upper`` puts a writable directory on a tree, ``Router`` answers the kernel from them. Headers with
the contracts, in csrc: ``index/builder.h``, ``index/index.h``, ``tree/tree.h``, ``upper/upper.h``,
``router/router.h``. Calls into C release the GIL. Paths and names inside the file system are
``bytes``.
"""

from __future__ import annotations

import builtins
import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, NewType, Protocol

from unionmount._core import ffi, lib
from unionmount.errors import FormatError, LimitExceeded
from unionmount.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Buffer  # type: ignore[attr-defined]

Node = NewType("Node", int)
"""The number of a file or directory in a tree; it is also its ``st_ino``."""

ROOT = Node(lib.UM_ROOT_NODE)
NAME_MAX: int = lib.UM_NAME_MAX

MEMORY_VARIABLE = "UNIONMOUNT_MAX_INDEX_MEMORY"  # sets Limits.max_memory (layer.ImportLimits)

_SCAN_BUDGET = 8 * 1024 * 1024  # bytes read between two chances to be interrupted
_LIST_BATCH = 64
_PATH_MAX = 4096

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
    atime_ns: int
    ctime_ns: int


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
    unresolved: int


class LayerSummary(NamedTuple):
    """What one layer did to those below, and how much of it the image does not show; in bytes."""

    added: int
    changed: int
    deleted: int
    bytes: int
    wasted: int


class Summary(NamedTuple):
    """What all layers did, lowest first, and how often paths of files were stored.

    ``stored`` is the sum of the sizes that files have at their paths, in all layers; ``least``
    takes of each path the smallest, 0 where a layer deletes it.
    """

    layers: tuple[LayerSummary, ...]
    stored: int
    least: int

    @property
    def efficiency(self) -> float:
        """The part of what is stored that has to be: 1 where no path is stored twice."""
        return self.least / self.stored if self.stored else 1.0


class Limits(NamedTuple):
    """Bounds of what one layer may hold; 0 stands for the core's default."""

    max_entries: int = 0
    max_strings: int = 0
    max_memory: int = 0  # bytes that indexing it may take


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
    if -code == errno.ENOBUFS:
        return _memory_error(where)
    if -code in (errno.EBADMSG, errno.ESTALE):
        return FormatError(where)
    return OSError(-code, where)


def _memory_error(text: str) -> LimitExceeded:
    return LimitExceeded(f"{text} (the limit; {MEMORY_VARIABLE} changes it)")


def _check(code: int) -> int:
    """Turn a negative errno of C into OSError."""
    if code < 0:
        raise OSError(-code, os.strerror(-code))
    return code


def _sum(chosen: Belief | UpperFlags, prefix: str) -> int:
    """The flags of the core for what is chosen: each field is called as its constant is."""
    names = (field.name for field in fields(chosen) if getattr(chosen, field.name))
    return sum(int(getattr(lib, prefix + name.upper())) for name in names)


_NO_PRIVATE_MOUNTS = (errno.EPERM, errno.EINVAL, errno.ENOSYS)


@contextmanager
def private_directory(
    fd: int, *, read_only: bool, atime: bool = False, diratime: bool = True
) -> Iterator[int | None]:
    """The directory ``fd`` on a mount of its own, where nobody can mount anything below it.

    A name that is a mount point for others is there what the mount point covers. With ``atime``
    reading changes access times, as relatime has it; ``diratime``: of directories, too. None where
    this user can't have one: that takes CAP_SYS_ADMIN.
    """
    how = lib.UM_PRIVATE_READ_ONLY if read_only else 0
    how |= 0 if atime else lib.UM_PRIVATE_NOATIME
    how |= 0 if diratime else lib.UM_PRIVATE_NODIRATIME
    private = lib.um_private_directory(fd, how)
    if -private in _NO_PRIVATE_MOUNTS:
        yield None
        return
    _check(private)
    try:
        yield private
    finally:
        os.close(private)


def open_beneath(directory: int, path: bytes) -> int:
    """Open a directory below ``directory`` for reading, through no symlink and no mount point."""
    return _check(lib.um_open_directory(directory, path))


class Indexer(_Owner):
    """Builds the index of one layer from its tar, either fed or scanned in place.

    ``what`` names the layer in messages.
    """

    def __init__(self, what: str, limits: Limits = Limits(), spool: int = -1) -> None:
        """``spool`` is a descriptor of an empty file, the caller's, to keep xattrs in.

        Without one they are kept in memory, and counted against ``limits.max_memory``.
        """
        self._what = what
        slot = ffi.new("struct um_indexer **")
        c_limits = ffi.new("struct um_index_limits *", tuple(limits))
        self._fault = ffi.new("struct um_fault *")
        code = lib.um_indexer_open(c_limits, slot)
        if code == -errno.ENOBUFS:
            needed = f"its index would need more than {limits.max_memory} bytes of memory"
            raise _memory_error(f"{what}: {needed}")
        _check(code)
        self._handle = slot[0]
        if spool >= 0:
            lib.um_indexer_spool(self._handle, spool)

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

    def unresolved(self) -> Iterator[bytes]:
        """Names of entries without a place: symlinks on their way lead in a circle."""
        name, size = ffi.new("char const **"), ffi.new("size_t *")
        number = 0
        while lib.um_indexer_unresolved(self._handle, number, name, size):
            yield bytes(ffi.buffer(name[0], size[0]))
            number += 1

    def finish(self, layer_size: int, fd: int) -> None:
        """Write the index to ``fd``; FormatError where the tar ended too early."""
        self._checked(lib.um_indexer_finish(self._handle, layer_size, fd, self._fault))


class Index(_Owner):
    """An index file, mapped (or copied, where others can change it) and checked.

    FormatError where it is damaged, LimitExceeded where it is too large.
    """

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
    def copied(self) -> int:
        """Bytes of memory that it may come to hold because it is copied; 0 where it is mapped."""
        return int(lib.um_index_copied(self._handle))

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
            info.unresolved,
        )

    def verify(self) -> None:
        """Check every block now; FormatError names the byte that is wrong."""
        fault = ffi.new("struct um_fault *")
        code = lib.um_index_verify(self._handle, fault)
        if code < 0:
            raise _fault_error(code, fault, self._what)


class FileTree(Protocol):
    """What can be browsed: the lower layers alone (``Tree``), or with an upper (``View``)."""

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        """The attributes of ``name`` in ``directory``; ENOENT, ENOTDIR, ENAMETOOLONG, ESTALE."""

    def getattr(self, node: Node) -> Attributes:
        """The attributes of a node."""

    def resolve(self, path: bytes) -> Attributes:
        """The attributes of ``path`` from the root; symlinks are not followed."""

    def resolve_anew(self, path: bytes) -> Attributes:
        """The same, where something else may stand at ``path`` since it was found."""

    def list(self, directory: Node, cookie: int = 0, count: int = ...) -> builtins.list[Entry]:
        """Up to ``count`` entries from ``cookie`` on, sorted bytewise; none at the end."""

    def walk(self, directory: Node = ..., path: bytes = ...) -> Iterator[tuple[bytes, Attributes]]:
        """All paths below ``directory``, depth first, sorted; the directory itself is left out."""

    def readlink(self, node: Node) -> bytes:
        """The target of a symlink; EINVAL where the node is none."""

    def read(self, node: Node, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """The value of an extended attribute; ENODATA where there is none."""

    def listxattr(self, node: Node) -> builtins.list[bytes]:
        """The names of all extended attributes."""


class _Paths:
    """What follows from lookup, getattr and list."""

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        raise NotImplementedError

    def getattr(self, node: Node) -> Attributes:
        raise NotImplementedError

    def list(
        self, directory: Node, cookie: int = 0, count: int = _LIST_BATCH
    ) -> builtins.list[Entry]:
        raise NotImplementedError

    def resolve(self, path: bytes) -> Attributes:
        """The attributes of ``path`` from the root; symlinks are not followed."""
        attributes = self.getattr(ROOT)
        for name in path.split(b"/"):
            if name not in (b"", b"."):
                attributes = self.lookup(attributes.node, name)
        return attributes

    def resolve_anew(self, path: bytes) -> Attributes:
        """The same, where something else may stand at ``path`` since it was found."""
        return self.resolve(path)

    def walk(self, directory: Node = ROOT, path: bytes = b"") -> Iterator[tuple[bytes, Attributes]]:
        """All paths below ``directory``, depth first, sorted; the directory itself is left out."""
        pending = [(directory, path, 0)]
        while pending:
            parent, prefix, cookie = pending.pop()
            entries = self.list(parent, cookie)
            for entry in entries:
                full = prefix + b"/" + entry.name if prefix else entry.name
                yield full, entry.attributes
                if stat.S_ISDIR(entry.attributes.mode):
                    pending.append((parent, prefix, entry.next))
                    pending.append((entry.attributes.node, full, 0))
                    break
                cookie = entry.next
            else:
                if entries:
                    pending.append((parent, prefix, cookie))


@dataclass(frozen=True, slots=True)
class TreeLayer:
    """One image layer of a tree: its index and the byte range of its tar in ``fd``."""

    index: Index
    fd: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Belief:
    """Whose marks in a live directory count that do more than hide (see ``UM_BELIEVE_…``)."""

    trusted: bool = False
    own: bool = False
    stat: bool = False
    any_stat: bool = False
    closed: bool = False
    no_user: bool = False


@dataclass(frozen=True, slots=True)
class DirectoryLayer:
    """One layer of a tree that is a live directory, open as ``fd``.

    ``private``: nobody can mount anything below it (``private_directory``); then ``shown`` is open
    on the directory where others see it, so that messages can name it. ``hidden``: directories, by
    device and inode, of which nothing is shown; at most two.
    """

    fd: int
    private: bool = False
    shown: int = 0
    belief: Belief = Belief()
    hidden: tuple[tuple[int, int], ...] = ()


class Tree(_Owner, _Paths):
    """Layers, lowest first, as one tree.

    The tree keeps the indexes alive; descriptors stay the caller's and are to be kept open until
    ``close``. Every method may be called from any thread. Errors are OSError with the errno that
    the file system answers.
    """

    def __init__(self, layers: Sequence[TreeLayer | DirectoryLayer]) -> None:
        self._layers = tuple(layers)
        c_layers = ffi.new("struct um_tree_layer[]", max(len(self._layers), 1))
        for slot, layer in zip(c_layers, self._layers, strict=False):
            slot.fd = layer.fd
            if isinstance(layer, TreeLayer):
                slot.index = layer.index._handle
                slot.offset, slot.length = layer.offset, layer.length
            else:
                slot.flags = lib.UM_TREE_LAYER_PRIVATE if layer.private else 0
                slot.shown_fd = layer.shown
                slot.believes = _sum(layer.belief, "UM_BELIEVE_")
                for number, (device, inode) in enumerate(layer.hidden):
                    slot.hidden_devices[number], slot.hidden_inodes[number] = device, inode
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

    def top(self, directory: Node) -> int:
        """The topmost layer that has a part in ``directory``. ENOTDIR, ESTALE."""
        layer = ffi.new("uint32_t *")
        _check(lib.um_tree_top(self._handle, directory, layer))
        return int(layer[0])

    def list(
        self, directory: Node, cookie: int = 0, count: int = _LIST_BATCH
    ) -> builtins.list[Entry]:
        """Up to ``count`` entries from ``cookie`` on, sorted bytewise; none at the end."""
        entries = ffi.new("struct um_tree_entry[]", count)
        n = _check(lib.um_tree_list(self._handle, directory, cookie, entries, count))
        return _entries(entries, n)

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
        return _sized(
            lambda value, size: lib.um_tree_getxattr(
                self._handle, node, name, len(name), value, size
            )
        )

    def listxattr(self, node: Node) -> builtins.list[bytes]:
        """The names of all extended attributes."""
        names = _sized(lambda value, size: lib.um_tree_listxattr(self._handle, node, value, size))
        return names.split(b"\0")[:-1]

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

    def summarise(self) -> Summary:
        """What every layer did, and what is left of it; EOPNOTSUPP of live directories."""
        slot = ffi.new("struct um_summary **")
        _check(lib.um_summary_open(self._handle, slot))
        try:
            while _check(lib.um_summary_step(slot[0])):
                pass  # here the caller may be interrupted
            layers = ffi.new("struct um_layer_summary[]", max(len(self), 1))
            paths = ffi.new("struct um_path_summary *")
            lib.um_summary_get(slot[0], layers, paths)
        finally:
            lib.um_summary_close(slot[0])
        return Summary(
            tuple(
                LayerSummary(one.added, one.changed, one.deleted, one.bytes, one.wasted)
                for one in layers[0 : len(self)]
            ),
            paths.stored,
            paths.least,
        )


class Marks(NamedTuple):
    """What a layer says of a directory in it (see ``UM_LAYER_TREES_…``)."""

    implied: bool
    opaque: bool
    replaces: bool


class LayerTrees(_Owner, _Paths):
    """The layers of a tree beside each other, as directories 0 (the lowest), 1, ….

    See ``tree/unstacked.h``. Marks are shown, not obeyed: a whiteout as a character device 0:0, a
    directory that hides what is below it by the extended attribute ``user.overlay.opaque``. The
    tree is borrowed.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        out = ffi.new("struct um_layer_trees **")
        _check(lib.um_layer_trees_open(tree._handle, out))
        self._handle = out[0]

    def _release(self, handle: Any) -> None:
        lib.um_layer_trees_close(handle)

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        """The attributes of ``name`` in ``directory``; ENOENT, ENOTDIR, ENAMETOOLONG, ESTALE."""
        attr = ffi.new("struct um_attr *")
        _check(lib.um_layer_trees_lookup(self._handle, directory, name, len(name), attr))
        return _attributes(attr)

    def getattr(self, node: Node) -> Attributes:
        """The attributes of a node; ESTALE where there is no such node."""
        attr = ffi.new("struct um_attr *")
        _check(lib.um_layer_trees_getattr(self._handle, node, attr))
        return _attributes(attr)

    def parent(self, directory: Node) -> Node:
        """The directory that ``directory`` is in; the top's is itself. ENOTDIR, ESTALE."""
        node = ffi.new("uint64_t *")
        _check(lib.um_layer_trees_parent(self._handle, directory, node))
        return Node(node[0])

    def list(
        self, directory: Node, cookie: int = 0, count: int = _LIST_BATCH
    ) -> builtins.list[Entry]:
        """Up to ``count`` entries from ``cookie`` on, sorted bytewise, layers by their numbers."""
        entries = ffi.new("struct um_tree_entry[]", count)
        n = _check(lib.um_layer_trees_list(self._handle, directory, cookie, entries, count))
        return _entries(entries, n)

    def readlink(self, node: Node) -> bytes:
        """The target of a symlink; EINVAL where the node is none."""
        target, size = ffi.new("const char **"), ffi.new("size_t *")
        _check(lib.um_layer_trees_readlink(self._handle, node, target, size))
        return bytes(ffi.buffer(target[0], size[0]))

    def read(self, node: Node, offset: int, size: int, *, nowait: bool = False) -> bytes:
        """Up to ``size`` bytes; fewer only at the end. EAGAIN as ``Tree.read``."""
        buffer = _uncleared("char[]", size)
        flags = lib.UM_READ_NOWAIT if nowait else 0
        n = _check(lib.um_layer_trees_read(self._handle, node, offset, buffer, size, flags))
        return bytes(ffi.buffer(buffer, n))

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """The value of an extended attribute; ENODATA where there is none."""
        return _sized(
            lambda value, size: lib.um_layer_trees_getxattr(
                self._handle, node, name, len(name), value, size
            )
        )

    def listxattr(self, node: Node) -> builtins.list[bytes]:
        """The names of all extended attributes."""
        names = _sized(
            lambda value, size: lib.um_layer_trees_listxattr(self._handle, node, value, size)
        )
        return names.split(b"\0")[:-1]

    def marks(self, node: Node) -> Marks:
        """What a layer says of a directory; nothing of what is none."""
        marks = ffi.new("uint32_t *")
        _check(lib.um_layer_trees_marks(self._handle, node, marks))
        return Marks(
            bool(marks[0] & lib.UM_LAYER_TREES_IMPLIED),
            bool(marks[0] & lib.UM_LAYER_TREES_OPAQUE),
            bool(marks[0] & lib.UM_LAYER_TREES_REPLACES),
        )


def stored_name(name: bytes) -> bytes:
    """Under which name a layer has the extended attribute that users of a mount call ``name``.

    What is called as overlayfs calls its marks is escaped. EOPNOTSUPP where it gets too long.
    """
    stored = ffi.new("char[]", lib.UM_OVERLAY_ROOM)
    _check(lib.um_overlay_store(lib.UM_OVERLAY_BOTH, name, len(name), stored))
    return bytes(ffi.string(stored))


OPAQUE: bytes = b"user.overlay.opaque"
"""The extended attribute by which ``LayerTrees`` shows a directory that hides what is below it."""


class SetAttr(NamedTuple):
    """Attributes to change; None leaves one as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


class Maker(NamedTuple):
    """Who makes something (see ``struct um_maker``)."""

    uid: int
    gid: int
    umask: int = 0
    may_setgid: bool = True


_NEVER = (1 << 64) - 1  # no file is as large


@dataclass(frozen=True, slots=True)
class UpperFlags:
    """What an upper's disk can hold, and what is wanted of it (see ``UM_UPPER_…``)."""

    trusted: bool = False
    override: bool = False
    volatile: bool = False
    strange: bool = False
    private: bool = False
    closed_root: bool = False
    open: bool = False
    look: bool = False
    plain: bool = False
    closed: bool = False
    stay: bool = False
    atime: bool = False


class Upper(_Owner):
    """A writable directory on a tree.

    The tree and both descriptors stay the caller's and must outlive this. ``recover`` is called
    once, before anything else. Lookups are counted (``upper/upper.h``): who calls ``lookup``,
    ``mknod`` … ``link`` or takes entries of an ``UpperList`` owes ``forget``; ``View`` does this
    for those who only look. Every other method may be called from any thread.

    BlockingIOError from a change: it needs ``copy_up`` first, which may take long. All errors are
    OSError with the errno that the file system answers.
    """

    def __init__(
        self,
        tree: Tree,
        upper_fd: int,
        work_fd: int,
        flags: UpperFlags,
        shown_fd: int = 0,
        *,
        metacopy: bool = True,
    ) -> None:
        """Without ``metacopy`` files are always copied up with their data."""
        self.tree = tree
        setup = ffi.new("struct um_upper_setup *")
        setup.tree, setup.upper_fd, setup.work_fd = tree._handle, upper_fd, work_fd
        setup.shown_fd = shown_fd
        setup.flags = _sum(flags, "UM_UPPER_")
        setup.metacopy_min = 0 if metacopy else _NEVER
        out = ffi.new("struct um_upper **")
        _check(lib.um_upper_open(setup, out))
        self._handle = out[0]

    def _release(self, handle: Any) -> None:
        lib.um_upper_close(handle)

    @property
    def layer(self) -> int:
        """What ``Attributes.layer`` says of that which is in the upper."""
        return len(self.tree)

    def recover(self) -> None:
        """Finish or undo what a daemon was doing when it was killed."""
        _check(lib.um_upper_recover(self._handle))

    # ---- finding ----

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        """The attributes of ``name`` in ``directory``; counts one lookup."""
        attr = ffi.new("struct um_attr *")
        _check(lib.um_upper_lookup(self._handle, directory, name, len(name), attr))
        return _attributes(attr)

    def getattr(self, node: Node) -> Attributes:
        """The attributes of a node."""
        attr = ffi.new("struct um_attr *")
        _check(lib.um_upper_getattr(self._handle, node, attr))
        return _attributes(attr)

    def parent(self, directory: Node) -> Node:
        """The directory that ``directory`` is in; the root's is itself."""
        node = ffi.new("uint64_t *")
        _check(lib.um_upper_parent(self._handle, directory, node))
        return Node(node[0])

    def forget(self, node: Node, lookups: int = 1) -> int:
        """Give lookups back: how many are left."""
        return int(lib.um_upper_forget(self._handle, node, lookups))

    def origin(self, node: Node) -> Node | None:
        """The node of the lower tree that a node continues or is a copy of."""
        origin = ffi.new("uint64_t *")
        _check(lib.um_upper_origin(self._handle, node, origin))
        return Node(origin[0]) if origin[0] else None

    def list_open(self, directory: Node, *, shared: bool = False) -> UpperList:
        """Open a directory to list it, alone or for all who read it."""
        return UpperList(self, directory, shared=shared)

    def readlink(self, node: Node) -> bytes:
        """The target of a symlink; EINVAL where the node is none."""
        return _grown(lambda buffer, size: lib.um_upper_readlink(self._handle, node, buffer, size))

    # ---- files ----

    def open_file(self, node: Node, *, write: bool = False, truncate: bool = False) -> None:
        """Open a file; owes one ``release``."""
        flags = lib.UM_OPEN_WRITE if write else 0
        flags |= lib.UM_OPEN_TRUNCATE if truncate else 0
        _check(lib.um_upper_open_file(self._handle, node, flags))

    def release(self, node: Node) -> None:
        """Close what ``open_file`` opened."""
        lib.um_upper_release(self._handle, node)

    def read(self, node: Node, offset: int, size: int, *, nowait: bool = False) -> bytes:
        """Up to ``size`` bytes of an open file; fewer only at the end.

        EAGAIN where ``nowait`` is set and the disk would have to be waited for.
        """
        buffer = _uncleared("char[]", size)
        flags = lib.UM_READ_NOWAIT if nowait else 0
        n = _check(lib.um_upper_read(self._handle, node, offset, buffer, size, flags))
        return bytes(ffi.buffer(buffer, n))

    def write(self, node: Node, offset: int, data: Buffer) -> int:
        """Write to an open file; how many bytes were written."""
        view = ffi.from_buffer(data)
        return _check(lib.um_upper_write(self._handle, node, offset, view, len(view)))

    def fsync(self, node: Node, *, data_only: bool = False) -> None:
        """Make a file or directory durable; may take long."""
        _check(lib.um_upper_fsync(self._handle, node, data_only))

    def sync(self) -> None:
        """Make everything durable; may take long."""
        _check(lib.um_upper_sync(self._handle))

    # ---- attributes ----

    def setattr(self, node: Node, changes: SetAttr) -> Attributes:
        """Change attributes; what they are then."""
        c_changes = _c_changes(changes)
        attr = ffi.new("struct um_attr *")
        _check(lib.um_upper_setattr(self._handle, node, c_changes, attr))
        return _attributes(attr)

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """The value of an extended attribute; ENODATA where there is none."""
        return _sized(
            lambda value, size: lib.um_upper_getxattr(
                self._handle, node, name, len(name), value, size
            )
        )

    def listxattr(self, node: Node) -> builtins.list[bytes]:
        """The names of all extended attributes."""
        names = _sized(lambda value, size: lib.um_upper_listxattr(self._handle, node, value, size))
        return names.split(b"\0")[:-1]

    def setxattr(self, node: Node, name: bytes, value: bytes, flags: int = 0) -> None:
        """Attach an extended attribute to a node; EPERM for a name that is a mark of the upper."""
        _check(
            lib.um_upper_setxattr(
                self._handle, node, name, len(name), ffi.from_buffer(value), len(value), flags
            )
        )

    def removexattr(self, node: Node, name: bytes) -> None:
        """Remove an extended attribute."""
        _check(lib.um_upper_removexattr(self._handle, node, name, len(name)))

    # ---- names ----

    def mknod(
        self, directory: Node, name: bytes, mode: int, device: tuple[int, int], maker: Maker
    ) -> Attributes:
        """Make a file that is no directory and no symlink; ``device`` is (major, minor)."""
        attr = ffi.new("struct um_attr *")
        who = ffi.new("struct um_maker *", tuple(maker))
        _check(
            lib.um_upper_mknod(self._handle, directory, name, len(name), mode, *device, who, attr)
        )
        return _attributes(attr)

    def mkdir(self, directory: Node, name: bytes, mode: int, maker: Maker) -> Attributes:
        """Make a directory."""
        attr = ffi.new("struct um_attr *")
        who = ffi.new("struct um_maker *", tuple(maker))
        _check(lib.um_upper_mkdir(self._handle, directory, name, len(name), mode, who, attr))
        return _attributes(attr)

    def symlink(self, directory: Node, name: bytes, target: bytes, maker: Maker) -> Attributes:
        """Make a symlink."""
        attr = ffi.new("struct um_attr *")
        who = ffi.new("struct um_maker *", tuple(maker))
        _check(
            lib.um_upper_symlink(
                self._handle, directory, name, len(name), target, len(target), who, attr
            )
        )
        return _attributes(attr)

    def link(self, node: Node, directory: Node, name: bytes) -> Attributes:
        """Give a file one more name."""
        attr = ffi.new("struct um_attr *")
        _check(lib.um_upper_link(self._handle, node, directory, name, len(name), attr))
        return _attributes(attr)

    def unlink(self, directory: Node, name: bytes) -> None:
        """Remove a name of something that is no directory."""
        _check(lib.um_upper_unlink(self._handle, directory, name, len(name)))

    def rmdir(self, directory: Node, name: bytes) -> None:
        """Remove a directory that shows nothing."""
        _check(lib.um_upper_rmdir(self._handle, directory, name, len(name)))

    def rename(
        self, source: tuple[Node, bytes], target: tuple[Node, bytes], flags: int = 0
    ) -> None:
        """Rename from one (directory, name) to another; ``flags`` as renameat2(2)."""
        (old, name), (new, new_name) = source, target
        _check(
            lib.um_upper_rename(
                self._handle, old, name, len(name), new, new_name, len(new_name), flags
            )
        )

    def copy_up(self, node: Node, *, empty: bool = False, absent: bool = False) -> None:
        """Let a file be in the upper with its data; may take long.

        Without its data where ``empty``; with ``absent``, a file that is there without stays so.
        """
        flags = lib.UM_COPY_UP_EMPTY if empty else 0
        flags |= lib.UM_COPY_UP_ABSENT if absent else 0
        _check(lib.um_upper_copy_up(self._handle, node, flags))


class UpperList(_Owner):
    """An open directory of an upper, for one thread at a time; closed before the upper.

    A ``shared`` one is for all who read the directory: names keep their cookies.
    """

    def __init__(self, upper: Upper, directory: Node, *, shared: bool = False) -> None:
        self._upper = upper
        self.node = directory
        out = ffi.new("struct um_upper_list **")
        _check(lib.um_upper_list_open(upper._handle, directory, out))
        self._handle = out[0]
        if shared:
            lib.um_upper_list_share(self._handle)

    def _release(self, handle: Any) -> None:
        lib.um_upper_list_close(handle)

    @property
    def is_needed(self) -> bool:
        """Whether cookies that a shared list gave out mean nothing without it."""
        return bool(lib.um_upper_list_is_needed(self._handle))

    def next(self, cookie: int = 0, count: int = _LIST_BATCH) -> list[Entry]:
        """Up to ``count`` entries from ``cookie`` on; 0 rereads. Each counts one lookup."""
        entries = ffi.new("struct um_tree_entry[]", count)
        n = _check(lib.um_upper_list_next(self._handle, cookie, entries, count))
        return _entries(entries, n)


class View(Closing, _Paths):
    """An upper for those who only look: gives back all lookups when it is closed.

    For one thread at a time. A node that this view has shown stays valid until ``forget`` or
    ``close``.
    """

    def __init__(self, upper: Upper) -> None:
        self._upper = upper
        self._lookups: dict[Node, int] = {}
        self._lists: dict[Node, UpperList] = {}
        self._reading: Node | None = None  # open, until another file is read

    def close(self) -> None:
        """Give everything back; a second call does nothing."""
        for opened in self._lists.values():
            opened.close()
        self._lists = {}
        self._read_on(None)
        for node in tuple(self._lookups):
            self.forget(node)

    def forget(self, node: Node) -> None:
        """Give back a node early: for who walks over very many."""
        if node == self._reading:
            self._read_on(None)
        lookups = self._lookups.pop(node, 0)
        if lookups:
            self._upper.forget(node, lookups)

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        """The attributes of ``name`` in ``directory``; ENOENT, ENOTDIR, ENAMETOOLONG, ESTALE."""
        return self._counted(self._upper.lookup(directory, name))

    def getattr(self, node: Node) -> Attributes:
        """The attributes of a node."""
        return self._upper.getattr(node)

    def resolve_anew(self, path: bytes) -> Attributes:
        """The attributes of ``path``, where another process may have changed it since it was found.

        A file goes by the place where it was seen first. What that process has moved here is
        forgotten for once, so that it is looked for here.
        """
        found = self.resolve(path)
        if stat.S_ISDIR(found.mode):
            return found
        self.forget(found.node)
        return self.resolve(path)

    def list(
        self, directory: Node, cookie: int = 0, count: int = _LIST_BATCH
    ) -> builtins.list[Entry]:
        """Up to ``count`` entries from ``cookie`` on, sorted bytewise; none at the end."""
        opened = self._lists.get(directory)
        if opened is None:
            opened = self._lists[directory] = self._upper.list_open(directory)
        entries = opened.next(cookie, count)
        for entry in entries:
            self._counted(entry.attributes)
        if not entries:
            self._lists.pop(directory).close()
        return entries

    def readlink(self, node: Node) -> bytes:
        """The target of a symlink; EINVAL where the node is none."""
        return self._upper.readlink(node)

    def read(self, node: Node, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""
        if node != self._reading:
            self._read_on(node)
        return self._upper.read(node, offset, size)

    def _read_on(self, node: Node | None) -> None:
        """Open another file, or none."""
        before, self._reading = self._reading, None
        if before is not None:
            self._upper.release(before)
        if node is not None:
            self._upper.open_file(node)
            self._reading = node

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """The value of an extended attribute; ENODATA where there is none."""
        return self._upper.getxattr(node, name)

    def listxattr(self, node: Node) -> builtins.list[bytes]:
        """The names of all extended attributes, without the marks of the upper."""
        return self._upper.listxattr(node)

    def origin(self, node: Node) -> Node | None:
        """The node of the lower tree that a node continues or is a copy of."""
        return self._upper.origin(node)

    def _counted(self, attributes: Attributes) -> Attributes:
        node = attributes.node
        self._lookups[node] = self._lookups.get(node, 0) + 1
        return attributes


@dataclass(frozen=True, slots=True)
class RouterFacts:
    """What the fast path tells of the file system as a whole (``struct um_fastpath_setup``)."""

    layers: tuple[str, ...]
    bytes: int
    inodes: int
    has_acls: bool
    list_layers: bool
    directory: int | None  # a descriptor; statfs is that of the file system it is on


@dataclass(frozen=True, slots=True)
class RouterStats:
    """What a router has counted; by opcode of the FUSE protocol (``struct um_router_stats``)."""

    fast: dict[int, int]
    forwarded: dict[int, int]
    times: dict[int, list[int]]  # how many took how long; see ``time_of_bucket``
    totals: dict[str, int]


_TOTALS = (
    *("bytes_read", "bytes_written", "copy_ups", "notifications", "waits", "sleeps", "failed"),
    *("in_flight", "threads", "held"),
)


class Router(_Owner):
    """Threads in C between the kernel and pyfuse3; answers what the tree or upper can answer.

    Takes ``device``, a connected descriptor of /dev/fuse, over. ``slow`` is the end of the socket
    that pyfuse3 is to serve; it belongs to the caller. ``ended`` is readable once the mount is
    gone; it belongs to the router. Tree and upper must outlive the router.
    """

    def __init__(
        self, files: Tree | Upper, facts: RouterFacts, device: int, *, threads: int, spin_ns: int
    ) -> None:
        self._fastpath: Any = None
        self._files = files
        try:
            self._fastpath = _open_fastpath(files, facts)
        except BaseException:
            os.close(device)
            raise
        setup = ffi.new("struct um_router_setup *")
        setup.fastpath, setup.device = self._fastpath, device
        setup.threads, setup.spin = min(threads, lib.UM_ROUTER_MAX_THREADS), spin_ns
        out, slow = ffi.new("struct um_router **"), ffi.new("int *")
        code = lib.um_router_open(setup, out, slow)
        if code < 0:
            self.close()
            _check(code)
        self._handle = out[0]
        self.slow: int = slow[0]
        self.ended: int = lib.um_router_ended(out[0])

    def start(self) -> None:
        """Begin to answer."""
        _check(lib.um_router_start(self._handle))

    def close(self) -> None:
        """Stop, and close the connection; returns when no thread runs."""
        super().close()
        fastpath, self._fastpath = self._fastpath, None
        if fastpath is not None:
            lib.um_fastpath_close(fastpath)

    def _release(self, handle: Any) -> None:
        lib.um_router_close(handle)

    def stats(self) -> RouterStats:
        """What was counted since the start."""
        c_stats = ffi.new("struct um_router_stats *")
        lib.um_router_get_stats(self._handle, c_stats)
        opcodes = range(lib.UM_OPCODES)
        times = {code: ffi.unpack(c_stats.times[code], lib.UM_TIMES) for code in opcodes}
        return RouterStats(
            fast={code: n for code in opcodes if (n := c_stats.fast[code])},
            forwarded={code: n for code in opcodes if (n := c_stats.forwarded[code])},
            times={code: row for code, row in times.items() if any(row)},
            totals={name: getattr(c_stats, name) for name in _TOTALS},
        )


def _open_fastpath(files: Tree | Upper, facts: RouterFacts) -> Any:
    setup = ffi.new("struct um_fastpath_setup *")
    if isinstance(files, Upper):
        setup.tree, setup.upper = files.tree._handle, files._handle
    else:
        setup.tree = files._handle
    names = [ffi.new("char[]", os.fsencode(name)) for name in facts.layers]
    array = ffi.new("char *[]", names)
    setup.layers, setup.n_layers = ffi.cast("const char **", array), len(names)
    setup.statfs_fd = -1 if facts.directory is None else facts.directory
    setup.bytes, setup.inodes = facts.bytes, facts.inodes
    setup.has_acls, setup.list_layers = facts.has_acls, facts.list_layers
    setup.max_held = _held_files()
    out = ffi.new("struct um_fastpath **")
    _check(lib.um_fastpath_open(setup, out))
    return out[0]


def _held_files() -> int:
    """A part of what this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(1024, soft // 4)) if soft > 0 else 1024


def time_of_bucket(bucket: int) -> int:
    """The nanoseconds at which a bucket of ``RouterStats.times`` begins."""
    if bucket < 4:
        return bucket
    return (4 + bucket % 4 << bucket // 4) // 4


def _c_changes(changes: SetAttr) -> Any:
    """``struct um_setattr``."""
    c_changes = ffi.new("struct um_setattr *")
    which = {
        "mode": lib.UM_SET_MODE,
        "uid": lib.UM_SET_UID,
        "gid": lib.UM_SET_GID,
        "size": lib.UM_SET_SIZE,
        "atime_ns": lib.UM_SET_ATIME,
        "mtime_ns": lib.UM_SET_MTIME,
    }
    for name, value in changes._asdict().items():
        if value is None:
            continue
        c_changes.which |= which[name]
        if name.endswith("_ns"):
            field = name.removesuffix("_ns")
            seconds, nanoseconds = divmod(value, 1_000_000_000)
            setattr(c_changes, field, seconds)
            setattr(c_changes, f"{field}_nsec", nanoseconds)
        else:
            setattr(c_changes, name, value)
    return c_changes


def _sized(function: Callable[[Any, int], int]) -> bytes:
    """What ``function`` copies into (buffer, size), where size 0 asks how much that is."""
    while True:
        size = _check(function(ffi.NULL, 0))
        if size == 0:
            return b""
        value = _uncleared("char[]", size)
        try:
            n = _check(function(value, size))
        except OSError as error:
            if error.errno != errno.ERANGE:  # it has grown in between
                raise
        else:
            return bytes(ffi.buffer(value, n))


def _grown(function: Callable[[Any, int], int]) -> bytes:
    """What ``function`` copies into (buffer, size), where it says how much it would be."""
    size = _PATH_MAX
    while True:
        buffer = _uncleared("char[]", size)
        n = _check(function(buffer, size))
        if n <= size:
            return bytes(ffi.buffer(buffer, n))
        size = n


def matches(pattern: bytes, name: bytes, *, fold_case: bool = False) -> bool:
    """Whether a name fits a pattern of the shell; ``*`` stands for slashes, too."""
    return bool(lib.um_match(pattern, name, fold_case))


def whiteout_name(hidden: bytes) -> bytes:
    """The name in a layer that hides a name of the layers below."""
    return bytes(ffi.string(lib.um_whiteout_prefix())) + hidden


def opaque_name() -> bytes:
    """The name in a layer that hides all that its directory has in the layers below."""
    return bytes(ffi.string(lib.um_whiteout_opaque()))


def _take(memory: Any, size: int) -> bytes:
    """Copy bytes that C allocated for us, and free them there."""
    try:
        return bytes(ffi.buffer(memory, size))
    finally:
        lib.um_free(memory)


def _entries(entries: Any, n: int) -> list[Entry]:
    return [
        Entry(bytes(ffi.buffer(e.name, e.name_size)), e.next, _attributes(e.attr))
        for e in ffi.unpack(entries, n)
    ]


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
        attr.atime * 1_000_000_000 + attr.atime_nsec,
        attr.ctime * 1_000_000_000 + attr.ctime_nsec,
    )
