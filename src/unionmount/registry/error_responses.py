"""Error responses of registries: statuses and error bodies."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote_plus

import httpx2

from unionmount.errors import (
    NotAuthorized,
    NotFoundError,
    RegistryError,
    TooManyRequests,
    TransferError,
    UnionmountError,
)
from unionmount.registry.http import FORM, host_of, read_body
from unionmount.registry.limits import RegistryLimits
from unionmount.registry.redaction import HIDDEN
from unionmount.registry.retry import Transient, retry_after
from unionmount.system.text import printable

_MAX_BODY = 64 * 1024
_MAX_SHOWN = 300
_SECRET_FIELDS = frozenset({"refresh_token", "password"})
_LEAST_SECRET = 6  # shorter words are no secrets, and hiding them would garble the text
_TRANSIENT = frozenset({408, 500, 502, 503, 504})


async def failure(response: httpx2.Response, what: str, limits: RegistryLimits) -> Exception:
    """Return the exception for an unexpected response; a Transient may be retried."""
    detail = await _detail(response, what, limits)
    status = response.status_code
    text = f"{what}: {host_of(response)} answers {status}"
    text += f": {detail}" if detail else f" {printable(response.reason_phrase[:100])}".rstrip()
    if status == 429:
        return Transient(TooManyRequests(text), retry_after(response.headers.get("retry-after")))
    if status in _TRANSIENT:
        return Transient(TransferError(text), retry_after(response.headers.get("retry-after")))
    return _permanent(status)(text)


def _permanent(status: int) -> type[UnionmountError]:
    if status in (401, 403):
        return NotAuthorized
    return NotFoundError if status == 404 else RegistryError


async def _detail(response: httpx2.Response, what: str, limits: RegistryLimits) -> str:
    """Return the message of a body on one short line; empty if it has none."""
    if response.request.method == "HEAD":
        return ""
    try:
        raw = await read_body(response, _MAX_BODY, what, limits)
    except (UnionmountError, Transient):
        return ""
    text = _hide(_message(raw), response.request)
    return printable(text[:_MAX_SHOWN] + ("…" if len(text) > _MAX_SHOWN else ""))


def _message(raw: bytes) -> str:
    """Return the message of an error body of the distribution protocol or of a token server."""
    try:
        document: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(document, dict):
        return ""
    errors = document.get("errors")
    if isinstance(errors, list):
        return "; ".join(filter(None, (_one(error) for error in errors[:10])))
    for key in ("details", "message", "error_description", "error"):
        if isinstance(document.get(key), str):
            return str(document[key])
    return ""


def _one(error: object) -> str:
    if not isinstance(error, dict):
        return ""
    code, message = error.get("code"), error.get("message")
    said = [part for part in (message, code) if isinstance(part, str) and part]
    if len(said) == 2:
        return f"{said[0]} ({said[1]})"
    return "".join(said)


def _hide(text: str, request: httpx2.Request) -> str:
    """Hide secrets of the request that a server repeats."""
    for secret in sorted(_secrets(request), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def _secrets(request: httpx2.Request) -> set[str]:
    """Return the secrets of a request: Authorization, its password, and the secrets of a form."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    found = {value}
    if scheme.lower() == "basic":
        with suppress(ValueError):
            found.add(base64.b64decode(value).decode("utf-8").partition(":")[2])
    if request.headers.get("content-type") == FORM:
        form = request.content.decode("ascii", "replace")
        found |= {text for name, text in parse_qsl(form) if name in _SECRET_FIELDS}
        found |= {quote_plus(text) for text in found}
    return {secret for secret in found if len(secret) >= _LEAST_SECRET}
