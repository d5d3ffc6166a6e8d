"""The connections to each host over which blobs come, counted over all blobs of a command.

A reader that has nothing to read gets its connection at once, so no blob waits for another one. The
connections that fetch parts ahead of a reader share what is left of the limit. A host that asks for
a pause (429) gets one from all of them, and half as many connections afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class HostConnections:
    """The connections to one host."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._waiting = trio.lowlevel.ParkingLot()
        self._silent_until = float("-inf")  # in trio's clock

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Count one connection during a block, even beyond the limit."""
        self._used += 1
        try:
            yield
        finally:
            self.release()

    async def acquire(self) -> None:
        """Wait until there are fewer connections than the limit, and count one more."""
        await trio.lowlevel.checkpoint()
        while self._used >= self._limit:
            await self._waiting.park()
        self._used += 1

    def release(self) -> None:
        """Count one connection less."""
        self._used -= 1
        if self._used < self._limit:
            self._waiting.unpark()

    def pause(self, seconds: float) -> None:
        """Begin no request for some time, and use half of the connections afterwards.

        Several requests that are refused together count once.
        """
        now = trio.current_time()
        if now >= self._silent_until:
            self._limit = max(1, self._limit // 2)
        self._silent_until = max(self._silent_until, now + seconds)

    async def ready(self) -> None:
        """Wait until requests may begin."""
        if trio.current_time() < self._silent_until:
            await trio.sleep_until(self._silent_until)


class BlobConnections:
    """The connections to all hosts, and the room for what is fetched ahead of its reader."""

    def __init__(self, limit: int, ahead: int) -> None:
        """Allow ``limit`` connections to a host, and ``ahead`` parts in memory."""
        self._limit = limit
        self._hosts: dict[str, HostConnections] = {}
        self.room = trio.Semaphore(ahead)

    def of(self, host: str) -> HostConnections:
        """Return the connections to ``HOST[:PORT]``."""
        return self._hosts.setdefault(host, HostConnections(self._limit))
