"""Requests over HTTP/1.1 and HTTP/2: redirects, time-outs, and bodies of bounded size.

What goes wrong on the way is a ``Transient``; a certificate that is not believed is not. A redirect
is followed a few times, never from TLS to plain HTTP; Authorization stays at its origin, and so
does a request whose body is a secret. Whatever a request waits for, it ends without progress.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.cookiejar import CookieJar
from typing import Any, Self

import httpx2
import trio

from unionmount.errors import LimitExceeded, RegistryError, TransferError, UsageError
from unionmount.registry.limits import RegistryLimits
from unionmount.registry.redaction import shown_answer, shown_request, shown_url
from unionmount.registry.retry import Transient
from unionmount.registry.tls import Trust
from unionmount.system.text import printable
from unionmount.system.waiting import HOW_TO_WAIT

Body = bytes | Callable[[], AsyncGenerator[bytes, None]]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_URL = 16 * 1024
_MAX_FIELDS = 256
_MAX_HEAD = 64 * 1024  # bytes of all fields
_PIECE = 1024 * 1024
_SENT_AT_ONCE = 64 * 1024  # of an upload: so much has to be taken within the time of silence
_CLOSING = 5.0  # seconds that closing connections may take
_AGENT = "unionmount"

FORM = "application/x-www-form-urlencoded"
"""What a body is said to be that holds fields of a form."""


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
    secret: bool = False  # the body is one: no other origin gets it
    elsewhere: bool = False  # a redirect led to another origin

    def redirected(self, location: str, status: int) -> Self:
        """Return the request that a redirect asks for; raise RegistryError if it must not be
        followed.
        """
        here = parse_url(self.url)
        if len(location) > _MAX_URL:  # taking it apart may cost more than its length
            raise RegistryError(f"{here.host}: redirects to more than {_MAX_URL} characters")
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
        if self.secret and not keep:
            raise SecretRedirected(
                f"{self.what or here.host}: {_shown_origin(here)} redirects to "
                f"{_shown_origin(there)} what holds a secret; that is not sent to another server"
            )
        return replace(
            self,
            url=str(there.copy_with(userinfo=b"")),
            authorization=self.authorization if keep else None,
            elsewhere=self.elsewhere or not keep,
        )


class SecretRedirected(RegistryError):
    """A server redirects a request whose body is a secret for that server alone."""


def parse_url(text: str) -> httpx2.URL:
    """Return a URL that a server gave; raise RegistryError if it is none."""
    if len(text) > _MAX_URL:
        raise RegistryError(
            f"an address of more than {_MAX_URL} characters: '{printable(text[:200])}'"
        )
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


def _shown_origin(url: httpx2.URL) -> str:
    scheme, host, port = origin(url)
    return printable(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"[:300])


def is_loopback(host: str) -> bool:
    """Return whether a host, without port, is this machine by its name."""
    host = host.strip("[]").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_FIELD = re.compile(
    rb"(?P<field_name>[-!#$%&'*+.^_`|~0-9a-zA-Z]++):[ \t]*+"
    rb"(?P<field_value>(?:[^\x00\s]++(?:[ \t]++[^\x00\s]++)*+)?+)[ \t]*+"
)
_CHUNK = re.compile(rb"(?P<chunk_size>[0-9A-Fa-f]{1,20}+)(?P<chunk_ext>;[^\r\n]*+)?+[ \t]*+\r\n")


def _adjust_parser() -> None:
    """Have HTTP/1.1 read what has arrived, up to a megabyte; 64 KiB cost a tenth of a pull.

    And have it parsed in linear time: a field that is a megabyte of blanks takes h11's own
    expressions half an hour, in which no limit is looked at. There is no option for either. Where
    the libraries have changed, they stay as they are; a test tells.
    """
    with suppress(ImportError, AttributeError):
        from h11 import _readers  # noqa: PLC0415
        from httpcore2._async.http11 import AsyncHTTP11Connection  # noqa: PLC0415

        if {"field_name", "field_value"} == set(_readers.header_field_re.groupindex):
            _readers.header_field_re = _FIELD
        if {"chunk_size", "chunk_ext"} == set(_readers.chunk_header_re.groupindex):
            _readers.chunk_header_re = _CHUNK
        AsyncHTTP11Connection.READ_NUM_BYTES = max(AsyncHTTP11Connection.READ_NUM_BYTES, _PIECE)


class _NoCookies(CookieJar):
    """Takes none and sends none; does not even parse them."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        pass

    def add_cookie_header(self, request: Any) -> None:
        pass


class _Waiting:
    """What a request waits for, and until when; lets it end there.

    Up to the head of the answer there is one limit for everything, over all redirects. An upload
    may take as long as it moves on: each piece of it has a limit, then the answer has another.
    """

    def __init__(self, limits: RegistryLimits, *, patient: bool) -> None:
        self._limits = limits
        self._patient = patient
        self._limit = limits.patience if patient else limits.answer
        self.scope = trio.CancelScope(deadline=trio.current_time() + self._limit)
        self._sending = False
        self._step = "connection.connect_tcp"

    def again(self) -> trio.CancelScope:
        """Return the scope of the next request; its end is where the first one's was."""
        deadline = self.scope.deadline
        if self._patient:
            deadline = trio.current_time() + self._limit
        self.scope = trio.CancelScope(deadline=deadline)
        self._sending = False
        return self.scope

    async def pieces(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Yield the body of an upload, in pieces that have to be taken one after the other."""
        async with aclosing(body) as chunks:
            async for chunk in chunks:
                for start in range(0, len(chunk), _SENT_AT_ONCE):
                    self._sending = True
                    self._until(self._limits.silence)
                    yield chunk[start : start + _SENT_AT_ONCE]
                self._sending = False
                self.scope.deadline = float("inf")  # what comes next may be slow to read
        self._until(self._limits.patience)

    def _until(self, seconds: float) -> None:
        self._limit = seconds
        self.scope.deadline = trio.current_time() + seconds

    async def note(self, event: str, _details: object) -> None:
        """Be told by the library where it is."""
        name, _, state = event.rpartition(".")
        if state == "started":
            self._step = name

    @property
    def is_connecting(self) -> bool:
        """Whether it waits for a connection, of which looking up the name is a part."""
        return self._step.endswith("connect_tcp")

    @property
    def is_shaking_hands(self) -> bool:
        """Whether it waits for TLS."""
        return self._step.endswith("start_tls")

    def failure(self, where: str) -> Transient:
        """Why it ended."""
        if self._sending:
            text = f"takes less than {_SENT_AT_ONCE // 1024} KiB in {self._limit:g} s"
        elif self.is_connecting:
            text = f"no connection in {self._limit:g} s"
        elif self.is_shaking_hands:
            text = f"no TLS handshake in {self._limit:g} s"
        else:
            text = f"no answer in {self._limit:g} s"
        return Transient(TransferError(f"{where}: {text} ({HOW_TO_WAIT})"))


class Http:
    """All connections of one command; closed by ``aclose``."""

    def __init__(self, trust: Trust, limits: RegistryLimits, debug: Callable[[str], None]) -> None:
        self._trust = trust
        self._limits = limits
        self._debug = debug
        self._reached: set[str] = set()  # hosts that have answered
        self._clients: dict[tuple[ssl.SSLContext, bool], httpx2.AsyncClient] = {}
        _adjust_parser()

    async def aclose(self) -> None:
        """Close all connections, even when cancelled."""
        clients, self._clients = self._clients, {}
        with trio.CancelScope(shield=True), trio.move_on_after(_CLOSING):
            for client in clients.values():
                await client.aclose()

    @asynccontextmanager
    async def send(self, outgoing: Outgoing) -> AsyncIterator[httpx2.Response]:
        """The answer, with its body not yet read, after redirects."""
        waiting = _Waiting(self._limits, patient=outgoing.patient)
        for _ in range(self._limits.redirects + 1):
            response = await self._send_once(outgoing, waiting)
            try:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or location is None:
                    yield response
                    return
            finally:
                await response.aclose()
            outgoing = outgoing.redirected(location, response.status_code)
        raise RegistryError(
            f"{shown_url(outgoing.url)}: more than {self._limits.redirects} redirects"
        )

    async def _send_once(self, outgoing: Outgoing, waiting: _Waiting) -> httpx2.Response:
        url = parse_url(outgoing.url)
        host = url.netloc.decode("ascii", "replace")
        client = self._client(host, outgoing)
        headers = {name.lower(): value for name, value in outgoing.headers.items()}
        if outgoing.authorization is not None:
            headers["authorization"] = outgoing.authorization
        self._debug(f"> {outgoing.method} {shown_url(outgoing.url)}{shown_request(headers)}")
        body = waiting.pieces(outgoing.body()) if callable(outgoing.body) else outgoing.body
        request = client.build_request(
            outgoing.method,
            url,
            headers=headers,
            content=body,
            timeout=self._timeout(patient=outgoing.patient),
            extensions={"trace": waiting.note},
        )
        where = f"{outgoing.what}: {host}" if outgoing.what else host
        with translated(where, self._limits, reached=host in self._reached, waiting=waiting):
            response = None
            with waiting.again():
                response = await client.send(request, stream=True, auth=None)
            if response is None:
                raise waiting.failure(where)
        self._reached.add(host)
        self._debug(
            f"< {response.status_code} {shown_url(outgoing.url)} "
            f"{response.http_version}{shown_answer(response.headers)}"
        )
        try:
            _check_head(response, where)
        except RegistryError:
            await response.aclose()
            raise
        return response

    def _timeout(self, *, patient: bool) -> httpx2.Timeout:
        limits = self._limits
        read = limits.patience if patient else limits.silence
        return httpx2.Timeout(limits.silence, connect=limits.connect, read=read, pool=None)

    def _client(self, host: str, outgoing: Outgoing) -> httpx2.AsyncClient:
        context = self._trust.context(
            host,
            insecure=outgoing.insecure,
            bulk=outgoing.bulk,
            elsewhere=outgoing.elsewhere,
        )
        # What is meant for this machine, and may be plain, is not shown to a proxy.
        key = (context, is_loopback(parse_url(f"http://{host}").host))
        client = self._clients.get(key)
        if client is None:
            try:
                client = _new_client(context, http2=not outgoing.bulk, proxies=not key[1])
            except (ValueError, TypeError, ImportError, httpx2.InvalidURL):
                # Its text may hold the proxy's password, and --debug shows causes.
                raise UsageError(
                    "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is no address of a proxy "
                    "(http://, https:// or socks5://)"
                ) from None
            self._clients[key] = client
        return client


def _new_client(context: ssl.SSLContext, *, http2: bool, proxies: bool) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        verify=context,
        http2=http2,
        headers={"user-agent": _AGENT, "accept-encoding": "identity"},
        cookies=_NoCookies(),
        follow_redirects=False,
        trust_env=proxies,
    )


def _check_head(response: httpx2.Response, where: str) -> None:
    """Raise RegistryError if the head of an answer is larger than any that makes sense."""
    fields = response.headers.raw
    size = sum(len(name) + len(value) for name, value in fields)
    if len(fields) > _MAX_FIELDS or size > _MAX_HEAD:
        raise RegistryError(
            f"{where}: answers with {len(fields)} header fields of {size} bytes, more than "
            f"{_MAX_FIELDS} or {_MAX_HEAD}"
        )


async def read_body(
    response: httpx2.Response, limit: int, what: str, limits: RegistryLimits
) -> bytes:
    """Return a whole body of at most ``limit`` bytes, in bounded time."""
    parts: list[bytes] = []
    size = 0
    where = f"{what}: {host_of(response)}"
    if encoding_of(response):
        raise unwanted_encoding(response, what)
    with translated(where, limits):
        with trio.move_on_after(limits.answer) as scope:
            async with aclosing(parts_of(response)) as arriving:
                async for part in arriving:
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        raise LimitExceeded(f"{where} sends more than {limit} bytes")
        if scope.cancelled_caught:
            raise Transient(
                TransferError(
                    f"{where}: no whole answer in {limits.answer:g} s, but {size} bytes "
                    f"({HOW_TO_WAIT})"
                )
            )
    return b"".join(parts)


async def parts_of(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a body as they arrive; to be closed where they are not all taken."""
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


def encoding_of(response: httpx2.Response) -> str:
    """What a body is said to be encoded in; empty if it is as it is."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def unwanted_encoding(response: httpx2.Response, what: str) -> RegistryError:
    """What is told where a body is compressed, which nobody asked for."""
    return RegistryError(
        f"{what}: {host_of(response)} sends Content-Encoding "
        f"'{printable(encoding_of(response)[:100])}', which was not asked for"
    )


@contextmanager
def translated(
    where: str, limits: RegistryLimits, *, reached: bool = True, waiting: _Waiting | None = None
) -> Iterator[None]:
    """Turn what httpx2 raises into what is told, and tell what may be tried again.

    A host that has never been ``reached`` is not there, rather than busy.
    """
    try:
        yield
    except httpx2.HTTPError as error:
        shaking = waiting is not None and waiting.is_shaking_hands
        failure = _late(where, error, limits, shaking=shaking) or _failure(where, error)
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


def _late(
    host: str, error: httpx2.HTTPError, limits: RegistryLimits, *, shaking: bool
) -> Exception | None:
    """What is told where the library's own limits ended it; None if something else did."""
    if isinstance(error, httpx2.ConnectTimeout) and shaking:
        text = f"does not come to an end of the TLS handshake in {limits.connect:g} s"
    elif isinstance(error, httpx2.ConnectTimeout):
        text = f"can't be connected to in {limits.connect:g} s"
    elif isinstance(error, httpx2.ReadTimeout):
        text = f"is silent for {limits.silence:g} s"
    elif isinstance(error, httpx2.WriteTimeout):
        text = f"takes nothing for {limits.silence:g} s"
    else:
        return None
    return Transient(TransferError(f"{host} {text} ({HOW_TO_WAIT})"))


def _failure(host: str, error: httpx2.HTTPError) -> Exception:
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
    """Return the system's or OpenSSL's own error behind an exception."""
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
