"""The check of one image: every digest and every entry of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.errors import (
    FormatError,
    UnionmountError,
)
from unionmount.images.opened import OpenLayer
from unionmount.sources import (
    Location,
)
from unionmount.store.layer_import import check_digest
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.images.platform import Platform
    from unionmount.images.reference import Digest
    from unionmount.store.store import Store
from unionmount.transfer.load import data_of, open_image


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem that ``check_image`` found; ``layer`` is None if it concerns no single layer."""

    layer: Digest | None
    text: str


def check_image(
    store: Store, source: Location | str, *, platform: Platform | None = None
) -> Iterator[Problem]:
    """Verify all parts of an image, and report what it cannot show."""
    location = Location.of(source)
    try:
        opened = open_image(store, location, platform=platform, verify=True)
    except FormatError as error:
        yield Problem(None, str(error))
        return
    with opened:
        stored = location.kind == "stored"
        for layer, index in zip(opened.layers, opened.indexes, strict=True):
            yield from _check_layer(layer, index, rehash=stored)
            if index.info.unresolved:
                yield from _unresolved(layer, store.limits.core)
        for link in opened.tree().broken_links():
            yield Problem(
                opened.layers[link.layer].diff_id,
                f"hard link '{printable(link.name)}' leads to '{printable(link.target)}', "
                "which does not exist",
            )


def _unresolved(layer: OpenLayer, limits: core.IndexLimits) -> Iterator[Problem]:
    """Yield a problem for each entry without a path; only the tar has them, not the index."""
    try:
        with core.Indexer(f"layer {layer.diff_id}", limits) as indexer:
            for _ in indexer.scan(layer.data_fd, layer.offset, layer.length):
                pass
            for name in indexer.unresolved():
                yield Problem(
                    layer.diff_id,
                    f"'{printable(name)}' has no path: symlinks in its directories form a loop",
                )
    except (FormatError, OSError) as error:  # the data is damaged, or exceeds a limit
        yield Problem(layer.diff_id, str(error))


def _check_layer(layer: OpenLayer, index: core.Index, *, rehash: bool) -> Iterator[Problem]:
    what = f"layer {layer.diff_id}"
    try:
        if rehash:
            check_digest(data_of(layer), layer.diff_id, what)
    except (UnionmountError, OSError) as error:
        yield Problem(layer.diff_id, str(error))
    try:
        index.verify()
    except (FormatError, OSError) as error:
        yield Problem(layer.diff_id, str(error))
