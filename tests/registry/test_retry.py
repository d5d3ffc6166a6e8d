"""How long is waited, on a clock that jumps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import trio
from trio.testing import MockClock

from unionmount.errors import TooManyRequests, TransferError
from unionmount.registry import RegistryLimits
from unionmount.registry.retry import Backoff, Transient, retry_after


async def waited(backoff: Backoff, pause: float | None = None) -> float:
    begin = trio.current_time()
    await backoff.wait(Transient(TransferError("broken"), pause))
    return trio.current_time() - begin


async def test_pauses_double_up_to_a_limit(autojump_clock: MockClock) -> None:
    backoff = Backoff(RegistryLimits(attempts=9, first_pause=1, longest_pause=20))
    for longest in (1, 2, 4, 8, 16, 20, 20, 20):
        assert longest / 2 <= await waited(backoff) <= longest
    with pytest.raises(TransferError, match=r"^broken$"):
        await waited(backoff)


async def test_new_attempts_begin_anew(autojump_clock: MockClock) -> None:
    backoff = Backoff(RegistryLimits(attempts=2, first_pause=1))
    for _ in range(5):
        assert await waited(backoff) <= 1
        backoff.renew()


async def test_a_registry_says_how_long(autojump_clock: MockClock) -> None:
    backoff = Backoff(RegistryLimits(longest_retry_after=100))
    assert await waited(backoff, 0) == 0
    assert await waited(backoff, 100) == pytest.approx(100)
    with pytest.raises(TooManyRequests, match=r"broken; the registry requests a pause of 101 s"):
        await waited(backoff, 101)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("7", 7),
        (" 7 ", 7),
        ("9" * 5000, 999999999999),
        ("-7", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu, 99 Jan 1970 00:00:00 GMT", None),
        ("\u0664", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds


def test_retry_after_a_date() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    found = retry_after(then)
    assert found is not None
    assert 80 < found <= 90
