"""How things are printed: tables, sizes, ages, JSON, and progress."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from unionmount.reference import printable

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_AGES = (
    (365 * 86400, "year"),
    (30 * 86400, "month"),
    (7 * 86400, "week"),
    (86400, "day"),
    (3600, "hour"),
    (60, "minute"),
    (1, "second"),
)
_PROGRESS_PERIOD = 0.1  # seconds between two updates of the line


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns as docker does: left-aligned, three spaces apart."""
    table = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("   ".join(cells).rstrip())


def print_json(values: Sequence[Mapping[str, Any]]) -> None:
    """Print a list of objects; JSON escapes what a terminal would obey."""
    print(json.dumps(list(values), indent=2))


def human_size(size: int) -> str:
    """A size in powers of 1000 and three digits, as docker shows it: ``12.3MB``."""
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{value:.3g}{_UNITS[unit]}"


def human_age(seconds: float) -> str:
    """How long ago, roughly: ``3 weeks ago``."""
    for length, name in _AGES:
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    return "just now"


def age_of(timestamp: str) -> str:
    """The age of a time that an image or record tells; ``N/A`` where it tells none."""
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return "N/A"
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return human_age(time.time() - then.timestamp())


class ProgressLine:
    """One line on a terminal that tells how far an import is; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._last = 0.0
        self._dirty = False

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Tell that ``done`` of ``total`` bytes of ``what`` are read."""
        now = time.monotonic()
        if not self._shown or (now - self._last < _PROGRESS_PERIOD and done != total):
            return
        self._last, self._dirty = now, True
        part = f"{human_size(done)} of {human_size(total)}" if total else human_size(done)
        print(f"\r\033[K{printable(what)[:19]}: {part}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the line."""
        if self._dirty:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._dirty = False
