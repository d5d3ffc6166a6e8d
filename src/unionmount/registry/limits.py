"""Limits for registries: time-outs, retries, and sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from unionmount.errors import UsageError
from unionmount.system.text import printable
from unionmount.system.waiting import USUAL_TIMEOUT, timeout_of

CONNECTIONS_VARIABLE = "UNIONMOUNT_CONNECTIONS"

_LEAST_RATE = 512  # bytes per second
_USUAL_CONNECTIONS = 8
_MOST_CONNECTIONS = 64


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
    connections: int = _USUAL_CONNECTIONS
    """The connections to a host over which large blobs come; 1 fetches none of them in parts."""
    parted_from: int = 32 * 1024 * 1024
    """The bytes of a blob from which on it is fetched in parts."""
    part_size: int = 8 * 1024 * 1024
    parts_ahead: int = 8
    """The parts in memory that readers have not passed yet, of all blobs together."""
    redirects: int = 8
    pages: int = 1000
    names: int = 200_000
    """The limits for lists."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return the default limits, with the user's time-out and number of connections.

        All times are scaled by the time-out. Raise UsageError for invalid values.
        """
        usual = replace(cls(), connections=_connections(environment))
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


def _connections(environment: Mapping[str, str]) -> int:
    text = environment.get(CONNECTIONS_VARIABLE, "")
    if not text:
        return _USUAL_CONNECTIONS
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= _MOST_CONNECTIONS:
        raise UsageError(
            f"{CONNECTIONS_VARIABLE} must be a number from 1 to {_MOST_CONNECTIONS}, not "
            f"'{printable(text[:200])}'"
        )
    return int(text)
