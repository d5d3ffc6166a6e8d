"""Limits for registries: time-outs, retries, and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from unionmount.system.waiting import USUAL_TIMEOUT, timeout_of

_LEAST_RATE = 512  # bytes per second


@dataclass(frozen=True, slots=True)
class RegistryLimits:
    """The limits, in seconds and bytes; tests use smaller ones."""

    connect: float = 15.0
    silence: float = USUAL_TIMEOUT
    """The time without a byte after which an attempt ends."""
    answer: float = 120.0
    """The time for the head of an answer, including redirects, or for a whole document."""
    patience: float = 900.0
    """The time for which a registry may be silent while it stores a blob."""
    slow_window: float = 120.0
    slow_bytes: int = 120 * _LEAST_RATE
    """The bytes per window below which a transfer counts as silent."""
    attempts: int = 5
    mirror_attempts: int = 2
    first_pause: float = 0.25
    longest_pause: float = 20.0
    longest_retry_after: float = 120.0
    """The longest pause that a registry may request; a longer one is an error."""
    renewed_after: int = 1024 * 1024
    """The bytes of a blob after which the number of attempts starts again."""
    redirects: int = 8
    pages: int = 1000
    names: int = 200_000
    """The limits for lists."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return the default limits, with all times scaled by the user's time-out."""
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
