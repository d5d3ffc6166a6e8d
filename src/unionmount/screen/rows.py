"""The rows of the file pane: which names of which open directories are shown, and in what order.

Rows are kept as *runs*: a run is a piece of the shown names of one directory between two open
directories in it. So a directory of a million names is one run, and opening it takes no time for
each name.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from typing import TYPE_CHECKING

from unionmount.screen.showing import ALL_STATES, RowRun, Showing
from unionmount.screen.sides import DIRECTORY, STATE_BITS, Folder, State

if TYPE_CHECKING:
    from unionmount.screen.search import NameSearch


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a name in a directory."""

    folder: Folder
    index: int

    @property
    def name(self) -> bytes:
        """The name."""
        return self.folder.names[self.index]

    @property
    def kind(self) -> int:
        """State and type (see ``sides``)."""
        return self.folder.kinds[self.index]

    @property
    def state(self) -> State:
        """The difference between both sides."""
        return State(self.kind & STATE_BITS)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return bool(self.kind & DIRECTORY)

    @property
    def below(self) -> Folder | None:
        """The directory itself; None for other files."""
        return self.folder.below.get(self.index)

    @property
    def path(self) -> bytes:
        """The path, without a leading slash."""
        return self.folder.path_of(self.index)


class Ordered:
    """The shown names of each directory under a choice, computed when they are asked for.

    With a search, the names that it found, and all of them in directories where it found none.
    """

    def __init__(self, choice: Showing, search: NameSearch | None = None) -> None:
        self.choice = choice
        self._search = search
        self._table = choice.table()
        self._all = choice.states == ALL_STATES

    def __call__(self, folder: Folder) -> Sequence[int]:
        """Return the indexes of names in the order of their rows."""
        shown = self._search.selected.get(folder) if self._search is not None else None
        names = self._by_state(folder) if shown is None else tuple(shown)
        return self._by_size(folder, names) if self.choice.by_size else names

    def _by_state(self, folder: Folder) -> Sequence[int]:
        count = len(folder.names)
        if self._all:
            return range(count)
        kinds = bytes(folder.kinds[:count]).translate(self._table)
        return tuple(compress(range(count), kinds))

    def _by_size(self, folder: Folder, names: Sequence[int]) -> Sequence[int]:
        sizes = folder.sizes[:]
        for index in names:
            below = folder.below.get(index)
            if below is not None:
                sizes[index] = self.choice.size_of(below)
        return sorted(names, key=lambda index: -sizes[index])


@dataclass(frozen=True, slots=True)
class _RowsOf:
    """An open directory when its runs were made: its names, and whether more are to come."""

    names: int
    is_partial: bool


class Rows:
    """All rows, and which directories are open.

    Without a search, directories are closed at first. With one, those that lead to what it found
    are open. ``toggled`` are the directories that the user has opened or closed.
    """

    def __init__(self, root: Folder, shown: Ordered) -> None:
        self.root = root
        self.toggled: set[Folder] = set()
        self.search: NameSearch | None = None
        self._toggled_in: dict[Folder | None, set[Folder]] = {}
        self._kept = self.toggled, self._toggled_in
        self._shown = shown
        self._runs: list[RowRun] = []
        self._ends: list[int] = []
        self._opened: dict[Folder, _RowsOf] = {}
        self.rebuild()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> Row:
        _, place, run = self._run_at(number)
        return Row(run.folder, run.shown[place])

    def show(self, shown: Ordered, search: NameSearch | None = None) -> None:
        """Show other names, another order, or what a search finds."""
        if search is not self.search:
            self._change_search(search)
        self._shown = shown
        self.rebuild()

    def is_open(self, folder: Folder) -> bool:
        """Return whether the names in a directory are rows."""
        if folder is self.root:
            return True
        by_search = self.search is not None and folder in self.search.selected
        return (folder in self.toggled) != by_search

    def close_all(self) -> None:
        """Close all directories that the user has opened."""
        self.toggled, self._toggled_in = set(), {}
        self.rebuild()

    def rebuild(self) -> None:
        """Make all runs again, or take those of a search in which nothing was opened or closed."""
        self._opened = {}
        if self.is_streamed:
            assert self.search is not None
            self._runs, self._ends = self.search.runs, self.search.ends
        else:
            self._set_runs(self._runs_of(self.root))

    @property
    def is_streamed(self) -> bool:
        """Whether rows are added by the search itself."""
        return self.search is not None and not self.toggled and not self._shown.choice.by_size

    @property
    def is_stale(self) -> bool:
        """Whether a directory has other names now than rows were made of."""
        if self.is_streamed:
            return False
        return any(
            opened.is_partial and (len(self._names_of(folder)) != opened.names or folder.complete)
            for folder, opened in self._opened.items()
        )

    def find(self, folder: Folder, index: int) -> int | None:
        """Return the number of the row of a name; None if it is not shown."""
        start = 0
        for run, end in zip(self._runs, self._ends, strict=False):
            if run.folder is folder and (place := _place_in(run, index)) is not None:
                return start + place - run.start
            start = end
        return None

    def parent_row(self, number: int) -> int | None:
        """Return the row of the directory that a row is in; None for those in the root."""
        at, _, run = self._run_at(number)
        parent, place = run.folder.parent, run.folder.place
        if parent is None:
            return None
        while at >= 0 and not (
            self._runs[at].folder is parent
            and self._runs[at].shown[self._runs[at].end - 1] == place
        ):
            at -= 1
        return self._ends[at] - 1 if at >= 0 else None

    def toggle(self, number: int) -> Folder | None:
        """Open or close the directory at a row; return it if it is open now."""
        folder = self[number].below
        if folder is None:
            return None
        was_streamed = self.is_streamed
        self.toggled ^= {folder}
        self._toggled_in.setdefault(folder.parent, set()).symmetric_difference_update({folder})
        if was_streamed or self.is_streamed:
            self.rebuild()
        elif self.is_open(folder):
            self._open(number, folder)
        else:
            self._close(number)
        return folder if self.is_open(folder) else None

    # -- runs

    def _names_of(self, folder: Folder) -> Sequence[object]:
        """Return what rows of a directory are made of."""
        found = self.search.selected.get(folder) if self.search is not None else None
        return folder.names if found is None else found

    def _change_search(self, search: NameSearch | None) -> None:
        """Begin a search with its own directories open, and return to those of the user."""
        if self.search is None:
            self._kept = self.toggled, self._toggled_in
        if search is None:
            self.toggled, self._toggled_in = self._kept
        else:
            self.toggled, self._toggled_in = set(), {}
        self.search = search

    def _run_at(self, number: int) -> tuple[int, int, RowRun]:
        """Return the run of a row with its number, and the row's place in the directory."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        at = bisect_right(self._ends, number)
        run = self._runs[at]
        return at, run.start + number - (self._ends[at - 1] if at else 0), run

    def _set_runs(self, runs: Iterable[RowRun]) -> None:
        self._runs = [run for run in runs if run.end > run.start]
        self._ends = list(accumulate(run.end - run.start for run in self._runs))

    def _open(self, number: int, folder: Folder) -> None:
        """Split the run of a directory's row, and put its own runs in between."""
        at, place, run = self._run_at(number)
        head = RowRun(run.folder, run.shown, run.start, place + 1)
        tail = RowRun(run.folder, run.shown, place + 1, run.end)
        before, after = self._runs[:at], self._runs[at + 1 :]
        self._set_runs([*before, head, *self._runs_of(folder), tail, *after])

    def _close(self, number: int) -> None:
        """Remove the runs below a directory's row, and join what is before and after them."""
        at, place, run = self._run_at(number)
        end = at + 1
        while end < len(self._runs) and self._runs[end].folder.depth > run.folder.depth:
            self._opened.pop(self._runs[end].folder, None)
            end += 1
        runs, after = self._runs[: at + 1], self._runs[end:]
        if after and after[0].folder is run.folder and after[0].start == place + 1:
            runs[-1] = RowRun(run.folder, run.shown, run.start, after[0].end)
            after = after[1:]
        self._set_runs([*runs, *after])

    def _runs_of(self, top: Folder) -> Iterator[RowRun]:
        """Yield the runs of an open directory and of all open ones in it."""
        pending = [self._open_run(top)]
        while pending:
            run, inner = pending[-1]
            found = next(inner, None)
            if found is None:
                pending.pop()
                yield run
                continue
            place, folder = found
            yield RowRun(run.folder, run.shown, run.start, place + 1)
            run.start = place + 1
            pending.append(self._open_run(folder))

    def _open_run(self, folder: Folder) -> tuple[RowRun, Iterator[tuple[int, Folder]]]:
        """Return the run of a whole directory, and the open directories in it."""
        is_partial = not folder.complete or (self.search is not None and not self.search.done)
        opened = _RowsOf(len(self._names_of(folder)), is_partial)
        self._opened[folder] = opened
        shown = self._shown(folder)
        below = self._toggled_in.get(folder, set()) | self._led_in(folder)
        places = _places_of(shown, below)
        found = ((places[one.place], one) for one in below if one.place in places)
        inner = sorted((pair for pair in found if self.is_open(pair[1])), key=lambda pair: pair[0])
        return RowRun(folder, shown, 0, len(shown)), iter(inner)

    def _led_in(self, folder: Folder) -> set[Folder]:
        """Return the directories in a directory that lead to what a search found."""
        if self.search is None:
            return set()
        found = self.search.selected.get(folder, ())
        return {folder.below[index] for index in found if index in folder.below}


def _places_of(shown: Sequence[int], below: set[Folder]) -> dict[int, int]:
    """Return the positions of directories among the shown names."""
    wanted = {one.place for one in below}
    if not wanted:
        return {}
    if isinstance(shown, range):
        return {index: index for index in wanted if index < len(shown)}
    return {index: place for place, index in enumerate(shown) if index in wanted}


def _place_in(run: RowRun, index: int) -> int | None:
    """Return the position of a name in a run."""
    if isinstance(run.shown, range):
        return index if run.start <= index < run.end else None
    try:
        return run.shown.index(index, run.start, run.end)
    except ValueError:
        return None
