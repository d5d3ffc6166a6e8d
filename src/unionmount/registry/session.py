"""Authorized requests to endpoints, which are retried, and described in one line.

A registry on this machine, or one that the user calls insecure, may use plain HTTP, which is found
out once. All others must use TLS.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import httpx2
import trio

from unionmount.errors import RegistryError, UnionmountError
from unionmount.registry.connections import BlobConnections
from unionmount.registry.error_responses import failure
from unionmount.registry.http import (
    Body,
    Http,
    Outgoing,
    UntrustedCertificate,
    is_loopback,
    origin,
    parse_url,
)
from unionmount.registry.limits import RegistryLimits
from unionmount.registry.registries_conf import Endpoint
from unionmount.registry.retry import Backoff, Transient
from unionmount.registry.tokens import Authorizer, Scopes

T = TypeVar("T")

_REFUSALS = 2  # of one request: a challenge, and a token that has expired meanwhile
_HOST = re.compile(r"(\[[0-9A-Fa-f:]+\]|[^:/?#@\[\]]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class RegistryCall:
    """A request to an endpoint; ``path`` may also be a whole URL from the endpoint."""

    method: str
    path: str
    what: str  # for messages
    scopes: Scopes = ()
    expected: tuple[int, ...] = (200,)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = field(default=None, repr=False)
    patient: bool = False  # the answer may take as long as a registry needs to move a blob
    bulk: bool = False  # many bytes are transferred


class Session:
    """The requests of one command."""

    def __init__(
        self,
        http: Http,
        authorizer: Authorizer,
        limits: RegistryLimits,
        debug: Callable[[str], None],
        tls_verify: bool | None,
    ) -> None:
        self._http = http
        self._authorizer = authorizer
        self.limits = limits
        self.debug = debug
        self.connections = BlobConnections(limits.connections, limits.parts_ahead)
        self._tls_verify = tls_verify
        self._bases: dict[tuple[str, bool], str] = {}
        self._locks: dict[tuple[str, bool], trio.Lock] = {}

    async def answer(
        self,
        endpoint: Endpoint,
        call: RegistryCall,
        read: Callable[[httpx2.Response], Awaitable[T]],
    ) -> T:
        """Return the result of ``read`` for the answer; retry both if that may help."""
        attempts = self.limits.mirror_attempts if endpoint.mirror else None
        backoff = Backoff(self.limits, attempts)
        while True:
            try:
                async with self.open(endpoint, call) as response:
                    return await read(response)
            except Transient as transient:
                self.debug(f"  {call.what}: {transient}")
                await backoff.wait(transient)

    @asynccontextmanager
    async def open(self, endpoint: Endpoint, call: RegistryCall) -> AsyncIterator[httpx2.Response]:
        """Make one authorized attempt; yield the answer with an expected status, without body."""
        endpoint = self._as_allowed(endpoint)
        base = await self.base(endpoint)
        url = parse_url(base).join(call.path)
        ours = origin(url) == origin(parse_url(base))
        refusals = 0
        while True:
            used = None
            if ours:
                used = await self._authorizer.header(endpoint, base, call.scopes)
            outgoing = Outgoing(
                call.method,
                str(url),
                call.headers,
                used,
                call.body,
                endpoint.insecure,
                call.what,
                call.patient,
                call.bulk,
            )
            async with self._http.send(outgoing) as response:
                if response.status_code in call.expected:
                    yield response
                    return
                error = await failure(response, call.what, self.limits)
                if response.status_code != 401 or refusals == _REFUSALS:
                    raise error
                if origin(response.url) != origin(url) or not ours:
                    raise error  # a host of a redirect, which has no secret of ours
                if not await self._authorizer.refused(endpoint, call.scopes, response, used):
                    raise error
            refusals += 1

    def url(self, endpoint: Endpoint, response: httpx2.Response, location: str) -> str:
        """Return a URL from an answer, relative or not; TLS is never left."""
        url = response.url
        asked = Outgoing("GET", str(url), insecure=self._as_allowed(endpoint).insecure)
        return asked.redirected(location, 307).url

    async def base(self, endpoint: Endpoint) -> str:
        """Return scheme and host of an endpoint."""
        host = endpoint.host
        endpoint = self._as_allowed(endpoint)
        if not _HOST.fullmatch(host):
            raise RegistryError(f"{host}: no host")
        key = (host, endpoint.insecure)
        async with self._locks.setdefault(key, trio.Lock()):
            if key not in self._bases:
                plain = await self._is_plain(endpoint)
                self._bases[key] = f"http://{host}/" if plain else f"https://{host}/"
        return self._bases[key]

    def _as_allowed(self, endpoint: Endpoint) -> Endpoint:
        """Return the endpoint with the settings of the command line, which come first."""
        if self._tls_verify is None:
            return endpoint
        return replace(endpoint, insecure=not self._tls_verify)

    async def _is_plain(self, endpoint: Endpoint) -> bool:
        """Return whether to use plain HTTP, which only some endpoints permit."""
        name = _HOST.fullmatch(endpoint.host)
        own = name is not None and is_loopback(name[1])
        if self._tls_verify or not (endpoint.insecure or own):
            return False
        if own and name is not None and name[0] != name[1]:
            return await self._answers_plainly(endpoint)
        return not await self._answers_in_tls(endpoint)

    async def _answers_plainly(self, endpoint: Endpoint) -> bool:
        """Return whether a local port uses plain HTTP; TLS servers return 400, or hang up.

        It is tried first, since a server without TLS may wait forever for the end of a handshake.
        """
        probe = Outgoing("GET", f"http://{endpoint.host}/v2/", insecure=endpoint.insecure)
        try:
            async with self._http.send(probe) as response:
                return response.status_code != 400 and response.url.scheme == "http"
        except (Transient, UnionmountError) as error:
            self.debug(f"  {error}")
            return False

    async def _answers_in_tls(self, endpoint: Endpoint) -> bool:
        """Return whether the server uses TLS; other errors are reported by the next request."""
        probe = Outgoing("GET", f"https://{endpoint.host}/v2/", insecure=endpoint.insecure)
        try:
            async with self._http.send(probe):
                return True
        except UntrustedCertificate:
            return True
        except (Transient, UnionmountError) as error:
            self.debug(f"  {error}")
            return False
