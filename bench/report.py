"""The one table, its picture and its numbers: what ``make bench`` writes.

``python -m bench.report RESULTS.json`` writes the table and the picture again, beside the file. In
the file a row is one line, with the least, the median and the most of each subject's passes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import chart, machine
from bench.measuring import COSTS
from bench.results import Row
from bench.subjects import BASE, TABLE

PARTS = {
    "operations": "Single operations",
    "work": "Real work",
    "scale": "Scale",
}
"""The parts that are in the table, and what they are called there."""

_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Report:
    """A run: its facts, and its rows."""

    facts: Mapping[str, Any]
    rows: Sequence[Row]

    # ---- the file --------------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """Write the file, and the table and the picture beside it."""
        lines = [f" {json.dumps(name)}: {json.dumps(found)}," for name, found in self.facts.items()]
        rows = ",\n".join(f"  {json.dumps(line, ensure_ascii=False)}" for line in self._lines())
        text = "\n".join(["{", *lines, ' "rows": [', rows, " ]", "}", ""])
        path.write_text(text, encoding="utf-8")
        path.with_suffix(".md").write_text(self.table(), encoding="utf-8")
        path.with_suffix(".svg").write_text(self.picture(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Report:
        """The run that is in a file."""
        facts = json.loads(path.read_text(encoding="utf-8"))
        return cls(facts, [row for line in facts.pop("rows") for row in _rows(line)])

    def _lines(self) -> Iterator[dict[str, Any]]:
        for row, found in self._grouped():
            taken = {one.subject: _numbers(one) for one in found}
            kinds = {"part": row.part, "table": row.table, "what": row.what, "unit": row.unit}
            yield {**kinds, "taken": taken}

    def _grouped(self) -> Iterator[tuple[Row, list[Row]]]:
        """Each row of the table: the first that has its name, and those of all subjects."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.part, row.what), []).append(row)
        for found in groups.values():
            yield found[0], found

    # ---- the table -------------------------------------------------------------------------------

    def table(self) -> str:
        """Markdown: what was measured on, warnings, the table, and what is missing."""
        return "\n".join([*self._head(), "", *self._body(), "", *self._foot(), ""])

    def _head(self) -> Iterator[str]:
        load = self.facts.get("load", {})
        for title in ("machine", "programs", "file systems"):
            found = self.facts.get(title, {})
            yield f"- {title}: {'; '.join(f'{name} {value}' for name, value in found.items())}"
        if load:
            others = f"other programs used {load['others']:.2f} processors between measurements"
            yield f"- load: {load['before']:.2f} before, {load['after']:.2f} after; {others}"
        if not self.facts.get("caches dropped", True):
            yield "- caches: not dropped, so what is called cold is in the kernel's caches below"
        for warning in machine.warnings(load):
            yield f"- **Warning: these numbers are disturbed, since {warning}.**"

    def _body(self) -> Iterator[str]:
        known = [one.name for one in TABLE]
        found = dict.fromkeys(row.subject for row in self.rows)
        subjects = sorted(found, key=lambda one: known.index(one) if one in known else len(known))
        versions = self.facts.get("versions", {})
        heads = [f"{one} ({versions[one]})" if one in versions else one for one in subjects]
        yield f"| | unit | {' | '.join(heads)} |"
        yield f"|---|---|{'---:|' * len(subjects)}"
        title = ""
        for first, rows in self._ordered():
            if title != (title := "Cost of the server" if _is_cost(first) else PARTS[first.part]):
                yield f"| **{title}** | |{' |' * len(subjects)}"
            cells = {row.subject: _cell(row) for row in rows}
            shown = " | ".join(cells.get(one, "") for one in subjects)
            yield f"| {first.what} | {first.unit} | {shown} |"

    def _ordered(self) -> list[tuple[Row, list[Row]]]:
        """Costs of all parts come last."""
        return sorted(self._grouped(), key=lambda group: _is_cost(group[0]))

    def _foot(self) -> Iterator[str]:
        yield (
            "Median (times the median of overlayfs) [least, most]. ~: the passes are more than a "
            "fifth of the median apart."
        )
        for title in ("wrong", "missing"):
            for found in self.facts.get(title, []):
                yield f"- {title}: {found}"

    # ---- the picture -----------------------------------------------------------------------------

    def picture(self) -> str:
        """The same as bars, on a scale of overlayfs' time."""
        shown = self.facts.get("machine", {})
        words = [shown[name] for name in ("processor", "kernel", "date") if name in shown]
        title = ", ".join(["Times of overlayfs' median (less is better)", *words])
        found = list(machine.warnings(self.facts.get("load", {})))
        warning = f"Disturbed: {'; '.join(found)}" if found else ""
        rows = [row for row in self.rows if not _is_cost(row)]
        return chart.chart(title, chart.bars(rows, PARTS), warning)


def _is_cost(row: Row) -> bool:
    return row.table == COSTS


def _numbers(row: Row) -> list[float]:
    """Least, median, most."""
    least, most = row.spread or (row.value, row.value)
    return [float(f"{one:.{_DIGITS}g}") for one in (least, row.value, most)]


def _rows(line: Mapping[str, Any]) -> Iterator[Row]:
    base = line["taken"].get(BASE)
    for subject, (least, median, most) in line["taken"].items():
        row = Row(line["part"], line["what"], median, line["unit"], table=line["table"])
        ratio = median / base[1] if base and base[1] else None
        yield replace(row, subject=subject, ratio=ratio, spread=(least, most))


def _cell(row: Row) -> str:
    ratio = "" if row.ratio is None or row.subject == BASE else f" ({row.ratio:.1f})"
    least, median, most = map(_short, _numbers(row))
    spread = "" if least == most else f" [{least}, {most}]"
    return f"{'~' if row.is_unsteady else ''}{median}{ratio}{spread}"


def _short(value: float) -> str:
    """Three digits that say something, or all of a whole number."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> None:
    """Write the table and the picture of a file again."""
    path = Path(sys.argv[1])
    Report.read(path).write(path)


if __name__ == "__main__":
    main()
