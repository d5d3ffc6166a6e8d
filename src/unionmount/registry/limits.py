"""How long to wait, how often to try again, and how much to take from a registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from unionmount.system.waiting import USUAL_TIMEOUT, timeout_of

_LEAST_RATE = 512  # bytes a second


@dataclass(frozen=True, slots=True)
class RegistryLimits:
    """Numbers that a test may want smaller; seconds and bytes."""

    connect: float = 15.0
    silence: float = USUAL_TIMEOUT
    """No byte for so long, while one is waited for, ends an attempt."""
    answer: float = 120.0
    """All the time that the head of an answer, redirects included, or a whole document may take."""
    patience: float = 900.0
    """The silence of a registry that has got a whole blob and puts it in its place."""
    slow_window: float = 120.0
    slow_bytes: int = 120 * _LEAST_RATE
    """Fewer bytes than this in a window of waiting is as good as silence."""
    attempts: int = 5
    mirror_attempts: int = 2
    first_pause: float = 0.25
    longest_pause: float = 20.0
    longest_retry_after: float = 120.0
    """A registry that wants a longer pause than this gets an error to the user instead."""
    renewed_after: int = 1024 * 1024
    """So many bytes of a blob, and the number of attempts begins anew."""
    redirects: int = 8
    pages: int = 1000
    names: int = 200_000
    """Pages and names that a list may have."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return the usual numbers, all times as much longer or shorter as the user's time-out is."""
        usual = cls()
        factor = timeout_of(environment) / usual.silence
        return replace(
            usual,
            connect=usual.connect * factor,
            silence=usual.silence * factor,
            answer=usual.answer * factor,
            patience=usual.patience * factor,
            slow_window=usual.slow_window * factor,
            slow_bytes=int(usual.slow_window * factor * _LEAST_RATE),
        )
