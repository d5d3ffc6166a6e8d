"""Answering the kernel in Python, with pyfuse3 on trio: alone, or what the router forwards.

This module is imported when the first request needs it (``late_import``). Nothing that a mount
needs before that imports trio or pyfuse3.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import pyfuse3
import trio

from unionmount.core import Upper
from unionmount.mounting.live_mount import SIGNALS, Serving, wanted_signals
from unionmount.mounting.read_operations import ReadingOperations, ReadOnlyOperations
from unionmount.mounting.statistics import StatsListener, Telling
from unionmount.mounting.write_operations import WritableOperations
from unionmount.system.file_descriptor import FileDescriptor

if TYPE_CHECKING:
    from unionmount.mounting.facts import ShownFiles

_INTERRUPTION = 0.1  # seconds


def serve(fd: int, shown: ShownFiles, serving: Serving) -> None:
    """Answer what comes from ``fd``, which is taken over, until the mount has ended."""
    with (
        FileDescriptor(fd) as connection,
        _interruptions() as pending,
        _operations(shown, pending) as operations,
        _connected(connection, operations),
    ):
        trio.run(_serve, serving)


@contextmanager
def _connected(connection: FileDescriptor, operations: ReadingOperations) -> Iterator[None]:
    pyfuse3.init(operations, f"/dev/fd/{connection.fd}", set())
    connection.take()  # libfuse closes it
    try:
        yield
    finally:
        pyfuse3.close(unmount=False)


@contextmanager
def _operations(
    shown: ShownFiles, pending: AbstractContextManager[None]
) -> Iterator[ReadingOperations]:
    """Create the handlers."""
    files, facts, list_layers = shown.files, shown.facts, shown.list_layers
    if not isinstance(files, Upper):
        yield ReadOnlyOperations(files, facts, list_layers=list_layers, pending=pending)
        return
    operations = WritableOperations(files, facts, list_layers=list_layers, pending=pending)
    try:
        yield operations
    finally:
        operations.close()


class _Interruptions:
    """A context manager during which a signal interrupts the main thread periodically.

    pyfuse3 waits until /dev/fuse has a request, then reads it: a blocking read that holds the GIL.
    If the request is withdrawn in between (because its process was killed), the read waits for the
    next one, and the answers of threads cannot be sent meanwhile, although somebody may wait for
    them. A signal ends the read, and pyfuse3 continues.
    """

    def __init__(self) -> None:
        self._entered = 0

    def __enter__(self) -> None:
        self._entered += 1
        if self._entered == 1:
            signal.setitimer(signal.ITIMER_REAL, _INTERRUPTION, _INTERRUPTION)

    def __exit__(self, *_: object) -> None:
        self._entered -= 1
        if self._entered == 0:
            signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _interruptions() -> Iterator[_Interruptions]:
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    try:
        yield _Interruptions()
    finally:
        signal.signal(signal.SIGALRM, before)


async def _serve(serving: Serving) -> None:
    mount = serving.mount
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_unmount_on_signal, serving)
            if serving.stats is not None:
                nursery.start_soon(_serve_stats, serving.stats)
            if serving.router_ended is not None:
                nursery.start_soon(_end_with, serving.router_ended)
            nursery.start_soon(_announce, serving)
            await pyfuse3.main()
            mount.ended = not mount.given_up
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _first(group) from group


async def _end_with(router_ended: int) -> None:
    """End pyfuse3's loop when the mount is gone; only the router learns of that."""
    await trio.lowlevel.wait_readable(router_ended)
    pyfuse3.terminate()


def _first(error: BaseException) -> BaseException:
    """Return the first error of an exception group: the user sees one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _announce(serving: Serving) -> None:
    if not serving.announcement.finished:
        await trio.lowlevel.wait_readable(serving.announcement.fileno())
        serving.announcement.finish()


async def _unmount_on_signal(
    serving: Serving, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Unmount at the first signal, and serve remaining users; end at the second one."""
    with trio.open_signal_receiver(*wanted_signals()) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        task_status.started()
        goes_on = True
        while goes_on:
            if serving.unheeded:
                serving.unheeded -= 1
            else:
                await anext(signals)
            goes_on = await trio.to_thread.run_sync(serving.heed_signal)
        pyfuse3.terminate()


async def _serve_stats(stats: StatsListener) -> None:
    """Send the counters to each connection, until cancelled."""
    async with trio.open_nursery() as nursery:
        waiting, stats.unfinished = stats.unfinished, []
        for telling in waiting:
            nursery.start_soon(_tell, telling)
        while True:
            await trio.lowlevel.wait_readable(stats.fileno())
            if (begun := stats.accept()) is not None:
                nursery.start_soon(_tell, begun)


async def _tell(telling: Telling) -> None:
    with telling.client, trio.move_on_at(trio.current_time() + telling.seconds_left):
        while True:
            await trio.lowlevel.wait_writable(telling.fileno())
            if not telling.go_on():
                return
