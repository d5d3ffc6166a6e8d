"""Filtering of names in a thread that streams what it finds, and can be stopped at any time.

A search goes through directories in the order of the tree, as they are listed. So rows are only
added at the end while it goes on.
"""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import compress
from typing import TYPE_CHECKING

from unionmount.screen.loader import ENOUGH
from unionmount.screen.showing import RowRun

if TYPE_CHECKING:
    from unionmount.screen.loader import Loader
    from unionmount.screen.showing import Showing
    from unionmount.screen.sides import Folder

Matcher = Callable[[bytes, Sequence[bytes]], list[int]]
"""Returns the places of those names in a directory, whose path is given, that match."""

_PIECE = 2048
_WAIT = 0.05  # seconds


def matcher_of(text: str) -> Matcher | None:
    """Return the matcher of a filter; None if the filter is empty.

    A text is found anywhere in a name, a glob has to match all of it. With a slash in it, it is
    about the whole path, which begins with a slash. Capitals in the filter make it case-sensitive.
    Regular expressions are not offered: some take for ever with a name that was made for that.
    """
    wanted = text.strip().encode("utf-8", "surrogateescape")
    if not wanted:
        return None
    fold = wanted == wanted.lower()
    test = _glob(wanted, fold) if re.search(rb"[*?[]", wanted) else _text(wanted, fold)
    whole = b"/" in wanted

    def match(path: bytes, names: Sequence[bytes]) -> list[int]:
        if whole:
            prefix = b"/" + path + b"/" if path else b"/"
            names = [prefix + name for name in names]
        return [place for place, name in enumerate(names) if test(name)]

    return match


def _text(wanted: bytes, fold: bool) -> Callable[[bytes], bool]:
    if fold:
        return lambda name: wanted in name.lower()
    return lambda name: wanted in name


def _glob(wanted: bytes, fold: bool) -> Callable[[bytes], bool]:
    pattern = re.compile(
        fnmatch.translate(wanted.decode("latin-1")).encode("latin-1"), re.IGNORECASE if fold else 0
    )
    return lambda name: pattern.match(name) is not None


class NameSearch:
    """The names that match, as runs of rows, with the directories that lead to them.

    Without a matcher, everything is found: then all directories are open. ``runs`` and ``ends``
    grow only at their ends, and the last run with them.
    """

    def __init__(self, loader: Loader, matcher: Matcher | None, choice: Showing) -> None:
        self.selected: dict[Folder, list[int]] = {loader.root: []}
        self.runs: list[RowRun] = []
        self.ends: list[int] = []
        self.done = False
        self.found = 0
        self.failure: Exception | None = None
        self._loader = loader
        self._matcher = matcher
        self._table = choice.table()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="search", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait some time for the end."""
        self._thread.join(seconds)

    def stop(self) -> None:
        """Stop the search and wait for its thread."""
        self._stopped = True
        if self._thread.ident is not None:
            self._thread.join()

    def shown(self, folder: Folder) -> Sequence[int] | None:
        """Return what was found in a directory; None if nothing was, so that all is shown."""
        return self.selected.get(folder)

    # -- the thread

    def _run(self) -> None:
        try:
            self._search()
        except Exception as error:  # noqa: BLE001 - raised in the thread of the screen
            self.failure = error

    def _search(self) -> None:
        pending = [(self._loader.root, self._events(self._loader.root))]
        while pending and not self._stopped:
            folder, events = pending[-1]
            event = next(events, None)
            if event is None:
                pending.pop()
                continue
            index, hit = event
            if hit:
                self.found += 1
                self._emit(folder, index)
            else:
                below = folder.below[index]
                pending.append((below, self._events(below)))
        self.done = not self._stopped

    def _events(self, folder: Folder) -> Iterator[tuple[int, bool]]:
        """Yield the hits of a directory and the directories in it, which come after their hit."""
        start = 0
        for end in self._ends_of_pieces(folder):
            names = folder.names[start:end]
            kinds = bytes(folder.kinds[start:end]).translate(self._table)
            places: Sequence[int] = range(len(names))
            if self._matcher is not None:
                places = self._matcher(folder.path, names)
            hits = [(start + at, True) for at in places if kinds[at]]
            below = [(at, False) for at in compress(range(start, end), kinds) if at in folder.below]
            yield from merge(hits, below, key=lambda event: (event[0], not event[1]))
            start = end

    def _ends_of_pieces(self, folder: Folder) -> Iterator[int]:
        """Yield where each piece of a directory ends, and wait for what is not listed yet."""
        end, steps = 0, -1
        while not self._stopped:
            complete, count = folder.complete, len(folder.names)
            if end < count:
                if self.found > ENOUGH:  # the screen has what it waits for
                    self._loader.give_way()
                end = min(count, end + _PIECE)
                yield end
            elif complete:
                return
            else:
                steps = self._loader.wait(steps, _WAIT)

    def _emit(self, folder: Folder, index: int) -> None:
        """Add a row, after those of the directories that lead to it."""
        missing = []
        at = folder
        while at not in self.selected:
            missing.append(at)
            assert at.parent is not None
            at = at.parent
        for one in reversed(missing):
            assert one.parent is not None
            self._append(one.parent, one.place)
            self.selected[one] = []
        self._append(folder, index)

    def _append(self, folder: Folder, index: int) -> None:
        shown = self.selected[folder]
        if shown and shown[-1] == index:
            return  # a directory that was found itself
        shown.append(index)
        last = self.runs[-1] if self.runs else None
        if last is not None and last.folder is folder:
            last.end = len(shown)
            self.ends[-1] += 1
        else:
            self.runs.append(RowRun(folder, shown, len(shown) - 1, len(shown)))
            self.ends.append((self.ends[-1] if self.ends else 0) + 1)
