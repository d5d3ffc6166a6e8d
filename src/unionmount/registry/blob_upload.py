"""The upload of a blob: one session at the registry, which is resumed after a failure.

A session begins with POST, takes the bytes with PATCH, and ends with PUT and the digest. After a
failure the registry is asked how much it has; if it does not answer that, another session begins.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, replace

import httpx2
import trio

from unionmount.errors import NotFoundError, RegistryError, SizeMismatch, TransferError
from unionmount.images.reference import Digest
from unionmount.registry.http import host_of
from unionmount.registry.registries_conf import Endpoint
from unionmount.registry.retry import Backoff, Transient
from unionmount.registry.session import RegistryCall, Session

Chunks = Callable[[], Iterator[bytes]]
Progress = Callable[[int], object]

_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class _Started:
    """The URL of a session, and how much of the blob the registry has."""

    url: str
    position: int = 0


class Upload:
    """The upload of one blob to one endpoint."""

    def __init__(
        self,
        session: Session,
        endpoint: Endpoint,
        digest: Digest,
        size: int,
        chunks: Chunks,
        progress: Progress | None,
        what: str,
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._digest = digest
        self._size = size
        self._chunks = chunks
        self._progress = progress
        self._what = f"{what}: {digest}"
        self._scopes = push_scopes(endpoint.repository)

    async def run(self) -> None:
        """Upload the blob."""
        limits = self._session.limits
        backoff = Backoff(limits)
        started: _Started | None = None
        while True:
            try:
                started = started or await self._start()
                await self._through(started)
            except Transient as transient:
                self._session.debug(f"  {self._what}: {transient}")
                await backoff.wait(transient)
                before = started.position if started is not None else 0
                started = await self._where(started)
                if started is not None and started.position - before >= limits.renewed_after:
                    backoff.renew()
            else:
                return

    async def _through(self, started: _Started) -> None:
        try:
            await self._finish(await self._send(started))
        except NotFoundError as error:  # the session has ended
            if not await self._is_there():  # by itself, or with an answer that was lost
                raise Transient(TransferError(str(error))) from error

    async def _is_there(self) -> bool:
        path = f"/v2/{self._endpoint.repository}/blobs/{self._digest}"

        async def read(response: httpx2.Response) -> bool:
            return response.status_code == 200

        call = self._call("HEAD", path, (200, 404))
        return await self._session.answer(self._endpoint, call, read)

    async def _start(self) -> _Started:
        call = self._call("POST", f"/v2/{self._endpoint.repository}/blobs/uploads/", (202,))
        call = replace(call, headers={"content-length": "0"})
        return _Started(await self._session.answer(self._endpoint, call, self._location))

    async def _send(self, started: _Started) -> str:
        """Send the missing bytes; return the URL for continuing the session."""
        if started.position >= self._size:
            return started.url
        headers = {
            "content-type": "application/octet-stream",
            "content-length": str(self._size - started.position),
        }
        if started.position:
            headers["content-range"] = f"{started.position}-{self._size - 1}"
        call = self._call("PATCH", started.url, (202, 204))
        body = functools.partial(self._stream, started.position)
        call = replace(call, headers=headers, body=body, patient=True, bulk=True)
        async with self._session.open(self._endpoint, call) as response:
            self._check_taken(response)
            return await self._location(response)

    async def _stream(self, skip: int) -> AsyncGenerator[bytes, None]:
        chunks = self._chunks()
        sent = 0
        while True:
            chunk = await trio.to_thread.run_sync(next, chunks, None)
            if chunk is None:
                break
            sent += len(chunk)
            if sent > self._size:
                break
            part = chunk[max(0, len(chunk) - (sent - skip)) :] if sent > skip else b""
            if part:
                yield part
                if self._progress is not None:
                    self._progress(sent)
        if sent != self._size:
            raise SizeMismatch(self._what, self._size, sent)

    def _check_taken(self, response: httpx2.Response) -> None:
        match = _RANGE.fullmatch(response.headers.get("range", ""))
        if match is not None and int(match[1]) + 1 != self._size:
            raise Transient(
                TransferError(
                    f"{self._what}: {self._endpoint.host} has {int(match[1]) + 1} bytes of "
                    f"{self._size}"
                )
            )

    async def _where(self, started: _Started | None) -> _Started | None:
        """Return how much the registry has; None if another session must begin."""
        if started is None:
            return None
        call = self._call("GET", started.url, (204, 202, 200))

        async def read(response: httpx2.Response) -> _Started | None:
            match = _RANGE.fullmatch(response.headers.get("range", ""))
            if match is None:
                return None
            # An empty session reports 0-0, like one with a single byte; begin again for either.
            position = int(match[1]) + 1
            if position <= 1 or position > self._size:
                return None
            url = started.url
            if "location" in response.headers:
                url = await self._location(response)
            return _Started(url, position)

        try:
            return await self._session.answer(self._endpoint, call, read)
        except (RegistryError, NotFoundError):
            return None

    async def _finish(self, url: str) -> None:
        separator = "&" if "?" in url else "?"
        call = self._call("PUT", f"{url}{separator}digest={self._digest}", (201, 204))
        call = replace(call, headers={"content-length": "0"}, patient=True)

        async def read(response: httpx2.Response) -> None:
            check_named(response, self._digest, self._what)

        await self._session.answer(self._endpoint, call, read)

    def _call(self, method: str, path: str, expected: tuple[int, ...]) -> RegistryCall:
        return RegistryCall(method, path, self._what, self._scopes, expected)

    async def _location(self, response: httpx2.Response) -> str:
        location = response.headers.get("location")
        if not location:
            raise RegistryError(
                f"{self._what}: {self._endpoint.host} does not say where to send the blob"
            )
        return self._session.url(self._endpoint, response, location)


def push_scopes(repository: str) -> tuple[str, ...]:
    """Return the scopes that a push needs."""
    return (f"repository:{repository}:pull,push",)


def check_named(response: httpx2.Response, digest: Digest, what: str) -> None:
    """Raise RegistryError if a registry reports another digest."""
    named = response.headers.get("docker-content-digest", "")
    if named and named != str(digest):
        raise RegistryError(f"{what}: {host_of(response)} stored it as '{named[:200]}'")
