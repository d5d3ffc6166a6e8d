"""The bytes of a blob in order, of which parts are fetched ahead over several connections.

::

    reader ──► part 3 (its own stream, or the buffer of a part)
                 part 4, 5, 6 … ahead, one connection each, in memory until the reader comes

Parts only help. What fails ahead is fetched by the reader itself from the first missing byte, with
retries and at the next endpoint; a server that answers a part with the whole blob is read as one
stream. ``docs/explanation/registry.md`` has the invariants.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import trio

from unionmount.errors import NotFoundError, RegistryError, SizeMismatch, UnionmountError
from unionmount.registry.blob_download import (
    RangeOptions,
    RangeRefused,
    RangesIgnored,
    RangeStream,
    RemoteBlob,
)
from unionmount.registry.registries_conf import Endpoint

_MOST_FAILURES = 3  # parts of one blob that may fail before no more are fetched ahead


@asynccontextmanager
async def opened(blob: RemoteBlob) -> AsyncIterator[AsyncIterator[bytes]]:
    """Open the bytes of a blob; leaving the block ends all of its connections."""
    limits = blob.session.limits
    if blob.descriptor.size < limits.parted_from or limits.connections == 1:
        async with aclosing(BlobReader(blob).chunks()) as chunks:
            yield chunks
        return
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        ahead = PartsAhead(blob, nursery)
        try:
            async with aclosing(BlobReader(blob, ahead).chunks()) as chunks:
                yield chunks
        except Exception as error:  # noqa: BLE001 - raised below, alone
            failure = error
        finally:
            ahead.stop()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class BlobReader:
    """All bytes of a blob in order, from one of several endpoints."""

    def __init__(self, blob: RemoteBlob, ahead: PartsAhead | None = None) -> None:
        """Create a reader; without ``ahead``, it uses one connection."""
        self._blob = blob
        self._ahead = ahead
        self._position = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield all bytes, but never more than the descriptor says."""
        endpoints = self._blob.endpoints
        for endpoint, following in zip(endpoints, [*endpoints[1:], None], strict=True):
            try:
                async with aclosing(self._from(endpoint, last=following is None)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except (RegistryError, NotFoundError, SizeMismatch) as error:
                if following is None:
                    raise
                self._blob.session.debug(f"  {error}; {following.host} is next")
            else:
                return

    async def _from(self, endpoint: Endpoint, *, last: bool) -> AsyncGenerator[bytes, None]:
        """Yield the missing bytes, from parts that are here and otherwise from one endpoint."""
        size = self._blob.descriptor.size
        in_parts = True
        while self._position < size or size == 0:
            async with aclosing(self._fetched_ahead()) as chunks:
                async for chunk in chunks:
                    yield chunk
            if self._position == size > 0:
                return
            end = self._end(in_parts=in_parts)
            try:
                async with aclosing(self._own(endpoint, end)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except RangeRefused as error:
                if end is None or not last:
                    raise
                # Asked for all that is missing, the same server may be right; the digest decides.
                self._blob.session.debug(f"  {error}; all of the rest is asked for")
                in_parts = False
            else:
                if size == 0:
                    return

    async def _fetched_ahead(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the parts that tasks fetch, up to one that failed or was not begun."""
        while self._ahead is not None:
            part = self._ahead.take(self._position)
            if part is None:
                return
            async with aclosing(part.chunks()) as chunks:
                async for chunk in chunks:
                    self._position += len(chunk)
                    yield chunk

    def _end(self, *, in_parts: bool) -> int | None:
        """Return where the reader's own part ends; None if it reads all that is missing."""
        if self._ahead is None:
            return None
        if in_parts and not self._ahead.useless:
            return self._ahead.end_of_part(self._position)
        self._ahead.stop()
        return None

    async def _own(self, endpoint: Endpoint, end: int | None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes up to ``end``, over the connection of the reader."""
        ahead, how = self._ahead, RangeOptions()
        if ahead is not None and end is not None:
            how = RangeOptions(part=True, accepted=lambda: ahead.begin(endpoint))
        stream = RangeStream(
            *(self._blob, endpoint, self._position, end or self._blob.descriptor.size), how=how
        )
        async with aclosing(stream.chunks()) as chunks:
            async for chunk in chunks:
                if ahead is not None and end is not None and stream.end > end:
                    ahead.stop()  # the whole blob is coming
                self._position += len(chunk)
                yield chunk


class _BufferedPart:
    """A part of a blob in memory, which one task fills and another empties."""

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.scope = trio.CancelScope()  # of the task that fills it
        self._chunks: deque[bytes] = deque()
        self._ended = False
        self._changed = trio.lowlevel.ParkingLot()

    def add(self, chunk: bytes) -> None:
        """Add bytes from the network."""
        self._chunks.append(chunk)
        self._changed.unpark_all()

    def finish(self) -> None:
        """Announce that no more bytes come, complete or not."""
        self._ended = True
        self._changed.unpark_all()

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes as they come, and forget them; they may end early."""
        while True:
            while self._chunks:
                yield self._chunks.popleft()
            if self._ended:
                return
            await self._changed.park()


class PartsAhead:
    """The parts of a blob that are fetched before its reader wants them.

    The room for a part is taken before its connection, and is given back when the reader has passed
    the part, so that memory is bounded however slow a reader is.
    """

    def __init__(self, blob: RemoteBlob, nursery: trio.Nursery) -> None:
        """Fetch parts in tasks of a nursery, which the caller cancels at the end."""
        self._blob = blob
        self._nursery = nursery
        self._connections = blob.session.connections
        self._part_size = blob.session.limits.part_size
        self._next = 0  # the first byte that no task has taken over
        self._parts: dict[int, _BufferedPart] = {}  # by their first bytes
        self._reading: _BufferedPart | None = None
        self._starting: trio.CancelScope | None = None  # while parts are being started
        self._failures = 0
        self.useless = False  # since a server has no parts

    def begin(self, endpoint: Endpoint) -> None:
        """Fetch parts from an endpoint that has just sent one, unless that happens already."""
        if self._starting is None and self._failures < _MOST_FAILURES and not self.useless:
            self._starting = trio.CancelScope()
            self._nursery.start_soon(self._start, endpoint, self._starting)

    def end_of_part(self, position: int) -> int:
        """Return where the part of a byte ends, which the reader now fetches itself."""
        start = position - position % self._part_size
        end = min(start + self._part_size, self._blob.descriptor.size)
        self._next = max(self._next, end)
        return end

    def take(self, position: int) -> _BufferedPart | None:
        """Return the part that begins at a byte, and free the room of the one before."""
        self._drop(self._reading)
        self._reading = self._parts.pop(position, None)
        return self._reading

    def stop(self) -> None:
        """Drop all parts, since the reader gets the bytes from elsewhere."""
        self.useless = True
        if self._starting is not None:
            self._starting.cancel()
        self._drop(self._reading)
        self._reading = None
        while self._parts:
            self._drop(self._parts.popitem()[1])

    def _drop(self, part: _BufferedPart | None) -> None:
        if part is not None:
            part.scope.cancel()
            self._connections.room.release()

    async def _start(self, endpoint: Endpoint, scope: trio.CancelScope) -> None:
        """Start parts as long as there is room, and connections."""
        size = self._blob.descriptor.size
        host = self._connections.of(endpoint.host)
        failures = self._failures
        with scope:
            while self._next < size and self._failures == failures:
                await self._connections.room.acquire()
                try:
                    await host.acquire()
                except trio.Cancelled:
                    self._connections.room.release()
                    raise
                if self.useless or self._next >= size or self._failures != failures:
                    host.release()
                    self._connections.room.release()
                    break
                part = _BufferedPart(self._next, min(self._next + self._part_size, size))
                self._next = part.end
                self._parts[part.start] = part
                self._nursery.start_soon(self._fetch, endpoint, part)
        self._starting = None

    async def _fetch(self, endpoint: Endpoint, part: _BufferedPart) -> None:
        """Fill a part, for which a connection is counted."""
        how = RangeOptions(part=True, ahead=True)
        stream = RangeStream(self._blob, endpoint, part.start, part.end, how)
        try:
            with part.scope:
                async with aclosing(stream.chunks()) as chunks:
                    async for chunk in chunks:
                        part.add(chunk)
        except UnionmountError as error:  # the reader asks for the same bytes, and reports it
            self._blob.session.debug(f"  {error}; bytes {part.start}-{part.end - 1} are left")
            self._failures += 1
            self.useless = self.useless or isinstance(error, RangesIgnored)
        finally:
            self._connections.of(endpoint.host).release()
            part.finish()
