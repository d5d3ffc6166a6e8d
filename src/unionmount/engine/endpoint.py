"""The place where a daemon listens, found in the order of docker's own client.

That is ``DOCKER_HOST``; or the context that ``DOCKER_CONTEXT`` or ``currentContext`` of docker's
``config.json`` names; or ``/var/run/docker.sock``. Sources: docker(1), "Environment variables", and
``cli/context/store`` of docker's client for the files of a context.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx2

from unionmount.errors import FormatError, NotFoundError, RegistryError, UsageError
from unionmount.images.json_fields import load_json
from unionmount.system.files import opened_for_library, read_document
from unionmount.system.home import home_of
from unionmount.system.text import printable

DEFAULT_SOCKET = "/var/run/docker.sock"

_DEFAULT = "default"  # the context that stands for the environment
_PLAIN_PORT, _TLS_PORT = 2375, 2376
_MAX_FILE = 1024 * 1024
_MAX_ADDRESS = 4096
_MAX_SOCKET = 107  # bytes of the path of a Unix socket


class _Unprotected:
    """The TLS settings of a connection without TLS."""

    def context(
        self,
        host: str,  # noqa: ARG002
        *,
        insecure: bool,  # noqa: ARG002
        bulk: bool = False,  # noqa: ARG002
        elsewhere: bool = False,
    ) -> ssl.SSLContext:
        """Return settings that are never used, without reading any certificate."""
        _refuse_redirect(elsewhere=elsewhere)
        return _UNUSED


_UNUSED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _DockerTls:
    """The TLS settings in a directory with ``ca.pem``, ``cert.pem`` and ``key.pem``.

    A file that is missing is left out: without ``ca.pem``, the system's authorities count.
    """

    def __init__(self, directory: Path | None, *, verified: bool = True) -> None:
        self.is_anonymous = directory is None or not (directory / "cert.pem").exists()
        self._context = ssl.create_default_context()
        if not verified:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        if directory is not None:
            _add_files(self._context, directory)

    def context(
        self,
        host: str,  # noqa: ARG002
        *,
        insecure: bool,  # noqa: ARG002
        bulk: bool = False,  # noqa: ARG002
        elsewhere: bool = False,
    ) -> ssl.SSLContext:
        """Return the settings for the daemon; no other host gets the client certificate."""
        _refuse_redirect(elsewhere=elsewhere)
        return self._context


def _refuse_redirect(*, elsewhere: bool) -> None:
    if elsewhere:
        raise RegistryError("the docker daemon redirects to another host, which is not followed")


def _add_files(context: ssl.SSLContext, directory: Path) -> None:
    where = printable(str(directory))
    try:
        if (directory / "ca.pem").exists():
            with opened_for_library(directory / "ca.pem") as name:
                context.load_verify_locations(name)
        if (directory / "cert.pem").exists():
            with (
                opened_for_library(directory / "cert.pem") as name,
                opened_for_library(directory / "key.pem") as key,
            ):
                # Without a password callback, OpenSSL would ask on the terminal.
                context.load_cert_chain(name, key, password=b"")
    except FileNotFoundError:
        raise FormatError(f"{where}: the key is missing beside cert.pem (key.pem)") from None
    except ssl.SSLError as error:
        reason = printable(error.reason or "no certificate or key in PEM")
        raise FormatError(f"{where}: {reason}") from error


@dataclass(frozen=True, slots=True)
class EngineEndpoint:
    """The address of a daemon.

    ``socket`` is the path of a Unix socket, or None; ``url`` is the origin of requests; ``shown``
    is the address as users write it; ``given`` tells where it is from.
    """

    url: str
    socket: str | None
    tls: _Unprotected | _DockerTls
    shown: str
    given: str

    @property
    def is_anonymous(self) -> bool:
        """Whether TLS is used without a client certificate."""
        return isinstance(self.tls, _DockerTls) and self.tls.is_anonymous

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> Self:
        """Return the endpoint that docker's client would use; raise UsageError if it is invalid."""
        host = environment.get("DOCKER_HOST", "")
        if host:
            tls = None
            if environment.get("DOCKER_TLS_VERIFY") or environment.get("DOCKER_TLS"):
                certificates = environment.get("DOCKER_CERT_PATH")
                tls = Path(certificates) if certificates else _directory(environment)
            return cls._of(host, tls, "DOCKER_HOST")
        directory = _directory(environment)
        given = "DOCKER_CONTEXT"
        name = environment.get(given, "")
        if not name:
            given = "currentContext"
            name = _current_context(directory / "config.json", environment)
        if name and name != _DEFAULT:
            return cls._of_context(directory / "contexts", name, given, environment)
        return cls._of(f"unix://{DEFAULT_SOCKET}", None, "")

    @classmethod
    def _of_context(
        cls, contexts: Path, name: str, given: str, environment: Mapping[str, str]
    ) -> Self:
        digits = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        where = f"docker context '{printable(name[:200])}'"
        document = _read(contexts / "meta" / digits / "meta.json", environment)
        if document is None:
            raise NotFoundError(
                f"{where}: does not exist ({given} names it); 'docker context ls' lists those "
                "that exist"
            )
        endpoints = document.get("Endpoints")
        endpoint = endpoints.get("docker") if isinstance(endpoints, dict) else None
        host = endpoint.get("Host") if isinstance(endpoint, dict) else None
        if not isinstance(host, str) or not isinstance(endpoint, dict):
            raise FormatError(f"{where}: has no address of a docker daemon")
        tls = contexts / "tls" / digits / "docker"
        verified = endpoint.get("SkipTLSVerify") is not True
        return cls._of(host, tls if tls.is_dir() else None, where, verified=verified)

    @classmethod
    def _of(cls, host: str, tls: Path | None, given: str, *, verified: bool = True) -> Self:
        scheme, separator, rest = host.partition("://")
        shown = printable(host[:_MAX_ADDRESS])
        where = f"{given}: " if given else ""
        if scheme == "unix" and separator:
            if not rest.startswith("/") or "\0" in rest or len(rest.encode()) > _MAX_SOCKET:
                raise UsageError(f"{where}'{shown}' does not name a socket by an absolute path")
            return cls("http://daemon", rest, _Unprotected(), shown, given)
        if scheme == "ssh" and separator:
            raise UsageError(
                f"{where}'{shown}': ssh:// is not supported; let ssh forward the socket (ssh -L "
                "/run/user/1000/docker.sock:/var/run/docker.sock HOST), and name that"
            )
        if scheme not in ("tcp", "http", "https") or not separator or len(host) > _MAX_ADDRESS:
            raise UsageError(
                f"{where}'{shown}' is not the address of a docker daemon: unix://PATH or "
                "tcp://HOST:PORT"
            )
        secure = scheme == "https" or tls is not None
        return cls(
            _url_of(rest, f"{where}'{shown}'", secure=secure),
            None,
            _DockerTls(tls, verified=verified) if secure else _Unprotected(),
            shown,
            given,
        )


def _url_of(rest: str, what: str, *, secure: bool) -> str:
    port = _TLS_PORT if secure else _PLAIN_PORT
    try:
        url = httpx2.URL(f"{'https' if secure else 'http'}://{rest}")
    except (httpx2.InvalidURL, ValueError):
        raise UsageError(f"{what} is not the address of a docker daemon") from None
    if not url.host or url.path != "/" or url.query or url.fragment or url.userinfo:
        raise UsageError(f"{what} has to be tcp://HOST:PORT, and no more")
    return str(url.copy_with(port=url.port or port)).rstrip("/")


def _directory(environment: Mapping[str, str]) -> Path:
    said = environment.get("DOCKER_CONFIG")
    return Path(said) if said else home_of(environment) / ".docker"


def _current_context(path: Path, environment: Mapping[str, str]) -> str:
    document = _read(path, environment)
    name = None if document is None else document.get("currentContext")
    return name if isinstance(name, str) else ""


def _read(path: Path, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Read a file of docker's configuration; None if it does not exist."""
    try:
        raw = read_document(path, _MAX_FILE, environment)
    except (FileNotFoundError, NotADirectoryError):
        return None
    document = load_json(raw or b"{}", printable(str(path)))
    if not isinstance(document, dict):
        raise FormatError(f"{printable(str(path))}: not a JSON object")
    return document
