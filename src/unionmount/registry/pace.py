"""The rate of a download, by which one that is too slow is given up."""

from __future__ import annotations

import trio


class Pace:
    """The rate of a download, which counts only the time of waiting for bytes."""

    def __init__(self, window: float, least: int) -> None:
        self._window = window
        self._least = least
        self._waited = 0.0
        self._got = 0
        self._began = 0.0

    def begin(self) -> None:
        """Begin to wait for bytes."""
        self._began = trio.current_time()

    def is_too_slow(self, count: int) -> bool:
        """Count bytes; return whether too few came in a whole window."""
        self._waited += trio.current_time() - self._began
        self._got += count
        if self._waited < self._window:
            return False
        slow = self._got < self._least
        if not slow:
            self._waited, self._got = 0.0, 0
        return slow

    def __str__(self) -> str:
        return f"{self._got} bytes in {self._waited:.0f} s"
