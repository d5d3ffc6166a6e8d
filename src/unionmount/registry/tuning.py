"""How long to wait, how often to try again, and how much to take from a registry."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """Numbers that a test may want smaller; seconds and bytes."""

    connect: float = 15.0
    silence: float = 60.0
    """No byte for so long, while one is waited for, ends an attempt."""
    answer: float = 120.0
    """All the time that the head of an answer, or a whole document, may take."""
    patience: float = 900.0
    """The silence of a registry that has got a whole blob and puts it in its place."""
    slow_window: float = 120.0
    slow_bytes: int = 120 * 512
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
