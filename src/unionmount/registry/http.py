"""Requests over HTTP/1.1 and HTTP/2: redirects, time-outs, and bodies of bounded size.

What goes wrong on the way is a ``Transient``; a certificate that is not believed is not. A redirect
is followed a few times, never from TLS to plain HTTP, and Authorization stays at its origin.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.cookiejar import DefaultCookiePolicy
from typing import Self

import httpx2
import trio

from unionmount.errors import LimitExceeded, RegistryError, TransferError
from unionmount.reference import printable
from unionmount.registry.redaction import shown_answer, shown_request, shown_url
from unionmount.registry.retry import Transient
from unionmount.registry.tls import Trust
from unionmount.registry.tuning import Tuning

Body = bytes | Callable[[], AsyncIterator[bytes]]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_URL = 16 * 1024
_PIECE = 1024 * 1024
_CLOSING = 5.0  # seconds that closing connections may take
_AGENT = "unionmount"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request; ``body`` can be made again for a second attempt."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    body: Body | None = field(default=None, repr=False)
    insecure: bool = False  # plain HTTP and unknown certificates are allowed
    what: str = ""  # for messages
    patient: bool = False  # the answer may take as long as a registry moves a blob
    bulk: bool = False  # many bytes: over HTTP/1.1, which costs a fraction of HTTP/2 in Python

    def redirected(self, location: str, status: int) -> Self:
        """The request that a redirect asks for; RegistryError where it must not be followed."""
        here = parse_url(self.url)
        try:
            there = here.join(location)
        except (httpx2.InvalidURL, ValueError) as error:
            raise RegistryError(f"{here.host}: redirects to something that is no URL") from error
        where = f"{here.host}: redirects to {shown_url(str(there))}"
        if len(str(there)) > _MAX_URL or there.scheme not in ("http", "https") or not there.host:
            raise RegistryError(where)
        if here.scheme == "https" and there.scheme == "http" and not self.insecure:
            raise RegistryError(f"{where}, from TLS to plain HTTP")
        if self.method not in ("GET", "HEAD") and status not in (307, 308):
            raise RegistryError(f"{where}, with status {status} for {self.method}")
        keep = origin(here) == origin(there)
        return replace(
            self,
            url=str(there.copy_with(userinfo=b"")),
            authorization=self.authorization if keep else None,
        )


def parse_url(text: str) -> httpx2.URL:
    """A URL that a server gave; RegistryError where it is none."""
    try:
        return httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError) as error:
        raise RegistryError(f"not a URL: '{printable(text[:200])}'") from error


def host_of(response: httpx2.Response) -> str:
    """Who answered, for messages."""
    return response.url.netloc.decode("ascii", "replace")


def origin(url: httpx2.URL) -> tuple[str, str, int]:
    """Scheme, host and port: what may see the same secrets."""
    default = 443 if url.scheme == "https" else 80
    return url.scheme, url.host.lower(), url.port or default


def is_loopback(host: str) -> bool:
    """Whether a host, without port, is this machine by its name."""
    host = host.strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_large_pieces() -> None:
    """Have HTTP/1.1 read what has arrived, up to a megabyte; 64 KiB cost a tenth of a pull.

    There is no option for that. Where the library has changed, it is as fast as it is.
    """
    with suppress(ImportError, AttributeError):
        from httpcore2._async.http11 import AsyncHTTP11Connection  # noqa: PLC0415

        AsyncHTTP11Connection.READ_NUM_BYTES = max(AsyncHTTP11Connection.READ_NUM_BYTES, _PIECE)


class Http:
    """All connections of one command; closed by ``aclose``."""

    def __init__(self, trust: Trust, tuning: Tuning, debug: Callable[[str], None]) -> None:
        self._trust = trust
        self._tuning = tuning
        self._debug = debug
        self._reached: set[str] = set()  # hosts that have answered
        self._clients: dict[tuple[ssl.SSLContext, bool], httpx2.AsyncClient] = {}
        _read_large_pieces()

    async def aclose(self) -> None:
        """Close all connections, even when cancelled."""
        clients, self._clients = self._clients, {}
        with trio.CancelScope(shield=True), trio.move_on_after(_CLOSING):
            for client in clients.values():
                await client.aclose()

    @asynccontextmanager
    async def send(self, outgoing: Outgoing) -> AsyncIterator[httpx2.Response]:
        """The answer, with its body not yet read, after redirects."""
        for _ in range(self._tuning.redirects + 1):
            response = await self._send_once(outgoing)
            try:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or location is None:
                    yield response
                    return
            finally:
                await response.aclose()
            outgoing = outgoing.redirected(location, response.status_code)
        raise RegistryError(
            f"{shown_url(outgoing.url)}: more than {self._tuning.redirects} redirects"
        )

    async def _send_once(self, outgoing: Outgoing) -> httpx2.Response:
        url = parse_url(outgoing.url)
        host = url.netloc.decode("ascii", "replace")
        client = self._client(host, insecure=outgoing.insecure, bulk=outgoing.bulk)
        headers = {name.lower(): value for name, value in outgoing.headers.items()}
        if outgoing.authorization is not None:
            headers["authorization"] = outgoing.authorization
        self._debug(f"> {outgoing.method} {shown_url(outgoing.url)}{shown_request(headers)}")
        body = outgoing.body() if callable(outgoing.body) else outgoing.body
        timeout = self._timeout(patient=outgoing.patient)
        request = client.build_request(
            outgoing.method, url, headers=headers, content=body, timeout=timeout
        )
        # An upload takes as long as it takes; each write has its own limit.
        limit = float("inf") if outgoing.patient else self._tuning.answer
        where = f"{outgoing.what}: {host}" if outgoing.what else host
        with translated(where, reached=host in self._reached):
            response = None
            with trio.move_on_after(limit):
                response = await client.send(request, stream=True, auth=None)
            if response is None:
                raise Transient(TransferError(f"{where}: no answer in {limit:g} s"))
        self._reached.add(host)
        self._debug(
            f"< {response.status_code} {shown_url(outgoing.url)} "
            f"{response.http_version}{shown_answer(response.headers)}"
        )
        return response

    def _timeout(self, *, patient: bool) -> httpx2.Timeout:
        tuning = self._tuning
        read = tuning.patience if patient else tuning.silence
        return httpx2.Timeout(tuning.silence, connect=tuning.connect, read=read, pool=None)

    def _client(self, host: str, *, insecure: bool, bulk: bool) -> httpx2.AsyncClient:
        context = self._trust.context(host, insecure=insecure, bulk=bulk)
        # What is meant for this machine, and may be plain, is not shown to a proxy.
        key = (context, is_loopback(parse_url(f"http://{host}").host))
        client = self._clients.get(key)
        if client is None:
            client = httpx2.AsyncClient(
                verify=context,
                http2=not bulk,
                headers={"user-agent": _AGENT, "accept-encoding": "identity"},
                follow_redirects=False,
                trust_env=not key[1],
            )
            client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
            self._clients[key] = client
        return client


async def read_body(response: httpx2.Response, limit: int, what: str, tuning: Tuning) -> bytes:
    """A whole body of at most ``limit`` bytes, in bounded time."""
    parts: list[bytes] = []
    size = 0
    where = f"{what}: {host_of(response)}"
    refuse_encoding(response, what)
    with translated(where):
        with trio.move_on_after(tuning.answer) as scope:
            async with aclosing(parts_of(response)) as arriving:
                async for part in arriving:
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        raise LimitExceeded(f"{where} sends more than {limit} bytes")
        if scope.cancelled_caught:
            raise Transient(TransferError(f"{where}: no whole answer in {tuning.answer:g} s"))
    return b"".join(parts)


async def parts_of(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """The bytes of a body as they arrive; to be closed where they are not all taken."""
    raw = response.aiter_raw()
    try:
        while (part := await anext(raw, None)) is not None:
            yield part
    finally:
        # It is made of generators that do not close each other. A read that is cancelled ends all.
        with trio.CancelScope() as scope:
            scope.cancel()
            async for _ in raw:
                pass


def refuse_encoding(response: httpx2.Response, what: str) -> None:
    """RegistryError where a body is compressed, which nobody asked for."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise RegistryError(
            f"{what}: {host_of(response)} sends Content-Encoding '{printable(encoding[:100])}', "
            "which was not asked for"
        )


@contextmanager
def translated(where: str, *, reached: bool = True) -> Iterator[None]:
    """Turn what httpx2 raises into what is told, and tell what may be tried again.

    A host that has never been ``reached`` is not there, rather than busy.
    """
    try:
        yield
    except httpx2.HTTPError as error:
        failure = _failure(where, error)
        if isinstance(failure, Transient) and not reached and _is_absent(error):
            failure = failure.error
        raise failure from error
    except httpx2.StreamError as error:
        raise Transient(TransferError(f"{where}: {error}")) from error


def _is_absent(error: httpx2.HTTPError) -> bool:
    cause = _root(error)
    absent = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
    return isinstance(error, httpx2.ConnectTimeout) or (cause is not None and cause.errno in absent)


_NOT_TLS = frozenset(
    {"HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"}
)
_TIMEOUTS = {
    httpx2.ConnectTimeout: "can't be connected to in time",
    httpx2.ReadTimeout: "is silent for too long",
    httpx2.WriteTimeout: "takes nothing for too long",
}


def _failure(host: str, error: httpx2.HTTPError) -> Exception:
    for kind, text in _TIMEOUTS.items():
        if isinstance(error, kind):
            return Transient(TransferError(f"{host} {text}"))
    cause = _root(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return UntrustedCertificate(f"{host}: {printable(cause.verify_message)}")
    if isinstance(cause, ssl.SSLError):
        return _tls_failure(host, cause)
    if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
        return RegistryError(f"{host}: {cause.strerror}")
    if isinstance(cause, OSError) and cause.strerror:
        return Transient(TransferError(f"{host}: {os.strerror(cause.errno or 0)}"))
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
        return RegistryError(f"{host}: {printable(str(error)[:200])}")
    text = printable(str(error)[:200]) or type(error).__name__
    return Transient(TransferError(f"{host}: {text}"))


def _tls_failure(host: str, cause: ssl.SSLError) -> Exception:
    reason = cause.reason or ""
    if reason in _NOT_TLS:
        return NoTls(f"{host}: speaks no TLS")
    text = f"{host}: TLS: {printable(reason.replace('_', ' ').lower() or str(cause)[:200])}"
    if "ALERT" in reason:  # the other side says what it does not like
        return RegistryError(text)
    return Transient(TransferError(text))


class UntrustedCertificate(RegistryError):
    """The server's certificate is of nobody that is believed."""


class NoTls(RegistryError):
    """There was an answer, but not in TLS."""


def _root(error: BaseException) -> OSError | None:
    """The system's or OpenSSL's own error behind an exception."""
    chain: BaseException | None = error
    for _ in range(20):
        if chain is None:
            break
        waiting = isinstance(chain, ssl.SSLWantReadError | ssl.SSLWantWriteError)
        if isinstance(chain, OSError) and chain.errno is not None and not waiting:
            return chain
        if isinstance(chain, BaseExceptionGroup):
            chain = chain.exceptions[0]
        else:
            chain = chain.__cause__ or chain.__context__
    return None
