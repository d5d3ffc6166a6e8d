"""The start of a container in its monitor: streams, ``create``, ``start``, and the clean-up."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from unionmount.runtime.channel import MonitorChannel
from unionmount.runtime.live import LiveContainer
from unionmount.runtime.log_file import LogWriter
from unionmount.runtime.monitor import ContainerStreams, Monitor, exited
from unionmount.runtime.oci_runtime import OciRuntime, RuntimeFailed, Streams
from unionmount.runtime.protocol import Kind, encode
from unionmount.system import libc

_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_MS = 10_000  # for a runtime to send the terminal
_MAX_ERRORS = 4096


@dataclass(frozen=True, slots=True)
class Launch:
    """A container that is ready to start: its bundle is written, its root directory mounted."""

    live: LiveContainer
    runtime: OciRuntime
    terminal: bool
    interactive: bool
    log: Path
    daemon: int  # the process that serves the root directory
    started: Callable[[int], None]  # called with the number of the first process


def become_subreaper() -> None:
    """Make this process the parent of all orphans among its descendants."""
    libc.call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run_to_its_end(
    launch: Launch,
    client: MonitorChannel,
    note_end: Callable[[int], None],
    undo: Callable[[], None],
) -> int:
    """Run a container, serve its clients, clean up with ``undo``, and return the exit status.

    ``note_end`` is called with the exit status before clients learn of it. Raise RuntimeFailed if
    it did not start; then ``undo`` was not called.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(launch.live.listen())
        log = stack.enter_context(LogWriter(launch.log))
        stack.callback(launch.runtime.delete, launch.live.id)
        pid, streams = _create(launch)
        monitor = Monitor(pid, streams, listener, log, launch.daemon)
        monitor.add(client)
        try:
            launch.runtime.start(launch.live.id)
        except RuntimeFailed:
            streams.close()
            raise
        launch.started(pid)
        monitor.tell(encode(Kind.STARTED, launch.live.id.encode()))
        status = monitor.run()
        note_end(status)
        stack.close()  # before clients learn of the end
        try:
            undo()
        finally:
            monitor.say_farewell(exited(status))
        return status


def _create(launch: Launch) -> tuple[int, ContainerStreams]:
    """Create the container; return its first process and the monitor's ends of its streams."""
    pid_file = launch.live.path / "pid"
    if launch.terminal:
        streams = _create_with_terminal(launch, pid_file)
    else:
        streams = _create_with_pipes(launch, pid_file)
    return int(pid_file.read_text()), streams


def _create_with_terminal(launch: Launch, pid_file: Path) -> ContainerStreams:
    with _console_socket(launch.live.path) as (console, path):
        launch.runtime.create(
            launch.live.id, launch.live.bundle, pid_file, Streams(console=Path(path))
        )
        terminal = _receive_terminal(launch.runtime.name, console)
    return ContainerStreams(
        terminal if launch.interactive else None, {terminal: Kind.OUTPUT}, terminal
    )


@contextmanager
def _console_socket(directory: Path) -> Iterator[tuple[socket.socket, str]]:
    """Yield a socket to which a runtime sends a terminal, and a short path of it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            path = f"/proc/{os.getpid()}/fd/{fd}/console"
            console.bind(path)
            console.listen(1)
            yield console, path
        finally:
            os.close(fd)
            (directory / "console").unlink(missing_ok=True)


def _receive_terminal(name: str, console: socket.socket) -> int:
    poll = select.poll()
    poll.register(console, select.POLLIN)
    if poll.poll(_PATIENCE_MS):
        connection, _ = console.accept()
        with connection:
            connection.settimeout(_PATIENCE_MS / 1000)
            with suppress(OSError):
                _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
                if fds:
                    os.set_inheritable(fds[0], False)
                    return fds[0]
    raise RuntimeFailed(name, "it did not send the terminal of the container")


def _create_with_pipes(launch: Launch, pid_file: Path) -> ContainerStreams:
    with ExitStack() as ours, ExitStack() as theirs:
        pairs = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (input_reader, input_writer), *outputs = pairs
        for fd in (input_writer, *(reader for reader, _ in outputs)):
            ours.callback(os.close, fd)
        for fd in (input_reader, *(writer for _, writer in outputs)):
            theirs.callback(os.close, fd)
        streams = Streams(input_reader, outputs[0][1], outputs[1][1])
        try:
            launch.runtime.create(launch.live.id, launch.live.bundle, pid_file, streams)
        except RuntimeFailed as error:
            theirs.close()
            raise _with_errors(launch.runtime.name, error, outputs[1][0]) from None
        ours.pop_all()
    if not launch.interactive:
        os.close(input_writer)
    kinds = zip(outputs, (Kind.OUTPUT, Kind.ERRORS), strict=True)
    return ContainerStreams(
        input_writer if launch.interactive else None, {reader: kind for (reader, _), kind in kinds}
    )


def _with_errors(name: str, error: RuntimeFailed, reader: int) -> RuntimeFailed:
    """Return the error with what the runtime wrote to the container's standard error."""
    os.set_blocking(reader, False)
    with suppress(OSError):
        lines = os.read(reader, _MAX_ERRORS).decode(errors="replace").strip().splitlines()
        if lines and "without a message" in str(error):
            return RuntimeFailed(name, lines[-1])
    return error
