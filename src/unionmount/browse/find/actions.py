"""The actions of find(1): printing in its ways, -prune and -quit."""

from __future__ import annotations

import functools
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass

from unionmount.browse.find.expression import Run, SearchEnded
from unionmount.browse.find.times import NS, local_time
from unionmount.core.scan import Visit

_RECENT = 6 * 30 * 24 * 60 * 60  # seconds for which -ls prints hours instead of a year
_SLOP = 60 * 60
_SPECIAL = {
    ord("\\"): b"\\\\",
    ord("\n"): b"\\n",
    ord("\b"): b"\\b",
    ord("\r"): b"\\r",
    ord("\t"): b"\\t",
    ord("\f"): b"\\f",
    ord(" "): b"\\ ",
    ord('"'): b'\\"',
}
_PLAIN = re.compile(rb"[!#-\[\]-~]*")
_PLAIN_BYTES = bytes(code for code in range(256) if _PLAIN.fullmatch(bytes([code])))
_ESCAPED = [
    _SPECIAL.get(code, bytes([code]) if 0o40 < code < 0o177 else b"\\%03o" % code)
    for code in range(256)
]


@dataclass(frozen=True, slots=True)
class Print:
    """-print and -print0."""

    end: bytes = b"\n"

    def holds(self, visit: Visit, run: Run) -> bool:
        """Print the path."""
        self.write((visit,), run)
        return True

    def write(self, visits: Sequence[Visit], run: Run) -> None:
        """Print paths."""
        run.out.found(visits, self.end, run.place)


@dataclass(frozen=True, slots=True)
class Prune:
    """-prune."""

    def holds(self, visit: Visit, run: Run) -> bool:  # noqa: ARG002
        """Let the search not enter the directory."""
        run.pruned = True
        return True


@dataclass(frozen=True, slots=True)
class Quit:
    """-quit."""

    def holds(self, visit: Visit, run: Run) -> bool:  # noqa: ARG002
        """End the search."""
        raise SearchEnded


@dataclass(frozen=True, slots=True)
class PrintDetails:
    """-ls."""

    def holds(self, visit: Visit, run: Run) -> bool:
        """Print a line of attributes."""
        self.write((visit,), run)
        return True

    def write(self, visits: Sequence[Visit], run: Run) -> None:
        """Print lines of attributes."""
        columns, files, now = run.columns, run.place.files, run.now // NS
        columns.use(run.place.accounts)
        escape = _as_it_is if _are_plain(visits) else escaped
        lines: list[bytes] = []
        try:
            for visit in visits:
                left, when = columns.left(visit.raw), _when(visit.raw[9], now)
                lines += (left, when, escape(visit.path))
                if stat.S_ISLNK(visit.mode):
                    lines += (b" -> ", escaped(files.readlink(visit.node)))
                lines.append(b"\n")
        finally:
            run.out.text(b"".join(lines))


def _are_plain(visits: Sequence[Visit]) -> bool:
    """Return whether no path has a character that is escaped; quick, as most have none."""
    return not b"".join([visit.path for visit in visits]).translate(None, _PLAIN_BYTES)


def _as_it_is(name: bytes) -> bytes:
    return name


def escaped(name: bytes) -> bytes:
    """Return a name in which everything but plain characters is escaped, as by ls -b."""
    if _PLAIN.fullmatch(name):
        return name
    return b"".join(map(_ESCAPED.__getitem__, name))


@functools.lru_cache(maxsize=65536)
def _when(seconds: int, current: int) -> bytes:
    """Format a time with the hour, or with the year if it is not of the last months."""
    local = local_time(seconds)
    if local is None:
        return b" %12d " % seconds
    is_recent = current - _RECENT <= seconds <= current + _SLOP
    shown = time.strftime("%b %e %H:%M" if is_recent else "%b %e  %Y", local)
    return f" {shown} ".encode()
