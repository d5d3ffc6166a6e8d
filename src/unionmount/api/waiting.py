"""Waiter for a file descriptor: by blocking, under trio, or under asyncio.

A mount is started and ended by one piece of code, which waits by one of these. trio and asyncio
are imported only where they are running already.
"""

from __future__ import annotations

import select
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from unionmount.errors import UsageError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

T = TypeVar("T")


class Waiter(Protocol):
    """One way to wait."""

    async def readable(self, fd: int, seconds: float | None) -> bool:
        """Wait until ``fd`` can be read, at most ``seconds``; return whether it can."""

    def shielded(self) -> AbstractContextManager[Any]:
        """Return a block that is not cancelled, as far as the library offers one."""


class Blocking:
    """Blocks the thread, for programs without an event loop."""

    async def readable(self, fd: int, seconds: float | None) -> bool:
        """See Waiter."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else max(seconds, 0) * 1000))

    def shielded(self) -> AbstractContextManager[Any]:
        """See Waiter."""
        return nullcontext()


class UnderTrio:
    """Waits as a task of trio."""

    async def readable(self, fd: int, seconds: float | None) -> bool:
        """See Waiter."""
        import trio

        with trio.move_on_after(float("inf") if seconds is None else max(seconds, 0)) as scope:
            await trio.lowlevel.wait_readable(fd)
        return not scope.cancelled_caught

    def shielded(self) -> AbstractContextManager[Any]:
        """See Waiter."""
        import trio

        return trio.CancelScope(shield=True)


class UnderAsyncio:
    """Waits as a task of asyncio, whose event loop must watch descriptors, as all on Linux do."""

    async def readable(self, fd: int, seconds: float | None) -> bool:
        """See Waiter."""
        import asyncio

        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(fd, _resolve, ready)
        try:
            done, _ = await asyncio.wait([ready], timeout=seconds)
        finally:
            loop.remove_reader(fd)
        return bool(done)

    def shielded(self) -> AbstractContextManager[Any]:
        """See Waiter: a cancellation is an exception here, which the caller keeps for later."""
        return nullcontext()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def running_library() -> Waiter:
    """Return the way to wait in the task that runs now; raise UsageError if there is none."""
    import sniffio

    try:
        name = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        name = "none"
    if name == "trio":
        return UnderTrio()
    if name == "asyncio":
        return UnderAsyncio()
    raise UsageError(f"'async with' needs trio or asyncio, not {name}; use 'with' instead")


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits by ``Blocking`` only, so that it is never suspended."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise AssertionError("a blocking coroutine was suspended")


def seconds_until(deadline: float) -> float:
    """Return the seconds that are left until a time of ``time.monotonic``."""
    return max(deadline - time.monotonic(), 0.0)
