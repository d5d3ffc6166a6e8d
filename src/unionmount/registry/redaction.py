"""URLs and headers without secrets, for messages.

The values of queries and headers are hidden unless they are known to be harmless, since signatures
and tokens have many names.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlsplit

from unionmount.system.text import printable

HIDDEN = "[hidden]"

_HARMLESS_QUERY = frozenset(
    {"account", "client_id", "digest", "from", "last", "mount", "n", "q", "scope", "service"}
)
_SHOWN_HEADERS = ("accept", "content-length", "content-range", "content-type", "range")
_SHOWN_ANSWER = (
    "content-length",
    "content-range",
    "content-type",
    "docker-content-digest",
    "range",
    "retry-after",
)
_LONGEST = 400


def shown_url(url: str) -> str:
    """Return a URL without passwords and signatures."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    host = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme}://{host}{parts.path}" if host else parts.path
    if parts.query:
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        known = [(name, value if name in _HARMLESS_QUERY else HIDDEN) for name, value in pairs]
        shown += "?" + "&".join(f"{name}={value}" for name, value in known)
    return printable(shown[:_LONGEST])


def shown_request(headers: Mapping[str, str]) -> str:
    """Return the harmless headers of a request."""
    pairs = [f"{name}: {headers[name]}" for name in _SHOWN_HEADERS if name in headers]
    if "authorization" in headers:
        scheme = headers["authorization"].partition(" ")[0]
        pairs.append(f"authorization: {scheme} {HIDDEN}")
    return "".join(f" [{printable(pair[:_LONGEST])}]" for pair in pairs)


def shown_answer(headers: Mapping[str, str]) -> str:
    """Return the harmless headers of an answer."""
    pairs = [f"{name}: {headers[name]}" for name in _SHOWN_ANSWER if name in headers]
    if "location" in headers:
        pairs.append(f"location: {shown_url(headers['location'])}")
    return "".join(f" [{printable(pair[:_LONGEST])}]" for pair in pairs)
