"""The header ``Authorization``: Basic, or Bearer tokens, which are cached by scope.

A registry answers 401 with a challenge. It is remembered for other scopes, so that each registry
refuses only once. A token is requested once for all tasks that wait for it, and again when it
expires or is refused. Secrets are sent to a token server only over TLS, unless the registry itself
uses plain HTTP; then only on this machine, unless the user allows more.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

import httpx2
import trio

from unionmount.errors import FormatError, NotAuthorized, RegistryError
from unionmount.registry.challenge import Challenge, parse_challenges
from unionmount.registry.credentials import Credentials, Login
from unionmount.registry.error_responses import failure
from unionmount.registry.http import FORM, Http, Outgoing, is_loopback, parse_url, read_body
from unionmount.registry.limits import RegistryLimits
from unionmount.registry.redaction import shown_url
from unionmount.registry.registries_conf import Endpoint
from unionmount.registry.retry import Backoff, Transient
from unionmount.system.text import printable

Scopes = tuple[str, ...]

_MAX_ANSWER = 256 * 1024
_DEFAULT_LIFE = 60  # seconds; used if the token server reports none
_LONGEST_LIFE = 24 * 3600
_RENEWED_BEFORE = 10  # seconds before the end
_TOKEN = re.compile(r"[!-~]+")
_SCOPE = re.compile(r"[!-~]{1,4096}")
_CLIENT = "unionmount"


@dataclass(frozen=True, slots=True)
class _BearerToken:
    value: str = field(repr=False)
    end: float  # in trio's clock

    @property
    def is_fresh(self) -> bool:
        return trio.current_time() < self.end


@dataclass(frozen=True, slots=True)
class _Key:
    """The scope of a token; logins may differ by repository."""

    host: str
    repository: str
    scopes: Scopes


class Authorizer:
    """The authorizations of one command."""

    def __init__(
        self,
        credentials: Credentials,
        http: Http,
        limits: RegistryLimits,
        debug: Callable[[str], None],
    ) -> None:
        self._credentials = credentials
        self._http = http
        self._limits = limits
        self._debug = debug
        self._challenges: dict[str, Challenge] = {}
        self._scopes: dict[_Key, Scopes] = {}  # scopes that a registry asked for instead
        self._tokens: dict[_Key, _BearerToken] = {}
        self._locks: dict[_Key, trio.Lock] = {}
        self._logins: dict[tuple[str, str, bool], Login | None] = {}

    async def header(self, endpoint: Endpoint, base: str, scopes: Scopes) -> str | None:
        """Return the header for a request to ``base``; None if no challenge is known."""
        challenge = self._challenges.get(endpoint.host)
        if challenge is None:
            return None
        if challenge.scheme == "basic":
            login = await self._login(endpoint)
            return _basic(login) if login is not None and not login.identity_token else None
        key = _Key(endpoint.host, endpoint.repository, scopes)
        async with self._locks.setdefault(key, trio.Lock()):
            token = self._tokens.get(key)
            if token is None or not token.is_fresh:
                token = await self._fetch(endpoint, base, challenge, self._scopes.get(key, scopes))
                self._tokens[key] = token
        return f"Bearer {token.value}"

    async def refused(
        self, endpoint: Endpoint, scopes: Scopes, response: httpx2.Response, used: str | None
    ) -> bool:
        """Learn from a 401; return whether another attempt makes sense."""
        challenge = _choose(
            parse_challenges(response.headers.get_list("www-authenticate"), endpoint.host)
        )
        if challenge is None:
            return False
        self._challenges[endpoint.host] = challenge
        if challenge.scheme == "basic":
            login = await self._login(endpoint)
            return login is not None and not login.identity_token and used != _basic(login)
        key = _Key(endpoint.host, endpoint.repository, scopes)
        self._scopes[key] = _wanted(endpoint.repository, scopes, challenge)
        token = self._tokens.get(key)
        if token is not None and used == f"Bearer {token.value}":
            del self._tokens[key]
        return True

    async def _login(self, endpoint: Endpoint) -> Login | None:
        key = (endpoint.registry, endpoint.repository, endpoint.mirror)
        if key not in self._logins:
            self._logins[key] = await trio.to_thread.run_sync(self._find, endpoint)
        return self._logins[key]

    def _find(self, endpoint: Endpoint) -> Login | None:
        """Find a login, in a thread of trio, since a helper may be slow."""
        return self._credentials.find(
            endpoint.registry,
            endpoint.repository,
            check=trio.from_thread.check_cancelled,
            mirror=endpoint.mirror,
        )

    async def _fetch(
        self, endpoint: Endpoint, base: str, challenge: Challenge, scopes: Scopes
    ) -> _BearerToken:
        login = await self._login(endpoint)
        realm = _realm(endpoint, base, challenge, secret=login is not None)
        service = challenge.parameters.get("service", "")
        fields = ([("service", service)] if service else []) + [("scope", one) for one in scopes]
        what = f"{endpoint.host}: token"
        backoff = Backoff(self._limits)
        while True:
            try:
                outgoing = _token_request(realm, fields, scopes, login)
                outgoing = replace(outgoing, insecure=endpoint.insecure, what=what)
                return await self._ask(outgoing)
            except Transient as transient:
                self._debug(f"  {transient}")
                await backoff.wait(transient)

    async def _ask(self, outgoing: Outgoing) -> _BearerToken:
        what = outgoing.what
        asked = trio.current_time()
        async with self._http.send(outgoing) as response:
            if response.status_code != 200:
                raise await failure(response, what, self._limits)
            raw = await read_body(response, _MAX_ANSWER, what, self._limits)
        return _parse_token(raw, what, asked)


def _choose(challenges: list[Challenge]) -> Challenge | None:
    """Choose Bearer, or else Basic; other schemes are not supported."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme:
                return challenge
    return None


def _wanted(repository: str, scopes: Scopes, challenge: Challenge) -> Scopes:
    """Return our scopes, and those the registry asks for, except for other repositories."""
    own = f"repository:{repository}:"
    more = [
        scope
        for scope in challenge.parameters.get("scope", "").split()[:10]
        if _SCOPE.fullmatch(scope)
        and (not scopes or scope.startswith(own))
        and not any(_covers(one, scope) for one in scopes)
    ]
    return tuple(dict.fromkeys([*scopes, *more]))


def _covers(scope: str, other: str) -> bool:
    """Return whether a scope permits all that another does."""
    name, _, actions = scope.rpartition(":")
    other_name, _, other_actions = other.rpartition(":")
    return name == other_name and set(other_actions.split(",")) <= set(actions.split(","))


def _realm(endpoint: Endpoint, base: str, challenge: Challenge, *, secret: bool) -> httpx2.URL:
    """Return the URL of the token server, checked; a relative one is on the registry."""
    realm = challenge.parameters.get("realm", "").strip()
    url = _joined(base, realm) if realm else parse_url(realm)
    where = f"{endpoint.host}: the realm of its tokens, {shown_url(str(url))},"
    if url.scheme not in ("http", "https") or not url.host or url.userinfo:
        raise RegistryError(f"{where} is not a URL")
    if url.scheme == "http" and not endpoint.insecure:
        if base.startswith("https:"):
            raise RegistryError(f"{where} is plain HTTP, though the registry has TLS")
        if secret and not is_loopback(url.host):
            raise RegistryError(
                f"{where} is plain HTTP on another machine; no credentials are sent there"
            )
    return url


def _joined(base: str, address: str) -> httpx2.URL:
    url = parse_url(address)
    try:
        return url if url.scheme else parse_url(base).join(url)
    except (httpx2.InvalidURL, ValueError) as error:
        raise RegistryError(f"'{printable(address[:200])}' is not a URL") from error


def _token_request(
    realm: httpx2.URL,
    fields: list[tuple[str, str]],
    scopes: Scopes,
    login: Login | None,
) -> Outgoing:
    """Return the request for a token: GET with Basic, or POST with a refresh token (OAuth 2)."""
    if login is not None and login.identity_token:
        form = [pair for pair in fields if pair[0] != "scope"]
        form += [("scope", " ".join(scopes))] if scopes else []
        form += [("client_id", _CLIENT), ("grant_type", "refresh_token")]
        form += [("refresh_token", login.identity_token)]
        headers = {"content-type": FORM}
        body = urlencode(form).encode("ascii")
        return Outgoing("POST", str(realm), headers, body=body, secret=True)
    if login is not None:
        fields = [("account", login.username), *fields]
    url = realm.copy_merge_params(httpx2.QueryParams([*realm.params.multi_items(), *fields]))
    basic = _basic(login) if login is not None else None
    return Outgoing("GET", str(url), authorization=basic)


def _basic(login: Login) -> str:
    pair = f"{login.username}:{login.password}".encode()
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _parse_token(raw: bytes, what: str, asked: float) -> _BearerToken:
    try:
        document: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: the answer is not JSON") from error
    if not isinstance(document, dict):
        raise FormatError(f"{what}: the answer is not a JSON object")
    value = document.get("token") or document.get("access_token")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise NotAuthorized(f"{what}: the answer has no token")
    life = document.get("expires_in")
    if not isinstance(life, int | float) or not 0 < life <= _LONGEST_LIFE:
        life = _DEFAULT_LIFE
    return _BearerToken(value, asked + max(life - _RENEWED_BEFORE, life / 2))
