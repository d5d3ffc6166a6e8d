"""The download of a file by its URL as one stream of bytes, with the rules of registries.

Proxies, time-outs, redirects and certificates are those of ``http``. A broken stream is resumed by
Range if the server names the version of the file (a strong ETag, or Last-Modified): bytes of two
versions are never joined. Plain HTTP is for this machine, for bytes whose digest the user knows,
and for what the user calls insecure.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from unionmount.errors import RegistryError, TransferError, UsageError
from unionmount.registry.error_responses import failure
from unionmount.registry.http import (
    Http,
    Outgoing,
    encoding_of,
    host_of,
    is_loopback,
    parse_url,
    parts_of,
    translated,
    unwanted_encoding,
)
from unionmount.registry.limits import RegistryLimits
from unionmount.registry.pace import Pace
from unionmount.registry.redaction import shown_url
from unionmount.registry.retry import Backoff, Transient
from unionmount.registry.tls import Trust
from unionmount.system.waiting import HOW_TO_WAIT

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx2

_RANGE = re.compile(r"bytes ([0-9]{1,19})-[0-9]{1,19}/(?:[0-9]{1,19}|\*)")
_LENGTH = re.compile(r"[0-9]{1,19}")
_FILE_ENCODINGS = frozenset({"gzip", "x-gzip", "zstd", "xz", "bzip2", "x-bzip2"})


class UrlFiles:
    """The files of any server by their URLs, over connections that are borrowed."""

    def __init__(
        self,
        http: Http,
        limits: RegistryLimits,
        debug: Callable[[str], None],
        tls_verify: bool | None,
    ) -> None:
        self.http = http
        self.limits = limits
        self.debug = debug
        self.tls_verify = tls_verify

    def file(self, url: str, *, verified: bool) -> UrlDownload:
        """Return the download of a URL; ``verified``: the caller knows the digest of the bytes.

        Raise UsageError if the bytes would come unprotected.
        """
        try:
            parsed = parse_url(url)
        except RegistryError as error:
            raise UsageError(str(error)) from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError(f"{shown_url(url)}: is not a URL of http:// or https://")
        if parsed.scheme == "http" and self.tls_verify:
            raise UsageError(f"{shown_url(url)}: is plain HTTP, which --tls-verify refuses")
        insecure = self.tls_verify is False
        if parsed.scheme == "http" and not (insecure or verified or is_loopback(parsed.host)):
            raise UsageError(
                f"{shown_url(url)}: nothing protects what comes over plain HTTP; "
                "give its digest with --checksum"
            )
        return UrlDownload(self, url, insecure=insecure, unprotected=insecure or verified)


class UrlClient(UrlFiles):
    """The connections of one download; an async context manager."""

    def __init__(
        self,
        *,
        tls_verify: bool | None = None,
        debug: Callable[[str], None] | None = None,
        cert_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        limits: RegistryLimits | None = None,
    ) -> None:
        environment = os.environ if environment is None else environment
        limits = limits or RegistryLimits.from_environment(environment)
        debug = debug or (lambda _: None)
        http = Http(Trust(environment, directory=cert_dir), limits, debug)
        super().__init__(http, limits, debug, tls_verify)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.http.aclose()


class UrlDownload:
    """The bytes behind one URL; ``total`` is their number, once it is known."""

    def __init__(self, client: UrlFiles, url: str, *, insecure: bool, unprotected: bool) -> None:
        self.what = shown_url(url)
        self.total: int | None = None
        self._client = client
        self._url = url
        self._insecure = insecure
        self._unprotected = unprotected
        self._position = 0
        self._version = ""  # of the file, as If-Range takes it

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield all bytes in order."""
        limits = self._client.limits
        backoff = Backoff(limits)
        marker = self._position
        while True:
            try:
                async with aclosing(self._attempt()) as attempt:
                    async for chunk in attempt:
                        self._position += len(chunk)
                        yield chunk
            except Transient as transient:
                self._client.debug(f"  {self.what}: at {self._position}: {transient}")
                if self._position and not self._version:
                    raise transient.error from transient
                if self._position - marker >= limits.renewed_after:
                    marker = self._position
                    backoff.renew()
                await backoff.wait(transient)
            else:
                return

    async def _attempt(self) -> AsyncGenerator[bytes, None]:
        """Yield the missing bytes over one connection."""
        headers = {}
        if self._position:
            headers = {"range": f"bytes={self._position}-", "if-range": self._version}
        asked = Outgoing(
            *("GET", self._url, headers),
            insecure=self._insecure,
            unprotected=self._unprotected,
            what=self.what,
            bulk=True,
        )
        async with self._client.http.send(asked) as response:
            if response.status_code not in ((200, 206) if self._position else (200,)):
                raise await failure(response, self.what, self._client.limits)
            self._check(response)
            async with aclosing(self._parts(response)) as parts:
                async for part in parts:
                    yield part

    def _check(self, response: httpx2.Response) -> None:
        """Check that an answer continues the file, and note how long it is."""
        encoding = encoding_of(response)
        if encoding and encoding not in _FILE_ENCODINGS:  # those are of the file itself
            raise unwanted_encoding(response, self.what)
        if self._position:
            match = _RANGE.fullmatch(response.headers.get("content-range", ""))
            if response.status_code != 206 or match is None or int(match[1]) != self._position:
                raise TransferError(
                    f"{self.what}: {host_of(response)} broke off after {self._position} bytes, "
                    "and cannot continue there: the file has changed, or ranges are not supported"
                )
            return
        length = response.headers.get("content-length", "")
        self.total = int(length) if _LENGTH.fullmatch(length) else None
        tag = response.headers.get("etag", "")
        self._version = tag if tag.startswith('"') else response.headers.get("last-modified", "")

    async def _parts(self, response: httpx2.Response) -> AsyncGenerator[bytes, None]:
        limits = self._client.limits
        where = f"{self.what}: {host_of(response)}"
        pace = Pace(limits.slow_window, limits.slow_bytes)
        got = 0
        async with aclosing(parts_of(response)) as parts:
            while True:
                pace.begin()
                with translated(where, limits):
                    part = await anext(parts, None)
                if part is None:
                    break
                got += len(part)
                if pace.is_too_slow(len(part)):
                    text = f"{where} is too slow: {pace} ({HOW_TO_WAIT})"
                    raise Transient(TransferError(text))
                yield part
        # the position counts what was taken of this and of earlier answers
        if self.total is not None and self._position < self.total:
            text = f"{where} ends after {self._position} bytes of {self.total}"
            raise Transient(TransferError(text))
