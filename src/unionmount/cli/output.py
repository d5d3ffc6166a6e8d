"""Output: tables, sizes, ages, JSON, templates and progress."""

from __future__ import annotations

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from unionmount.cli.progress import ProgressLine
from unionmount.cli.quantities import human_size
from unionmount.system.text import printable

__all__ = [
    "ListRow",
    "ListTemplate",
    "Listing",
    "ProgressLine",
    "age_of",
    "aligned",
    "display_width",
    "fitted",
    "human_age",
    "human_duration",
    "human_size",
    "is_template",
    "parsing",
    "print_by_template",
    "print_json",
    "print_jsonl",
    "print_table",
    "print_template_output",
    "shortened",
    "terminal_width",
    "time_of",
]

_GAP = 3
_LEAST = 12  # columns that a shortened cell keeps
_LEAST_LAST = 10  # in the last column
_MIN_WIDTH = 10  # of a column in docker's tables, with the gap
_KEPT = frozenset("\n\t")  # control characters that a template may print to a terminal

# ---- sizes and ages ------------------------------------------------------------------------------


def human_duration(seconds: float) -> str:
    """Format a time span in docker's words (``HumanDuration`` of go-units)."""
    hours = int(seconds / 3600 + 0.5)
    if seconds < 60:
        return _some_seconds(int(seconds))
    if seconds < 3600:
        minutes = int(seconds / 60)
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours == 1:
        return "About an hour"
    limits = ((48, 1, "hours"), (336, 24, "days"), (1440, 168, "weeks"), (17520, 720, "months"))
    for limit, length, name in limits:
        if hours < limit:
            return f"{hours // length} {name}"
    return f"{int(seconds / 3600) // 24 // 365} years"


def _some_seconds(seconds: int) -> str:
    if seconds < 1:
        return "Less than a second"
    return "1 second" if seconds == 1 else f"{seconds} seconds"


def human_age(seconds: float) -> str:
    """Format an age: ``3 weeks ago``."""
    return f"{human_duration(seconds)} ago"


def time_of(timestamp: str) -> datetime | None:
    """Parse the time in an image or record; return None if there is none."""
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return then if then.tzinfo is not None else then.replace(tzinfo=UTC)


def age_of(timestamp: str) -> str:
    """Format the age of a time in an image or record; ``N/A`` if there is none."""
    then = time_of(timestamp)
    if then is None or then.year == 1:  # Go's zero time is the first of January of year 1
        return "N/A"
    return human_age(time.time() - then.timestamp())


# ---- tables --------------------------------------------------------------------------------------


def display_width(text: str) -> int:
    """Return the width of a text in columns: two for wide characters, none for combining ones."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, full: bool = False
) -> None:
    """Print a table with left-aligned columns, which fits the terminal unless it is ``full``."""
    table = [list(header), *([printable(cell) for cell in row] for row in rows)]
    if not full:
        table = fitted(table, terminal_width())
    for line in aligned(table, 0):
        print(line.rstrip())


def terminal_width() -> int | None:
    """Return the columns of the terminal on standard output; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fitted(rows: list[list[str]], width: int | None, minimum: int = 0) -> list[list[str]]:
    """Shorten cells, the right column first, until the lines of ``aligned`` fit ``width``.

    A column keeps its heading, in the first row, and enough for an ID or an age. What is still too
    long stays so.
    """
    count = len(rows[0]) if rows else 0
    if width is None or any(len(row) != count for row in rows):
        return rows
    widths = [max(display_width(row[at]) for row in rows) for at in range(count)]
    gaps = [max(one + _GAP, minimum) for one in widths[:-1]]
    excess = sum(gaps) + sum(widths[-1:]) - width
    for at in reversed(range(count)):
        if excess <= 0:
            break
        least = _LEAST if at < count - 1 else _LEAST_LAST
        kept = max(widths[at] - excess, display_width(rows[0][at]), least)
        if kept < widths[at]:
            excess -= widths[at] - kept
            for row in rows:
                row[at] = shortened(row[at], kept)
    return rows


def aligned(rows: Sequence[Sequence[str]], minimum: int = _MIN_WIDTH) -> list[str]:
    """Align cells in columns as docker does (Go's ``text/tabwriter``), and return the lines.

    The last cell of a row is not part of a column. A row without a cell ends the column.
    """
    widths: list[list[int]] = [[] for _ in rows]
    for number in range(max((len(row) for row in rows), default=1) - 1):
        for block in _blocks(rows, number):
            width = max(display_width(rows[at][number]) for at in block) + _GAP
            for at in block:
                widths[at].append(max(width, minimum))
    return [_line(row, widths[at]) for at, row in enumerate(rows)]


def _blocks(rows: Sequence[Sequence[str]], number: int) -> Iterable[range]:
    """Yield the runs of rows that have a cell in this column."""
    start = 0
    for at in range(len(rows) + 1):
        if at == len(rows) or len(rows[at]) - 1 <= number:
            if at > start:
                yield range(start, at)
            start = at + 1


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell + " " * (width - display_width(cell))
        for cell, width in zip(row[:-1], widths, strict=True)
    ]
    return "".join([*cells, row[-1]])


def shortened(text: str, width: int) -> str:
    """Cut a text to ``width`` columns, the last of which is then ``…``."""
    if display_width(text) <= width:
        return text
    kept = ""
    for character in text:
        if display_width(kept + character) > width - 1:
            break
        kept += character
    return f"{kept}…"


# ---- JSON ----------------------------------------------------------------------------------------


def print_json(values: Sequence[Mapping[str, Any]]) -> None:
    """Print a list of objects as JSON, in which control characters are escaped."""
    print(json.dumps(list(values), indent=2))


def print_jsonl(values: Iterable[Mapping[str, Any]]) -> None:
    """Print one object a line."""
    for value in values:
        print(json.dumps(value))


# ---- lists ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListRow:
    """One line of a list: its fields for templates as text, and its JSON."""

    fields: Mapping[str, str]
    json: Mapping[str, Any]

    @classmethod
    def of(cls, json: Mapping[str, Any]) -> Self:
        """Make a line from its JSON; the key ``created_by`` is ``.CreatedBy`` in templates."""
        fields = {"".join(map(str.capitalize, key.split("_"))): key for key in json}
        return cls({name: _as_text(json[key]) for name, key in fields.items()}, json)


def _as_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_as_text, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def is_template(form: str) -> bool:
    """Return whether a ``--format`` that passed ``check_form`` is a template."""
    return "{{" in form


def print_by_template(of: str, form: str, rows: Iterable[ListRow]) -> None:
    """Print each row by a template as it arrives; ``of`` names the rows in error messages."""
    template = ListTemplate(of, form)
    for row in rows:
        print_template_output(template.render(row))


@dataclass(frozen=True, slots=True)
class Listing:
    """A list that can be printed as a table, as JSON, or by a template."""

    of: str  # docker's name for one line in error messages
    heads: Mapping[str, str]  # headings of the columns, by the fields of templates
    table: str  # the template of the table, without the word "table"

    def show(self, form: str, rows: Iterable[ListRow], *, full: bool = False) -> None:
        """Print rows in a form that ``list_format_option`` accepted.

        The usual table fits the terminal unless it is ``full``.
        """
        if form == "json":
            print_json([row.json for row in rows])
        elif form == "jsonl":
            print_jsonl(row.json for row in rows)
        elif form.startswith("table"):
            text = form.removeprefix("table").strip(" ")
            width = None if text or full else terminal_width()
            self._show_table(text or self.table, rows, width)
        else:
            print_by_template(self.of, form.strip(" "), rows)

    def _show_table(self, text: str, rows: Iterable[ListRow], width: int | None) -> None:
        template = ListTemplate(self.of, text)
        lines = [template.render(row, safe=True) for row in rows]
        lines.insert(0, template.head(self.heads))
        cells = [line.split("\t") for text in lines for line in text.split("\n")]
        for line in aligned(fitted(cells, width, _MIN_WIDTH)):
            print(line)


class ListTemplate:
    """A template for the lines of a list, in which tabs and newlines may be written as escapes."""

    def __init__(self, of: str, text: str) -> None:
        from unionmount.gotemplate import Template

        self._of = of
        with parsing():
            self._template = Template(text.replace(r"\t", "\t").replace(r"\n", "\n"))

    def head(self, heads: Mapping[str, str]) -> str:
        """Return the heading."""
        with parsing():
            return self._template.render_head(heads)

    def render(self, row: ListRow, *, safe: bool = False) -> str:
        """Return one line; with ``safe``, without control characters or breaks of the table."""
        from unionmount.gotemplate import Struct

        names = sorted(row.fields)
        shown = {name: printable(row.fields[name]) if safe else row.fields[name] for name in names}
        with parsing():
            return self._template.render(Struct(self._of, shown, pointer=True, escapes_html=True))


@contextmanager
def parsing() -> Iterator[None]:
    """Reword errors of a template as docker does, both when it is parsed and when it runs."""
    from unionmount.gotemplate import TemplateError

    try:
        yield
    except TemplateError as error:
        raise TemplateError(f"template parsing error: {error}") from None


def print_template_output(text: str) -> None:
    """Print the output of a template byte for byte, except for control characters on a terminal."""
    if sys.stdout.isatty():
        text = "".join(c if c in _KEPT or c.isprintable() else printable(c) for c in text)
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        print(text)
        return
    buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
    buffer.flush()
