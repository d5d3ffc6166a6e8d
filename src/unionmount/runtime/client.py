"""The client of a monitor: joins a container's streams to those of this process."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import termios
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from unionmount.errors import MountError, UnionmountError, UsageError
from unionmount.runtime.channel import MonitorChannel
from unionmount.runtime.protocol import Kind, Message, encode, encode_window, number_of
from unionmount.system.files import write_all
from unionmount.system.text import printable

DETACH_KEYS = "ctrl-p,ctrl-q"
"""The keys that end a client and leave the container alone, as Docker has them."""

_STEP = 64 * 1024
_CONTROL = 0x1F
_PROXIED = (
    *(signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2),
)

_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)  # us, at a terminal


class NotStarted(UnionmountError):
    """A container did not start; ``exit_code`` says at which step."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Joining:
    """How a client joins a container."""

    interactive: bool = False  # standard input is passed on
    terminal: bool = False  # the container has one, and so has this process
    proxied: bool = True  # signals are passed on, where there is no terminal to do so
    keys: bytes = b"\x10\x11"  # that detach; empty: none
    stay: bool = True  # False: return when the container has started


def parse_keys(text: str) -> bytes:
    """Return the bytes of keys in Docker's words: single characters, and ``ctrl-`` with one."""
    found = bytearray()
    for word in text.split(",") if text else []:
        control = word.lower().removeprefix("ctrl-").upper()
        if len(word) == 1 and word.isascii() and word.isprintable():
            found.append(ord(word))
        elif word.lower().startswith("ctrl-") and len(control) == 1 and "@" <= control <= "_":
            found.append(ord(control) & _CONTROL)
        else:
            raise UsageError(f"--detach-keys {printable(text)}: write letters or ctrl-LETTER")
    return bytes(found)


class Client:
    """A connection to the monitor of a container."""

    def __init__(self, channel: MonitorChannel, joining: Joining) -> None:
        self._channel = channel
        self._joining = joining
        self._reading = joining.interactive and joining.stay  # else it is for whoever attaches
        self._typed = b""  # the beginning of the keys to detach
        self._status: int | None = None
        self._killed_by = 0  # the signal that ended us at a terminal

    def run(self) -> int | None:
        """Serve until the container has ended, and return its status; None if it goes on.

        Raise NotStarted if it did not start.
        """
        with ExitStack() as stack:
            wakeup = stack.enter_context(_signals(self._joining))
            if self._joining.terminal:
                stack.enter_context(_raw_terminal())
                self._send_window()
            while not self._channel.ended:
                if not self._step(wakeup):
                    break
        if self._killed_by:  # now that the terminal is as before
            os.kill(os.getpid(), self._killed_by)
        if self._status is None and self._channel.ended:
            raise MountError("the monitor of the container has ended without an exit status")
        return self._status

    def _step(self, wakeup: int) -> bool:
        """Wait for something and handle it; return whether to go on."""
        poll = select.poll()
        writing = select.POLLOUT if self._channel.has_waiting else 0
        poll.register(self._channel, select.POLLIN | writing)
        poll.register(wakeup, select.POLLIN)
        if self._reading and not self._channel.is_full:
            poll.register(0, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        if wakeup in ready:
            self._heed(os.read(wakeup, _STEP))
            if self._killed_by:
                return False
        self._channel.flush()
        if 0 in ready and not self._read_input():
            return False
        if self._channel.fileno() in ready:
            for message in self._channel.receive():
                if not self._obey(message):
                    return False
        return True

    def _obey(self, message: Message) -> bool:
        match message.kind:
            case Kind.OUTPUT:
                write_all(1, message.body)
            case Kind.ERRORS:
                write_all(2, message.body)
            case Kind.STARTED:
                return self._joining.stay
            case Kind.EXITED:
                self._status, _ = number_of(message.body)
            case Kind.FAILED:
                code, text = number_of(message.body)
                raise NotStarted(code, text.decode("utf-8", "surrogateescape"))
            case _:
                pass
        return True

    def _read_input(self) -> bool:
        """Pass input on; return False if the keys to detach were typed."""
        try:
            data = os.read(0, _STEP)
        except OSError:
            data = b""
        if not data:
            self._reading = False
            self._channel.send(encode(Kind.END_OF_INPUT))
            return True
        if not self._joining.terminal or not self._joining.keys:
            self._channel.send(encode(Kind.INPUT, data))
            return True
        data, keys = self._typed + data, self._joining.keys
        before, found, _ = data.partition(keys)
        held = 0 if found else _begun(before, keys)
        self._typed = before[len(before) - held :]
        before = before[: len(before) - held]
        if before:
            self._channel.send(encode(Kind.INPUT, before))
        return not found

    def _heed(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._send_window()
            elif self._joining.terminal:
                self._killed_by = number
            else:
                self._channel.send(encode(Kind.SIGNAL, b"%d " % number))

    def _send_window(self) -> None:
        with suppress(OSError):
            found = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8))
            rows, columns, _, _ = struct.unpack("HHHH", found)
            self._channel.send(encode_window(rows, columns))


def _begun(data: bytes, keys: bytes) -> int:
    """Return how many bytes at the end of ``data`` are a beginning of ``keys``."""
    sizes = range(min(len(data), len(keys) - 1), 0, -1)
    return next((size for size in sizes if data.endswith(keys[:size])), 0)


@contextmanager
def _signals(joining: Joining) -> Iterator[int]:
    """Yield a descriptor from which the numbers of signals are read."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    wanted = [*_ENDING, signal.SIGWINCH] if joining.terminal else []
    wanted += [] if joining.terminal or not joining.proxied else list(_PROXIED)
    wanted = [one for one in wanted if signal.getsignal(one) is not signal.SIG_IGN]
    before = {one: signal.signal(one, lambda *_: None) for one in wanted}
    old = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(old)
        for one, handler in before.items():
            signal.signal(one, handler)
        os.close(reader)
        os.close(writer)


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Pass every key on as it is typed."""
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)  # what was typed already is not lost
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
