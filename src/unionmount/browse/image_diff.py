"""The differences between two images or containers.

Files that both have from one layer are not read: a file is the same if its layer and record are,
and a directory if only the common lowest layers have a part in it. Everything else, and all of an
image whose layers are directories of another tool, is compared as ``diff`` does: attributes first,
then sizes, then contents.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from unionmount.browse.diff import Comparison

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.browse.diff import Difference
    from unionmount.browse.open import OpenView
    from unionmount.core import Attributes
    from unionmount.images.reference import Digest


def differences(before: OpenView, after: OpenView) -> Iterator[Difference]:
    """Yield every path that differs, sorted, a directory before its entries."""
    if before.image.is_unpacked or after.image.is_unpacked:
        # Files of directories have no records in common; all are compared.
        return Comparison(before.files, after.files, None, same=lambda *_: False).differences()
    shared = _shared_layers(before, after)
    one, other = _Side(before, shared), _Side(after, shared)

    def same(older: Attributes, newer: Attributes) -> bool:
        if stat.S_ISDIR(older.mode) or stat.S_ISDIR(newer.mode):
            return one.is_shared(older) and other.is_shared(newer)
        origin = one.origin(older)
        return origin is not None and origin == other.origin(newer)

    return Comparison(before.files, after.files, None, same=same).differences()


def _shared_layers(before: OpenView, after: OpenView) -> int:
    """Return the number of lowest layers that both have."""
    shared = 0
    for one, other in zip(before.image.layers, after.image.layers, strict=False):
        if one.diff_id != other.diff_id:
            break
        shared += 1
    return shared


class _Side:
    """One side of the comparison, which knows the layers of its nodes."""

    def __init__(self, view: OpenView, shared: int) -> None:
        self._tree = view.tree
        self._shared = shared
        self._layers: list[tuple[Digest, int]] = []  # with the number of their first node
        base = 1
        for layer, index in zip(view.image.layers, view.image.indexes, strict=True):
            self._layers.append((layer.diff_id, base))
            base += index.info.inodes

    def origin(self, file: Attributes) -> tuple[Digest, int] | None:
        """Return the layer of a file and its record there; None if it is not from a layer."""
        if file.layer >= len(self._layers):
            return None
        diff_id, base = self._layers[file.layer]
        return diff_id, file.node - base

    def is_shared(self, found: Attributes) -> bool:
        """Return whether only the common layers have a part in a directory."""
        if not stat.S_ISDIR(found.mode) or found.layer >= self._shared:
            return False
        try:
            return self._tree.top(found.node) < self._shared
        except OSError:  # a directory of the upper only
            return False
