"""The monitor of a container: the process that owns its streams, its log and its exit status.

It is the parent of the container's first process, since it is a *subreaper* (prctl(2)), and serves
any number of clients. It never blocks: a client that does not read only makes the container pause
once a megabyte waits for it, as a terminal does that nobody reads. docs/explanation/running.md has
the life of a container.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from unionmount.runtime.channel import MAX_WAITING, MonitorChannel
from unionmount.runtime.log_file import LogWriter
from unionmount.runtime.protocol import (
    DamagedStream,
    Kind,
    Message,
    encode,
    encode_number,
    number_of,
    window_of,
)

_STEP = 64 * 1024
_DRAINING = 2.0  # seconds for the output that is left when the container has ended
_FAREWELL = 10.0  # seconds for clients to take what is left for them
_STREAMS = {Kind.OUTPUT: "stdout", Kind.ERRORS: "stderr"}


@dataclass(slots=True)
class ContainerStreams:
    """The monitor's ends of a container's streams; with a terminal, both ways are one."""

    input: int | None
    outputs: dict[int, Kind]  # by descriptor
    terminal: int | None = None
    waiting: bytearray = field(default_factory=bytearray)  # input that the container has to take
    input_ended: bool = False

    def close(self) -> None:
        """Close all of them."""
        for fd in {*self.outputs, *([] if self.input is None else [self.input])}:
            os.close(fd)
        self.outputs.clear()
        self.input = None


class Monitor:
    """Serves clients until a container has ended."""

    def __init__(
        self,
        pid: int,
        streams: ContainerStreams,
        listener: socket.socket,
        log: LogWriter,
        daemon: int | None = None,
    ) -> None:
        """``pid`` is a child of this process; ``listener`` a socket that is not blocking.

        ``daemon`` is a process without which the container cannot go on: it is killed then.
        """
        self._pid = pid
        self._daemon = None if daemon is None else os.pidfd_open(daemon)
        self._pidfd = os.pidfd_open(pid)
        self._streams = streams
        self._listener = listener
        self._log = log
        self._clients: list[MonitorChannel] = []
        self._end: float | None = None  # when the output that is left is given up
        for fd in streams.outputs:
            os.set_blocking(fd, False)
        if streams.input is not None:
            os.set_blocking(streams.input, False)

    def add(self, client: MonitorChannel) -> None:
        """Serve another client."""
        self._clients.append(client)

    def run(self) -> int:
        """Serve until the container has ended and its output is read; return its exit status."""
        status: int | None = None
        while status is None or (self._streams.outputs and not self._is_late()):
            ready = self._wait()
            if status is None and self._pidfd in ready:
                status = _exit_status(os.waitpid(self._pid, 0)[1])
                self._end = time.monotonic() + _DRAINING
            if self._daemon in ready:
                self._signal(signal.SIGKILL)
                self._forget_daemon()
            self._serve(ready)
        self._forget_daemon()
        os.close(self._pidfd)
        self._streams.close()
        return status

    def tell(self, data: bytes) -> None:
        """Send bytes to all clients."""
        for client in self._clients:
            client.send(data)

    def say_farewell(self, data: bytes) -> None:
        """Send a last message to all clients, and close the connections."""
        self.tell(data)
        end = time.monotonic() + _FAREWELL
        while (left := end - time.monotonic()) > 0:
            poll = select.poll()
            waiting = [one for one in self._clients if one.has_waiting and not one.ended]
            if not waiting:
                break
            for one in waiting:
                poll.register(one, select.POLLOUT)
            poll.poll(left * 1000)
            for one in waiting:
                one.flush()
        for one in self._clients:
            one.close()
        self._clients.clear()

    def _forget_daemon(self) -> None:
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            os.close(daemon)

    def _is_late(self) -> bool:
        return self._end is not None and time.monotonic() > self._end

    def _wait(self) -> set[int]:
        """Return the descriptors that are ready."""
        poll = select.poll()
        for fd, events in self._interests():
            poll.register(fd, events)
        timeout = None if self._end is None else max(0.0, self._end - time.monotonic()) * 1000
        return {fd for fd, _ in poll.poll(timeout)}

    def _interests(self) -> Iterator[tuple[int, int]]:
        streams = self._streams
        events: dict[int, int] = {self._listener.fileno(): select.POLLIN}
        if self._end is None:
            events[self._pidfd] = select.POLLIN
            if self._daemon is not None:
                events[self._daemon] = select.POLLIN
        if not any(client.is_full for client in self._clients):
            for fd in streams.outputs:
                events[fd] = select.POLLIN
        if streams.input is not None and streams.waiting:
            events[streams.input] = events.get(streams.input, 0) | select.POLLOUT
        for client in self._clients:
            reading = select.POLLIN if len(streams.waiting) < MAX_WAITING else 0
            writing = select.POLLOUT if client.has_waiting else 0
            events[client.fileno()] = reading | writing
        return iter(events.items())

    def _serve(self, ready: set[int]) -> None:
        for fd in list(self._streams.outputs):
            if fd in ready:
                self._read(fd)
        if self._streams.input in ready:
            self._feed()
        for client in self._clients:
            if client.fileno() in ready:
                client.flush()
                for message in client.receive():
                    self._obey(client, message)
        for client in [one for one in self._clients if one.ended]:
            self._clients.remove(client)
            client.close()
        if self._listener.fileno() in ready:
            with suppress(OSError):
                self.add(MonitorChannel(self._listener.accept()[0]))

    # ---- the container -------------------------------------------------------------------------

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, _STEP)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        if not data:
            self._close_output(fd)
            return
        kind = self._streams.outputs[fd]
        self._log.write(_STREAMS[kind], data)
        self.tell(encode(kind, data))

    def _close_output(self, fd: int) -> None:
        streams = self._streams
        del streams.outputs[fd]
        if streams.terminal == fd:
            streams.terminal = streams.input = None
        os.close(fd)

    def _feed(self) -> None:
        streams = self._streams
        while streams.waiting and streams.input is not None:
            try:
                written = os.write(streams.input, streams.waiting[:_STEP])
            except BlockingIOError:
                return
            except OSError:  # EPIPE: the container has closed it
                self._close_input()
                return
            del streams.waiting[:written]
        if streams.input_ended:
            self._close_input()

    def _close_input(self) -> None:
        streams = self._streams
        streams.waiting.clear()
        if streams.input is not None and streams.terminal is None:
            os.close(streams.input)
        if streams.terminal is None:
            streams.input = None

    # ---- clients -------------------------------------------------------------------------------

    def _obey(self, client: MonitorChannel, message: Message) -> None:
        try:
            self._do(message)
        except DamagedStream:
            client.ended = True

    def _do(self, message: Message) -> None:
        streams = self._streams
        match message.kind:
            case Kind.INPUT if streams.input is not None and not streams.input_ended:
                streams.waiting += message.body
                self._feed()
            case Kind.END_OF_INPUT:
                streams.input_ended = True
                self._feed()
            case Kind.WINDOW:
                self._resize(*window_of(message.body))
            case Kind.SIGNAL:
                self._signal(number_of(message.body)[0])
            case _:
                pass

    def _resize(self, rows: int, columns: int) -> None:
        if self._streams.terminal is not None:
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(self._streams.terminal, termios.TIOCSWINSZ, size)

    def _signal(self, number: int) -> None:
        if self._end is None:
            with suppress(OSError):  # it has ended, or the number is no signal
                signal.pidfd_send_signal(self._pidfd, number)


def _exit_status(status: int) -> int:
    """Return an exit status as a shell has it: 128 and the number of the signal that ended it."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def exited(status: int) -> bytes:
    """Return the last message to clients of a container that has ended."""
    return encode_number(Kind.EXITED, status)


def failed(status: int, message: str) -> bytes:
    """Return the only message to clients of a container that did not start."""
    return encode_number(Kind.FAILED, status, message.encode("utf-8", "surrogateescape"))
