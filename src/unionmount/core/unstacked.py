"""The layers of a tree beside each other, with their marks shown."""

from __future__ import annotations

import builtins
from typing import Any, NamedTuple

from unionmount._core import ffi, lib
from unionmount.core.handle import Owner, check, sized_text, uncleared
from unionmount.core.tree import (
    LIST_BATCH,
    Attributes,
    Entry,
    Node,
    PathLookups,
    Tree,
    attributes_of,
    entries_of,
)


class Marks(NamedTuple):
    """What a layer says of a directory in it (see ``UM_UNSTACKED_…``)."""

    implied: bool
    opaque: bool
    replaces: bool


class LayerTrees(Owner, PathLookups):
    """The layers of a tree beside each other, as directories 0 (the lowest), 1, ….

    See ``tree/unstacked.h``. Marks are shown, not obeyed: a whiteout as a character device 0:0, a
    directory that hides what is below it by the extended attribute ``user.overlay.opaque``. The
    tree is borrowed.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        out = ffi.new("struct um_unstacked **")
        check(lib.um_unstacked_open(tree._handle, out))
        self._handle = out[0]

    def _release(self, handle: Any) -> None:
        lib.um_unstacked_close(handle)

    def lookup(self, directory: Node, name: bytes) -> Attributes:
        """The attributes of ``name`` in ``directory``; ENOENT, ENOTDIR, ENAMETOOLONG, ESTALE."""
        attr = ffi.new("struct um_attr *")
        check(lib.um_unstacked_lookup(self._handle, directory, name, len(name), attr))
        return attributes_of(attr)

    def getattr(self, node: Node) -> Attributes:
        """The attributes of a node; ESTALE where there is no such node."""
        attr = ffi.new("struct um_attr *")
        check(lib.um_unstacked_getattr(self._handle, node, attr))
        return attributes_of(attr)

    def parent(self, directory: Node) -> Node:
        """The directory that ``directory`` is in; the top's is itself. ENOTDIR, ESTALE."""
        node = ffi.new("uint64_t *")
        check(lib.um_unstacked_parent(self._handle, directory, node))
        return Node(node[0])

    def list(
        self, directory: Node, cookie: int = 0, count: int = LIST_BATCH
    ) -> builtins.list[Entry]:
        """Up to ``count`` entries from ``cookie`` on, sorted bytewise, layers by their numbers."""
        entries = ffi.new("struct um_tree_entry[]", count)
        n = check(lib.um_unstacked_list(self._handle, directory, cookie, entries, count))
        return entries_of(entries, n)

    def readlink(self, node: Node) -> bytes:
        """The target of a symlink; EINVAL where the node is none."""
        target, size = ffi.new("const char **"), ffi.new("size_t *")
        check(lib.um_unstacked_readlink(self._handle, node, target, size))
        return bytes(ffi.buffer(target[0], size[0]))

    def read(self, node: Node, offset: int, size: int, *, nowait: bool = False) -> bytes:
        """Up to ``size`` bytes; fewer only at the end. EAGAIN as ``Tree.read``."""
        buffer = uncleared("char[]", size)
        flags = lib.UM_READ_NOWAIT if nowait else 0
        n = check(lib.um_unstacked_read(self._handle, node, offset, buffer, size, flags))
        return bytes(ffi.buffer(buffer, n))

    def getxattr(self, node: Node, name: bytes) -> bytes:
        """The value of an extended attribute; ENODATA where there is none."""
        return sized_text(
            lambda value, size: lib.um_unstacked_getxattr(
                self._handle, node, name, len(name), value, size
            )
        )

    def listxattr(self, node: Node) -> builtins.list[bytes]:
        """The names of all extended attributes."""
        names = sized_text(
            lambda value, size: lib.um_unstacked_listxattr(self._handle, node, value, size)
        )
        return names.split(b"\0")[:-1]

    def marks(self, node: Node) -> Marks:
        """What a layer says of a directory; nothing of what is none."""
        marks = ffi.new("uint32_t *")
        check(lib.um_unstacked_marks(self._handle, node, marks))
        return Marks(
            bool(marks[0] & lib.UM_UNSTACKED_IMPLIED),
            bool(marks[0] & lib.UM_UNSTACKED_OPAQUE),
            bool(marks[0] & lib.UM_UNSTACKED_REPLACES),
        )


OPAQUE: bytes = b"user.overlay.opaque"
"""The extended attribute by which ``LayerTrees`` shows a directory that hides what is below it."""
