"""Whether every system call returns, and what there is to see where one does not."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from fuzz_mount.board import Board

# seconds; a call takes microseconds, or on a busy machine milliseconds
PATIENCE = float(os.environ.get("FUZZ_PATIENCE", "60"))


class Stuck(AssertionError):
    """Something made no progress."""


class Watch:
    """Looks at a board from time to time."""

    def __init__(self, board: Board, actors: int) -> None:
        self._board = board
        self._seen = [(-1, time.monotonic())] * actors

    def look(self, running: dict[int, int]) -> None:
        """Stuck where one of ``running`` (processes by actor) is still in the same call."""
        now = time.monotonic()
        for actor, pid in running.items():
            count = self._board.count(actor)
            before, since = self._seen[actor]
            if count != before:
                self._seen[actor] = (count, now)
            elif now - since > PATIENCE:
                text = self._board.text(actor)
                raise Stuck(f"actor {actor} does not come back from {text}\n{stacks(pid)}")


def stacks(pid: int) -> str:
    """Where all threads of a process are in the kernel."""
    lines = []
    with suppress(OSError):
        for task in sorted(Path(f"/proc/{pid}/task").iterdir()):
            lines.append(f"    process {pid}, thread {task.name}: {_first(task / 'comm')}")
            lines.append(f"        {_first(task / 'syscall')}  {_first(task / 'wchan')}")
            lines += [f"        {line}" for line in _text(task / "stack").splitlines()]
    return "\n".join(lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return os.strerror(error.errno or 0)


def _first(path: Path) -> str:
    return _text(path).partition("\n")[0]
