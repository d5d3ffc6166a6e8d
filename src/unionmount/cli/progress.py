"""Progress bars on a terminal, one for each running transfer; nothing elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from unionmount.system.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PERIOD = 0.1  # seconds between two updates
_NAME_MAX = 19  # "sha256:" and twelve digits


class ProgressLine:
    """Progress bars, which may be updated from any thread.

    If standard error is not a terminal, or a dumb one, nothing is printed and no library for it is
    imported. No thread is started, because a process with threads cannot fork safely.
    """

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty() and (os.environ.get("TERM") or "dumb") != "dumb"
        self._lock = threading.Lock()
        self._last = 0.0
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Report that ``done`` of ``total`` bytes of ``what`` were read."""
        if not self._shown:
            return
        with self._lock:
            now = time.monotonic()
            ended = total is not None and done >= total
            if now - self._last < _PERIOD and not (ended and what in self._tasks):
                return
            self._last = now
            self._update(what, done, total, ended=ended)

    def _update(self, what: str, done: int, total: int | None, *, ended: bool) -> None:
        bars = self._bars or self._start()
        task = self._tasks.get(what)
        if task is None:
            task = self._tasks[what] = bars.add_task(printable(what)[:_NAME_MAX], total=total)
        bars.update(task, completed=done, total=total)
        bars.refresh()
        if ended:
            bars.remove_task(self._tasks.pop(what))

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TransferSpeedColumn,
        )

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TransferSpeedColumn(),
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
