"""Squashing: the layers of an image, or the topmost of them, become one layer with the same files.

Nothing that a later layer removed or replaced is left in the new layer. If layers stay below it, it
holds only what differs from these, and whiteouts for what it removes of them. All steps stay in the
history; those of the joined layers leave no layer any more, and one more step left the new one, as
``docker build --squash`` writes it.
"""

from __future__ import annotations

import json
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from unionmount import core
from unionmount.browse.diff import Comparison, Difference
from unionmount.committing import OF_A_CONTAINER, LayerWriter, Warn, commit, keep_layer
from unionmount.errors import UsageError
from unionmount.images.build import compact_json, timestamp
from unionmount.images.config import Config
from unionmount.images.history import layers_of_steps
from unionmount.images.image import ImageDocuments
from unionmount.store.layer_import import Expected, refuse_marks
from unionmount.transfer.load import open_stored
from unionmount.transfer.scratch_store import scratch_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from unionmount.browse.open import OpenChanges
    from unionmount.committing import CommitRequest
    from unionmount.images.opened import OpenImage
    from unionmount.images.reference import Digest, Reference
    from unionmount.store.layer_import import Progress
    from unionmount.store.leases import Lease
    from unionmount.store.store import Store, StoredImage

_TOLD = 1024  # paths between two calls of progress


@dataclass(frozen=True, slots=True)
class SquashRequest:
    """The layers to join, counted from the top (None: all), and the time of the new image.

    ``epoch`` is in seconds since 1970; without it, that is now.
    """

    layers: int | None = None
    epoch: int | None = None


def squash(
    store: Store,
    image: OpenImage,
    names: Sequence[Reference],
    request: SquashRequest,
    warn: Warn,
    progress: Progress | None = None,
) -> StoredImage:
    """Make an image in ``store`` with the files of an open image, but fewer layers.

    ``progress`` is called often, and may raise to end this.
    """
    image.require_indexes()
    count = len(image.layers)
    kept = 0 if request.layers is None else max(count - request.layers, 0)
    for layer in image.layers:
        refuse_marks(image.name, len(layer.marked), layer.marked)
    with store.lease("squash", f"squash of {image.name}") as lease:
        diff_ids = list(image.image.diff_ids[:kept])
        lease.protect(*diff_ids)
        for layer in image.layers[:kept]:
            keep_layer(store, layer)
        with ExitStack() as stack:
            pairs = list(zip(image.indexes, image.layers, strict=True))[:kept]
            layers = [core.TreeLayer(ix, one.data_fd, one.offset, one.length) for ix, one in pairs]
            below = stack.enter_context(core.Tree(layers))
            work = _Work(below, image.tree(), warn, progress)
            made = work.store(store, lease)
        raw = _config(image.image, kept, made, request.epoch)
        config = Config.parse(raw, "the new image")
        sizes = [store.layer_info(one).layer_size for one in config.diff_ids]
        documents = ImageDocuments.from_config(config, sizes, "the new image")
        lease.protect(documents.manifest.digest, documents.id)
        return store.put_image(names, documents)


def commit_squashed(
    store: Store,
    target: OpenChanges,
    request: CommitRequest,
    warn: Warn,
    progress: Progress | None = None,
) -> StoredImage:
    """Make an image of a container whose one layer has its files; see ``commit``."""
    if request.name.digest is not None:
        raise UsageError(f"'{request.name}' has a digest; name the image by a tag instead")
    with scratch_store(store) as between:
        committed = commit(between, target, request, warn, progress)
        with open_stored(between, committed, str(request.name)) as image:
            how = SquashRequest(None, request.epoch)
            return squash(store, image, [request.name], how, warn, progress)


# -- the layer


class _TopComparison(Comparison):
    """A comparison of the lowest layers of an image with the whole image.

    ``step`` is called for every path that is compared.
    """

    def __init__(self, below: core.Tree, whole: core.Tree, step: Callable[[], None]) -> None:
        super().__init__(below, whole, len(below), for_layer=True)
        self._whole = whole
        self._kept = len(below)
        self._step_done = step

    def _is_in_upper(self, after: core.Attributes) -> bool:
        """Return whether a layer above the lowest ones has a part in it."""
        self._step_done()
        layer = self._whole.top(after.node) if stat.S_ISDIR(after.mode) else after.layer
        return layer >= self._kept


def joined(
    below: core.Tree, whole: core.Tree, step: Callable[[], None] = lambda: None
) -> Iterator[Difference]:
    """Yield what a layer has to hold that turns the lowest layers of an image into the image."""
    return _TopComparison(below, whole, step).differences()


class _ImageWriter(LayerWriter):
    """A writer of files of an image: an SELinux label in it is not one of this host."""

    def __init__(self, image: core.Tree, write: Callable[[bytes], None], warn: Warn) -> None:
        super().__init__(image, write, None, warn)
        self._image = image

    def xattrs(self, node: core.Node) -> dict[bytes, bytes]:
        """Return all extended attributes."""
        return {name: self._image.getxattr(node, name) for name in self._image.listxattr(node)}


class _Work:
    """The making of the joined layer."""

    def __init__(
        self, below: core.Tree, whole: core.Tree, warn: Warn, progress: Progress | None
    ) -> None:
        self._below = below
        self._whole = whole
        self._warn = warn
        self._progress = progress
        self._steps = 0
        self._written = 0

    def store(self, store: Store, lease: Lease) -> Digest | None:
        """Store the layer; return None if it changes nothing."""
        found = joined(self._below, self._whole, self._step)
        first = next(found, None)
        if first is None:
            return None
        with store.import_layer(Expected(None, "the new layer"), lease=lease) as incoming:

            def write(data: bytes) -> None:
                incoming.write(data)
                self._written += len(data)
                self._tell()

            _ImageWriter(self._whole, write, self._warn).write(chain([first], found))
            incoming.finish()
            return incoming.diff_id

    def _step(self) -> None:
        self._steps += 1
        if self._steps % _TOLD == 0:
            self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress("the new layer", self._written, None)


# -- the config


def _config(image: ImageDocuments, kept: int, made: Digest | None, epoch: int | None) -> bytes:
    """Return the config of an image, with all its fields, for the layers that it has now."""
    document: dict[str, Any] = json.loads(image.config.raw)
    for name in OF_A_CONTAINER:
        document.pop(name, None)
    below = image.diff_ids[:kept]
    created = timestamp(epoch)
    if kept:
        parent = ImageDocuments.chain_of(below)
        row: dict[str, Any] = {"created": created, "comment": f"merge {image.id} to {parent}"}
    else:
        row = {"created": created, "comment": f"create new from {image.id}"}
    if made is None:
        row["empty_layer"] = True
    document["created"] = created
    document["rootfs"] = {
        "type": "layers",
        "diff_ids": [*map(str, below), *([str(made)] if made else [])],
    }
    document["history"] = [*_steps(document, image.config, kept), row]
    return compact_json(document)


def _steps(document: dict[str, Any], config: Config, kept: int) -> Iterator[dict[str, Any]]:
    """Yield the steps so far; a kept layer without a step gets an empty one."""
    layers = layers_of_steps(config.history, len(config.diff_ids))
    for step, layer in zip(document.get("history") or (), layers, strict=True):
        if layer is None or layer >= kept:
            yield step | {"empty_layer": True}
        else:
            yield step
    described = sum(layer is not None for layer in layers)
    yield from ({} for _ in range(kept - described))
