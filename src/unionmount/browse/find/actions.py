"""The actions of find(1): printing in its ways, -prune and -quit."""

from __future__ import annotations

import functools
import re
import stat
import time
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
        run.out.found(visit, self.end, run.place)
        return True


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
        columns, mode = run.columns, visit.mode
        line = columns.left(visit, run.place.accounts)
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            line += columns.device(*visit.device)
        else:
            line += columns.size(visit.size)
        line += f" {_when(visit.mtime, run.now // NS)} "
        shown = line.encode() + escaped(visit.path)
        if stat.S_ISLNK(mode):
            shown += b" -> " + escaped(run.place.files.readlink(visit.node))
        run.out.text(shown + b"\n")
        return True


def escaped(name: bytes) -> bytes:
    """Return a name in which everything but plain characters is escaped, as by ls -b."""
    if _PLAIN.fullmatch(name):
        return name
    return b"".join(map(_ESCAPED.__getitem__, name))


@functools.lru_cache(maxsize=65536)
def _when(seconds: int, current: int) -> str:
    """Format a time with the hour, or with the year if it is not of the last months."""
    local = local_time(seconds)
    if local is None:
        return str(seconds).rjust(12)
    is_recent = current - _RECENT <= seconds <= current + _SLOP
    return time.strftime("%b %e %H:%M" if is_recent else "%b %e  %Y", local)
