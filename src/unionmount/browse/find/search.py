"""The search itself."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from unionmount.browse.find.expression import Expression, Output, Run, SearchEnded, SearchPlace
from unionmount.browse.find.program import Program, compile_expression
from unionmount.core.scan import Batch, Scan

if TYPE_CHECKING:
    from unionmount.browse.find.columns import Columns
    from unionmount.core import Node


def search(
    expression: Expression, start: Node, place: SearchPlace, out: Output, columns: Columns, now: int
) -> bool:
    """Search below a node; return whether the search may go on, which -quit denies.

    ``columns`` are those of -ls, which starting points share; ``now`` is the time in nanoseconds.
    """
    program = compile_expression(expression, may_print=out.is_plain)
    run = Run(place, out, now, columns)
    with Scan(place.files, start, place.start, program.plan) as scan:
        judge = _Judge(expression, program, run, scan)
        try:
            for batch in scan.batches():
                if batch.text:
                    out.text(batch.text)
                judge.batch(batch)
        except SearchEnded:
            return False
    return True


class _Judge:
    """The expression, for files that the core keeps."""

    def __init__(self, expression: Expression, program: Program, run: Run, scan: Scan) -> None:
        self._node = expression.node
        self._complete = program.complete
        self._writer = program.writer
        self._enters = not expression.post_order  # then -prune has an effect
        self._run = run
        self._scan = scan

    def batch(self, batch: Batch) -> None:
        """Judge the files of a piece, except those below a directory that was pruned."""
        if self._writer is not None and not batch.failed:
            if batch.visits:
                self._writer.write(batch.visits, self._run)
            return
        pruned, below, run = None, b"", self._run
        holds = self._node.holds
        for visit in batch.visits:
            if below and visit.path.startswith(below):
                continue
            if visit.error:
                run.out.error(visit.path, visit.error)
                continue
            if self._complete:
                continue
            run.pruned = False
            holds(visit, run)
            if run.pruned and self._enters and stat.S_ISDIR(visit.mode):
                pruned = visit
                below = visit.path if visit.path.endswith(b"/") else visit.path + b"/"
        if pruned is not None:
            self._scan.leave(pruned)
