"""Widgets that draw only the rows in view, whatever number of rows there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from unionmount.screen import keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.binding import BindingType
    from textual.events import Click, Resize

PLAIN, BOLD, DIM, REVERSE = Style(), Style(bold=True), Style(dim=True), Style(reverse=True)
Words = list[tuple[str, Style]]
"""Pieces of one line, with their styles."""


def bindings(*places: str) -> list[BindingType]:
    """Return the bindings of parts of the screen."""
    return [
        Binding(key.keys, key.action, key.does, show=False, priority=key.always)
        for key in keys.of(*places)
    ]


def strip_of(words: Sequence[tuple[str, Style]], width: int, style: Style = PLAIN) -> Strip:
    """Return a line of exactly ``width`` cells."""
    strip = Strip([Segment(text, style + own) for text, own in words])
    return strip.adjust_cell_length(width, style)


class PlainLine(Widget):
    """One line of text that is never taken for markup."""

    DEFAULT_CSS = "PlainLine { height: 1; width: 1fr; }"

    words: Words
    style_of_line = PLAIN

    def __init__(self, *, id: str | None = None, style: Style = PLAIN) -> None:  # noqa: A002 - textual's name
        super().__init__(id=id)
        self.words = []
        self.style_of_line = style

    def say(self, words: Words) -> None:
        """Show other words."""
        if words != self.words:
            self.words = words
            self.refresh()

    def restyle(self, style: Style) -> None:
        """Show the words in another style."""
        if style != self.style_of_line:
            self.style_of_line = style
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw the line."""
        return strip_of(self.words if y == 0 else [], self.size.width, self.style_of_line)


class RowList(ScrollView, can_focus=True):
    """A list with a cursor; subclasses say how many rows there are and draw each."""

    DEFAULT_CSS = """
    RowList { height: 1fr; width: 1fr; overflow-x: hidden; overflow-y: auto;
              scrollbar-size-vertical: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = bindings(keys.LISTS)

    cursor = 0
    has_cursor = True

    def count(self) -> int:
        """Return the number of rows."""
        raise NotImplementedError

    def draw(self, row: int, width: int, /) -> Words:
        """Return one row."""
        raise NotImplementedError

    def moved(self) -> None:
        """Do what follows a movement of the cursor."""

    def opened(self) -> None:
        """Do what a double click does."""

    def render_line(self, y: int) -> Strip:
        """Draw one line of the view."""
        row, width = y + int(self.scroll_offset.y), self.size.width
        if row >= self.count():
            return Strip.blank(width)
        style = PLAIN
        if self.has_cursor and row == self.cursor:
            style = REVERSE if self.has_focus else BOLD + Style(underline=True)
        return strip_of(self.draw(row, width), width, style)

    def resized(self) -> None:
        """Take over a new number of rows."""
        count = self.count()
        self.cursor = max(0, min(self.cursor, count - 1))
        if self.virtual_size.height != count:
            self.virtual_size = Size(0, count)
        self.refresh()

    def go_to(self, row: int, *, tell: bool = True) -> None:
        """Move the cursor, and scroll so that it is in view."""
        before, self.cursor = self.cursor, max(0, min(row, self.count() - 1))
        self._bring_into_view()
        if before != self.cursor:
            self.refresh_lines(before)
            self.refresh_lines(self.cursor)
            if tell:
                self.moved()

    def _bring_into_view(self) -> None:
        height, top = max(1, self.scrollable_content_region.height), int(self.scroll_offset.y)
        if self.cursor < top:
            self._scroll_to_row(self.cursor)
        elif self.cursor >= top + height:
            self._scroll_to_row(self.cursor - height + 1)

    def _scroll_to_row(self, row: int) -> None:
        self.scroll_to(y=row, animate=False, force=True, immediate=True)

    def on_resize(self, _event: Resize) -> None:
        """Keep the cursor in view."""
        self._bring_into_view()

    def on_focus(self) -> None:
        """Show that keys go here."""
        self.refresh()

    def on_blur(self) -> None:
        """Show that keys go elsewhere."""
        self.refresh()

    def on_click(self, event: Click) -> None:
        """Move the cursor to where the mouse is."""
        row = event.y + int(self.scroll_offset.y)
        if row < self.count():
            self.go_to(row)
            if event.chain == 2:
                self.opened()

    def action_move(self, by: int) -> None:
        """Move by rows."""
        if self.has_cursor:
            self.go_to(self.cursor + by)
        else:
            self._scroll_to_row(int(self.scroll_offset.y) + by)

    def action_page(self, by: int) -> None:
        """Move by pages."""
        self.action_move(by * max(1, self.scrollable_content_region.height - 1))

    def action_first(self) -> None:
        """Move to the first row."""
        self.action_move(-self.count())

    def action_last(self) -> None:
        """Move to the last row."""
        self.action_move(self.count())
