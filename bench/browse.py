"""Key to screen of ``unionmount browse``: how long after a key the terminal has the new rows.

    python -m bench.browse [--entries N] [--output FILE]

The program runs on a terminal of its own. A key counts from its write to the terminal until the
frame has arrived whose last line names the new row, or the new number of rows; that line is drawn
last. Images have N entries: 100 files in a directory, or all in one. Keys are pressed while the
entries are being listed, and again when all are. Nothing is left out of the figures.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import pty
import re
import select
import shutil
import signal
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import synthetic

COLUMNS, LINES = 140, 45
_POSITION = re.compile(rb"(\d+)/(\d+)  (?:\x1b\[[0-9;]*m)*\? help")
_PATIENCE = 120.0
_PAUSE = 0.03  # between keys, as when one is held
_PROGRAM = Path(sys.executable).parent / "unionmount"

Position = tuple[int, int]
"""The number of the selected row, and the number of rows."""


@dataclass(slots=True)
class Screen:
    """The program on its terminal, and where its cursor is."""

    pid: int
    fd: int
    position: Position = (0, 0)
    _shown: bytes = b""

    @classmethod
    def start(cls, image: Path, store: Path) -> Screen:
        pid, fd = pty.fork()
        if pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
            environment = os.environ | {"TERM": "xterm-256color", "UNIONMOUNT_ROOT": str(store)}
            os.execve(_PROGRAM, [str(_PROGRAM), "browse", str(image)], environment)
        return cls(pid, fd)

    def wait(self, enough: Callable[[Position], bool]) -> None:
        """Read until a position is shown that is enough."""
        end = time.monotonic() + _PATIENCE
        while not enough(self.position):
            left = end - time.monotonic()
            if left < 0 or not select.select([self.fd], [], [], left)[0]:
                raise TimeoutError(f"at {self.position}: {self._shown[-300:]!r}")
            self._shown = self._shown[-200:] + os.read(self.fd, 1 << 16)
            for found in _POSITION.finditer(self._shown):
                self.position = int(found[1]), int(found[2])

    def drain(self, seconds: float) -> None:
        """Read what is shown for some time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                self._shown = self._shown[-200:] + os.read(self.fd, 1 << 16)
                for found in _POSITION.finditer(self._shown):
                    self.position = int(found[1]), int(found[2])

    def press(self, key: bytes, enough: Callable[[Position, Position], bool]) -> float:
        """Press a key; return the seconds until its effect is shown."""
        self.drain(_PAUSE)
        before, start = self.position, time.perf_counter()
        os.write(self.fd, key)
        self.wait(lambda now: enough(before, now))
        return time.perf_counter() - start

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@dataclass(slots=True)
class Times:
    """The times of keys of one kind, in one state."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def add(self, what: str, seconds: float) -> None:
        self.taken.setdefault(what, []).append(seconds)

    def rows(self) -> dict[str, dict[str, float]]:
        return {what: summary(taken) for what, taken in self.taken.items()}


def summary(taken: list[float]) -> dict[str, float]:
    """Median, 95th percentile by nearest rank, and maximum, in milliseconds."""
    ranks = sorted(taken)
    at = max(1, -(-95 * len(ranks) // 100)) - 1
    return {
        "keys": len(ranks),
        "median": round(ranks[len(ranks) // 2] * 1000, 1),
        "p95": round(ranks[at] * 1000, 1),
        "max": round(ranks[-1] * 1000, 1),
    }


def _row_changed(before: Position, now: Position) -> bool:
    return now[0] != before[0]


def _count_changed(before: Position, now: Position) -> bool:
    return now[1] != before[1]


def _move(screen: Screen, times: Times, state: str) -> None:
    """Rows and pages up and down, the first and the last row."""
    for keys, what in ((b"j" * 25 + b"k" * 25, "a row"), (b"ddduuu" * 8, "a page")):
        for key in [keys[at : at + 1] for at in range(len(keys))]:
            times.add(f"{what}, {state}", screen.press(key, _row_changed))
    for _ in range(10):
        for key in (b"G", b"g"):
            times.add(f"first or last row, {state}", screen.press(key, _row_changed))


def _open_and_close(screen: Screen, times: Times, state: str) -> None:
    for _ in range(20):
        times.add(f"open or close a directory, {state}", screen.press(b" ", _count_changed))


def _filter(screen: Screen, times: Times, count: int) -> None:
    """The first rows that a filter finds, and the end of the search, typed key by key."""
    os.write(screen.fd, b"/")
    screen.drain(0.3)
    for text in (b"99", b"12345", b"*77"):
        for number in range(len(text)):
            key = text[number : number + 1]
            times.add("a key of the filter", screen.press(key, _count_changed))
            screen.drain(1.0)
        for _ in range(len(text) - 1):
            times.add("a key of the filter", screen.press(b"\x7f", _count_changed))
            screen.drain(1.0)
        os.write(screen.fd, b"\x7f")
        screen.drain(2.0)
    assert count > 12345
    os.write(screen.fd, b"\x1b")
    screen.drain(1.0)


def measure(image: Path, store: Path, shape: str, count: int) -> tuple[dict[str, object], Times]:
    """All keys on one image."""
    times = Times()
    start = time.perf_counter()
    screen = Screen.start(image, store)
    try:
        screen.wait(lambda now: now[1] > 0)
        first = time.perf_counter() - start
        times.add("open or close a directory, while listing", screen.press(b" ", _count_changed))
        if shape == "deep":  # open some more, so that there are rows to go through
            for key in (b"j", b" ", b"j", b" "):
                screen.press(key, _row_changed if key == b"j" else _count_changed)
        screen.press(b"g", _row_changed) if screen.position[0] > 1 else None
        _move(screen, times, "while listing")
        screen.drain(25.0)
        _move(screen, times, "all listed")
        _open_and_close(screen, times, "all listed")
        if shape == "deep":
            os.write(screen.fd, b"\0")  # close all
            screen.drain(1.0)
            os.write(screen.fd, b"\0")  # open all
            screen.drain(8.0)
            _move(screen, times, f"all {screen.position[1]} rows open")
            os.write(screen.fd, b"\0")
            screen.drain(1.0)
        _filter(screen, times, count)
        resident = _resident(screen.pid)
    finally:
        screen.close()
    return {"first screen, s": round(first, 2), "resident, MB": resident}, times


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) // 1024 if found else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=Path("bench/out/browse.json"))
    chosen = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="unionmount-bench-"))
    results: dict[str, object] = {
        "entries": chosen.entries,
        "terminal": f"{COLUMNS}x{LINES}",
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.release()}",
        "load": [round(one, 1) for one in os.getloadavg()],
    }
    try:
        for shape, write in (("deep", _write_deep), ("flat", synthetic.write_flat_archive)):
            image = work / f"{shape}.tar"
            write(image, chosen.entries)
            indexing = Screen.start(image, work / "store")
            indexing.wait(lambda now: now[1] > 0)
            indexing.close()
            facts, times = measure(image, work / "store", shape, chosen.entries)
            every = [one for taken in times.taken.values() for one in taken]
            results[shape] = {**facts, "all keys": summary(every), **times.rows()}
    finally:
        shutil.rmtree(work)
    text = json.dumps(results, indent=1)
    print(text)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(text + "\n", encoding="utf-8")


def _write_deep(path: Path, count: int) -> None:
    synthetic.write_archive(path, count, 4)


if __name__ == "__main__":
    main()
