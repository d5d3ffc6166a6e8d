"""Waiting for another thread in a way that Ctrl-C always ends."""

from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK = 0.2  # seconds


def wait_for(event: Event) -> None:
    """Wait until an event is set; a signal's handler runs within 0.2 seconds.

    Python runs handlers in the main thread, between its instructions. If a signal comes after the
    last look for one, and before the thread sleeps, ``event.wait()`` sleeps while a handler is due.
    With other busy threads, the time between the two is long enough for that to happen.
    """
    while not event.wait(_LOOK):
        pass


def call_attentively(work: Callable[[], int], needs: object = None) -> int:
    """Return what a function of C returns that may take long and cannot be told to end.

    It runs in a thread of its own. Where the handler of a signal raises meanwhile, that thread is
    left alone: it goes on until its work is done or the process ends. Until then it keeps ``work``
    and ``needs``, which owns the memory that C reads.
    """
    done = Event()
    results: list[int] = []

    def run(_needs: object) -> None:
        try:
            results.append(work())
        finally:
            done.set()

    Thread(target=run, args=(needs,), daemon=True).start()
    wait_for(done)
    return results[0]
