"""Untrusted text, made safe for printing, and sizes."""

from __future__ import annotations

_SPACES = str.maketrans("\t\n\v\f\r", "     ")
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def printable(text: str | bytes) -> str:
    """Return a text for messages, in which control characters are escaped."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def one_line(command: str, *, squeezed: bool = True) -> str:
    """Return a command on one line: tabs and line ends are spaces, and several spaces are one."""
    line = command.translate(_SPACES)
    return " ".join(filter(None, line.split(" "))) if squeezed else line


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def human_size(size: int, digits: int = 3) -> str:
    """Format a size in powers of 1000 with three digits, as docker does: ``12.3MB``.

    Only the size that docker writes as ``1e+03kB`` differs: it is ``1MB``.
    """
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{value:.{digits}g}{_UNITS[unit]}"
