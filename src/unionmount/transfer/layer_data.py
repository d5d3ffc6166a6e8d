"""The bytes of layers in the store: read in pieces, verified, and compressed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionmount.errors import DigestMismatch
from unionmount.formats.compression import Compression, compressor
from unionmount.images.reference import Digest
from unionmount.system.closing import Closing
from unionmount.system.files import FileRange, pieces_of, write_all
from unionmount.system.os_errors import storing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.images.opened import OpenLayer
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import Store


def verified(layer: OpenLayer, progress: Progress | None) -> Iterator[bytes]:
    """Read a layer in pieces; raise DigestMismatch at its end if it is damaged."""
    diff_id, what = layer.diff_id, f"layer {layer.diff_id} in the store"
    hasher, done = diff_id.hasher(), 0
    for piece in pieces_of(FileRange(layer.data_fd, layer.offset, layer.length), what):
        hasher.update(piece)
        yield piece
        done += len(piece)
        if progress is not None:
            progress(diff_id.short, done, layer.length)
    actual = Digest(diff_id.algorithm, hasher.hexdigest())
    if actual != diff_id:
        raise DigestMismatch(what, str(diff_id), str(actual))


class CompressedLayer(Closing):
    """A layer of the store, compressed into a nameless file that vanishes when this is closed."""

    def __init__(self, store: Store, diff_id: Digest) -> None:
        self._store = store
        self._diff_id = diff_id
        self._spool = store.spool()
        self.digest = diff_id
        self.size = 0

    @property
    def data(self) -> FileRange:
        """The compressed bytes."""
        return FileRange(self._spool, 0, self.size)

    def run(self, compression: Compression, progress: Progress | None = None) -> None:
        """Compress the layer; raise DigestMismatch if it is damaged."""
        hasher = Digest.of(b"").hasher()
        layer = self._store.open_layer(self._diff_id)
        try:
            for piece in _compressed(verified(layer, progress), compression):
                hasher.update(piece)
                self.size += len(piece)
                with storing(self._store.root):
                    write_all(self._spool, piece)
        finally:
            layer.close()
        self.digest = Digest("sha256", hasher.hexdigest())

    def close(self) -> None:
        """Remove the file; a second call does nothing."""
        fd, self._spool = self._spool, -1
        if fd >= 0:
            os.close(fd)


def _compressed(data: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    if compression is Compression.PLAIN:
        yield from data
        return
    stream = compressor(compression)
    for piece in data:
        yield stream.compress(piece)
    yield stream.flush()
