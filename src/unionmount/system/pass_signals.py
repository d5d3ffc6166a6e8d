"""Signals of a process that only waits for another program."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_KEPT = (signal.SIGINT, signal.SIGQUIT)  # the terminal sends them to the command, too
_HANDED_ON = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def passing_signals() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Leave signals to the command: those of the terminal reach it anyway, others are handed on.

    A signal that came before the command was started ends it at once.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def hand_on(number: int, _frame: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    # handlers, where SIG_IGN would be inherited
    wanted = [one for one in (*_KEPT, *_HANDED_ON) if signal.getsignal(one) is not signal.SIG_IGN]
    before = {
        one: signal.signal(one, hand_on if one in _HANDED_ON else lambda *_: None) for one in wanted
    }
    try:
        yield processes
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
