"""Waiting for another thread in a way that Ctrl-C always ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading

_LOOK = 0.2  # seconds


def wait_for(event: threading.Event) -> None:
    """Wait until an event is set; a signal's handler runs within 0.2 seconds.

    Python runs handlers in the main thread, between its instructions. If a signal comes after the
    last look for one, and before the thread sleeps, ``event.wait()`` sleeps while a handler is due.
    With other busy threads, the time between the two is long enough for that to happen.
    """
    while not event.wait(_LOOK):
        pass
