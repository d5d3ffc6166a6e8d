"""The tree of files on the right."""

from __future__ import annotations

import stat
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, ClassVar

from rich.style import Style
from textual.message import Message

from unionmount.screen import keys
from unionmount.screen.lists import BOLD, DIM, PLAIN, RowList, Words, bindings
from unionmount.screen.rows import Ordered, Row, Rows
from unionmount.screen.search import NameSearch, matcher_of
from unionmount.screen.showing import Showing
from unionmount.screen.sides import State
from unionmount.screen.words import shown_name
from unionmount.system.text import human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from textual.binding import BindingType

    from unionmount.core import Attributes
    from unionmount.screen.sides import Folder
    from unionmount.screen.stacks import ComparedStacks

STATE_STYLES = {
    State.SAME: PLAIN,
    State.CHANGED: Style(color="yellow"),
    State.ADDED: Style(color="green"),
    State.REMOVED: Style(color="red"),
}
LETTERS = {State.SAME: " ", State.CHANGED: "C", State.ADDED: "A", State.REMOVED: "D"}
_FIRST_ROWS = 0.03  # seconds to wait for the rows of a directory that is opened
_REOPENING = 0.06  # seconds to open again what was open when another layer is chosen
_SHARE = 10  # rows are made again during at most one tenth of the time
_ALL_ATTRIBUTES, _SIZES = 62, 28  # columns that a pane needs to show them
_CACHED = 4096

Mark = tuple[int, bytes]
"""A marked file: the number of the topmost layer that it is seen with, and its path."""


class FileList(RowList):
    """The files of one comparison: states, attributes, sizes and names."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(keys.FILES, keys.PANES)

    class Told(Message):
        """Something is to be shown in the line at the bottom."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Looked(Message):
        """A file is to be looked into."""

    class Extracted(Message):
        """What is marked is to be extracted."""

    def __init__(self, compared: ComparedStacks, when_moved: Callable[[], None]) -> None:
        """Call ``when_moved`` at once if another row is selected, so that one frame shows all."""
        super().__init__(id="files")
        self._when_moved = when_moved
        self.compared = compared
        self.choice = Showing()
        self.marks: set[Mark] = set()
        self.filter = ""
        self.has_attributes = True
        self.rows = Rows(compared.loader.root, Ordered(self.choice))
        self._search: NameSearch | None = None
        self._attributes: dict[tuple[Folder, int], Attributes | None] = {}
        self._steps = -1
        self._next_rebuild = 0.0
        self._was_done = False
        self._was_drawn: tuple[object, ...] = ()

    # -- rows

    def count(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @property
    def row(self) -> Row | None:
        """The row at the cursor; None if there are no rows."""
        return self.rows[self.cursor] if self.cursor < len(self.rows) else None

    @property
    def search(self) -> NameSearch | None:
        """The search whose rows are shown."""
        return self._search

    def attributes_of(self, row: Row) -> Attributes | None:
        """Return the attributes of a row; None if it is gone or cannot be read."""
        key = row.folder, row.index
        if key not in self._attributes:
            if len(self._attributes) > _CACHED:
                self._attributes.clear()
            try:
                self._attributes[key] = self.compared.sides.attributes(*key)
            except OSError:
                self._attributes[key] = None
        return self._attributes[key]

    def show(self, compared: ComparedStacks) -> None:
        """Show another comparison, with the same directories open and the same row selected."""
        self.stop()
        row = self.row
        path = row.path if row is not None else b""
        is_same = self.rows.search is None
        opened = sorted((one.path for one in self.rows.toggled), key=len) if is_same else []
        self.compared = compared
        self._attributes.clear()
        self._was_done = False
        compared.loader.want(compared.loader.root, _FIRST_ROWS)
        self.rows = Rows(compared.loader.root, Ordered(self.choice))
        end = time.monotonic() + _REOPENING
        for one in opened:
            self._reopen(one, end)
        self._select(path, end)
        self._start_search()

    def stop(self) -> None:
        """Stop the search, as what it goes through may be closed."""
        if self._search is not None:
            self._search.stop()
            self._search = None

    def tick(self) -> None:
        """Take over what threads have found since the last tick."""
        loader, now = self.compared.loader, time.monotonic()
        for thread in (loader, self._search):
            if thread is not None and thread.failure is not None:
                raise thread.failure
        done = loader.done and (self._search is None or self._search.done)
        is_news = loader.steps != self._steps or done != self._was_done
        if self._search is None and not is_news:
            return
        is_sorted_now = self.choice.by_size and done and not self._was_done
        if (self.rows.is_stale or is_sorted_now) and now >= self._next_rebuild:
            self.rows.rebuild()
            self._next_rebuild = now + _SHARE * (time.monotonic() - now)
        self._steps, self._was_done = loader.steps, done
        if (drawn := self._drawn()) != self._was_drawn:
            self._was_drawn = drawn
            self.resized()

    def _drawn(self) -> tuple[object, ...]:
        """Return what the view depends on and threads can change."""
        top = int(self.scroll_offset.y)
        shown = range(top, min(top + self.size.height, len(self.rows)))
        below = (self.rows[number].below for number in shown)
        known = tuple((one.counted, one.error) for one in below if one is not None)
        return len(self.rows), top, known

    def _select(self, path: bytes, end: float) -> None:
        """Go to the row of a path, or of the nearest directory above it."""
        self.resized()
        found = 0
        for folder, index in self._way(path, end):
            row = self.rows.find(folder, index)
            if row is None:
                break
            found = row
        self.cursor = -1
        self.go_to(found)

    def _reopen(self, path: bytes, end: float) -> None:
        way = list(self._way(path, end))
        if len(way) == path.count(b"/") + 1:
            folder, index = way[-1]
            row = self.rows.find(folder, index)
            below = folder.below.get(index)
            if row is not None and below is not None and not self.rows.is_open(below):
                self.compared.loader.want(below, max(0.0, end - time.monotonic()))
                self.rows.toggle(row)

    def _way(self, path: bytes, end: float) -> Iterator[tuple[Folder, int]]:
        """Yield the place of each component of a path that is listed in time."""
        folder: Folder | None = self.compared.loader.root
        for name in path.split(b"/") if path else ():
            if folder is None:
                return
            self.compared.loader.want(folder, max(0.0, end - time.monotonic()))
            index = bisect_left(folder.names, name)
            if index >= len(folder.names) or folder.names[index] != name:
                return
            yield folder, index
            folder = folder.below.get(index)

    # -- drawing

    def draw(self, row: int, width: int, /) -> Words:
        """Draw a file."""
        at = self.rows[row]
        style = STATE_STYLES[at.state]
        marked = self.mark_of(at) in self.marks if self.marks else False
        words: Words = [("*" if marked else " ", BOLD), (LETTERS[at.state] + " ", style)]
        found = self.attributes_of(at)
        if self.has_attributes and width >= _SIZES:
            words += self._columns(at, found, width)
        indent = min(2 * at.folder.depth, width // 2)
        words.append((" " * indent, PLAIN))
        words += self._name_words(at, found, style)
        return words

    def _columns(self, at: Row, found: Attributes | None, width: int) -> Words:
        words: Words = []
        if width >= _ALL_ATTRIBUTES:
            mode = stat.filemode(found.mode) if found is not None else "?" * 10
            owner = f"{found.uid}:{found.gid}" if found is not None else "?"
            words.append((f"{mode} {owner:>11} ", PLAIN))
        return [*words, (f"{self.size_text(at):>6}  ", PLAIN)]

    def size_text(self, at: Row) -> str:
        """Return the size of a file, or the accumulated one of a directory."""
        below = at.below
        if below is None:
            return human_size(at.folder.sizes[at.index])
        return human_size(self.choice.size_of(below)) if below.counted else "…"

    def _name_words(self, at: Row, found: Attributes | None, style: Style) -> Words:
        name, below = shown_name(at.name), at.below
        if below is not None:
            sign = "▾ " if self.rows.is_open(below) else "▸ "
            words: Words = [(sign, DIM), (name + "/", style + BOLD)]
            if below.error:
                words.append((f"  cannot be read: {below.error}", DIM))
            return words
        words = [("  ", PLAIN), (name, style)]
        if found is not None and stat.S_ISLNK(found.mode):
            words.append((" → " + self._target(at, found), DIM))
        return words

    def _target(self, at: Row, found: Attributes) -> str:
        files, _ = self.compared.sides.side_of(at.folder, at.index)
        try:
            return shown_name(files.readlink(found.node))
        except OSError:
            return "?"

    def moved(self) -> None:
        """Show the path of another row."""
        self._when_moved()

    # -- directories

    def opened(self) -> None:
        """Open what is clicked twice."""
        self.action_preview()

    def action_toggle_directory(self) -> None:
        """Open or close a directory."""
        row = self.row
        if row is None or row.below is None:
            return
        if not self.rows.is_open(row.below):
            self.compared.loader.want(row.below, _FIRST_ROWS)
        self.rows.toggle(self.cursor)
        self.resized()
        self._when_moved()

    def action_expand(self) -> None:
        """Open a directory."""
        row = self.row
        if row is not None and row.below is not None and not self.rows.is_open(row.below):
            self.action_toggle_directory()

    def action_collapse(self) -> None:
        """Close a directory, or go to the one above."""
        row = self.row
        if row is None:
            return
        if row.below is not None and self.rows.is_open(row.below):
            self.action_toggle_directory()
            return
        above = self.rows.parent_row(self.cursor)
        if above is not None:
            self.go_to(above)

    def action_toggle_all(self) -> None:
        """Close all directories; open all if none is open."""
        if self.filter:
            self.post_message(self.Told("Close the filter first: it opens what it finds"))
        elif self._search is not None or self.rows.toggled:
            self.stop()
            self.rows.show(Ordered(self.choice))
            self.rows.close_all()
            self._go_to_top()
        else:
            self._begin(NameSearch(self.compared.loader, None, self.choice))

    def _go_to_top(self) -> None:
        self.resized()
        self.cursor = -1
        self.go_to(0)

    # -- choosing

    def set_filter(self, text: str) -> None:
        """Show only what matches, and the directories that lead there; all if it is empty."""
        if text != self.filter:
            self.filter = text
            self._start_search()

    def _start_search(self) -> None:
        self.stop()
        matcher = matcher_of(self.filter)
        if matcher is not None:
            self._begin(NameSearch(self.compared.loader, matcher, self.choice))
        elif self.rows.search is not None:
            self.rows.show(Ordered(self.choice))
            self._go_to_top()

    def _begin(self, search: NameSearch) -> None:
        self._search = search
        search.start()
        search.wait(_FIRST_ROWS)
        self.rows.show(Ordered(self.choice, search), search)
        self._go_to_top()

    def _choose(self, choice: Showing) -> None:
        """Show other states or another order, with the same row selected where possible."""
        row = self.row
        self.choice = choice
        if self._search is not None:
            is_filter = bool(self.filter)
            self.stop()
            matcher = matcher_of(self.filter) if is_filter else None
            self._begin(NameSearch(self.compared.loader, matcher, choice))
            return
        self.rows.show(Ordered(choice))
        self.resized()
        place = self.rows.find(row.folder, row.index) if row is not None else None
        self.cursor = -1
        self.go_to(place or 0)

    def action_show(self, state: str) -> None:
        """Show or hide names of a state."""
        states = self.choice.states ^ {State[state]}
        self._choose(Showing(states, self.choice.by_size))
        hidden = ", ".join(_WORDS[one] for one in State if one not in states)
        self.post_message(self.Told(f"Hidden: {hidden}" if hidden else "Everything is shown"))

    def action_sort(self) -> None:
        """Sort by size or by name."""
        self._choose(Showing(self.choice.states, not self.choice.by_size))
        order = "size" if self.choice.by_size else "name"
        self.post_message(self.Told(f"Sorted by {order}"))

    def action_attributes(self) -> None:
        """Show or hide attributes."""
        self.has_attributes = not self.has_attributes
        self.refresh()

    # -- looking and marking

    def action_preview(self) -> None:
        """Look into a file; open or close a directory."""
        row = self.row
        if row is not None and row.is_directory:
            self.action_toggle_directory()
        elif row is not None:
            self.post_message(self.Looked())

    def mark_of(self, row: Row) -> Mark:
        """Return what a mark of a row is."""
        number = self.compared.number
        if row.state == State.REMOVED:
            number = self.compared.sides.first - 1
        return number, row.path

    def action_mark(self) -> None:
        """Mark or unmark a row, and go to the next one."""
        row = self.row
        if row is not None:
            self.marks ^= {self.mark_of(row)}
            self.refresh_lines(self.cursor)
            self.action_move(1)
            self._when_moved()

    def action_unmark_all(self) -> None:
        """Remove all marks."""
        self.marks.clear()
        self.refresh()
        self._when_moved()

    def action_extract(self) -> None:
        """Extract what is marked."""
        self.post_message(self.Extracted())

    def wanted(self) -> Sequence[Mark]:
        """Return what is to be extracted: what is marked, else the row at the cursor."""
        if self.marks:
            return sorted(self.marks)
        return [self.mark_of(self.row)] if self.row is not None else []


_WORDS = {
    State.SAME: "unmodified",
    State.CHANGED: "modified",
    State.ADDED: "added",
    State.REMOVED: "removed",
}
