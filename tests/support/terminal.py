"""Programs on a terminal of their own."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping

_SECONDS = 20.0


class Terminal:
    """A program on a terminal of its own, and what it prints there."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.shown = b""
        self._seen = 0  # how much ``read_to`` has returned
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            _resize(0, 24, 100)
            os.execvpe(command[0], command, {**environment})

    @property
    def pid(self) -> int:
        """The number of the program."""
        return self._pid

    def read(self, until: Callable[[bytes], bool]) -> bytes:
        """Read until there is enough, or the program has ended."""
        end = time.monotonic() + _SECONDS
        while not until(self.shown):
            left = end - time.monotonic()
            assert left > 0, self.shown
            if not select.select([self._fd], [], [], left)[0]:
                continue
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            self.shown += data
        return self.shown

    def read_to(self, text: bytes) -> bytes:
        """Read until something is shown that was not shown before; return all that was new."""
        start = self._seen
        self.read(lambda shown: text in shown[start:])
        assert text in self.shown[start:], self.shown
        self._seen = self.shown.index(text, start) + len(text)
        return self.shown[start : self._seen]

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Change the size of the window; the program gets SIGWINCH."""
        _resize(self._fd, rows, columns)

    def signal(self, number: int) -> None:
        """Send a signal to the program alone."""
        os.kill(self._pid, number)

    def wait(self) -> int:
        """Read to the end; its exit status."""
        self.read(lambda _: False)
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        self._pid = 0
        return status

    def close(self) -> None:
        """End it where it has not."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._fd)


def _resize(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
