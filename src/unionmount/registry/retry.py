"""Retries: failures that may be temporary, and the pauses between attempts."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import trio

from unionmount.errors import RegistryError, TooManyRequests
from unionmount.registry.limits import RegistryLimits


class Transient(Exception):
    """A failure that may be temporary; ``error`` is raised if all attempts fail."""

    def __init__(self, error: RegistryError, pause: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.pause = pause


class Backoff:
    """Exponential pauses with jitter, for a bounded number of attempts."""

    def __init__(self, limits: RegistryLimits, attempts: int | None = None) -> None:
        self._limits = limits
        self._attempts = limits.attempts if attempts is None else attempts
        self._failed = 0

    def renew(self) -> None:
        """Start again after progress."""
        self._failed = 0

    async def wait(self, failure: Transient) -> None:
        """Wait before the next attempt; raise the failure's error if there is none."""
        self._failed += 1
        if self._failed >= self._attempts:
            raise failure.error from failure
        limits = self._limits
        if failure.pause is not None:
            if failure.pause > limits.longest_retry_after:
                raise TooManyRequests(
                    f"{failure.error}; the registry requests a pause of {failure.pause:.0f} s"
                ) from failure
            await trio.sleep(failure.pause)
            return
        pause = min(limits.longest_pause, limits.first_pause * 2 ** (self._failed - 1))
        # Clients that failed together must not come back together.
        await trio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - not a secret


def retry_after(value: str | None) -> float | None:
    """Return the seconds of a ``Retry-After``, given as a number or a date."""
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
