"""Progress bars on a terminal, one for each running transfer; nothing elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from unionmount.cli.quantities import human_size
from unionmount.system.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PERIOD = 0.1  # seconds between two updates
_WINDOW = 5.0  # seconds over which the speed is measured
_LONGEST = 99 * 3600  # seconds that are shown as a remaining time
_NAME_MAX = 19  # "sha256:" and twelve digits


class Speed:
    """The speed of a transfer in the last seconds, which falls to nothing while it stalls."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """Note that ``done`` bytes have come at a time."""
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] < now - _WINDOW:
            self._samples.popleft()

    def at(self, now: float) -> float:
        """Return bytes a second."""
        begin = now - _WINDOW
        if not self._samples:
            return 0.0
        start, before = self._samples[0]
        for moment, done in self._samples:  # what had come when the window began
            if moment <= begin:
                start, before = begin, done
        return (self._samples[-1][1] - before) / max(now - start, _PERIOD)


class ProgressLine:
    """Progress bars, which may be updated from any thread.

    If standard error is not a terminal, or a dumb one, nothing is printed and no library for it is
    imported. No thread is started, because a process with threads cannot fork safely; whoever waits
    calls ``tick``, so that a transfer that stalls is seen to stall.
    """

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty() and (os.environ.get("TERM") or "dumb") != "dumb"
        self._lock = threading.Lock()
        self._last = 0.0
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._speeds: dict[str, Speed] = {}

    def note(self, text: str) -> None:
        """Print a line that stays, above the bars."""
        if not self._shown:
            return
        with self._lock:
            if self._bars is None:
                print(text, file=sys.stderr, flush=True)
            else:
                self._bars.console.print(text, markup=False, soft_wrap=True)

    def tick(self) -> None:
        """Show the speed of now, if nothing has arrived for a while."""
        with self._lock:
            if self._bars is None or time.monotonic() - self._last < _PERIOD:
                return
            self._last = time.monotonic()
            for what, task in self._tasks.items():
                self._show_speed(self._bars, what, task)
            self._bars.refresh()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Report that ``done`` of ``total`` bytes of ``what`` were read."""
        if not self._shown:
            return
        with self._lock:
            now = time.monotonic()
            self._speeds.setdefault(what, Speed()).add(now, done)
            ended = total is not None and done >= total
            if now - self._last < _PERIOD and not (ended and what in self._tasks):
                return
            self._last = now
            self._update(what, done, total, ended=ended)

    def _update(self, what: str, done: int, total: int | None, *, ended: bool) -> None:
        bars = self._bars or self._start()
        task = self._tasks.get(what)
        if task is None:
            name = printable(what)[:_NAME_MAX]
            task = bars.add_task(name, total=total, speed="", remaining="")
            self._tasks[what] = task
        bars.update(task, completed=done, total=total)
        self._show_speed(bars, what, task)
        bars.refresh()
        if ended:
            bars.remove_task(self._tasks.pop(what))
            del self._speeds[what]

    def _show_speed(self, bars: Progress, what: str, task: TaskID) -> None:
        """Show speed and remaining time; none of the latter without speed or total."""
        speed = self._speeds[what].at(time.monotonic())
        shown = bars.tasks[bars.task_ids.index(task)]
        remaining = "stalled"
        if speed > 0:
            left = None if shown.total is None else (shown.total - shown.completed) / speed
            remaining = "" if left is None else _clock(left)
        bars.update(task, speed=f"{human_size(int(speed))}/s", remaining=remaining)

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[remaining]}"),
            console=Console(stderr=True, highlight=False),
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bars.start()
        self._bars.console.show_cursor(True)  # a killed process could not restore it
        return self._bars

    def clear(self) -> None:
        """Remove the bars until the next report."""
        with self._lock:
            if self._bars is not None:
                self._bars.stop()
            self._bars = None
            self._tasks.clear()
            self._speeds.clear()


def _clock(seconds: float) -> str:
    """Format a remaining time: ``0:42``, ``1:02:03``."""
    minutes, rest = divmod(int(min(seconds, _LONGEST)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
