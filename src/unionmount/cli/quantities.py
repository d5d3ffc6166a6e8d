"""Times, ages and sizes as people type and read them."""

from __future__ import annotations

import re
import time
from datetime import datetime

from unionmount.errors import UsageError
from unionmount.system.text import printable

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_SECONDS |= {"ns": 1e-9}
_AGE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(d|h|ms|us|µs|ns|m|s)")
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmgtp]?)(i?)b?", re.IGNORECASE)
_POWERS = " kmgtp"
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def parse_moment(text: str) -> float:
    """Parse a time, or an age (``24h``, ``1h30m``, ``7d``), into seconds since 1970."""
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return float(text)
    parts = _AGE.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return time.time() - sum(float(number) * _SECONDS[unit] for number, unit in parts)
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise UsageError(
            f"'{printable(text)}' is not a time; write an age, such as 72h or 7d, or a date"
        ) from None


def parse_size(text: str) -> int:
    """Parse a number of bytes: ``20G`` and ``20GB`` are powers of 1000, ``20GiB`` of 1024."""
    match = _SIZE.fullmatch(text)
    if match is None or (match[3] and not match[2]):
        raise UsageError(f"'{printable(text)}' is not a size; write a number such as 500MB or 20G")
    base = 1024 if match[3] else 1000
    power = _POWERS.index(match[2].lower() or " ")
    return round(float(match[1]) * float(base**power))


def human_size(size: int, digits: int = 3) -> str:
    """Format a size in powers of 1000 with three digits, as docker does: ``12.3MB``.

    Only the size that docker writes as ``1e+03kB`` differs: it is ``1MB``.
    """
    value, unit = float(size), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{value:.{digits}g}{_UNITS[unit]}"
