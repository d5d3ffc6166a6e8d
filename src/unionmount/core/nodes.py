"""The nodes of a tree: their attributes, and reading them."""

from __future__ import annotations

import builtins
import stat
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, NewType, Protocol

from unionmount._core import ffi, lib
from unionmount.core.handle import Owner, check, sized_text, uncleared

Node = NewType("Node", int)
"""The number of a file or directory in a tree; it is also its ``st_ino``."""

ROOT = Node(lib.UM_ROOT_NODE)
NAME_MAX: int = lib.UM_NAME_MAX
LIST_BATCH = 64


class Attributes(NamedTuple):
    """The attributes of a node, as stat(2) returns them (see ``struct um_attr``)."""

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


class DirectoryEntry(NamedTuple):
    """One name in a directory; ``next`` is the cookie of the name after it."""

    name: bytes
    next: int
    attributes: Attributes


class BrowsableTree(Protocol):
    """A tree to be browsed: the lower layers alone (``Tree``), or with an upper (``View``)."""

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        """Return the attributes of ``name`` in ``directory``."""

    def getattr(self, node: Node) -> Attributes:
        """Return the attributes of a node."""

    def resolve(self, path: bytes) -> Attributes:
        """Return the attributes of ``path`` from the root; symlinks are not followed."""

    def resolve_anew(self, path: bytes) -> Attributes:
        """Return the same, even if another process has replaced the file at ``path``."""

    def list(
        self, directory: Node, cookie: int = 0, count: int = ...
    ) -> builtins.list[DirectoryEntry]:
        """Return up to ``count`` sorted entries from ``cookie`` on; none at the end."""

    def walk(self, directory: Node = ..., path: bytes = ...) -> Iterator[tuple[bytes, Attributes]]:
        """Yield all paths below ``directory``, but not its own, sorted and depth first."""

    def readlink(self, node: Node) -> bytes:
        """Return the target of a symlink; raise EINVAL if the node is not one."""

    def read(self, node: Node, offset: int, size: int) -> bytes:
        """Read up to ``size`` bytes of a file, fewer only at its end."""

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """Return the value of an extended attribute; raise ENODATA if there is none."""

    def listxattr(self, node: Node) -> builtins.list[bytes]:
        """Return the names of all extended attributes."""


class PathLookups:
    """The path functions that follow from lookup, getattr and list."""

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        """Return the attributes of a name in a directory."""
        raise NotImplementedError

    def getattr(self, node: Node) -> Attributes:
        """Return the attributes of a node."""
        raise NotImplementedError

    def list(
        self, directory: Node, cookie: int = 0, count: int = LIST_BATCH
    ) -> builtins.list[DirectoryEntry]:
        """Return entries of a directory from ``cookie`` on, at most ``count``."""
        raise NotImplementedError

    def resolve(self, path: bytes) -> Attributes:
        """Return the attributes of ``path`` from the root; symlinks are not followed."""
        attributes = self.getattr(ROOT)
        for name in path.split(b"/"):
            if name not in (b"", b"."):
                attributes = self.lookup(attributes.node, name)
        return attributes

    def resolve_anew(self, path: bytes) -> Attributes:
        """Return the same, even if another process has replaced the file at ``path``."""
        return self.resolve(path)

    def walk(self, directory: Node = ROOT, path: bytes = b"") -> Iterator[tuple[bytes, Attributes]]:
        """Yield all paths below ``directory``, but not its own, sorted and depth first.

        An OSError names the directory that cannot be read.
        """
        pending = [(directory, path, 0)]
        while pending:
            parent, prefix, cookie = pending.pop()
            try:
                entries = self.list(parent, cookie)
            except OSError as error:
                raise OSError(error.errno, error.strerror, b"/" + prefix) from error
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


class NodeReader(Owner):
    """The functions that trees, uppers and unstacked layers share.

    In C each of these has its own function, ``PREFIX_lookup`` and so on; a subclass names the
    prefix. Errors are OSError with the errno of the file system; ENOENT, ENOTDIR and ENAMETOOLONG
    are about names, ESTALE about nodes that do not exist.
    """

    _c_lookup: ClassVar[Any]
    _c_getattr: ClassVar[Any]
    _c_parent: ClassVar[Any]
    _c_read: ClassVar[Any]
    _c_getxattr: ClassVar[Any]
    _c_listxattr: ClassVar[Any]

    def __init_subclass__(cls, *, prefix: str = "") -> None:
        super().__init_subclass__()
        if prefix:
            for name in ("lookup", "getattr", "parent", "read", "getxattr", "listxattr"):
                setattr(cls, f"_c_{name}", staticmethod(getattr(lib, f"{prefix}_{name}")))

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        """Return the attributes of ``name`` in ``directory``."""
        attr = ffi.new("struct um_attr *")
        check(self._c_lookup(self._handle, directory, name, len(name), attr))
        return attributes_of(attr)

    def getattr(self, node: Node) -> Attributes:
        """Return the attributes of a node."""
        attr = ffi.new("struct um_attr *")
        check(self._c_getattr(self._handle, node, attr))
        return attributes_of(attr)

    def parent(self, directory: Node) -> Node:
        """Return the parent of a directory; that of the root is the root itself."""
        node = ffi.new("uint64_t *")
        check(self._c_parent(self._handle, directory, node))
        return Node(node[0])

    def read(self, node: Node, offset: int, size: int, *, nowait: bool = False) -> bytes:
        """Read up to ``size`` bytes of a file, fewer only at its end.

        With ``nowait``, raise BlockingIOError instead of waiting for the disk.
        """
        buffer = uncleared("char[]", size)
        flags = lib.UM_READ_NOWAIT if nowait else 0
        n = check(self._c_read(self._handle, node, offset, buffer, size, flags))
        return bytes(ffi.buffer(buffer, n))

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """Return the value of an extended attribute; raise ENODATA if there is none."""
        return sized_text(
            lambda value, size: self._c_getxattr(self._handle, node, name, len(name), value, size)
        )

    def listxattr(self, node: Node) -> builtins.list[bytes]:
        """Return the names of all extended attributes."""
        names = sized_text(lambda value, size: self._c_listxattr(self._handle, node, value, size))
        return names.split(b"\0")[:-1]


class LayerReader(NodeReader, PathLookups):
    """A reader of image layers, which never change."""

    _c_list: ClassVar[Any]
    _c_readlink: ClassVar[Any]

    def __init_subclass__(cls, *, prefix: str = "") -> None:
        super().__init_subclass__(prefix=prefix)
        for name in ("list", "readlink"):
            setattr(cls, f"_c_{name}", staticmethod(getattr(lib, f"{prefix}_{name}")))

    def list(
        self, directory: Node, cookie: int = 0, count: int = LIST_BATCH
    ) -> builtins.list[DirectoryEntry]:
        """Return up to ``count`` sorted entries from ``cookie`` on; none at the end."""
        entries = ffi.new("struct um_tree_entry[]", count)
        n = check(self._c_list(self._handle, directory, cookie, entries, count))
        return entries_of(entries, n)

    def readlink(self, node: Node) -> bytes:
        """Return the target of a symlink; raise EINVAL if the node is not one."""
        target, size = ffi.new("const char **"), ffi.new("size_t *")
        check(self._c_readlink(self._handle, node, target, size))
        return bytes(ffi.buffer(target[0], size[0]))


def entries_of(entries: Any, n: int) -> list[DirectoryEntry]:
    """Return the first ``n`` entries of a C array of struct um_tree_entry."""
    return [
        DirectoryEntry(bytes(ffi.buffer(e.name, e.name_size)), e.next, attributes_of(e.attr))
        for e in ffi.unpack(entries, n)
    ]


def attributes_of(attr: Any) -> Attributes:
    """Return the attributes in a struct um_attr."""
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
