"""A strict parser of ``WWW-Authenticate``: RFC 7235, section 4.1."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from unionmount.errors import RegistryError

_MAX_LENGTH = 16 * 1024
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PARAMETER = re.compile(
    rf'({_WORD})[ \t]*=[ \t]*(?:({_WORD})|"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~])*)")'
    r"(?=[ \t]*(?:,|$))"
)
_SCHEME = re.compile(rf"({_WORD})(?:[ \t]+([A-Za-z0-9._~+/-]+=*)(?=[ \t]*(?:,|$)))?(?=[ \t,]|$)")
_SEPARATORS = re.compile(r"[ \t,]*")


@dataclass(frozen=True, slots=True)
class Challenge:
    """A scheme that a server offers for authentication, in lower case, with its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(values: Iterable[str], what: str) -> list[Challenge]:
    """Parse the values of the header; raise RegistryError if they are malformed."""
    text = ", ".join(values)
    if len(text) > _MAX_LENGTH:
        raise RegistryError(f"{what}: WWW-Authenticate is longer than {_MAX_LENGTH} bytes")
    found: list[tuple[str, dict[str, str]]] = []
    position = _skip(text, 0)
    while position < len(text):
        parameter = _PARAMETER.match(text, position) if found else None
        if parameter is not None:
            _add(found[-1][1], parameter, what)
            position = parameter.end()
        else:
            scheme = _SCHEME.match(text, position)
            if scheme is None:
                raise RegistryError(f"{what}: WWW-Authenticate is malformed")
            found.append((scheme[1].lower(), {}))
            position = scheme.end()
        position = _skip(text, position)
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def _skip(text: str, position: int) -> int:
    separators = _SEPARATORS.match(text, position)
    assert separators is not None
    return separators.end()


def _add(parameters: dict[str, str], match: re.Match[str], what: str) -> None:
    name, token, quoted = match.groups()
    if name.lower() in parameters:
        raise RegistryError(f"{what}: WWW-Authenticate says '{name}' twice")
    value = token if token is not None else re.sub(r"\\(.)", r"\1", quoted)
    parameters[name.lower()] = value
