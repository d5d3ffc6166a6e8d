"""The numbers: one measured, and a file of them with a line for each.

What a run says once, such as the machine and the versions, stands before the numbers. Single runs
are not kept: the median is, with the least and the most.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_UNSTEADY = 0.2  # of the median, between the least and the most
_DIGITS = 6  # two more than tables show


@dataclass(frozen=True, slots=True)
class Row:
    """One number and, where there is one, what was wanted."""

    part: str
    what: str
    value: float
    unit: str
    wanted: str = ""
    subject: str = ""  # of the parts writing and fastpath: who did it
    ratio: float | None = None  # to what the kernel's overlayfs, or the limit, takes
    spread: tuple[float, float] | None = None  # the least and the most
    table: str = ""  # of the part

    @classmethod
    def of(cls, part: str, what: str, taken: Sequence[float], unit: str, wanted: str = "") -> Row:
        """The median of what several runs took."""
        value = statistics.median(taken)
        return cls(part, what, value, unit, wanted, spread=(min(taken), max(taken)))

    @property
    def is_unsteady(self) -> bool:
        """Whether the runs are too far apart to say much."""
        return self.spread is not None and (
            self.spread[1] - self.spread[0] > _UNSTEADY * self.value
        )


def write(path: Path, facts: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Keep numbers; of a row, only the fields that say something."""
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in facts.items()]
    numbers = ",\n".join(f"  {json.dumps(_fields(row))}" for row in rows)
    text = "\n".join(["{", *lines, ' "rows": [', numbers, " ]", "}", ""])
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> tuple[dict[str, Any], list[Row]]:
    """What was kept: the facts of the run, and its numbers."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    return facts, [_row(fields) for fields in facts.pop("rows")]


def _fields(row: Row) -> dict[str, Any]:
    fields = asdict(row)
    return {name: _rounded(value) for name, value in fields.items() if value not in ("", None)}


def _row(fields: dict[str, Any]) -> Row:
    least, most = fields.pop("spread", (None, None))
    spread = None if least is None else (float(least), float(most))
    return Row(**fields, spread=spread)


def _rounded(found: Any) -> Any:
    if isinstance(found, float):
        return float(f"{found:.{_DIGITS}g}") if abs(found) < 10**_DIGITS else round(found)
    return [_rounded(one) for one in found] if isinstance(found, list | tuple) else found
