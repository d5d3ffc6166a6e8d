"""Dates of -newermt, against date(1), which parses them with the code that find has."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest

from unionmount.browse.find.times import NS, Clock, parse_date

ZONE = "EST5EDT,M3.2.0,M11.1.0"
NOW = 1_700_000_000 * NS + 123_456_789

pytestmark = pytest.mark.needs("date")


@pytest.fixture(autouse=True)
def _time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", ZONE)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def by_date(text: str) -> int | None:
    """What date(1) says; relative dates count from the real time."""
    done = subprocess.run(
        ["date", "-d", text, "+%s %N"],
        capture_output=True,
        text=True,
        env={"TZ": ZONE, "LC_ALL": "C"},
        check=False,
    )
    if done.returncode:
        return None
    seconds, nanoseconds = done.stdout.split()
    return int(seconds) * NS + int(nanoseconds)


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-01",
        "2024-2-9",
        "20240229",
        "2024-07-01 10:20",
        "2024-07-01 10:20:30",
        "2024-07-01T10:20:30",
        "2024-07-01 10:20:30.5",
        "2024-07-01 10:20:30,123456789",
        "2024-07-01 10:20:30Z",
        "2024-07-01T10:20:30+02:00",
        "2024-07-01 10:20 -0530",
        "2024-07-01 10:20 UTC",
        "2024-07-01 10:20 UTC+3",
        "10:20 2024-07-01",
        "2024-03-10 02:30",
        "2024-11-03 01:30",
        "2024-01-31 1 month",
        "2024-01-31 + 1 month",
        "2024-01-31 1 year ago",
        "2024-01-31 10:00 2 days ago",
        "2024-01-31 10:00 -3 hours",
        "2024-01-31 next month",
        "2024-03-01 last week",
        "2024-03-01 3 fortnights ago 1 day",
        "@0",
        "@1700000000",
        "@1700000000.25",
        "@-5",
        "1969-12-31 12:00",
        "foo",
        "2024-13-01",
        "2024-02-30",
        "2024-01-01 25:00",
        "2024-01-01 2024-01-02",
        "10:20 11:20",
        "ago",
        "2024-01-01 UTC",
        "2024-01-01 xx",
        "next",
    ],
)
def test_dates(text: str) -> None:
    assert parse_date(text, NOW) == by_date(text)


@pytest.mark.parametrize(
    "text",
    [
        "now", "today", "yesterday", "tomorrow", "1 hour ago", "2 weeks ago", "-1 day", "3 days",
        "last year", "5 min ago", "90 seconds ago", "1 fortnight ago", "yesterday 10:00",
        "10:00 yesterday", "12:34", "week ago", "next month",
    ],
)  # fmt: skip
def test_relative_dates(text: str) -> None:
    before = time.time_ns()
    wanted = by_date(text)
    after = time.time_ns()
    assert wanted is not None
    least, most = parse_date(text, before), parse_date(text, after)
    assert least is not None
    assert most is not None
    assert least <= wanted <= most or text[:1].isdigit()
    assert abs(least - wanted) <= after - before + 1


def test_ages() -> None:
    clock = Clock(NOW)
    day = 86_400 * NS
    assert clock.days("1") == (NOW - 2 * day + 1, NOW - day)
    assert clock.days("-1") == (NOW - day - NS + 1, 2**63 * NS - 1)
    assert clock.minutes("+2") == (-(2**63) * NS, NOW - 120 * NS - 1)
    assert clock.days("x") is clock.days("") is clock.days("1e99") is None
