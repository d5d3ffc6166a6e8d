"""An image with open layers: their indexes and the files that hold them."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.errors import (
    FormatError,
    LimitExceeded,
    NotFoundError,
)
from unionmount.images.reference import Digest
from unionmount.system.closing import Closing

if TYPE_CHECKING:
    from unionmount.images.image import ImageDocuments


MAX_COPIED = 1 << 30  # bytes of all those indexes of an image that others can change


@dataclass(slots=True)
class OpenLayer:
    """The open descriptors of one layer; owned, and still valid when the files are removed.

    ``marked`` are names of a root file system that neither a layer nor an upper can hold.
    """

    diff_id: Digest
    data_fd: int
    offset: int
    length: int
    index_fd: int
    marked: tuple[bytes, ...] = ()

    def close(self) -> None:
        """Close both descriptors; a second call does nothing."""
        self.close_index()
        fd, self.data_fd = self.data_fd, -1
        if fd >= 0:
            os.close(fd)

    def close_index(self) -> None:
        """Close the descriptor of the index, which a mapping does not need."""
        fd, self.index_fd = self.index_fd, -1
        if fd >= 0:
            os.close(fd)


class OpenImage(Closing):
    """An image with open layers, lowest first; owns them and the tree of them.

    ``is_unpacked``: the layers are directories of another tool (``mounting.unpacked``).
    """

    is_unpacked = False

    def __init__(self, image: ImageDocuments, name: str, layers: tuple[OpenLayer, ...]) -> None:
        self.image = image
        self.name = name
        self.layers: tuple[OpenLayer, ...] = layers
        self._indexes: list[core.Index] = []
        self._tree: core.Tree | None = None
        self._scaffold: OpenLayer | None = None
        self._scaffold_index: core.Index | None = None

    @property
    def has_scaffold(self) -> bool:
        """Whether the tree has one layer more than the image."""
        return self._scaffold is not None

    def put_on_top(self, scaffold: OpenLayer) -> None:
        """Add a layer that is not the image's to the tree; it is owned from now on.

        A tree that was returned before is closed. ``layers`` and ``indexes`` stay the image's.
        """
        self._close_tree()
        self._scaffold = scaffold
        self._scaffold_index = self._open_index(scaffold)
        scaffold.close_index()

    @property
    def indexes(self) -> tuple[core.Index, ...]:
        """The open indexes of the layers, valid as long as this."""
        if not self._indexes:
            with ExitStack() as stack:
                opened = [stack.enter_context(self._open_index(layer)) for layer in self.layers]
                if sum(index.copied for index in opened) > MAX_COPIED:
                    raise LimitExceeded(
                        f"{self.name}: indexes of more than {MAX_COPIED} bytes that others can "
                        "change; copy the image to a store of your own with 'save' and 'load'"
                    )
                stack.pop_all()
            self._indexes = opened
            for layer in self.layers:
                layer.close_index()
        return tuple(self._indexes)

    @property
    def layer_bytes(self) -> list[int]:
        """The bytes of the files in each layer, lowest first."""
        return [index.info.file_bytes for index in self.indexes]

    def require_indexes(self) -> None:
        """Raise UsageError if the layers have no indexes, so that their tars are not known."""

    @property
    def lowers(self) -> str:
        """The name of these layers for an upper (``UpperPlan.lowers``)."""
        return f"layers:{self.image.chain_id}"

    def _open_index(self, layer: OpenLayer) -> core.Index:
        return core.Index(layer.index_fd, f"{self.name}: index of layer {layer.diff_id}")

    def cut(self, number: int) -> None:
        """Close the layers above ``number``, before a tree is made."""
        if not 0 <= number < len(self.layers):
            raise NotFoundError(f"{self.name}: {no_such_layer(number, len(self.layers))}")
        for layer in self.layers[number + 1 :]:
            layer.close()
        self.layers = self.layers[: number + 1]

    def tree(self) -> core.Tree:
        """Return the layers as one tree: the same object at every call, closed with this."""
        if self._tree is None:
            layers = [
                core.TreeLayer(index, layer.data_fd, layer.offset, layer.length)
                for index, layer in zip(self.indexes, self.layers, strict=True)
            ]
            layers += self._scaffold_layers()
            try:
                self._tree = core.Tree(layers)
            except OSError as error:
                if error.errno != errno.EBADMSG:
                    raise
                raise FormatError(
                    f"{self.name}: the index of a layer is damaged; 'unionmount check' finds it"
                ) from None
        return self._tree

    def _scaffold_layers(self) -> list[core.TreeLayer]:
        top, index = self._scaffold, self._scaffold_index
        if top is None or index is None:
            return []
        return [core.TreeLayer(index, top.data_fd, top.offset, top.length, temporary=True)]

    def close(self) -> None:
        """Close tree, indexes and descriptors, in this order; a second call does nothing."""
        self._close_tree()
        for index in self._indexes:
            index.close()
        self._indexes = []
        for layer in self.layers:
            layer.close()
        if self._scaffold_index is not None:
            self._scaffold_index.close()
        if self._scaffold is not None:
            self._scaffold.close()

    def _close_tree(self) -> None:
        tree, self._tree = self._tree, None
        if tree is not None:
            tree.close()


def no_such_layer(number: int, count: int) -> str:
    """Return what is wrong about the number of a layer."""
    which = f", 0 to {count - 1}" if count > 1 else ""
    return f"there is no layer {number}; the image has {count} layers{which}"
