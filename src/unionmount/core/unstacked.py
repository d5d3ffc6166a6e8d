"""The layers of a tree as separate directories, with their marks visible."""

from __future__ import annotations

from typing import Any, NamedTuple

from unionmount._core import ffi, lib
from unionmount.core.handle import check
from unionmount.core.nodes import LayerReader, Node
from unionmount.core.tree import Tree


class Marks(NamedTuple):
    """The marks of a directory in a layer (see ``UM_UNSTACKED_…``)."""

    implied: bool
    opaque: bool
    replaces: bool


class LayerTrees(LayerReader, prefix="um_unstacked"):
    """The layers of a tree as directories 0 (the lowest), 1, ….

    See ``tree/unstacked.h``. Marks are shown instead of obeyed: a whiteout is a character device
    0:0, and a directory that hides lower ones has the extended attribute ``user.overlay.opaque``.
    The tree is borrowed.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        out = ffi.new("struct um_unstacked **")
        check(lib.um_unstacked_open(tree._handle, out))
        self._handle = out[0]

    def _release(self, handle: Any) -> None:
        lib.um_unstacked_close(handle)

    def marks(self, node: Node) -> Marks:
        """Return the marks of a directory; none for other files."""
        marks = ffi.new("uint32_t *")
        check(lib.um_unstacked_marks(self._handle, node, marks))
        return Marks(
            bool(marks[0] & lib.UM_UNSTACKED_IMPLIED),
            bool(marks[0] & lib.UM_UNSTACKED_OPAQUE),
            bool(marks[0] & lib.UM_UNSTACKED_REPLACES),
        )


OPAQUE: bytes = b"user.overlay.opaque"
"""The extended attribute by which ``LayerTrees`` shows a directory that hides lower ones."""
