"""Ages and dates: -mtime and -mmin N, and the dates of -newermt."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

NS = 1_000_000_000
DAY = 86_400
ALWAYS = (-(2**63) * NS, 2**63 * NS - 1)
"""The least and the greatest time in nanoseconds."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Clock:
    """The time of the search; with ``daystart``, ages are counted from the end of today."""

    now: int  # in nanoseconds
    daystart: bool = False

    @property
    def _day(self) -> int:
        """24 hours before the moment from which days are counted."""
        if not self.daystart:
            return self.now - DAY * NS
        seconds = self.now // NS
        local = time.localtime(seconds)
        return (seconds - local.tm_sec - local.tm_min * 60 - local.tm_hour * 3600) * NS

    def days(self, text: str) -> tuple[int, int] | None:
        """Return the least and the greatest time that N, +N or -N days stand for."""
        origin = self._day + (DAY - 1) * NS if text.startswith("-") else self._day
        return _window(text, origin, DAY)

    def minutes(self, text: str) -> tuple[int, int] | None:
        """Return the same for minutes."""
        return _window(text, self._day + DAY * NS, 60)


def window_of_use(text: str) -> tuple[int, int] | None:
    """Return the least and the greatest difference of times for -used."""
    return _window(text, 0, DAY)


def _window(text: str, origin: int, unit: int) -> tuple[int, int] | None:
    """Return the times that N, +N or -N units before the origin stand for; None if not valid."""
    sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") else ("", text)
    if not _NUMBER.fullmatch(digits):
        return None
    amount = float(digits) * unit
    if not math.isfinite(amount) or abs(amount) >= 2**62:
        return None
    fraction, whole = math.modf(amount)
    reference = origin - int(whole) * NS - int(fraction * 1e9)
    if sign == "-":
        return reference + 1, ALWAYS[1]
    if sign == "+":
        return ALWAYS[0], reference - 1
    return reference + 1, reference + unit * NS


# ---- dates ---------------------------------------------------------------------------------------

_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})|(\d{4})(\d\d)(\d\d)")
_TIME = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?")
_ZONE = re.compile(r"(?:UTC|GMT|Z|z)?([+-])(\d\d?)(?::?(\d\d))?|(UTC|GMT|Z|z)")
_STAMP = re.compile(r"@(-?\d{1,18})(?:[.,](\d{1,9})\d*)?")
_RELATIVE = re.compile(r"([+-]?\s*\d{1,9})?\s*([A-Za-z]+)")
_SECONDS = {"sec": 1, "second": 1, "min": 60, "minute": 60, "hour": 3600}
_DAYS = {"day": 1, "week": 7, "fortnight": 14}
_WORDS = {"now": 0, "today": 0, "yesterday": -1, "tomorrow": 1}
_ORDINALS = {"last": -1, "this": 0, "next": 1}


@dataclass(slots=True)
class _Date:
    """What the words of a date have said so far."""

    day: tuple[int, int, int] | None = None
    clock: tuple[int, int, int, int] | None = None  # with nanoseconds
    zone: timezone | None = None
    months: int = 0
    days: int = 0
    seconds: int = 0
    last: tuple[str, int] | None = None  # the relative words that "ago" turns


def parse_date(text: str, now: int) -> int | None:
    """Return the nanoseconds of a date in the usual words of date(1); None for any other text.

    ISO dates and times with a zone, ``@SECONDS``, now, today, yesterday, tomorrow, and differences
    such as ``2 weeks ago`` or ``last month`` are understood.
    """
    stamp = _STAMP.fullmatch(text.strip())
    if stamp is not None:
        return int(stamp[1]) * NS + _nanoseconds(stamp[2])
    date, rest = _Date(), text.strip()
    while rest:
        for parse in (_take_date, _take_time, _take_zone, _take_relative):
            taken = parse(date, rest)
            if taken:
                break
        else:
            return None
        rest = rest[taken:].lstrip(" \t,")
    try:
        return _resolved(date, now)
    except (OverflowError, ValueError, OSError):
        return None


def _nanoseconds(digits: str | None) -> int:
    return int((digits or "0").ljust(9, "0"))


def _take_date(date: _Date, text: str) -> int:
    match = _DATE.match(text)
    if match is None or date.day is not None or text[match.end() : match.end() + 1].isdigit():
        return 0
    year, month, day = (int(part) for part in match.groups() if part is not None)
    date.day = year, month, day
    joined = re.match(r"[Tt](?=\d)", text[match.end() :])
    return match.end() + (1 if joined else 0)


def _take_time(date: _Date, text: str) -> int:
    match = _TIME.match(text)
    if match is None or date.clock is not None:
        return 0
    date.clock = int(match[1]), int(match[2]), int(match[3] or 0), _nanoseconds(match[4])
    return match.end()


def _take_zone(date: _Date, text: str) -> int:
    match = _ZONE.match(text)
    ends = match is not None and not text[match.end() : match.end() + 1].isalnum()
    if match is None or not ends or date.zone is not None:
        return 0
    if date.clock is None and (match[4] is None or date.day is None):
        return 0  # a number may be that of a difference
    minutes = int(match[2] or 0) * 60 + int(match[3] or 0)
    date.zone = timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes))
    return match.end()


def _take_relative(date: _Date, text: str) -> int:
    match = _RELATIVE.match(text)
    if match is None:
        return 0
    word, number = match[2].lower(), match[1]
    if word == "ago" and number is None and date.last is not None:
        unit, count = date.last
        _add(date, unit, -2 * count)
        date.last = None
        return match.end()
    if word in _WORDS and number is None:
        date.days += _WORDS[word]
        return match.end()
    if word in _ORDINALS and number is None:
        second = re.match(r"\s+([A-Za-z]+)", text[match.end() :])
        if second is not None and _add(date, second[1].lower(), _ORDINALS[word]):
            return match.end() + second.end()
        return 0
    count = int("".join(number.split())) if number is not None else 1
    if not _add(date, word, count):
        return 0
    date.last = word, count
    return match.end()


def _add(date: _Date, unit: str, count: int) -> bool:
    """Add a difference; return whether the unit is known."""
    unit = unit.removesuffix("s") if unit not in _SECONDS and unit not in _DAYS else unit
    if unit in _SECONDS:
        date.seconds += count * _SECONDS[unit]
    elif unit in _DAYS:
        date.days += count * _DAYS[unit]
    elif unit in ("month", "year"):
        date.months += count * (12 if unit == "year" else 1)
    else:
        return False
    return True


def _resolved(date: _Date, now: int) -> int:
    local = time.localtime(now // NS)
    year, month, day = date.day or (local.tm_year, local.tm_mon, local.tm_mday)
    keeps_clock = date.day is None and date.clock is None
    hour, minute, second, nano = (
        (local.tm_hour, local.tm_min, local.tm_sec, now % NS)
        if keeps_clock
        else date.clock or (0, 0, 0, 0)
    )
    datetime(year, month, day, hour, minute, min(second, 59))  # raises ValueError  # noqa: DTZ001
    if date.zone is None:
        _local_seconds((year, month, day, hour, minute, second), must_exist=True)
    month0 = month - 1 + date.months
    year, month, day = year + month0 // 12, month0 % 12 + 1, day + date.days
    if date.zone is not None:
        first = datetime(year, month, 1, hour, minute, tzinfo=date.zone) + timedelta(days=day - 1)
        seconds = int((first - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) + second
    else:
        seconds = _local_seconds((year, month, day, hour, minute, second))
    return (seconds + date.seconds) * NS + nano


_Fields = tuple[int, int, int, int, int, int]  # from the year to the second


def _local_seconds(fields: _Fields, *, must_exist: bool = False) -> int:
    """Return the seconds of a local time, the earlier ones if a clock shows it twice.

    With ``must_exist``, raise ValueError for a time that the clock skips.
    """
    found = int(time.mktime((*fields, -1, -1, -1)))
    summer = int(time.mktime((*fields, -1, -1, 1)))
    if summer < found and time.localtime(summer)[3:5] == time.localtime(found)[3:5]:
        found = summer
    if must_exist and time.localtime(found)[3:5] != fields[3:5]:
        raise ValueError
    return found


# ---- printing ------------------------------------------------------------------------------------


def parts_of(ns: int) -> tuple[int, int]:
    """Return seconds and nanoseconds."""
    return divmod(ns, NS)


def local_time(seconds: int) -> time.struct_time | None:
    """Return the local time; None beyond the calendar."""
    try:
        return time.localtime(seconds)
    except (OverflowError, ValueError, OSError):
        return None
