"""Requests to a daemon, with the time-outs and limits of registries.

Paths have no version, so that each daemon answers with its newest. A request is not repeated: what
makes a registry fail for a moment is seldom what makes a daemon fail.
"""

from __future__ import annotations

import errno
import grp
import json
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from unionmount.engine.endpoint import EngineEndpoint
from unionmount.errors import (
    FormatError,
    InvalidReference,
    NotFoundError,
    RegistryError,
    TransferError,
    UnionmountError,
)
from unionmount.images.config import MAX_LAYERS
from unionmount.images.json_fields import MAX_DOCUMENT, load_json
from unionmount.images.reference import Digest
from unionmount.registry.http import (
    Http,
    Outgoing,
    encoding_of,
    parts_of,
    read_body,
    translated,
    unwanted_encoding,
)
from unionmount.registry.limits import RegistryLimits
from unionmount.registry.pace import Pace
from unionmount.registry.retry import Transient
from unionmount.system.nearest import did_you_mean
from unionmount.system.text import printable
from unionmount.system.waiting import HOW_TO_WAIT

_MAX_MESSAGE = 64 * 1024  # bytes of the body of an error
_MAX_ANSWER = 4 * 1024 * 1024  # bytes of what a daemon tells of an archive that it took
_MAX_SHOWN = 300
_MAX_LIST = 64 * 1024 * 1024  # bytes of a list of images
_HARMLESS = "/:@"  # what a name may have beside letters, digits and -_.


@dataclass(frozen=True, slots=True)
class EngineImage:
    """What a daemon says of an image.

    ``image_id`` is the digest of the config, or of the manifest or index where containerd keeps the
    images. ``names`` are its names as the daemon writes them.
    """

    image_id: Digest
    diff_ids: tuple[Digest, ...]
    names: tuple[str, ...]


class EngineClient:
    """The connection of one command to a daemon; an async context manager."""

    def __init__(
        self,
        endpoint: EngineEndpoint,
        environment: Mapping[str, str],
        *,
        debug: Callable[[str], None] | None = None,
        limits: RegistryLimits | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._limits = limits or RegistryLimits.from_environment(environment)
        self._http = Http(endpoint.tls, self._limits, debug or (lambda _: None), endpoint.socket)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def image(self, name: str, what: str) -> EngineImage:
        """Describe an image; raise NotFoundError if the daemon has none of that name or ID."""
        with self._reported(what):
            async with self._asked("GET", f"/images/{quote(name, _HARMLESS)}/json", what) as answer:
                if answer.status_code == 404:
                    raise NotFoundError(
                        f"{what}: {self._endpoint.shown} has no such image"
                        f"{did_you_mean(name, await self._names(what))}"
                    )
                return _parsed(await self._document(answer, what, MAX_DOCUMENT), what)

    async def _names(self, what: str) -> list[str]:
        """Return the names of all images, for a hint; none if the daemon does not list them."""
        try:
            async with self._asked("GET", "/images/json", what) as answer:
                document = await self._document(answer, what, _MAX_LIST)
        except (UnionmountError, Transient):
            return []
        rows = document if isinstance(document, list) else []
        tags = [row.get("RepoTags") for row in rows if isinstance(row, dict)]
        names = [name for some in tags if isinstance(some, list) for name in some]
        known = [printable(name) for name in names if isinstance(name, str)]
        return known + [name.removeprefix("localhost/") for name in known]  # podman's own images

    @asynccontextmanager
    async def archive(self, name: str, what: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream an image as ``docker save`` writes it."""
        with self._reported(what):
            path = f"/images/{quote(name, _HARMLESS)}/get"
            # A daemon may collect all layers before it answers, so it gets the time for a blob.
            async with self._asked("GET", path, what, patient=True) as answer:
                await self._check(answer, what)
                if encoding_of(answer):
                    raise unwanted_encoding(answer, what)
                async with aclosing(self._pieces(answer, what)) as pieces:
                    yield pieces

    async def load(self, body: Callable[[], AsyncGenerator[bytes, None]], what: str) -> None:
        """Send an archive of ``docker save``, whose images the daemon keeps."""
        with self._reported(what):
            headers = {"content-type": "application/x-tar"}
            path = "/images/load?quiet=1"
            sending = self._asked("POST", path, what, headers=headers, body=body, patient=True)
            async with sending as answer:
                await self._check(answer, what)
                raw = await self._body(answer, what, _MAX_ANSWER)
        for line in raw.splitlines():
            message = _message(line, "error")
            if message:
                raise RegistryError(f"{self._where(what)}: {message}")

    async def _pieces(self, answer: httpx2.Response, what: str) -> AsyncGenerator[bytes, None]:
        where = self._where(what)
        pace = Pace(self._limits.slow_window, self._limits.slow_bytes)
        async with aclosing(parts_of(answer)) as parts:
            while True:
                pace.begin()
                with translated(where, self._limits):
                    part = await anext(parts, None)
                if part is None:
                    return
                if pace.is_too_slow(len(part)):
                    raise TransferError(f"{where} is too slow: {pace} ({HOW_TO_WAIT})")
                yield part

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, what: str, **more: Any
    ) -> AsyncIterator[httpx2.Response]:
        url = self._endpoint.url + path
        if self._endpoint.socket is not None:  # otherwise messages have the host of the URL
            what = self._where(what)
        asked = Outgoing(method, url, what=what, insecure=True, bulk=True, **more)
        async with self._http.send(asked) as answer:
            yield answer

    async def _document(self, answer: httpx2.Response, what: str, limit: int) -> Any:
        await self._check(answer, what)
        return load_json(await self._body(answer, what, limit), self._where(what))

    async def _body(self, answer: httpx2.Response, what: str, limit: int) -> bytes:
        if self._endpoint.socket is not None:
            what = self._where(what)
        return await read_body(answer, limit, what, self._limits)

    async def _check(self, answer: httpx2.Response, what: str) -> None:
        """Raise RegistryError with the message of the daemon if it did not do as it was asked."""
        if answer.status_code == 200:
            return
        raw = await self._body(answer, what, _MAX_MESSAGE)
        text = _message(raw, "message")
        detail = f": {text}" if text else ""
        raise RegistryError(f"{self._where(what)} answers {answer.status_code}{detail}")

    def _where(self, what: str) -> str:
        return f"{what}: {self._endpoint.shown}"

    @contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """Raise errors that no attempt cures, and explain why there is no connection."""
        try:
            if self._endpoint.socket is not None:
                self._try_socket(self._endpoint.socket, what)
            yield
        except Transient as transient:
            raise self._explained(transient) from transient

    def _explained(self, transient: Transient) -> UnionmountError:
        """Return the error; a server that wants a certificate only says so by breaking off."""
        if self._endpoint.is_anonymous and isinstance(transient.__cause__, httpx2.ReadError):
            return TransferError(
                f"{transient.error}; the daemon may want a client certificate (cert.pem and "
                "key.pem in DOCKER_CERT_PATH)"
            )
        return transient.error

    def _try_socket(self, path: str, what: str) -> None:
        """Raise an error that says why nobody can connect to a socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trying:
            trying.setblocking(False)
            try:
                trying.connect(path)
            except BlockingIOError:  # the daemon is there, and busy
                return
            except OSError as error:
                raise self._unreachable(path, what, error) from error

    def _unreachable(self, path: str, what: str, error: OSError) -> Exception:
        where = f"{what}: {printable(path)}"
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            hint = "" if self._endpoint.given else " (DOCKER_HOST=unix://PATH names another one)"
            return NotFoundError(f"{where}: no such socket{hint}; is the daemon running?")
        if error.errno in (errno.EACCES, errno.EPERM):
            return RegistryError(
                f"{where}: permission denied; root and members of the group '{_group_of(path)}' "
                "may use the daemon"
            )
        if error.errno == errno.ECONNREFUSED:
            return TransferError(f"{where}: nothing listens there; is the daemon running?")
        return TransferError(f"{where}: {os.strerror(error.errno or 0)}")


def _group_of(path: str) -> str:
    try:
        return printable(grp.getgrgid(os.stat(path).st_gid).gr_name)  # noqa: PTH116 - a socket
    except (OSError, KeyError):
        return "docker"


def _message(raw: bytes, field: str) -> str:
    """Return a text in a JSON object of an answer, on one short line; empty if there is none."""
    try:
        message = json.loads(raw).get(field)
    except (ValueError, RecursionError, AttributeError):
        return ""
    return printable(message[:_MAX_SHOWN]) if isinstance(message, str) else ""


def _parsed(document: Any, what: str) -> EngineImage:
    """Check the description of an image."""
    try:
        layers = document["RootFS"].get("Layers") or []
        if len(layers) > MAX_LAYERS:
            raise FormatError(f"{what}: {len(layers)} layers, more than {MAX_LAYERS}")
        names = document.get("RepoTags") or []
        return EngineImage(
            Digest.parse(document["Id"]),
            tuple(Digest.parse(layer) for layer in layers),
            tuple(name for name in names if isinstance(name, str)),
        )
    except (KeyError, TypeError, AttributeError, InvalidReference):
        raise FormatError(
            f"{what}: the daemon's description of the image has no 'Id' or 'RootFS'"
        ) from None
