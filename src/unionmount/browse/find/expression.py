"""The nodes of an expression, and what they see and do during a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from unionmount.browse.layer_states import FileState
from unionmount.core.scan import Visit
from unionmount.errors import UnionmountError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.browse.accounts import Accounts
    from unionmount.browse.find.columns import Columns
    from unionmount.browse.layer_states import LayerStates
    from unionmount.core import BrowsableTree
    from unionmount.core.scan import ScanTest


VISIBLE = FileState("visible")


class ExpressionError(UnionmountError):
    """An expression is not valid, or is refused; the exit status is 1, as with find(1)."""


class Output(Protocol):
    """The receiver of what a search finds."""

    is_plain: bool  # paths are written as they are, so that ``text`` may have many of them

    def text(self, data: bytes) -> None:
        """Take output that is complete."""

    def found(self, visits: Sequence[Visit], end: bytes, place: SearchPlace) -> None:
        """Take paths of -print or -print0."""

    def error(self, path: bytes, code: int) -> None:
        """Take the errno of a path."""


@dataclass(frozen=True, slots=True)
class SearchPlace:
    """Where a search runs.

    ``start`` is the starting point as it is printed. ``layer`` is the number of the layer that is
    searched by itself, None for the whole image.
    """

    files: BrowsableTree
    start: bytes
    accounts: Accounts
    layer: int | None = None
    states: LayerStates | None = None  # of layers by themselves

    def file_state(self, visit: Visit) -> FileState:
        """Return what became of a file of a layer; all files of a whole image are visible."""
        if self.states is None or self.layer is None:
            return VISIBLE
        return self.states.of(self.layer, visit.path.strip(b"/"), visit.attributes)


class SearchEnded(Exception):
    """-quit was reached."""


@dataclass(slots=True)
class Run:
    """A search: where it is, where its output goes, and what outlives a file."""

    place: SearchPlace
    out: Output
    now: int  # in nanoseconds
    columns: Columns  # of -ls
    pruned: bool = False  # of the file that is looked at


class Predicate(Protocol):
    """A part of an expression."""

    def holds(self, visit: Visit, run: Run) -> bool:
        """Return whether a file fulfils it, and do its actions."""


class PrintingAction(Protocol):
    """An action that prints, and is always true."""

    def holds(self, visit: Visit, run: Run) -> bool:
        """Print a file."""

    def write(self, visits: Sequence[Visit], run: Run) -> None:
        """Print files in their order; if one of them cannot be read, those before are printed."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """-true, -false, and options without an effect on files."""

    value: bool

    def holds(self, visit: Visit, run: Run) -> bool:  # noqa: ARG002
        """Return the value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Simple:
    """A test that the core knows, too."""

    scan: ScanTest
    check: Predicate

    def holds(self, visit: Visit, run: Run) -> bool:
        """Return whether the file passes the test."""
        return self.check.holds(visit, run)


@dataclass(frozen=True, slots=True)
class Not:
    """``! EXPRESSION``."""

    inner: Predicate

    def holds(self, visit: Visit, run: Run) -> bool:
        """Return the opposite."""
        return not self.inner.holds(visit, run)


@dataclass(frozen=True, slots=True)
class All:
    """``A -a B``: stops at the first that does not hold."""

    parts: Sequence[Predicate]

    def holds(self, visit: Visit, run: Run) -> bool:
        """Return whether all parts hold."""
        return all(part.holds(visit, run) for part in self.parts)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """``A -o B``: stops at the first that holds."""

    parts: Sequence[Predicate]

    def holds(self, visit: Visit, run: Run) -> bool:
        """Return whether a part holds."""
        return any(part.holds(visit, run) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Comma:
    """``A , B``: the last part decides."""

    parts: Sequence[Predicate]

    def holds(self, visit: Visit, run: Run) -> bool:
        """Run all parts, and return whether the last holds."""
        results = [part.holds(visit, run) for part in self.parts]
        return results[-1]


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression with its options."""

    node: Predicate
    least: int = 0
    most: int | None = None
    post_order: bool = False
    prints_only: bool = True  # no action writes anything but paths
    warnings: Sequence[str] = ()
