"""A thread that lists the directories of two compared trees and sums up their sizes.

It takes what the screen waits for first, and everything else in the order of the tree. Directories
are listed by this thread alone, in pieces, so it ends soon after ``stop``.
"""

from __future__ import annotations

import threading
import time
from array import array
from typing import TYPE_CHECKING

from unionmount.screen.sides import DIRECTORY, REGULAR, STATE_BITS, Folder, State, error_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.core import Node
    from unionmount.screen.sides import SideEntry, Sides

ENOUGH = 400  # rows that no terminal is higher than
_HOLD = 0.1  # seconds after a key in which the screen has the processor
_LONGEST_HOLD = 1.0


class Loader:
    """The directories of two compared trees below ``root``; listing starts with ``start``.

    ``steps`` grows with every piece that was listed. Other threads only read folders. ``failure``
    is an error that ended the thread, which no listing can have caused.
    """

    def __init__(self, sides: Sides) -> None:
        self._sides = sides
        before, after, kind = sides.root_nodes()
        self.root = Folder(None, 0, b"", kind, before, after, array("Q"))
        self.steps = 0
        self.done = False
        self.entries = 0
        self.failure: Exception | None = None
        self._sources: dict[Folder, Iterator[list[SideEntry]]] = {}
        self._wanted: list[Folder] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._held = 0.0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start listing; a second call does nothing."""
        if self._thread is None and not self._stopped:
            self._thread = threading.Thread(target=self._run, name="loader", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop listing and wait for the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def hold(self) -> None:
        """Let the screen have the processor for a moment: a key was pressed."""
        self._held = time.monotonic() + _HOLD

    def give_way(self) -> None:
        """Wait while the screen is busy, but not for ever, unless it waits for a directory."""
        end = time.monotonic() + _LONGEST_HOLD
        while (left := min(end, self._held) - time.monotonic()) > 0:
            with self._changed:
                if self._changed.wait_for(lambda: self._stopped or self._is_urgent(), left):
                    return

    def _is_urgent(self) -> bool:
        """Whether the screen waits for a directory that has not filled it yet."""
        return any(not one.complete and len(one.names) < ENOUGH for one in self._wanted)

    def want(self, folder: Folder, seconds: float) -> None:
        """List a directory before others, and wait some time for its first rows."""
        if folder.complete:
            return
        with self._changed:
            self._wanted.append(folder)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: folder.complete or len(folder.names) >= ENOUGH or self._stopped, seconds
            )

    def wait(self, steps: int, seconds: float) -> int:
        """Wait until something was listed after ``steps``, or all is done; return the steps."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.steps != steps or self.done or self._stopped, seconds
            )
            return self.steps

    # -- the thread

    def _run(self) -> None:
        try:
            self._list_all()
        except Exception as error:  # noqa: BLE001 - raised in the thread of the screen
            self.failure = error
            self._finish()

    def _list_all(self) -> None:
        census = self._census()
        while not self._stopped:
            self.give_way()
            folder = self._next_wanted()
            if folder is not None:
                self._piece(folder)
            elif next(census, None) is None:
                self._finish()

    def _next_wanted(self) -> Folder | None:
        with self._changed:
            while self._wanted and self._wanted[-1].complete:
                self._wanted.pop()
            return self._wanted[-1] if self._wanted else None

    def _finish(self) -> None:
        """Wait until the end, as every directory was listed."""
        with self._changed:
            self.done = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stopped)

    def _census(self) -> Iterator[bool]:
        """List everything, depth first, and count it."""
        seen: set[Node] = set()
        pending: list[tuple[Folder, Iterator[Folder]]] = []
        at: Folder | None = self.root
        while at is not None or pending:
            if at is not None:
                while not at.complete:
                    self._piece(at)
                    yield True
                _count_own(at, seen)
                pending.append((at, iter(at.below.values())))
            at = next(pending[-1][1], None)
            if at is None:
                _close_count(pending.pop()[0])
                self.steps += 1

    def _piece(self, folder: Folder) -> None:
        """List one piece of a directory."""
        source = self._sources.get(folder)
        if source is None:
            source = self._sources[folder] = self._sides.pieces(folder)
        try:
            piece = next(source, None)
        except OSError as error:
            folder.error, piece = error_text(error), None
        if piece:
            _add(folder, piece)
        else:
            del self._sources[folder]
        with self._changed:
            self.entries += len(piece or ())
            folder.complete = not piece
            self.steps += 1
            self._changed.notify_all()


def _add(folder: Folder, piece: list[SideEntry]) -> None:
    """Append names to a directory; ``names`` grows last, as readers go by it."""
    start = len(folder.names)
    for place, (name, kind, attributes, before) in enumerate(piece, start):
        if kind & DIRECTORY:
            removed = kind & STATE_BITS == State.REMOVED
            after = None if removed else attributes.node
            below = Folder(folder, place, name, kind, before, after, array("Q"), folder.depth + 1)
            folder.below[place] = below
        elif kind & REGULAR and attributes.nlink > 1:
            folder.links[place] = attributes.node
    folder.sizes.extend(one.attributes.size if one.kind & REGULAR else 0 for one in piece)
    folder.kinds.extend(one.kind for one in piece)
    folder.names.extend(one.name for one in piece)


def _count_own(folder: Folder, seen: set[Node]) -> None:
    """Sum up the files of one directory; a file with several names counts once."""
    total = changed = 0
    again = {place for place, node in folder.links.items() if node in seen}
    seen.update(folder.links.values())
    twice: set[Node] = set()
    for place, node in folder.links.items():
        if node in twice:
            again.add(place)
        twice.add(node)
    for place, (kind, size) in enumerate(zip(folder.kinds, folder.sizes, strict=True)):
        state = kind & STATE_BITS
        if size and place not in again and (state != State.REMOVED or folder.after is None):
            total += size
            changed += size if state != State.SAME else 0
    folder.total, folder.changed = total, changed


def _close_count(folder: Folder) -> None:
    """Add a directory, whose own are all counted, to the one above it."""
    folder.counted = True
    above = folder.parent
    if above is not None and (folder.after is not None or above.after is None):
        above.total += folder.total
        above.changed += folder.changed
