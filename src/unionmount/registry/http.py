"""HTTP/1.1 and HTTP/2: redirects, time-outs, and bodies of bounded size.

Failures of the transport are ``Transient``; an untrusted certificate is not. Redirects are followed
a few times, never from TLS to plain HTTP; Authorization stays at its origin, and so does a request
with a secret body. Every wait of a request ends if there is no progress.
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
from typing import Any, Protocol, Self

import httpx2
import trio

from unionmount.errors import LimitExceeded, RegistryError, TransferError, UsageError
from unionmount.registry.limits import RegistryLimits
from unionmount.registry.redaction import shown_answer, shown_request, shown_url
from unionmount.registry.retry import Transient
from unionmount.system.text import printable
from unionmount.system.waiting import HOW_TO_WAIT

Body = bytes | Callable[[], AsyncGenerator[bytes, None]]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_URL = 16 * 1024
_MAX_FIELDS = 256
_MAX_HEAD = 64 * 1024  # bytes of all fields
_PIECE = 1024 * 1024
_SENT_AT_ONCE = 64 * 1024  # of an upload: this much has to be sent within the limit of silence
_CLOSING = 5.0  # seconds for closing connections
_SHORT = 16 * 1024  # bytes of an unwanted body that are read rather than closing the connection
_AGENT = "unionmount"

FORM = "application/x-www-form-urlencoded"
"""The media type of a body with the fields of a form."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request; ``body`` can be created again for another attempt."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = field(default=None, repr=False)
    body: Body | None = field(default=None, repr=False)
    insecure: bool = False  # allows plain HTTP and untrusted certificates
    what: str = ""  # for messages
    patient: bool = False  # the answer may take as long as a registry needs to move a blob
    bulk: bool = False  # many bytes: over HTTP/1.1, which costs a fraction of HTTP/2 in Python
    secret: bool = False  # the body is a secret: no other origin gets it
    elsewhere: bool = False  # a redirect led to another origin
    unprotected: bool = True  # redirects may lead from plain HTTP to that of another machine

    def redirected(self, location: str, status: int) -> Self:
        """Return the request for a redirect; raise RegistryError if it must not be followed."""
        here = parse_url(self.url)
        if len(location) > _MAX_URL:  # parsing it may take more than linear time
            raise RegistryError(f"{here.host}: redirects to more than {_MAX_URL} characters")
        try:
            there = here.join(location)
        except (httpx2.InvalidURL, ValueError) as error:
            raise RegistryError(f"{here.host}: redirects to an invalid URL") from error
        where = f"{here.host}: redirects to {shown_url(str(there))}"
        if len(str(there)) > _MAX_URL or there.scheme not in ("http", "https") or not there.host:
            raise RegistryError(where)
        if here.scheme == "https" and there.scheme == "http" and not self.insecure:
            raise RegistryError(f"{where}, from TLS to plain HTTP")
        if there.scheme == "http" and not (self.unprotected or is_loopback(there.host)):
            raise RegistryError(f"{where}, where nothing protects what comes over plain HTTP")
        if self.method not in ("GET", "HEAD") and status not in (307, 308):
            raise RegistryError(f"{where}, with status {status} for {self.method}")
        keep = origin(here) == origin(there)
        if self.secret and not keep:
            raise SecretRedirected(
                f"{self.what or here.host}: {_shown_origin(here)} redirects "
                f"a request with a secret to {_shown_origin(there)}, which does not get it"
            )
        return replace(
            self,
            url=str(there.copy_with(userinfo=b"")),
            authorization=self.authorization if keep else None,
            elsewhere=self.elsewhere or not keep,
        )


class SecretRedirected(RegistryError):
    """A server redirects a request whose body is a secret for that server."""


def parse_url(text: str) -> httpx2.URL:
    """Parse a URL from a server; raise RegistryError if it is not valid."""
    if len(text) > _MAX_URL:
        raise RegistryError(f"a URL of more than {_MAX_URL} characters: '{printable(text[:200])}'")
    try:
        return httpx2.URL(text)
    except (httpx2.InvalidURL, ValueError) as error:
        raise RegistryError(f"'{printable(text[:200])}' is not a URL") from error


def host_of(response: httpx2.Response) -> str:
    """Return the host that answered, for messages."""
    return response.url.netloc.decode("ascii", "replace")


def origin(url: httpx2.URL) -> tuple[str, str, int]:
    """Return scheme, host and port: servers with the same origin may see the same secrets."""
    default = 443 if url.scheme == "https" else 80
    return url.scheme, url.host.lower(), url.port or default


def _shown_origin(url: httpx2.URL) -> str:
    scheme, host, port = origin(url)
    return printable(f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"[:300])


def is_loopback(host: str) -> bool:
    """Return whether the name of a host, without port, is one of this machine."""
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
    """Make HTTP/1.1 read up to a megabyte at once; 64 KiB cost a tenth of a pull.

    Also make it parse headers in linear time: a field with a megabyte of blanks takes h11's own
    expressions half an hour, during which no limit is checked. There is no option for either. If
    the libraries change, nothing is adjusted; a test reports that.
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
    """A cookie jar that ignores all cookies, without parsing them."""

    def extract_cookies(self, response: Any, request: Any) -> None:
        pass

    def add_cookie_header(self, request: Any) -> None:
        pass


class _Waiting:
    """The state and the deadline of a request, which is cancelled at the deadline.

    One limit covers everything up to the head of the answer, with all redirects. An upload may take
    as long as it makes progress: each piece of it has a limit, and the answer has another one.
    """

    def __init__(self, limits: RegistryLimits, *, patient: bool) -> None:
        self._limits = limits
        self._patient = patient
        self._limit = limits.patience if patient else limits.answer
        self.scope = trio.CancelScope(deadline=trio.current_time() + self._limit)
        self._sending = False
        self._step = "connection.connect_tcp"

    def again(self) -> trio.CancelScope:
        """Return the scope of the next request, with the deadline of the first one."""
        deadline = self.scope.deadline
        if self._patient:
            deadline = trio.current_time() + self._limit
        self.scope = trio.CancelScope(deadline=deadline)
        self._sending = False
        return self.scope

    async def pieces(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """Yield the body of an upload; each piece has to be sent within the limit."""
        async with aclosing(body) as chunks:
            async for chunk in chunks:
                for start in range(0, len(chunk), _SENT_AT_ONCE):
                    self._sending = True
                    self._until(self._limits.silence)
                    yield chunk[start : start + _SENT_AT_ONCE]
                self._sending = False
                self.scope.deadline = float("inf")  # reading the next piece may be slow
        self._until(self._limits.patience)

    def _until(self, seconds: float) -> None:
        self._limit = seconds
        self.scope.deadline = trio.current_time() + seconds

    async def note(self, event: str, _details: object) -> None:
        """Note an event of the HTTP library."""
        name, _, state = event.rpartition(".")
        if state == "started":
            self._step = name

    @property
    def is_connecting(self) -> bool:
        """Whether it waits for a connection, including the lookup of the name."""
        return self._step.endswith("connect_tcp")

    @property
    def is_shaking_hands(self) -> bool:
        """Whether it waits for TLS."""
        return self._step.endswith("start_tls")

    def failure(self, where: str) -> Transient:
        """Return the error for the missed deadline."""
        if self._sending:
            text = f"takes less than {_SENT_AT_ONCE // 1024} KiB in {self._limit:g} s"
        elif self.is_connecting:
            text = f"no connection in {self._limit:g} s"
        elif self.is_shaking_hands:
            text = f"no TLS handshake in {self._limit:g} s"
        else:
            text = f"no answer in {self._limit:g} s"
        return Transient(TransferError(f"{where}: {text} ({HOW_TO_WAIT})"))


class TlsSettings(Protocol):
    """The source of the TLS settings of hosts."""

    def context(
        self, host: str, *, insecure: bool, bulk: bool = False, elsewhere: bool = False
    ) -> ssl.SSLContext:
        """Return the settings for ``HOST[:PORT]``; see ``Trust.context``."""


class Http:
    """The connections of one command; closed by ``aclose``.

    With ``socket``, the path of a Unix socket, all requests go there, whatever host they name.
    """

    def __init__(
        self,
        trust: TlsSettings,
        limits: RegistryLimits,
        debug: Callable[[str], None],
        socket: str | None = None,
    ) -> None:
        self._trust = trust
        self._limits = limits
        self._debug = debug
        self._socket = socket
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
        """Send a request and follow redirects; yield the answer before its body is read."""
        waiting = _Waiting(self._limits, patient=outgoing.patient)
        for _ in range(self._limits.redirects + 1):
            response = await self._send_once(outgoing, waiting)
            try:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or location is None:
                    yield response
                    return
                await _read_to_end(response)
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
        if self._socket is not None:  # which "what" names, as the host is only a word
            where = outgoing.what or self._socket
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
        # Requests to this machine, which may be plain HTTP, do not go through a proxy.
        key = (context, is_loopback(parse_url(f"http://{host}").host))
        client = self._clients.get(key)
        if client is None:
            try:
                client = _new_client(
                    context, self._socket, http2=not outgoing.bulk, proxies=not key[1]
                )
            except (ValueError, TypeError, ImportError, httpx2.InvalidURL):
                # Its text may hold the proxy's password, and --debug shows causes.
                raise UsageError(
                    "HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is not the URL of a proxy "
                    "(http://, https:// or socks5://)"
                ) from None
            self._clients[key] = client
        return client


def _new_client(
    context: ssl.SSLContext, socket: str | None, *, http2: bool, proxies: bool
) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        transport=None if socket is None else httpx2.AsyncHTTPTransport(verify=context, uds=socket),
        verify=context,
        http2=http2,
        headers={"user-agent": _AGENT, "accept-encoding": "identity"},
        cookies=_NoCookies(),
        follow_redirects=False,
        trust_env=proxies and socket is None,
    )


async def _read_to_end(response: httpx2.Response) -> None:
    """Read the short body of a redirect, so that its connection can be used again."""
    length = response.headers.get("content-length", "")
    if length.isascii() and length.isdecimal() and len(length) < 8 and int(length) <= _SHORT:
        with suppress(httpx2.HTTPError, httpx2.StreamError), trio.move_on_after(_CLOSING):
            async with aclosing(parts_of(response)) as parts:
                async for _ in parts:
                    pass


def _check_head(response: httpx2.Response, where: str) -> None:
    """Raise RegistryError if the head of an answer is unreasonably large."""
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
    """Read a whole body of at most ``limit`` bytes in bounded time."""
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
                    f"{where}: only {size} bytes of an answer in {limits.answer:g} s "
                    f"({HOW_TO_WAIT})"
                )
            )
    return b"".join(parts)


async def parts_of(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of a body as they arrive; the caller closes the generator."""
    raw = response.aiter_raw()
    try:
        while (part := await anext(raw, None)) is not None:
            yield part
    finally:
        # The body consists of generators that do not close each other. Cancelling a read ends all.
        with trio.CancelScope() as scope:
            scope.cancel()
            async for _ in raw:
                pass


def encoding_of(response: httpx2.Response) -> str:
    """Return the encoding of a body; empty if it has none."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def unwanted_encoding(response: httpx2.Response, what: str) -> RegistryError:
    """Return the error for a body that is compressed although that was not requested."""
    return RegistryError(
        f"{what}: {host_of(response)} sends Content-Encoding "
        f"'{printable(encoding_of(response)[:100])}', which was not requested"
    )


@contextmanager
def translated(
    where: str, limits: RegistryLimits, *, reached: bool = True, waiting: _Waiting | None = None
) -> Iterator[None]:
    """Turn exceptions of httpx2 into errors, and into Transient if a retry may help.

    A host that was never ``reached`` does not exist, rather than being busy.
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
    """Return the error for a limit of the library; None for other exceptions."""
    if isinstance(error, httpx2.ConnectTimeout) and shaking:
        text = f"does not finish the TLS handshake in {limits.connect:g} s"
    elif isinstance(error, httpx2.ConnectTimeout):
        text = f"does not accept a connection in {limits.connect:g} s"
    elif isinstance(error, httpx2.ReadTimeout):
        text = f"sent nothing for {limits.silence:g} s"
    elif isinstance(error, httpx2.WriteTimeout):
        text = f"accepted no data for {limits.silence:g} s"
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
    text = printable(str(error)[:200]) or "the connection broke off"
    return Transient(TransferError(f"{host}: {text}"))


def _tls_failure(host: str, cause: ssl.SSLError) -> Exception:
    reason = cause.reason or ""
    if reason in _NOT_TLS:
        return NoTls(f"{host}: does not use TLS")
    text = f"{host}: TLS: {printable(reason.replace('_', ' ').lower() or str(cause)[:200])}"
    if "ALERT" in reason:  # the server reports the reason
        return RegistryError(text)
    return Transient(TransferError(text))


class UntrustedCertificate(RegistryError):
    """The server's certificate is not signed by a trusted authority."""


class NoTls(RegistryError):
    """The server answered, but not in TLS."""


def _root(error: BaseException) -> OSError | None:
    """Return the error of the system or of OpenSSL behind an exception."""
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
