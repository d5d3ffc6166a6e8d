"""One picture of a part that compares file systems: how often the time of overlayfs.

``python -m bench.chart results.json fastpath.svg fastpath``. A group of bars for each task, a bar
for each subject, on a logarithmic scale, with a line from the fastest pass to the slowest; 1 is the
median of overlayfs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.results import Row, read

_SHOWN = {  # subjects, in the order of their bars, with a colour that stays the same
    "unionmount, image": "#0b6e4f",
    "unionmount, writable": "#6bbf59",
    "unionmount mount": "#0b6e4f",
    "unionmount overlay": "#6bbf59",
    "unionmount overlay, io_uring": "#1f78b4",
    "unionmount overlay, passthrough": "#a6cee3",
    "pyfuse3 alone, image": "#9aa5b1",
    "pyfuse3 alone, mount": "#9aa5b1",
    "pyfuse3 alone, overlay": "#9aa5b1",
    "fuse-overlayfs": "#d1495b",
    "fuse-overlayfs 2": "#e58606",
    "fuse-overlayfs, newest": "#8f2d56",
    "unionfs-fuse": "#edae49",
    "mergerfs": "#00798c",
    "squashfuse": "#8d6a9f",
    "ratarmount": "#33658a",
}
_TIMES = ("s", "µs")
_TOO_RARE = "p99.9"  # a few calls of each pass: in the tables only
_LEFT, _WIDTH, _BAR, _GAP = 380, 620, 9, 10
_LEAST, _MOST = 0.25, 128.0
_TICKS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Bar:
    """How often the time of overlayfs' median: the median of a subject's passes, and their ends."""

    ratio: float
    least: float
    most: float

    @classmethod
    def of(cls, row: Row, ratio: float) -> Bar:
        """Of a row that has a ratio."""
        least, most = row.spread or (row.value, row.value)
        return cls(ratio, *(ratio * end / row.value for end in (least, most)))


Bars = dict[str, dict[str, Bar]]
"""Of each task, the bars of the subjects."""


def bars(rows: Sequence[Row], parts: Collection[str]) -> Bars:
    """What the rows of some parts say of time, those without a ratio left out."""
    found: Bars = {}
    for row in rows:
        shown = row.part in parts and row.unit in _TIMES and row.subject in _SHOWN
        if shown and row.ratio and row.value and not row.what.endswith(_TOO_RARE):
            found.setdefault(row.what, {})[row.subject] = Bar.of(row, row.ratio)
    return found


def _x(ratio: float) -> float:
    clamped = min(max(ratio, _LEAST), _MOST)
    return _LEFT + _WIDTH * math.log2(clamped / _LEAST) / math.log2(_MOST / _LEAST)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _group(what: str, found: dict[str, Bar], top: float) -> Iterator[str]:
    yield _text(_LEFT - 8, top + _BAR * len(found) / 2 + 4, what, "end")
    for number, subject in enumerate(one for one in _SHOWN if one in found):
        y, bar = top + number * _BAR, found[subject]
        begin, end = sorted((_x(1), _x(bar.ratio)))
        yield (
            f'<rect x="{begin:.1f}" y="{y:.1f}" width="{max(end - begin, 1):.1f}" '
            f'height="{_BAR - 1}" fill="{_SHOWN[subject]}"><title>{escape(subject)}: '
            f"{bar.ratio:.2f} ({bar.least:.2f} to {bar.most:.2f})</title></rect>"
        )
        middle = y + (_BAR - 1) / 2
        yield (
            f'<line x1="{_x(bar.least):.1f}" y1="{middle}" x2="{_x(bar.most):.1f}" y2="{middle}" '
            'stroke="black" stroke-width="0.8"/>'
        )


def _axis(top: float, bottom: float) -> Iterator[str]:
    for tick in _TICKS:
        colour = "#333" if tick == 1 else "#ddd"
        x = _x(tick)
        yield f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}"/>'
        yield _text(x, top - 4, f"{tick:g}", "middle")


def _legend(subjects: Sequence[str], top: float) -> Iterator[str]:
    for number, subject in enumerate(subjects):
        x, y = 10 + 230 * (number % 4), top + 18 * (number // 4)
        yield f'<rect x="{x}" y="{y}" width="12" height="12" fill="{_SHOWN[subject]}"/>'
        yield _text(x + 18, y + 11, subject)


def chart(title: str, found: Bars, warning: str = "") -> str:
    """The picture, as SVG; a warning stands below the title."""
    subjects = [one for one in _SHOWN if any(one in group for group in found.values())]
    begin = 48 if warning else 30
    top = begin + 30 + 18 * ((len(subjects) + 3) // 4)
    parts: list[str] = []
    y = float(top)
    for what, group in found.items():
        parts += _group(what, group, y)
        y += _BAR * len(group) + _GAP
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 30}" height="{y:.0f}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        _text(10, 18, title),
        *([_text(10, 36, warning)] if warning else []),
        *_legend(subjects, begin),
        *_axis(top - 6, y - _GAP / 2),
        *parts,
        "</svg>",
    ]
    return "\n".join(drawn) + "\n"


def main() -> None:
    """Draw what a file of results has of the part that is named last."""
    source, target, part = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    _, rows = read(source)
    title = f"{part}: how often the time of the kernel's overlayfs (less is better)"
    target.write_text(chart(title, bars(rows, {part})), encoding="utf-8")


if __name__ == "__main__":
    main()
