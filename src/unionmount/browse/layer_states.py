"""What became of the files of each layer: visible, or hidden by a later layer."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unionmount.core import ROOT

if TYPE_CHECKING:
    from unionmount.core import Attributes, LayerTrees, Node

State = Literal["visible", "hidden", "mentioned", "whiteout"]
"""``mentioned``: a directory that is only the parent of other entries of the layer."""


@dataclass(frozen=True, slots=True)
class FileState:
    """The state of a file of a layer; ``hidden_by`` is the layer that hides it."""

    state: State
    hidden_by: int | None = None

    def __str__(self) -> str:
        """Return the state in words."""
        return self.state if self.hidden_by is None else f"hidden by {self.hidden_by}"


@dataclass(frozen=True, slots=True)
class _Directory:
    """What the layers have at the path of a directory, by their numbers."""

    nodes: tuple[Node | None, ...]  # the directories
    hides_below: tuple[bool, ...]  # whether the layer hides what lower layers have in it


class LayerStates:
    """The states of the files in ``trees``; what is known of directories is kept."""

    def __init__(self, trees: LayerTrees, layers: int) -> None:
        self._trees = trees
        nodes = [trees.lookup(ROOT, b"%d" % layer).node for layer in range(layers)]
        opaque = tuple(trees.marks(node).opaque for node in nodes)
        self._known: dict[bytes, _Directory] = {b"": _Directory(tuple(nodes), opaque)}

    def of(self, layer: int, path: bytes, found: Attributes) -> FileState:
        """Return the state of a file; ``path`` has no slash at either end."""
        if is_whiteout(found):
            return FileState("whiteout")
        is_directory = stat.S_ISDIR(found.mode)
        hider = self._hider(layer, path, is_directory=is_directory) if path else None
        if hider is not None:
            return FileState("hidden", hider)
        if is_directory and self._trees.marks(found.node).implied:
            return FileState("mentioned")
        return FileState("visible")

    def _hider(self, layer: int, path: bytes, *, is_directory: bool) -> int | None:
        """Return the lowest layer above that hides a path."""
        above, _, name = path.rpartition(b"/")
        directory = self._directory(above)
        for other in range(layer + 1, len(directory.nodes)):
            if directory.hides_below[other]:
                return other
            entry = self._entry(directory.nodes[other], name)
            if entry is not None and not (is_directory and self._merges(entry)):
                return other
        return None

    def _directory(self, path: bytes) -> _Directory:
        known = self._known.get(path)
        if known is None:
            known = self._known[path] = self._look(path)
        return known

    def _look(self, path: bytes) -> _Directory:
        above, _, name = path.rpartition(b"/")
        outer = self._directory(above)
        nodes: list[Node | None] = []
        hides: list[bool] = []
        for node, hidden in zip(outer.nodes, outer.hides_below, strict=True):
            entry = self._entry(node, name)
            is_directory = entry is not None and stat.S_ISDIR(entry.mode)
            nodes.append(entry.node if entry is not None and is_directory else None)
            hides.append(hidden or (entry is not None and self._hides_below(entry)))
        return _Directory(tuple(nodes), tuple(hides))

    def _entry(self, directory: Node | None, name: bytes) -> Attributes | None:
        if directory is None:
            return None
        try:
            return self._trees.lookup(directory, name)
        except FileNotFoundError:
            return None

    def _merges(self, entry: Attributes) -> bool:
        """Return whether an entry is a directory that continues those below."""
        return stat.S_ISDIR(entry.mode) and not self._trees.marks(entry.node).replaces

    def _hides_below(self, entry: Attributes) -> bool:
        if not stat.S_ISDIR(entry.mode):
            return True
        marks = self._trees.marks(entry.node)
        return marks.replaces or marks.opaque


def is_whiteout(found: Attributes) -> bool:
    """Return whether a file of a layer is a whiteout, which is shown as a device 0:0."""
    return stat.S_ISCHR(found.mode) and not found.major and not found.minor
