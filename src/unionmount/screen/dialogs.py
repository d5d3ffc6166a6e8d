"""Screens above the lists: help, a look into one file, and the question where to extract."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, ClassVar

from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input

from unionmount.screen import keys
from unionmount.screen.lists import BOLD, DIM, PLAIN, REVERSE, PlainLine, RowList, Words, bindings
from unionmount.screen.preview import MAX_TEXT, hex_width, text_row
from unionmount.system.os_errors import reason_of
from unionmount.system.text import human_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from unionmount.screen.preview import FileContent

_PAGES = ("text", "hex", "details")


class LineList(RowList):
    """Lines that are scrolled as a whole."""

    has_cursor = False

    def __init__(self) -> None:
        super().__init__()
        self._lines: Sequence[Words] = []

    def fill(self, lines: Sequence[Words]) -> None:
        """Show these lines."""
        self._lines = lines
        self.resized()

    def count(self) -> int:
        """Return the number of lines."""
        return len(self._lines)

    def draw(self, row: int, _width: int, /) -> Words:
        """Draw a line."""
        return self._lines[row]


class HelpScreen(ModalScreen[None]):
    """All keys, and what they do."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,q,enter,question_mark,f1", "dismiss", "close")
    ]

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with Vertical():
            yield PlainLine(id="title", style=REVERSE)
            yield LineList()

    def on_mount(self) -> None:
        """Fill in the keys."""
        self.query_one(PlainLine).say(
            [(" Keys (those of dive where it has any); Esc closes", BOLD)]
        )
        lines = self.query_one(LineList)
        lines.fill(help_lines())
        lines.focus()


def help_lines() -> list[Words]:
    """Return the lines of the help."""
    lines: list[Words] = []
    for where, group in groupby(keys.KEYS, key=lambda key: key.where):
        lines += [[("", PLAIN)], [(f" {where}", BOLD)]]
        lines += [[(f"   {keys.shown_keys(key):<22} ", PLAIN), (key.does, PLAIN)] for key in group]
    return [*lines, *_LEGEND]


_LEGEND: list[Words] = [
    [("", PLAIN)],
    [(" Signs", BOLD)],
    [("   A added, C changed, D removed by the layers that are compared; * marked", PLAIN)],
    [("   A layer that has a file again has changed it, even if it is the same", PLAIN)],
    [("   Sizes of directories are the sums of all files in them; … is not known yet", PLAIN)],
    [("   While unmodified files are hidden, they are the sums of the changes", PLAIN)],
    [("", PLAIN)],
    [(" Filter", BOLD)],
    [("   text      names that have it        *.conf   names that match the glob", PLAIN)],
    [("   etc/ssl   paths that have it        /etc/*   paths that match the glob", PLAIN)],
    [("   Capitals make it case-sensitive", PLAIN)],
]


class PageView(RowList):
    """A page of a file; only the lines in view are read or escaped."""

    has_cursor = False

    def __init__(self, content: FileContent | None, details: Sequence[Words]) -> None:
        super().__init__()
        self.content = content
        self._details = details
        self.page = "details"
        self._left = 0

    def choose(self, page: str) -> None:
        """Show another page from its beginning."""
        self.page = page
        self._left = 0
        self.resized()
        self.action_first()

    def sideways(self, by: int) -> None:
        """Scroll to the side."""
        self._left = max(0, self._left + by)
        self.refresh()

    def count(self) -> int:
        """Return the number of lines of the page."""
        if self.content is None or self.page == "details":
            return len(self._details)
        if self.page == "hex":
            return self.content.hex_rows(hex_width(self.size.width))
        try:
            return len(self.content.text_lines()) + self.content.is_cut
        except OSError:
            return 1

    def draw(self, row: int, _width: int, /) -> Words:
        """Draw a line of the page."""
        if self.content is None or self.page == "details":
            return self._details[row]
        try:
            return [(self._text(self.content, row)[self._left :], PLAIN)]
        except OSError as error:
            return [(f"cannot be read: {reason_of(error)}", DIM)]

    def _text(self, content: FileContent, row: int) -> str:
        if self.page == "hex":
            return content.hex_row(row, hex_width(self.size.width))
        lines = content.text_lines()
        if row < len(lines):
            return text_row(lines[row])
        return (
            f"… the first {human_size(MAX_TEXT)} of {human_size(content.size)}; x shows all bytes"
        )

    def on_resize(self, _event: object) -> None:
        """Take other widths of lines into account."""
        self.resized()


class PreviewScreen(ModalScreen[None]):
    """A file: its text, its bytes, or its details."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(keys.PREVIEW)

    def __init__(self, title: str, content: FileContent | None, details: Sequence[Words]) -> None:
        super().__init__()
        self._title = title
        self._view = PageView(content, details)

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with Vertical():
            yield PlainLine(id="title", style=REVERSE)
            yield self._view
            yield PlainLine(id="hint")

    def on_mount(self) -> None:
        """Show the text of a text file, else its bytes."""
        self.query_one("#title", PlainLine).say([(f" {self._title}", BOLD)])
        page, content = "details", self._view.content
        if content is not None:
            try:
                page = "hex" if content.looks_binary() else "text"
            except OSError:
                page = "text"
        self.action_page_of(page)
        self._view.focus()

    def action_page_of(self, page: str) -> None:
        """Show a page."""
        if self._view.content is None:
            page = "details"
        self._view.choose(page)
        names = (("t text", "text"), ("x bytes", "hex"), ("i details", "details"))
        words: Words = [(" ", PLAIN)]
        for text, name in names:
            words += [(text, REVERSE if name == page else PLAIN), ("  ", PLAIN)]
        self.query_one("#hint", PlainLine).say([*words, ("Esc back", DIM)])

    def action_next_page(self) -> None:
        """Show the next page."""
        at = _PAGES.index(self._view.page)
        self.action_page_of(_PAGES[(at + 1) % len(_PAGES)])

    def action_sideways(self, by: int) -> None:
        """Scroll to the side."""
        self._view.sideways(by)

    def action_close(self) -> None:
        """Go back."""
        self.dismiss()


class TargetScreen(ModalScreen[str | None]):
    """The question where to extract."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "cancel", "cancel")]

    def __init__(self, what: str, proposal: str) -> None:
        super().__init__()
        self._what = what
        self._proposal = proposal

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with Vertical():
            yield PlainLine(id="title", style=REVERSE)
            yield Input(self._proposal, select_on_focus=False)

    def on_mount(self) -> None:
        """Ask."""
        self.query_one(PlainLine).say([(f" Extract {self._what} into (Enter; Esc cancels):", BOLD)])
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer with what was typed."""
        self.dismiss(event.value or None)

    def action_cancel(self) -> None:
        """Answer with nothing."""
        self.dismiss(None)
