"""The download of a blob as one stream of bytes, however often its connection breaks.

A broken stream is resumed by Range, at the same endpoint or the next one: bytes with the same
digest are the same everywhere. If a server ignores Range, the bytes that were already received are
skipped. The consumer hashes the bytes, so a mismatch is found.

Object stores report ``Content-Encoding: gzip`` for blobs that are gzip files: their bytes are not
decoded, and their digest decides.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import httpx2

from unionmount.errors import NotFoundError, RegistryError, SizeMismatch, TransferError
from unionmount.images.manifest import Descriptor
from unionmount.registry.http import encoding_of, host_of, parts_of, translated, unwanted_encoding
from unionmount.registry.pace import Pace
from unionmount.registry.registries_conf import Endpoint
from unionmount.registry.retry import Backoff, Transient
from unionmount.registry.session import RegistryCall, Session
from unionmount.system.waiting import HOW_TO_WAIT

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_LENGTH = re.compile(r"[0-9]{1,19}")
_OWN_ENCODINGS = {
    "gzip": b"\x1f\x8b",
    "x-gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
}
"""The encodings that blobs may have themselves, with their first bytes."""


class BlobStream:
    """The bytes of one blob, from one of several endpoints."""

    def __init__(
        self, session: Session, endpoints: Sequence[Endpoint], descriptor: Descriptor, what: str
    ) -> None:
        self._session = session
        self._endpoints = endpoints
        self._descriptor = descriptor
        self._what = f"{what}: {descriptor.digest}"
        self._position = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield all bytes in order, but never more than the descriptor says."""
        last = len(self._endpoints) - 1
        for i, endpoint in enumerate(self._endpoints):
            try:
                async with aclosing(self._from(endpoint)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except (RegistryError, NotFoundError, SizeMismatch) as error:
                if i == last:
                    raise
                self._session.debug(f"  {error}; {self._endpoints[i + 1].host} is next")
            else:
                return

    async def _from(self, endpoint: Endpoint) -> AsyncGenerator[bytes, None]:
        """Yield the missing bytes from one endpoint."""
        limits = self._session.limits
        backoff = Backoff(limits, limits.mirror_attempts if endpoint.mirror else None)
        marker = self._position
        while self._position < self._descriptor.size or self._position == 0:
            try:
                async with (
                    self._session.open(endpoint, self._call(endpoint)) as response,
                    aclosing(self._read(response)) as chunks,
                ):
                    async for chunk in chunks:
                        self._position += len(chunk)
                        yield chunk
                self._check_end(endpoint)
            except Transient as transient:
                self._session.debug(f"  {self._what}: at {self._position}: {transient}")
                # Otherwise a server that sends one byte at a time would be retried forever.
                if self._position - marker >= limits.renewed_after:
                    marker = self._position
                    backoff.renew()
                await backoff.wait(transient)
            else:
                return

    def _call(self, endpoint: Endpoint) -> RegistryCall:
        resumed = self._position > 0
        return RegistryCall(
            "GET",
            f"/v2/{endpoint.repository}/blobs/{self._descriptor.digest}",
            self._what,
            (f"repository:{endpoint.repository}:pull",),
            (200, 206) if resumed else (200,),
            {"range": f"bytes={self._position}-"} if resumed else {},
            bulk=True,
        )

    async def _read(self, response: httpx2.Response) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from the present position, within the size of the descriptor."""
        encoding = _Encoding(response, self._what)
        try:
            async with aclosing(self._checked(response, encoding)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except SizeMismatch as error:
            if encoding.name:  # then it was compressed on the way
                raise unwanted_encoding(response, self._what) from error
            raise

    async def _checked(
        self, response: httpx2.Response, encoding: _Encoding
    ) -> AsyncGenerator[bytes, None]:
        skip = self._skipped(response)
        room = self._descriptor.size - self._position
        pace = Pace(self._session.limits.slow_window, self._session.limits.slow_bytes)
        async with aclosing(parts_of(response)) as parts:
            while True:
                pace.begin()
                with translated(f"{self._what}: {host_of(response)}", self._session.limits):
                    part = await anext(parts, None)
                if part is None:
                    return
                encoding.look_at(part)
                if pace.is_too_slow(len(part)):
                    raise Transient(
                        TransferError(
                            f"{self._what}: {host_of(response)} is too slow: {pace} ({HOW_TO_WAIT})"
                        )
                    )
                if skip:
                    skip, part = max(0, skip - len(part)), part[skip:]
                room -= len(part)
                if room < 0:
                    size = self._descriptor.size
                    raise SizeMismatch(self._what, size, size - room, at_least=True)
                if part:
                    yield part

    def _skipped(self, response: httpx2.Response) -> int:
        """Check the range of an answer, and return the number of bytes to skip."""
        size, position = self._descriptor.size, self._position
        if response.status_code == 206:
            said = response.headers.get("content-range", "")
            match = _CONTENT_RANGE.fullmatch(said)
            if match is None or int(match[1]) != position or int(match[2]) >= size:
                raise TransferError(
                    f"{self._what}: {host_of(response)} was asked for bytes from {position} on and "
                    f"sends '{said[:100]}'"
                )
            if match[3] != "*" and int(match[3]) != size:
                raise SizeMismatch(self._what, size, int(match[3]))
            return 0
        length = response.headers.get("content-length", "")
        if _LENGTH.fullmatch(length) and int(length) != size:
            raise SizeMismatch(self._what, size, int(length))
        return position

    def _check_end(self, endpoint: Endpoint) -> None:
        size, position = self._descriptor.size, self._position
        if position < size:
            raise Transient(
                TransferError(
                    f"{self._what}: {endpoint.host} ends after {position} bytes of {size}"
                )
            )


class _Encoding:
    """The Content-Encoding of an answer, which may be that of the blob itself."""

    def __init__(self, response: httpx2.Response, what: str) -> None:
        """Raise RegistryError for an encoding that blobs do not have."""
        self.name = encoding_of(response)
        self._response = response
        self._what = what
        if self.name and self.name not in _OWN_ENCODINGS:
            raise unwanted_encoding(response, what)
        # An answer from the middle of a blob lacks its first bytes.
        self._rest = b"" if response.status_code == 206 else _OWN_ENCODINGS.get(self.name, b"")

    def look_at(self, part: bytes) -> None:
        """Raise RegistryError if a body does not begin like its encoding."""
        expected = self._rest[: len(part)]
        if not part.startswith(expected):
            raise unwanted_encoding(self._response, self._what)
        self._rest = self._rest[len(expected) :]
