"""Standard streams of a program that an OCI runtime runs while this process waits.

A runtime gives the files of the standard streams to the user of the program (fchown). Without a
terminal the program therefore has pipes, and their data is copied here: a file or device of the
host, or the caller's terminal, keeps its owner.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from io import FileIO
from subprocess import Popen

from unionmount.errors import MountError
from unionmount.system.files import write_all

Start = Callable[[int, int, int], Popen[bytes]]
"""Starts the runtime with descriptors of standard input, standard output and standard error."""

_STEP = 64 * 1024


def run_with_our_streams(start: Start) -> int:
    """Start a runtime whose program has a terminal of its own, and return its return code."""
    return start(0, 1, 2).wait()


def run_relayed(start: Start, *, reads: bool) -> int:
    """Start a runtime, copy data until it has ended, and return its return code.

    Without ``reads`` standard input is empty. MountError if the output could not be written; then
    the program's next write fails, as it does when nobody reads from a pipe.
    """
    with ExitStack() as stack:
        pipes = [_pipe(stack) for _ in range(3)]
        (their_input, feed), (output, their_output), (errors, their_errors) = pipes
        theirs = (their_input, their_output, their_errors)
        child = start(*(one.fileno() for one in theirs))
        for one in theirs:
            one.close()
        if not reads:
            feed.close()
        return _Relay(feed, {output: 1, errors: 2}).run(child)


def run_detached(start: Start) -> int:
    """Start a runtime that leaves its program running, and return its return code.

    Standard input is empty. A process reads the output of the program, and discards it, as long as
    anything can write it.
    """
    with ExitStack() as stack:
        (their_input, feed), (output, their_output) = _pipe(stack), _pipe(stack)
        feed.close()
        if os.fork() == 0:
            _discard(output.fileno())
        output.close()
        return start(their_input.fileno(), their_output.fileno(), their_output.fileno()).wait()


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return stack.enter_context(FileIO(reader, "r")), stack.enter_context(FileIO(writer, "w"))


def _discard(reader: int) -> None:
    """Read until the end, apart from the terminal and the files of the caller; never return."""
    try:
        os.setsid()
        os.dup2(reader, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        while os.read(0, _STEP):
            pass
    finally:
        os._exit(0)


class _Relay:
    """Copies our standard input to a pipe, and pipes to our standard output and error."""

    def __init__(self, feed: FileIO, outputs: Mapping[FileIO, int]) -> None:
        self._feed = feed
        self._outputs = outputs
        self._pending = b""  # input that was read and is not in the pipe yet
        self._failure: OSError | None = None
        for one in (*outputs, *([] if feed.closed else [feed])):
            os.set_blocking(one.fileno(), False)

    def run(self, child: Popen[bytes]) -> int:
        ended = os.pidfd_open(child.pid)
        try:
            while not self._step(ended):
                pass
        finally:
            os.close(ended)
        status = child.wait()
        for output in self._outputs:  # what the program left in the pipes
            while self._copy_output(output):
                pass
        if self._failure is not None:
            raise MountError(f"the output cannot be written: {self._failure.strerror}")
        return status

    def _step(self, ended: int) -> bool:
        """Wait for data, and copy it; return whether the runtime has ended."""
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        for output in self._outputs:
            if not output.closed:
                poll.register(output, select.POLLIN)
        if not self._feed.closed:
            # without an event, poll(2) still tells that nobody reads from the pipe
            poll.register(self._feed, select.POLLOUT if self._pending else 0)
            if not self._pending:
                poll.register(0, select.POLLIN)
        ready = {fd for fd, _ in poll.poll()}
        for output in self._outputs:
            if not output.closed and output.fileno() in ready:
                self._copy_output(output)
        if not self._feed.closed:
            self._copy_input(ready)
        return ended in ready

    def _copy_input(self, ready: set[int]) -> None:
        if self._feed.fileno() in ready and not self._pending:
            self._feed.close()
            return
        if 0 in ready and not self._pending:
            with suppress(OSError):  # what cannot be read is at its end
                self._pending = os.read(0, _STEP)
            if not self._pending:
                self._feed.close()
                return
        try:
            self._pending = self._pending[self._feed.write(self._pending) or 0 :]
        except BrokenPipeError:
            self._feed.close()

    def _copy_output(self, output: FileIO) -> bool:
        """Copy what is in a pipe; return whether there may be more."""
        if output.closed:
            return False
        data = output.read(_STEP)
        if data == b"":
            output.close()
        if not data:
            return False
        try:
            write_all(self._outputs[output], data)
        except OSError as error:
            output.close()
            if not isinstance(error, BrokenPipeError):
                self._failure = error
            return False
        return True
