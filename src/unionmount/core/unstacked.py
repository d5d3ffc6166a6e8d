"""The layers of a tree beside each other, with their marks shown."""

from __future__ import annotations

from typing import Any, NamedTuple

from unionmount._core import ffi, lib
from unionmount.core.handle import check
from unionmount.core.nodes import LayerReader, Node
from unionmount.core.tree import Tree


class Marks(NamedTuple):
    """What a layer says of a directory in it (see ``UM_UNSTACKED_…``)."""

    implied: bool
    opaque: bool
    replaces: bool


class LayerTrees(LayerReader, prefix="um_unstacked"):
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
