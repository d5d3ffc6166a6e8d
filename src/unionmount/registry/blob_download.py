"""The download of a range of a blob from one endpoint, however often its connection breaks.

A broken stream is resumed by Range. If a server ignores Range, the bytes that were already received
are skipped. The consumer hashes the bytes of the blob, so a mismatch is found.

Object stores report ``Content-Encoding: gzip`` for blobs that are gzip files: their bytes are not
decoded, and their digest decides.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field

import httpx2

from unionmount.errors import SizeMismatch, TooManyRequests, TransferError
from unionmount.images.manifest import Descriptor
from unionmount.registry.http import encoding_of, host_of, parts_of, translated, unwanted_encoding
from unionmount.registry.pace import Pace
from unionmount.registry.registries_conf import Endpoint
from unionmount.registry.retry import Backoff, Transient
from unionmount.registry.session import RegistryCall, Session
from unionmount.system.waiting import HOW_TO_WAIT

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_OTHER_TOTAL = re.compile(r"bytes \*/([0-9]{1,19})")
_LENGTH = re.compile(r"[0-9]{1,19}")
_OWN_ENCODINGS = {
    "gzip": b"\x1f\x8b",
    "x-gzip": b"\x1f\x8b",
    "zstd": b"\x28\xb5\x2f\xfd",
}
"""The encodings that blobs may have themselves, with their first bytes."""


class RangeRefused(TransferError):
    """A server answered a request for a range with another one, or with another version."""


class RangesIgnored(RangeRefused):
    """A server answered a request for a part with the whole blob."""


@dataclass(frozen=True, slots=True)
class RemoteBlob:
    """A blob, its places, and what they said of it; shared by all requests for it."""

    session: Session
    endpoints: Sequence[Endpoint]
    descriptor: Descriptor
    what: str
    versions: dict[str, str] = field(default_factory=dict)
    """The ETag under which each host sent its first part."""


@dataclass(frozen=True, slots=True)
class RangeOptions:
    """How a range is fetched.

    ``part``: only this range is asked for, rather than all bytes from its start. ``ahead``: the
    caller counts the connection, and does not want the whole blob. ``accepted`` is called when an
    answer with a part begins.
    """

    part: bool = False
    ahead: bool = False
    accepted: Callable[[], None] = lambda: None


class RangeStream:
    """The bytes from ``position`` to ``end``, from one endpoint.

    ``end`` becomes the end of the blob if the server sends the whole blob.
    """

    def __init__(
        self,
        blob: RemoteBlob,
        endpoint: Endpoint,
        position: int,
        end: int,
        how: RangeOptions | None = None,
    ) -> None:
        self.position = position
        self.end = end
        self._blob = blob
        self._session = blob.session
        self._endpoint = endpoint
        self._size = blob.descriptor.size
        self._what = blob.what
        self._how = how or RangeOptions()
        self._is_part = self._how.part  # until a server sends the whole blob
        self._host = blob.session.connections.of(endpoint.host)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the bytes in order; an error is raised after all attempts."""
        limits = self._session.limits
        backoff = Backoff(limits, limits.mirror_attempts if self._endpoint.mirror else None)
        marker = self.position
        while self.position < self.end or self.position == 0:
            try:
                async with aclosing(self._attempt()) as chunks:
                    async for chunk in chunks:
                        self.position += len(chunk)
                        yield chunk
                self._check_end()
            except Transient as transient:
                self._session.debug(f"  {self._what}: at {self.position}: {transient}")
                self._obey(transient)
                # Otherwise a server that sends one byte at a time would be retried forever.
                if self.position - marker >= limits.renewed_after:
                    marker = self.position
                    backoff.renew()
                await backoff.wait(transient)
            else:
                return

    def _obey(self, transient: Transient) -> None:
        """Let all requests to a host wait that is asked too often."""
        limits = self._session.limits
        pause = limits.first_pause if transient.pause is None else transient.pause
        if isinstance(transient.error, TooManyRequests) and pause <= limits.longest_retry_after:
            self._host.pause(pause)

    async def _attempt(self) -> AsyncGenerator[bytes, None]:
        """Yield the missing bytes of one answer."""
        await self._host.ready()
        with nullcontext() if self._how.ahead else self._host.taken():
            async with (
                self._session.open(self._endpoint, self._call()) as response,
                aclosing(self._read(response)) as chunks,
            ):
                async for chunk in chunks:
                    yield chunk

    def _call(self) -> RegistryCall:
        headers = {}
        if self._is_part:
            headers["range"] = f"bytes={self.position}-{self.end - 1}"
        elif self.position > 0:
            headers["range"] = f"bytes={self.position}-"
        return RegistryCall(
            "GET",
            f"/v2/{self._endpoint.repository}/blobs/{self._blob.descriptor.digest}",
            self._what,
            (f"repository:{self._endpoint.repository}:pull",),
            (200, 206, 416) if headers else (200,),
            headers,
            bulk=True,
        )

    async def _read(self, response: httpx2.Response) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from the present position, up to the end."""
        start = self.position if response.status_code == 206 else 0
        encoding = _Encoding(response, self._what, start)
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
        room = self.end - self.position
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
                    raise self._too_many(response, self.end - room)
                if part:
                    yield part

    def _too_many(self, response: httpx2.Response, end: int) -> Exception:
        if self.end == self._size:
            return SizeMismatch(self._what, self._size, end, at_least=True)
        return RangeRefused(
            f"{self._what}: {host_of(response)} was asked for bytes up to {self.end} and sends more"
        )

    def _skipped(self, response: httpx2.Response) -> int:
        """Check the range of an answer, and return the number of bytes to skip."""
        if response.status_code == 416:
            raise self._unsatisfied(response)
        if response.status_code == 206:
            self._check_range(response)
            if self._is_part:
                self._check_version(response)
            self._how.accepted()
            return 0
        length = response.headers.get("content-length", "")
        if _LENGTH.fullmatch(length) and int(length) != self._size:
            raise SizeMismatch(self._what, self._size, int(length))
        if self._how.ahead:
            raise RangesIgnored(f"{self._what}: {host_of(response)} sends no parts")
        self.end, self._is_part = self._size, False
        return self.position

    def _unsatisfied(self, response: httpx2.Response) -> Exception:
        match = _OTHER_TOTAL.fullmatch(response.headers.get("content-range", ""))
        if match is not None and int(match[1]) != self._size:
            return SizeMismatch(self._what, self._size, int(match[1]))
        return RangeRefused(
            f"{self._what}: {host_of(response)} was asked for bytes from {self.position} on and "
            "answers 416, as if it had fewer"
        )

    def _check_range(self, response: httpx2.Response) -> None:
        said = response.headers.get("content-range", "")
        match = _CONTENT_RANGE.fullmatch(said)
        if match is None or int(match[1]) != self.position or int(match[2]) >= self.end:
            raise RangeRefused(
                f"{self._what}: {host_of(response)} was asked for bytes from {self.position} on "
                f"and sends '{said[:100]}'"
            )
        if match[3] != "*" and int(match[3]) != self._size:
            raise SizeMismatch(self._what, self._size, int(match[3]))

    def _check_version(self, response: httpx2.Response) -> None:
        """Raise RangeRefused if a host sends parts of two versions; weak ETags say nothing."""
        tag = response.headers.get("etag", "")
        if tag.startswith('"'):
            host = host_of(response)
            if self._blob.versions.setdefault(host, tag) != tag:
                raise RangeRefused(f"{self._what}: changed at {host} while it was fetched (ETag)")

    def _check_end(self) -> None:
        if self.position < self.end:
            raise Transient(
                TransferError(
                    f"{self._what}: {self._endpoint.host} ends after {self.position} bytes of "
                    f"{self.end}"
                )
            )


class _Encoding:
    """The Content-Encoding of an answer, which may be that of the blob itself."""

    def __init__(self, response: httpx2.Response, what: str, start: int) -> None:
        """Raise RegistryError for an encoding that blobs do not have."""
        self.name = encoding_of(response)
        self._response = response
        self._what = what
        if self.name and self.name not in _OWN_ENCODINGS:
            raise unwanted_encoding(response, what)
        # An answer from the middle of a blob lacks its first bytes.
        self._rest = b"" if start else _OWN_ENCODINGS.get(self.name, b"")

    def look_at(self, part: bytes) -> None:
        """Raise RegistryError if a body does not begin like its encoding."""
        expected = self._rest[: len(part)]
        if not part.startswith(expected):
            raise unwanted_encoding(self._response, self._what)
        self._rest = self._rest[len(expected) :]
