"""Waiting while the router alone answers the kernel: a loop without trio and pyfuse3.

It ends when a request is there that Python has to answer, or when the mount has ended.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unionmount.mounting.live_mount import SIGNALS

if TYPE_CHECKING:
    from unionmount.mounting.live_mount import Serving
    from unionmount.mounting.statistics import StatsListener

_BATCH = 512  # signals that are counted at once


def stand_by(serving: Serving, slow: int) -> bool:
    """Wait until ``slow``, pyfuse3's end of the socket, has a request; False: the mount has ended.

    Signals are taken meanwhile; one that comes at the last moment is left in ``serving``.
    """
    with _signals_taken() as signals:
        try:
            return _Standby(serving, slow, signals).run()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            serving.unheeded += _count_signals(signals)


class _Standby:
    def __init__(self, serving: Serving, slow: int, signals: int) -> None:
        self._serving = serving
        self._slow = slow
        self._signals = signals

    def run(self) -> bool:
        serving = self._serving
        while True:
            ready = self._wait()
            for _ in range(_count_signals(self._signals)):
                if not serving.heed_signal():
                    return False
            if serving.router_ended in ready:
                serving.mount.ended = True
                return False
            if not serving.announcement.finished and serving.announcement.fileno() in ready:
                serving.announcement.finish()
            if serving.stats is not None:
                _tell(serving.stats, ready)
            if self._slow in ready:
                return True

    def _wait(self) -> set[int]:
        """Return the descriptors that are ready."""
        serving, poll = self._serving, select.poll()
        poll.register(self._slow, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        if serving.router_ended is not None:
            poll.register(serving.router_ended, select.POLLIN)
        if not serving.announcement.finished:
            poll.register(serving.announcement, select.POLLIN)
        timeout = None
        if (stats := serving.stats) is not None:
            poll.register(stats, select.POLLIN)
            for telling in stats.unfinished:
                poll.register(telling, select.POLLOUT)
            timeout = _until_first_deadline(stats)
        return {fd for fd, _ in poll.poll(timeout)}


def _until_first_deadline(stats: StatsListener) -> float | None:
    """Return the milliseconds until a client is dropped."""
    first = min((telling.deadline for telling in stats.unfinished), default=None)
    return None if first is None else max(0.0, first - time.monotonic()) * 1000


def _tell(stats: StatsListener, ready: set[int]) -> None:
    now, waiting = time.monotonic(), stats.unfinished
    stats.unfinished = []
    for telling in waiting:
        if telling.fileno() in ready and not telling.go_on():
            continue
        if telling.deadline <= now:
            telling.client.close()
        else:
            stats.unfinished.append(telling)
    if stats.fileno() in ready and (begun := stats.accept()) is not None:
        stats.unfinished.append(begun)


@contextmanager
def _signals_taken() -> Iterator[int]:
    """Let signals through; the descriptor has a byte for each."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


def _count_signals(reader: int) -> int:
    try:
        numbers = os.read(reader, _BATCH)
    except BlockingIOError:
        return 0
    return sum(number in SIGNALS for number in numbers)
