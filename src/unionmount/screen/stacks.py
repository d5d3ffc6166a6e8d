"""An open image or container as the screen shows it: its layers, and the trees to compare.

The screen reads from one thread. Threads that list or extract have trees or views of their own,
and end before what they read from is closed.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.images.history import steps_of_layers
from unionmount.screen.loader import Loader
from unionmount.screen.sides import Sides
from unionmount.system.closing import Closing

if TYPE_CHECKING:
    from unionmount.browse.open import OpenView
    from unionmount.core import BrowsableTree, LayerSummary, Node, Summary

_KEPT = 3  # comparisons that are kept when another layer is chosen


@dataclass(frozen=True, slots=True)
class StackRow:
    """A layer in the list: its number from the lowest up; the upper of a container is the last."""

    number: int
    digest: str
    size: int | None  # of the tar; None for an upper
    command: str

    @property
    def is_upper(self) -> bool:
        """Whether these are the changes of a container."""
        return self.size is None


class ComparedStacks(Closing):
    """Two stacks that are compared: their sides for the screen, and a loader with its own."""

    def __init__(self, view: OpenView, number: int, *, aggregated: bool) -> None:
        """Open the stacks without and with layer ``number``; ``aggregated`` is against layer 0."""
        self.number = number
        self._resources = ExitStack()
        with ExitStack() as stack:
            first = 1 if aggregated else number  # layer 0 itself is not changed then
            before = stack.enter_context(prefix_tree(view, first)) if first else None
            tree = stack.enter_context(prefix_tree(view, number + 1))
            screen_side: BrowsableTree = tree
            loader_side: BrowsableTree = tree
            if number == view.upper:
                screen_side = view.files
                loader_side = stack.enter_context(second_view(view))
            top = TopOf(tree, number if number == view.upper else None)
            self.sides = Sides(before, screen_side, first, top)
            self.loader = Loader(Sides(before, loader_side, first, top))
            stack.callback(self.loader.stop)
            self._resources = stack.pop_all()

    def close(self) -> None:
        """Stop listing and close the stacks; a second call does nothing."""
        self._resources.close()


class TopOf:
    """The topmost layer with a part in a directory; directories of the upper alone are its."""

    def __init__(self, tree: core.Tree, upper: int | None) -> None:
        self._tree, self._upper = tree, upper

    def __call__(self, node: Node) -> int:
        """Return the number of the layer."""
        try:
            return self._tree.top(node)
        except OSError:
            if self._upper is None:
                raise
            return self._upper


def second_view(view: OpenView) -> core.View:
    """Return a view of a container's files for another thread."""
    assert isinstance(view.files, core.View)
    return view.files.another()


def prefix_tree(view: OpenView, count: int) -> core.Tree:
    """Return the tree of the lowest layers."""
    pairs = list(zip(view.image.indexes, view.image.layers, strict=True))[:count]
    return core.Tree(
        [core.TreeLayer(index, layer.data_fd, layer.offset, layer.length) for index, layer in pairs]
    )


class Stacks(Closing):
    """The rows of the layer pane, newest first, and the comparisons that were asked for."""

    def __init__(self, view: OpenView, name: str) -> None:
        """Borrow ``view``, which outlives this."""
        self.view = view
        self.name = name
        self.rows = _rows(view)
        self.summary: Summary | None = None
        self._compared: dict[tuple[int, bool], ComparedStacks] = {}
        self._summing = threading.Thread(target=self._summarise, name="summary", daemon=True)
        self._summing.start()

    def close(self) -> None:
        """Stop all threads and close all comparisons; a second call does nothing."""
        while self._compared:
            self._compared.popitem()[1].close()
        self._summing.join()

    def compared(self, number: int, *, aggregated: bool) -> ComparedStacks:
        """Return a comparison, which stays open until some others were asked for."""
        key = number, aggregated
        found = self._compared.pop(key, None)
        if found is None:
            found = ComparedStacks(self.view, number, aggregated=aggregated)
        self._compared[key] = found
        found.loader.start()
        while len(self._compared) > _KEPT:
            self._compared.pop(next(iter(self._compared))).close()
        return found

    def summary_of(self, number: int) -> LayerSummary | None:
        """Return what a layer did; None as long as it is not known, and for an upper."""
        if self.summary is None or number >= len(self.summary.layers):
            return None
        return self.summary.layers[number]

    def _summarise(self) -> None:
        with suppress(OSError):  # a damaged index, which 'check' finds
            self.summary = self.view.tree.summarise()


def _rows(view: OpenView) -> list[StackRow]:
    layers = view.image.layers
    steps = steps_of_layers(view.image.image.config.history, len(layers))
    rows = [
        StackRow(number, str(layer.diff_id), layer.length, step.created_by if step else "")
        for number, (layer, step) in enumerate(zip(layers, steps, strict=True))
    ]
    if view.upper is not None:
        rows.append(StackRow(view.upper, "", None, "the changes of the container"))
    return rows[::-1]
