"""Which names are shown, and the runs that rows are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unionmount.screen.sides import STATE_BITS, TOUCHED, Folder, State

ALL_STATES = frozenset(State)
_CHANGES = ALL_STATES - {State.SAME}


@dataclass(slots=True)
class RowRun:
    """The shown names ``start`` to ``end`` of a directory."""

    folder: Folder
    shown: Sequence[int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Showing:
    """What is shown: states, and the largest first or by name."""

    states: frozenset[State] = ALL_STATES
    by_size: bool = False

    def is_shown(self, kind: int) -> bool:
        """Return whether a name is shown; a directory also is for what changed in it."""
        if State(kind & STATE_BITS) in self.states:
            return True
        return bool(kind & TOUCHED) and bool(self.states & _CHANGES)

    @property
    def counts_changes(self) -> bool:
        """Whether sizes of directories are those of the changes alone."""
        return State.SAME not in self.states

    def size_of(self, folder: Folder) -> int:
        """Return the accumulated size of a directory under this choice."""
        if self.counts_changes and folder.after is not None:
            return folder.changed
        return folder.total

    def table(self) -> bytes:
        """Return a translation of kinds to whether they are shown."""
        return bytes(self.is_shown(kind) for kind in range(32)) + bytes(256 - 32)
