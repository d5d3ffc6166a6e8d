"""Turning an expression into steps for the core (``core.scan``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unionmount.browse.find.actions import Print, PrintDetails, Prune
from unionmount.browse.find.expression import (
    All,
    AnyOf,
    Comma,
    Expression,
    Fixed,
    Not,
    Predicate,
    PrintingAction,
    Simple,
)
from unionmount.browse.find.printf import Printf
from unionmount.core.scan import KEEP, MAX_TESTS, SKIP, ScanPlan, ScanStep, ScanTest

_NEVER = ScanTest("TYPE")  # no type at all


@dataclass(frozen=True, slots=True)
class Program:
    """The steps of an expression.

    If it is ``complete``, the core does all that the expression does, and keeps no file. Else it
    keeps every file for which an action or another test might have to run. With a ``writer``, the
    core does all tests, and the files that it keeps are printed by this action and no other.
    """

    plan: ScanPlan
    complete: bool
    writer: PrintingAction | None = None


def compile_expression(expression: Expression, *, may_print: bool) -> Program:
    """Return the program; with ``may_print``, the core may print paths as they are."""
    complete = may_print and _is_known(expression.node)
    compiler = _Compiler(complete)
    first = compiler.emit(expression.node, SKIP, SKIP)
    steps = compiler.steps(first)
    plan = ScanPlan(steps, expression.least, expression.most, expression.post_order)
    if complete and steps:
        return Program(plan, complete=True)
    is_tested = first == KEEP or len(steps) > 0
    return Program(plan, complete=False, writer=_writer(expression.node) if is_tested else None)


def _writer(node: Predicate) -> PrintingAction | None:
    """Return the action at the end of an expression of which all else is tests of the core."""
    tests, last = (node.parts[:-1], node.parts[-1]) if isinstance(node, All) else ((), node)
    if isinstance(last, Print | PrintDetails | Printf) and all(map(_is_test, tests)):
        return last
    return None


def _is_test(node: Predicate) -> bool:
    """Return whether the core knows a node that has no actions."""
    if isinstance(node, Not):
        return _is_test(node.inner)
    if isinstance(node, All | AnyOf | Comma):
        return all(map(_is_test, node.parts))
    return isinstance(node, Fixed | Simple)


def _is_known(node: Predicate) -> bool:
    """Return whether the core knows all tests and actions."""
    if isinstance(node, Not):
        return _is_known(node.inner)
    if isinstance(node, All | AnyOf | Comma):
        return all(map(_is_known, node.parts))
    return isinstance(node, Fixed | Simple | Print | Prune)


class _Compiler:
    """A compiler that emits the last step first, so that each step knows where to go on.

    Until all steps are there, a step is named by the number of those emitted before it.
    """

    def __init__(self, complete: bool) -> None:
        self._complete = complete
        self._emitted: list[tuple[ScanTest, int, int]] = []

    def steps(self, first: int) -> Sequence[ScanStep]:
        """Return the steps in their order; none if all files are kept."""
        if first == KEEP or len(self._emitted) > MAX_TESTS:
            return ()
        if first == SKIP:
            return (ScanStep(_NEVER, SKIP, SKIP),)

        def place(target: int) -> int:
            return target if target in (SKIP, KEEP) else first - target

        needed = self._emitted[first::-1]  # a step that was emitted later is never reached
        return [ScanStep(test, place(yes), place(no)) for test, yes, no in needed]

    def emit(self, node: Predicate, yes: int, no: int) -> int:
        """Emit a node, and return where it begins."""
        if isinstance(node, Fixed):
            return yes if node.value else no
        if isinstance(node, Not):
            return self.emit(node.inner, no, yes)
        if isinstance(node, All):
            return self._chain(node, yes, no, lambda after: (after, no))
        if isinstance(node, AnyOf):
            return self._chain(node, yes, no, lambda after: (yes, after))
        if isinstance(node, Comma):
            return self._chain(node, yes, no, lambda after: (after, after))
        return self._leaf(node, yes, no)

    def _chain(
        self,
        node: All | AnyOf | Comma,
        yes: int,
        no: int,
        targets: Callable[[int], tuple[int, int]],
    ) -> int:
        """Emit parts from the last one on; ``targets`` are those of a part before ``after``."""
        after = self.emit(node.parts[-1], yes, no)
        for part in node.parts[-2::-1]:
            after = self.emit(part, *targets(after))
        return after

    def _leaf(self, node: Predicate, yes: int, no: int) -> int:
        test = self._test(node)
        if test is None:
            return KEEP
        if yes == no and not isinstance(node, Print | Prune):
            return yes
        self._emitted.append((test, yes, no))
        return len(self._emitted) - 1

    def _test(self, node: Predicate) -> ScanTest | None:
        """Return the core's form of a leaf; None if it cannot judge the leaf."""
        if isinstance(node, Simple):
            return node.scan
        if self._complete and isinstance(node, Print):
            return ScanTest("PRINT", low=node.end[0])
        if self._complete and isinstance(node, Prune):
            return ScanTest("PRUNE")
        return None
