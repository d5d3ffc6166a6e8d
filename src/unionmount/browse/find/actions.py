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
        """Print a line of attributes; columns grow with the widest value so far."""
        place, widths, mode = run.place, run.widths, visit.mode
        left = (
            f"{_right(widths, 0, visit.node)} {_right(widths, 1, -(-visit.blocks // 2))} "
            f"{_mode(mode)} {_right(widths, 2, visit.nlink)} "
            f"{_owner(widths, place.accounts.user(visit.uid), visit.uid)} "
            f"{_left(widths, 4, place.accounts.group(visit.gid))} "
        )
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            major, minor = visit.device
            left += f"{_right(widths, 5, major)}, {_right(widths, 6, minor)}"
        else:
            left += _right(widths, 7, visit.size)
        left += f" {_when(visit.mtime, run.now // NS)} "
        line = left.encode() + escaped(visit.path)
        if stat.S_ISLNK(mode):
            line += b" -> " + escaped(place.files.readlink(visit.node))
        run.out.text(line + b"\n")
        return True


def _right(widths: list[int], column: int, number: int) -> str:
    text = str(number)
    widths[column] = max(widths[column], len(text))
    return text.rjust(widths[column])


def _left(widths: list[int], column: int, text: str) -> str:
    widths[column] = max(widths[column], len(text))
    return text.ljust(widths[column])


def _owner(widths: list[int], name: str, number: int) -> str:
    """Return the owner; as in find, numbers do not use the width of longer names."""
    if name != str(number):
        return _left(widths, 3, name)
    text = name.ljust(8)
    widths[3] = max(widths[3], len(text) + 1)
    return text


@functools.lru_cache(maxsize=1024)
def _mode(mode: int) -> str:
    return stat.filemode(mode)


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
