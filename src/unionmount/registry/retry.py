"""What may be better next time, and how long to wait for it."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import trio

from unionmount.errors import RegistryError, TooManyRequests
from unionmount.registry.limits import RegistryLimits


class Transient(Exception):
    """A failure that another attempt may mend; ``error`` is what is raised if none does."""

    def __init__(self, error: RegistryError, pause: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause = pause


class Backoff:
    """Pauses that double, by chance shorter, for a bounded number of attempts."""

    def __init__(self, limits: RegistryLimits, attempts: int | None = None) -> None:
        self._limits = limits
        self._attempts = limits.attempts if attempts is None else attempts
        self._failed = 0

    def renew(self) -> None:
        """Begin anew after something went well."""
        self._failed = 0

    async def wait(self, failure: Transient) -> None:
        """Wait before the next attempt; the failure's error where there shall be none."""
        self._failed += 1
        if self._failed >= self._attempts:
            raise failure.error from failure
        limits = self._limits
        if failure.pause is not None:
            if failure.pause > limits.longest_retry_after:
                raise TooManyRequests(
                    f"{failure.error}; it wants a pause of {failure.pause:.0f} s"
                ) from failure
            await trio.sleep(failure.pause)
            return
        pause = min(limits.longest_pause, limits.first_pause * 2 ** (self._failed - 1))
        # Many clients that failed together shall not come back together.
        await trio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret


def retry_after(value: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` asks for, given as a number or a date."""
    if not value:
        return None
    digits = value.strip()
    if digits.isascii() and digits.isdecimal():
        return float(digits[:12])
    try:
        then = parsedate_to_datetime(value)
        if then.tzinfo is None:
            then = then.replace(tzinfo=UTC)
        return max(0.0, (then - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return None
