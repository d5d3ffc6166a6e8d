"""The tree of stacked layers: names, attributes, data and changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from unionmount._core import ffi, lib
from unionmount.core.handle import check, flag_bits, take_text
from unionmount.core.index import Index
from unionmount.core.nodes import LayerReader, Node


class Change(NamedTuple):
    """A change of a layer to those below: ``A`` adds, ``C`` changes, ``D`` deletes."""

    kind: str
    path: bytes
    mode: int
    size: int


class BrokenLink(NamedTuple):
    """A hard link whose target is in no layer; its name is not in the tree."""

    layer: int
    name: bytes
    target: bytes


class LayerSummary(NamedTuple):
    """The effect of one layer on those below, and its bytes that the image does not show."""

    added: int
    changed: int
    deleted: int
    bytes: int
    wasted: int


class Summary(NamedTuple):
    """The effects of all layers, lowest first, and the redundancy of files.

    ``stored`` is the sum of the sizes of files at their paths in all layers; ``least`` takes only
    the smallest for each path, 0 if a layer deletes it.
    """

    layers: tuple[LayerSummary, ...]
    stored: int
    least: int

    @property
    def efficiency(self) -> float:
        """The necessary part of the stored bytes: 1 if no path is stored twice."""
        return self.least / self.stored if self.stored else 1.0


class PathVersion(NamedTuple):
    """The bytes of the file that one layer has at a path.

    ``shown``: the image shows the file, there or at another of its names. All bytes of a file with
    several names belong to the first.
    """

    layer: int
    shown: bool
    bytes: int


class PathVersions(NamedTuple):
    """A path at which layers have files, the lowest layer first, and sums of their bytes."""

    path: bytes
    versions: tuple[PathVersion, ...]
    shown: int
    wasted: int


@dataclass(slots=True)
class PathFloor:
    """The bytes that make a path worth listing; one of them is enough.

    ``repeated`` counts the files of all layers at a path that several layers have.
    """

    shown: int = 0
    wasted: int = 0
    repeated: int = 0


@dataclass(frozen=True, slots=True)
class TreeLayer:
    """One image layer of a tree: its index and the byte range of its tar in ``fd``.

    ``temporary``: it belongs to one mount, and is above all layers that do not.
    """

    index: Index
    fd: int
    offset: int
    length: int
    temporary: bool = False


@dataclass(frozen=True, slots=True)
class Belief:
    """The kinds of marks in a live directory that are believed (see ``UM_BELIEVE_…``)."""

    trusted: bool = False
    own: bool = False
    stat: bool = False
    any_stat: bool = False
    closed: bool = False
    no_user: bool = False
    stat_fuse: bool = False
    stat_security: bool = False


@dataclass(frozen=True, slots=True)
class DirectoryLayer:
    """A layer that is a live directory, open as ``fd``.

    ``removable``: another program may remove all of it; then everything in it fails with ESTALE.
    ``private``: nobody can mount anything below it (``private_directory``); then ``shown`` is open
    on the directory where others see it, for messages. ``hidden`` are at most two directories, by
    device and inode, that are not shown.
    """

    fd: int
    private: bool = False
    shown: int = 0
    belief: Belief = Belief()
    hidden: tuple[tuple[int, int], ...] = ()
    removable: bool = False


class Tree(LayerReader, prefix="um_tree"):
    """Layers, lowest first, as one tree.

    The tree keeps the indexes alive; descriptors stay the caller's and must stay open until
    ``close``. Every method may be called from any thread.
    """

    def __init__(self, layers: Sequence[TreeLayer | DirectoryLayer]) -> None:
        self._layers = tuple(layers)
        c_layers = ffi.new("struct um_tree_layer[]", max(len(self._layers), 1))
        for slot, layer in zip(c_layers, self._layers, strict=False):
            slot.fd = layer.fd
            if isinstance(layer, TreeLayer):
                slot.index = layer.index._handle
                slot.offset, slot.length = layer.offset, layer.length
                slot.flags = lib.UM_TREE_LAYER_TEMPORARY if layer.temporary else 0
            else:
                slot.flags = lib.UM_TREE_LAYER_PRIVATE if layer.private else 0
                slot.flags |= lib.UM_TREE_LAYER_REMOVABLE if layer.removable else 0
                slot.shown_fd = layer.shown
                slot.believes = flag_bits(layer.belief, "UM_BELIEVE_")
                for number, (device, inode) in enumerate(layer.hidden):
                    slot.hidden_devices[number], slot.hidden_inodes[number] = device, inode
        out = ffi.new("struct um_tree **")
        check(lib.um_tree_open(c_layers, len(self._layers), out))
        self._handle = out[0]

    def _release(self, handle: Any) -> None:
        lib.um_tree_close(handle)

    def __len__(self) -> int:
        return len(self._layers)

    def top(self, directory: Node) -> int:
        """Return the topmost layer that has a part in ``directory``."""
        layer = ffi.new("uint32_t *")
        check(lib.um_tree_top(self._handle, directory, layer))
        return int(layer[0])

    def extent(self, node: Node) -> tuple[int, int]:
        """Return offset and length of a file in its tar; raise EINVAL if it is not contiguous."""
        layer, offset, length = ffi.new("uint32_t *"), ffi.new("uint64_t *"), ffi.new("uint64_t *")
        check(lib.um_tree_extent(self._handle, node, layer, offset, length))
        return offset[0], length[0]

    def changes(self, layer: int) -> Iterator[Change]:
        """Yield the changes of ``layer`` (0 is the lowest) to those below, sorted, depth first."""
        slot = ffi.new("struct um_tree_walk **")
        check(lib.um_tree_walk_open(self._handle, layer, slot))
        try:
            path, path_size = ffi.new("const char **"), ffi.new("size_t *")
            kind, mode, size = ffi.new("char *"), ffi.new("uint32_t *"), ffi.new("uint64_t *")
            while check(lib.um_tree_walk_next(slot[0], path, path_size, kind, mode, size)):
                yield Change(
                    kind[0].decode("ascii"),
                    bytes(ffi.buffer(path[0], path_size[0])),
                    mode[0],
                    size[0],
                )
        finally:
            lib.um_tree_walk_close(slot[0])

    def broken_links(self) -> Iterator[BrokenLink]:
        """Yield the broken hard links of all layers, lowest layer first."""
        name, name_size = ffi.new("char **"), ffi.new("size_t *")
        target, target_size = ffi.new("char **"), ffi.new("size_t *")
        for layer in range(len(self._layers)):
            cursor = ffi.new("uint64_t *")
            while check(
                lib.um_tree_broken_link(
                    self._handle, layer, cursor, name, name_size, target, target_size
                )
            ):
                yield BrokenLink(
                    layer, take_text(name[0], name_size[0]), take_text(target[0], target_size[0])
                )

    def summarise(self) -> Summary:
        """Return the effects of all layers; raise EOPNOTSUPP for live directories."""
        with self._summary() as summary:
            layers = ffi.new("struct um_layer_summary[]", max(len(self), 1))
            paths = ffi.new("struct um_path_summary *")
            lib.um_summary_get(summary, layers, paths)
        return Summary(
            tuple(
                LayerSummary(one.added, one.changed, one.deleted, one.bytes, one.wasted)
                for one in layers[0 : len(self)]
            ),
            paths.stored,
            paths.least,
        )

    @contextmanager
    def _summary(self) -> Iterator[Any]:
        """Open a summary and run it to its end."""
        slot = ffi.new("struct um_summary **")
        check(lib.um_summary_open(self._handle, slot))
        try:
            while check(lib.um_summary_step(slot[0])):
                pass  # the caller may be interrupted here
            yield slot[0]
        finally:
            lib.um_summary_close(slot[0])

    def stored_paths(self, floor: PathFloor) -> Iterator[PathVersions]:
        """Yield the paths of files that reach ``floor``, which the caller may raise meanwhile.

        Raise EOPNOTSUPP for live directories.
        """
        c_floor = ffi.new("struct um_path_floor *")
        found = ffi.new("struct um_path_versions *")
        with self._summary() as summary:
            while True:
                c_floor.shown, c_floor.wasted = floor.shown, floor.wasted
                c_floor.repeated = floor.repeated
                state = check(lib.um_summary_list(summary, c_floor, found))
                if state == 0:
                    return
                if state == 1:
                    yield _path_versions(found)


def _path_versions(found: Any) -> PathVersions:
    return PathVersions(
        bytes(ffi.buffer(found.path, found.path_size)),
        tuple(
            PathVersion(one.layer, bool(one.shown), one.bytes)
            for one in found.versions[0 : found.n]
        ),
        found.shown,
        found.wasted,
    )
