"""The log of a container: a JSON object a line, as Docker's ``json-file`` has it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from unionmount.system.closing import Closing
from unionmount.system.files import write_all

_MAX_LINE = 16 * 1024  # bytes of output in one object; a longer line is continued in the next


class LogLine(NamedTuple):
    """A piece of output: a line, or a part of one, with its stream ("stdout" or "stderr")."""

    time: str
    stream: str
    text: bytes


class LogWriter(Closing):
    """Appends the output of a container to its log; a line that is not finished waits.

    What the disk has no space for is left out: the container goes on, and so does the log once
    there is space again.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o600)
        self._open: dict[str, bytearray] = {}

    def write(self, stream: str, data: bytes) -> None:
        """Append bytes of a stream."""
        pending = self._open.setdefault(stream, bytearray())
        pending += data
        lines = bytearray()
        while (end := pending.find(b"\n", 0, _MAX_LINE)) >= 0 or len(pending) >= _MAX_LINE:
            size = end + 1 if end >= 0 else _MAX_LINE
            lines += _line(stream, bytes(pending[:size]))
            del pending[:size]
        if lines:
            self._append(bytes(lines))

    def _append(self, lines: bytes) -> None:
        size = os.fstat(self._fd).st_size
        try:
            write_all(self._fd, lines)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, size)  # no part of a line

    def close(self) -> None:
        """Write what waits, and close the log."""
        if self._fd < 0:
            return
        for stream, pending in self._open.items():
            if pending:
                self._append(_line(stream, bytes(pending)))
        self._open.clear()
        os.close(self._fd)
        self._fd = -1


def _line(stream: str, data: bytes) -> bytes:
    row = {
        "log": data.decode("utf-8", "surrogateescape"),
        "stream": stream,
        "time": datetime.now(UTC).isoformat(),
    }
    return json.dumps(row).encode("ascii") + b"\n"


class LogReader(Closing):
    """Reads a log that may grow meanwhile."""

    def __init__(self, path: Path) -> None:
        """Open the log; there may be none yet, which is an empty one."""
        try:
            self._file = path.open("rb")
        except FileNotFoundError:
            self._file = open(os.devnull, "rb")  # noqa: PTH123, SIM115 - closed by close()

    def lines(self) -> Iterator[LogLine]:
        """Yield the lines that have not been read; those that are damaged are skipped."""
        while line := self._file.readline():
            if not line.endswith(b"\n"):  # the rest is about to be written
                self._file.seek(-len(line), os.SEEK_CUR)
                return
            try:
                row = json.loads(line)
                text = str(row["log"]).encode("utf-8", "surrogateescape")
                yield LogLine(str(row["time"]), str(row["stream"]), text)
            except (ValueError, KeyError, TypeError):
                continue

    def close(self) -> None:
        """Close the log; a second call does nothing."""
        self._file.close()
