"""A proxy in front of a real registry that counts requests, and goes wrong when it is told to.

It speaks HTTP/1.1 over plain sockets, so that it can do what no library would: end in the middle,
lie about lengths, never end. Each connection has a thread; all are gone when the context is left.

A fault is a function that gets a request and what forwards it, and makes the response::

    proxy.fault(Cut(after=1000), kind="blob", times=1)
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from support.servers.listening import ListeningServer

_STEP = 64 * 1024
_PATIENCE = 30.0
_TLS = b"\x16"  # what a client begins with that wants TLS

Kind = Literal["ping", "manifest", "blob", "upload", "tags", "catalog", "other"]
_KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("ping", re.compile(r"/v2/?")),
    ("catalog", re.compile(r"/v2/_catalog")),
    ("tags", re.compile(r"/v2/(?P<name>.+)/tags/list")),
    ("upload", re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<reference>.*)")),
    ("blob", re.compile(r"/v2/(?P<name>.+)/blobs/(?P<reference>[^/]+)")),
    ("manifest", re.compile(r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)")),
)


class HangUp(Exception):
    """Raised by a body to end the connection where it is."""


@dataclass(slots=True)
class Request:
    """What a client asks; ``body`` comes as it is read."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case
    body: Iterator[bytes]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def classified(self) -> tuple[Kind, str, str]:
        """What it is about, the repository, and the tag or digest."""
        for kind, pattern in _KINDS:
            if match := pattern.fullmatch(self.path):
                found = match.groupdict()
                return kind, found.get("name", ""), found.get("reference", "")
        return "other", "", ""


@dataclass(slots=True)
class Response:
    """What is answered; a body without a length is ended by closing."""

    status: int
    headers: list[tuple[str, str]]
    body: Iterator[bytes]
    release: Callable[[], None] = lambda: None  # closes where the body comes from

    def header(self, name: str) -> str | None:
        found = (value for key, value in self.headers if key.lower() == name.lower())
        return next(found, None)

    def with_header(self, name: str, value: str | None) -> Response:
        """The same with another value of a header, or without it."""
        kept = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        return replace(self, headers=[*kept, (name, value)] if value is not None else kept)


Forward = Callable[[Request], Response]
Fault = Callable[[Request, Forward], Response]


@dataclass(slots=True)
class Seen:
    """One request and what became of it."""

    kind: Kind
    method: str
    name: str
    reference: str
    target: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0  # bytes of the body that were answered
    received: int = 0  # bytes of the body that came
    complete: bool = False


@dataclass(slots=True)
class _Rule:
    fault: Fault
    kind: Kind | None
    method: str | None
    reference: str | None
    left: float
    passed: int  # requests that it lets by before

    def takes(self, seen: Seen) -> bool:
        fits = (
            self.kind in (None, seen.kind)
            and self.method in (None, seen.method)
            and self.reference in (None, seen.reference)
        )
        if not fits or self.left <= 0:
            return False
        if self.passed > 0:
            self.passed -= 1
            return False
        self.left -= 1
        return True


# ---- faults ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer by itself."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b'{"errors":[{"code":"UNKNOWN","message":"as the test wants it"}]}'

    def __call__(self, request: Request, forward: Forward) -> Response:  # noqa: ARG002
        for _ in request.body:
            pass
        length = ("Content-Length", str(len(self.body)))
        return Response(self.status, [*self.headers, length], iter([self.body]))


@dataclass(frozen=True, slots=True)
class Cut:
    """End the connection after some bytes of the body."""

    after: int

    def __call__(self, request: Request, forward: Forward) -> Response:
        response = forward(request)

        def cut() -> Iterator[bytes]:
            left = self.after
            for piece in response.body:
                yield piece[:left]
                left -= len(piece)
                if left <= 0:
                    raise HangUp

        return replace(response, body=cut())


@dataclass(frozen=True, slots=True)
class CutUpload:
    """End the connection after some bytes of the request; the registry gets those."""

    after: int

    def __call__(self, request: Request, forward: Forward) -> Response:
        def cut() -> Iterator[bytes]:
            left = self.after
            for piece in request.body:
                yield piece[:left]
                left -= len(piece)
                if left <= 0:
                    raise HangUp

        return forward(replace(request, body=cut()))


@dataclass(frozen=True, slots=True)
class Flip:
    """Change one bit of the body."""

    at: int

    def __call__(self, request: Request, forward: Forward) -> Response:
        response = forward(request)

        def flipped() -> Iterator[bytes]:
            start = 0
            for piece in response.body:
                if start <= self.at < start + len(piece):
                    changed = bytearray(piece)
                    changed[self.at - start] ^= 0x10
                    piece = bytes(changed)  # noqa: PLW2901
                yield piece
                start += len(piece)

        return replace(response, body=flipped())


@dataclass(frozen=True, slots=True)
class Length:
    """Say another length than the body has; ``exact`` serves that many bytes."""

    change: int
    exact: bool = True

    def __call__(self, request: Request, forward: Forward) -> Response:
        response = forward(request)
        length = int(response.header("Content-Length") or 0) + self.change

        def other() -> Iterator[bytes]:
            left = length
            for piece in response.body:
                yield piece[:left]
                left -= len(piece[:left])
            if left and self.exact:
                yield bytes(left)

        return replace(response.with_header("Content-Length", str(length)), body=other())


@dataclass(frozen=True, slots=True)
class Endless:
    """A body that never ends, without a length."""

    start: bytes = b""

    def __call__(self, request: Request, forward: Forward) -> Response:
        response = forward(request)

        def endless() -> Iterator[bytes]:
            yield self.start or b"".join(response.body)
            while True:
                yield bytes(_STEP)

        return replace(response.with_header("Content-Length", None), body=endless())


@dataclass(frozen=True, slots=True)
class Stall:
    """Stop after some bytes of the body, until ``released`` is set or the proxy closes."""

    after: int
    released: threading.Event
    reached: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: Request, forward: Forward) -> Response:
        response = forward(request)

        def stalled() -> Iterator[bytes]:
            left = self.after
            for piece in response.body:
                if left < len(piece) and not self.released.is_set():
                    yield piece[:left]
                    self.reached.set()
                    self.released.wait(_PATIENCE)
                    piece = piece[left:]  # noqa: PLW2901
                    left = 0
                else:
                    left -= len(piece)
                yield piece

        return replace(response, body=stalled())


@dataclass(frozen=True, slots=True)
class Drip:
    """Send the body in small pieces, with a pause after each."""

    step: int
    pause: float

    def __call__(self, request: Request, forward: Forward) -> Response:
        response = forward(request)
        never = threading.Event()

        def dripping() -> Iterator[bytes]:
            for piece in response.body:
                for start in range(0, len(piece), self.step):
                    yield piece[start : start + self.step]
                    never.wait(self.pause)

        return replace(response, body=dripping())


@dataclass(frozen=True, slots=True)
class Redirect:
    """Send the client elsewhere, to the same path."""

    to: str
    status: int = 307

    def __call__(self, request: Request, forward: Forward) -> Response:  # noqa: ARG002
        location = ("Location", f"{self.to}{request.target}")
        return Response(self.status, [location, ("Content-Length", "0")], iter([]))


def no_ranges(request: Request, forward: Forward) -> Response:
    """A server that knows no ranges: it begins at the beginning."""
    headers = {key: value for key, value in request.headers.items() if key != "range"}
    response = forward(replace(request, headers=headers))
    return response.with_header("Accept-Ranges", None)


def refuse_token(request: Request, forward: Forward) -> Response:
    """Answer as the registry does when there is no token: one that has expired."""
    headers = {key: value for key, value in request.headers.items() if key != "authorization"}
    return forward(replace(request, headers=headers))


# ---- the proxy ---------------------------------------------------------------------------------


class FaultProxy(ListeningServer):
    """Listens on loopback and forwards to ``upstream`` (``host:port``)."""

    def __init__(self, upstream: str, host: str = "127.0.0.1") -> None:
        super().__init__(host, _PATIENCE)
        self.upstream = upstream
        self.seen: list[Seen] = []  # guarded by _lock
        self._rules: list[_Rule] = []  # guarded by _lock

    def fault(
        self,
        fault: Fault,
        *,
        kind: Kind | None = None,
        method: str | None = None,
        reference: str | None = None,
        times: float = 1,
        after: int = 0,
    ) -> None:
        """Go wrong at the next ``times`` requests of this kind, after ``after`` good ones."""
        with self._lock:
            self._rules.append(_Rule(fault, kind, method, reference, times, after))

    def reset(self) -> None:
        """Forget faults, and what was seen."""
        with self._lock:
            self._rules.clear()
            self.seen.clear()

    def requests(self, kind: Kind, method: str | None = None) -> list[Seen]:
        """What was asked of one kind."""
        with self._lock:
            found = [one for one in self.seen if one.kind == kind]
        return [one for one in found if method in (None, one.method)]

    def fetched(self) -> dict[str, int]:
        """How often each blob was sent to its end."""
        counts: dict[str, int] = {}
        for one in self.requests("blob", "GET"):
            if one.complete and one.status == 200:
                counts[one.reference] = counts.get(one.reference, 0) + 1
        return counts

    def serve(self, connection: socket.socket) -> None:
        if connection.recv(1, socket.MSG_PEEK) == _TLS:  # as Go's server does
            connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\nthis is not TLS\n")
            return
        with suppress(OSError, HangUp, ValueError), connection.makefile("rb") as stream:
            while self._exchange(connection, _Reader(stream.readline, stream.read)):
                pass

    def _exchange(self, connection: socket.socket, reader: _Reader) -> bool:
        """Answer one request; whether the connection goes on."""
        request = _read_request(reader, connection)
        if request is None:
            return False
        kind, name, reference = request.classified()
        seen = Seen(kind, request.method, name, reference, request.target, request.headers)
        with self._lock:
            self.seen.append(seen)
            rule = next((one for one in self._rules if one.takes(seen)), None)
        request.body = _counted(request.body, seen)
        response = rule.fault(request, self._forward) if rule else self._forward(request)
        seen.status = response.status
        try:
            return _send(connection, request, response, seen)
        finally:
            response.release()

    def _forward(self, request: Request) -> Response:
        host, _, port = self.upstream.rpartition(":")
        upstream = socket.create_connection((host, int(port)), _PATIENCE)
        with self._lock:
            self._sockets.add(upstream)
        try:
            headers = request.headers | {"connection": "close"}
            chunked = "transfer-encoding" in headers
            lines = [f"{request.method} {request.target} HTTP/1.1"]
            lines += [f"{key}: {value}" for key, value in headers.items()]
            upstream.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
            with suppress(BrokenPipeError, ConnectionResetError):  # it has answered already
                for piece in request.body:
                    upstream.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                if chunked:
                    upstream.sendall(b"0\r\n\r\n")
            stream = upstream.makefile("rb")
            status, received = _read_head(_Reader(stream.readline, stream.read))
        except BaseException:
            self._release(upstream)
            raise

        def body() -> Iterator[bytes]:
            while piece := stream.read1(_STEP):
                yield piece

        def release() -> None:
            stream.close()
            self._release(upstream)

        dropped = {"connection", "keep-alive"}
        kept = [pair for pair in received if pair[0].lower() not in dropped]
        return Response(status, kept, body(), release)

    def _release(self, upstream: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(upstream)
        upstream.close()


@dataclass(frozen=True, slots=True)
class _Reader:
    line: Callable[[], bytes]
    read: Callable[[int], bytes]


def _read_request(reader: _Reader, connection: socket.socket) -> Request | None:
    line = reader.line().decode("latin-1").split()
    if len(line) != 3:
        return None
    headers: dict[str, str] = {}
    while (field_line := reader.line().decode("latin-1").strip()) != "":
        key, _, value = field_line.partition(":")
        name = key.strip().lower()  # one that comes again goes on with the list
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    if headers.pop("expect", "").lower() == "100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Request(line[0], line[1], headers, _request_body(reader, headers))


def _request_body(reader: _Reader, headers: dict[str, str]) -> Iterator[bytes]:
    if "transfer-encoding" in headers:
        while size := int(reader.line().split(b";")[0], 16):
            yield reader.read(size)
            reader.line()
        reader.line()
        return
    left = int(headers.get("content-length", 0))
    while left:
        piece = reader.read(min(left, _STEP))
        if not piece:
            raise HangUp
        left -= len(piece)
        yield piece


def _read_head(reader: _Reader) -> tuple[int, list[tuple[str, str]]]:
    words = reader.line().split(None, 2)
    if len(words) < 2:
        raise HangUp
    headers = []
    while (line := reader.line().decode("latin-1").strip()) != "":
        key, _, value = line.partition(":")
        headers.append((key.strip(), value.strip()))
    return int(words[1]), headers


def _counted(body: Iterator[bytes], seen: Seen) -> Iterator[bytes]:
    for piece in body:
        seen.received += len(piece)
        yield piece


def _send(connection: socket.socket, request: Request, response: Response, seen: Seen) -> bool:
    bare = request.method == "HEAD" or response.status in (204, 304)
    framed = bare or response.header("Content-Length") is not None
    goes_on = framed and request.headers.get("connection", "").lower() != "close"
    lines = [f"HTTP/1.1 {response.status} -"]
    lines += [f"{key}: {value}" for key, value in response.headers]
    lines += [] if goes_on else ["Connection: close"]
    connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
    for piece in response.body:
        if not bare:
            seen.sent += len(piece)
            connection.sendall(piece)
    seen.complete = True
    for _ in request.body:  # what was not asked for
        pass
    return goes_on
