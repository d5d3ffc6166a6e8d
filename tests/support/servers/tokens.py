"""A token server as registries have it: Bearer tokens that docker-registry accepts.

The tokens are JSON Web Tokens, signed with RS256 by a key of the test's own; the registry knows the
certificate (``rootcertbundle``). Source: the "Token Authentication Specification" of distribution.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.servers.listening import ListeningServer
from support.servers.tls import Authority, KeyPair

_SERVICE = "the test's registry"
_ISSUER = "the test"
_PATIENCE = 60.0  # seconds
_LEEWAY = 60  # seconds that docker-registry accepts a token after it has expired


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a token."""

    method: str
    user: str | None
    scopes: tuple[str, ...]
    granted: bool
    grant_type: str = ""


@dataclass(eq=False)
class TokenServer(ListeningServer):
    """Gives tokens to ``users`` and, for pulling, to everybody where ``anonymous``."""

    directory: Path
    authority: Authority
    users: dict[str, str] = field(default_factory=dict)
    anonymous: bool = True
    lifetime: int = 300  # seconds; negative ones give tokens that the registry refuses
    refresh_tokens: dict[str, str] = field(default_factory=dict)  # identity tokens and their users
    field_name: str = "token"  # or access_token, which OAuth2 calls it
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__("127.0.0.1", _PATIENCE)
        self._pair: KeyPair = self.authority.sign("tokens", rsa=True)
        certificate = subprocess.run(
            ["openssl", "x509", "-in", self._pair.certificate, "-outform", "DER"],
            check=True,
            capture_output=True,
        ).stdout
        self._chain = [base64.b64encode(certificate).decode()]

    @property
    def realm(self) -> str:
        """Where tokens are asked for."""
        return f"http://{self.address}/token"

    def auth(self) -> dict[str, Any]:
        """The section ``auth`` of the registry's configuration."""
        return {
            "token": {
                "realm": self.realm,
                "service": _SERVICE,
                "issuer": _ISSUER,
                "rootcertbundle": str(self.authority.own.certificate),
            }
        }

    def token(self, user: str | None, scopes: tuple[str, ...]) -> str:
        """A signed token for what ``user`` may do of ``scopes``."""
        now = int(time.time())
        head = {"typ": "JWT", "alg": "RS256", "x5c": self._chain}
        claims = {
            "iss": _ISSUER,
            "sub": user or "",
            "aud": _SERVICE,
            "iat": now - 2 * _LEEWAY,
            "nbf": now - 2 * _LEEWAY,
            "exp": now + self.lifetime - (_LEEWAY if self.lifetime < 0 else 0),
            "jti": secrets.token_hex(8),
            "access": [self._access(scope, user) for scope in scopes],
        }
        signed = f"{_encoded(head)}.{_encoded(claims)}"
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self._pair.key],
            input=signed.encode(),
            check=True,
            capture_output=True,
        ).stdout
        return f"{signed}.{_base64url(signature)}"

    @staticmethod
    def _access(scope: str, user: str | None) -> dict[str, Any]:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        allowed = [one for one in actions.split(",") if user is not None or one == "pull"]
        return {"type": kind, "name": name, "actions": allowed}

    def answer(
        self, method: str, query: dict[str, list[str]], authorization: str | None
    ) -> tuple[int, dict[str, Any]]:
        """Status and document for one request."""
        scopes = tuple(one for text in query.get("scope", []) for one in text.split(" "))
        grant = query.get("grant_type", [""])[0]
        user, granted = self._user(method, query, authorization)
        self.asked.append(Asked(method, user, scopes, granted, grant))
        if not granted:
            return 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]}
        document: dict[str, Any] = {self.field_name: self.token(user, scopes)}
        if self.lifetime > 0:
            document["expires_in"] = self.lifetime
        return 200, document

    def _user(
        self, method: str, query: dict[str, list[str]], authorization: str | None
    ) -> tuple[str | None, bool]:
        if method == "POST":
            if query.get("grant_type") == ["refresh_token"]:
                user = self.refresh_tokens.get(query["refresh_token"][0])
                return user, user is not None
            name = query.get("username", [""])[0]
            return name, self.users.get(name) == query.get("password", [""])[0]
        if authorization is None:
            return None, self.anonymous
        kind, _, encoded = authorization.partition(" ")
        name, _, password = base64.b64decode(encoded).decode().partition(":")
        return name, kind == "Basic" and self.users.get(name) == password

    def serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            _Handler(connection, connection.getpeername(), self)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    """Reads the requests of one connection, and writes answers."""

    server: TokenServer  # type: ignore[assignment]

    def do_GET(self) -> None:
        self._reply("GET", parse_qs(urlsplit(self.path).query))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._reply("POST", parse_qs(body.decode()))

    def _reply(self, method: str, query: dict[str, list[str]]) -> None:
        status, document = self.server.answer(method, query, self.headers.get("Authorization"))
        raw = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _encoded(document: dict[str, Any]) -> str:
    return _base64url(json.dumps(document, separators=(",", ":")).encode())
