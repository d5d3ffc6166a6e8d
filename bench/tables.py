"""The numbers as Markdown tables.

``python -m bench.tables RESULTS.json`` prints those of a file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.results import Row, read
from bench.subjects import BASE, READING, WRITING


def show(rows: Sequence[Row], versions: Mapping[str, str]) -> None:
    """Print them all: first what has no subjects, then those beside each other."""
    for part in dict.fromkeys(row.part for row in rows if not row.subject):
        print(f"\n| {part} | value | unit | wanted |\n|---|---:|---|---|")
        for row in (row for row in rows if row.part == part and not row.subject):
            print(f"| {row.what} | {_cell(row)} | {row.unit} | {row.wanted} |")
    compared = [row for row in rows if row.subject]
    for part, table in dict.fromkeys((row.part, row.table) for row in compared):
        _show_compared([row for row in compared if (row.part, row.table) == (part, table)])
    if compared:
        print(
            "\n(x N): how often the median of overlayfs. ~: the runs are more than a fifth apart."
        )
    if versions:
        print("; ".join(f"{name} {version}" for name, version in versions.items()))


def _show_compared(rows: Sequence[Row]) -> None:
    """One line for each row, one column for each subject."""
    found_in = {row.subject for row in rows}
    every = dict.fromkeys(one.name for one in (*READING, *WRITING))
    subjects = [name for name in every if name in found_in]
    subjects += [name for name in dict.fromkeys(row.subject for row in rows) if name not in every]
    units = dict.fromkeys(row.unit for row in rows)
    title = ", ".join(filter(None, dict.fromkeys((rows[0].part, rows[0].table, *units))))
    print(f"\n| {title} | {' | '.join(subjects)} |\n|---|{'---:|' * len(subjects)}")
    for what in dict.fromkeys(row.what for row in rows):
        found = {row.subject: _cell(row) for row in rows if row.what == what}
        print(f"| {what} | {' | '.join(found.get(one, '') for one in subjects)} |")


def _cell(row: Row) -> str:
    shown = f"{'~' if row.is_unsteady else ''}{_digits(row.value)}"
    has_ratio = row.ratio is not None and row.subject not in {"", BASE}
    return f"{shown} (x {row.ratio:.1f})" if has_ratio else shown


def _digits(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 3
    return f"{value:,.{digits}f}"


def main() -> None:
    """Print the tables of a file of results."""
    facts, rows = read(Path(sys.argv[1]))
    show(rows, facts.get("versions", {}))


if __name__ == "__main__":
    main()
