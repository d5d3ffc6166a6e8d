"""The list of layers on the left."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.style import Style
from textual.message import Message

from unionmount.screen import keys
from unionmount.screen.lists import DIM, PLAIN, RowList, Words, bindings
from unionmount.screen.words import shown_command
from unionmount.system.text import human_size

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.binding import BindingType

    from unionmount.screen.stacks import StackRow, Stacks

_WASTED = Style(color="red")
HEADER = f"{'#':>4} {'SIZE':>6} {'WASTED':>6}  COMMAND"


class LayerList(RowList):
    """Layers, newest first: number, size, wasted bytes and command."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(keys.LAYERS, keys.PANES)

    class Compare(Message):
        """The layer is to be compared with the lowest one, or with those right below it."""

        def __init__(self, *, aggregated: bool) -> None:
            super().__init__()
            self.aggregated = aggregated

    def __init__(self, stacks: Stacks, when_moved: Callable[[], None]) -> None:
        """Call ``when_moved`` at once if another layer is chosen."""
        super().__init__(id="layers")
        self._when_moved = when_moved
        self._stacks = stacks

    @property
    def chosen(self) -> StackRow | None:
        """The layer at the cursor; None if there is none."""
        return self._stacks.rows[self.cursor] if self._stacks.rows else None

    def count(self) -> int:
        """Return the number of layers."""
        return len(self._stacks.rows)

    def draw(self, row: int, width: int, /) -> Words:
        """Draw a layer."""
        layer = self._stacks.rows[row]
        number = "up" if layer.is_upper else str(layer.number)
        size = human_size(layer.size) if layer.size is not None else "-"
        did = self._stacks.summary_of(layer.number)
        wasted = human_size(did.wasted) if did is not None else "-" if layer.is_upper else "…"
        return [
            (f"{number:>4} {size:>6} ", PLAIN),
            (f"{wasted:>6}", _WASTED if did is not None and did.wasted else DIM),
            ("  " + shown_command(layer.command)[:width], PLAIN),
        ]

    def moved(self) -> None:
        """Show another layer."""
        self._when_moved()

    def action_compare(self, aggregated: bool) -> None:
        """Compare with the lowest layer, or with all below."""
        self.post_message(self.Compare(aggregated=aggregated))
