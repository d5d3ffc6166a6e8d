"""License expressions of SPDX, made of what the metadata of packages says."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from unionmount.browse.packages.spdx_ids import EXCEPTIONS, LICENSES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TOKEN = re.compile(r"\s*(\(|\)|[^\s()]+)")
_OPERATORS = {"and": "AND", "or": "OR", "with": "WITH"}
_NO_ID = re.compile(r"[^A-Za-z0-9.-]+")
_MAX_TOKENS = 200
_MAX_NESTING = 20

# Names that Debian and others use for licenses of the list.
_ALIASES = {
    "apache-2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "expat": "MIT",
    "mit license": "MIT",
    "agpl-3.0": "AGPL-3.0-only",
    "agpl-3.0+": "AGPL-3.0-or-later",
    "gpl-1": "GPL-1.0-only",
    "gpl-1+": "GPL-1.0-or-later",
    "gpl-1.0": "GPL-1.0-only",
    "gpl-1.0+": "GPL-1.0-or-later",
    "gpl-2": "GPL-2.0-only",
    "gpl-2+": "GPL-2.0-or-later",
    "gpl-2.0": "GPL-2.0-only",
    "gpl-2.0+": "GPL-2.0-or-later",
    "gpl-3": "GPL-3.0-only",
    "gpl-3+": "GPL-3.0-or-later",
    "gpl-3.0": "GPL-3.0-only",
    "gpl-3.0+": "GPL-3.0-or-later",
    "lgpl-2": "LGPL-2.0-only",
    "lgpl-2+": "LGPL-2.0-or-later",
    "lgpl-2.0": "LGPL-2.0-only",
    "lgpl-2.0+": "LGPL-2.0-or-later",
    "lgpl-2.1": "LGPL-2.1-only",
    "lgpl-2.1+": "LGPL-2.1-or-later",
    "lgpl-3": "LGPL-3.0-only",
    "lgpl-3+": "LGPL-3.0-or-later",
    "lgpl-3.0": "LGPL-3.0-only",
    "lgpl-3.0+": "LGPL-3.0-or-later",
}


@cache
def _known() -> Mapping[str, str]:
    """Return the spelling of each identifier by its lower case."""
    return {one.lower(): one for one in sorted(LICENSES)} | _ALIASES


@cache
def _exceptions() -> Mapping[str, str]:
    return {one.lower(): one for one in sorted(EXCEPTIONS)}


class _LicenseParser:
    """A recursive-descent parser of expressions; it answers None to what is not one.

    ``name`` returns the identifier for a name that is not on the list, or None.
    """

    def __init__(self, tokens: list[str], name: Callable[[str], str | None]) -> None:
        self._tokens = tokens
        self._name = name
        self._at = 0
        self._nesting = 0

    def parse(self) -> str | None:
        found = self._terms()
        return found if self._at == len(self._tokens) else None

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _terms(self) -> str | None:
        found = self._term()
        while found is not None and self._peek().lower() in ("and", "or"):
            operator = _OPERATORS[self._peek().lower()]
            self._at += 1
            right = self._term()
            found = f"{found} {operator} {right}" if right is not None else None
        return found

    def _term(self) -> str | None:
        word = self._peek()
        self._at += 1
        if word == "(":
            self._nesting += 1
            inner = self._terms() if self._nesting <= _MAX_NESTING else None
            closed = self._peek() == ")"
            self._at += 1
            self._nesting -= 1
            return f"({inner})" if inner is not None and closed else None
        if word in ("", ")"):
            return None
        license_ = _license_id(word) or self._name(word)
        if license_ is None or self._peek().lower() != "with":
            return license_
        exception = (
            _exceptions().get(self._tokens[self._at + 1].lower()) if self._has_next() else None
        )
        self._at += 2
        return f"{license_} WITH {exception}" if exception is not None else None

    def _has_next(self) -> bool:
        return self._at + 1 < len(self._tokens)


def _license_id(word: str) -> str | None:
    """Return the identifier of a license; ``X+`` is one where the list has ``X-or-later``."""
    later = f"{word.removesuffix('+')}-or-later" if word.endswith("+") else word
    return _known().get(word.lower()) or _known().get(later.lower())


def spdx_expression(text: str) -> str | None:
    """Return a text as an expression of licenses of the SPDX list; None if it is not one."""
    return _parsed(text, lambda _: None)


def _parsed(text: str, name: Callable[[str], str | None]) -> str | None:
    if text.lower() in _known():
        return _known()[text.lower()]
    tokens = _TOKEN.findall(text)
    if not tokens or len(tokens) > _MAX_TOKENS:
        return None
    return _LicenseParser(tokens, name).parse()


class OtherLicenses:
    """The licenses of a document that are not on the list; ``names`` has them by identifier."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._identifiers: dict[str, str] = {}  # by names
        self._numbers: dict[str, int] = {}  # the last one of each stem, as an image may have many

    def identifier(self, name: str) -> str:
        """Return the identifier of a name, a new one for a new name."""
        known = self._identifiers.get(name)
        if known is not None:
            return known
        stem = f"LicenseRef-{_NO_ID.sub('-', name).strip('-.')[:64] or 'unnamed'}"
        identifier, number = stem, self._numbers.get(stem, 1)
        while identifier in self.names:
            number += 1
            identifier = f"{stem}-{number}"
        self._numbers[stem] = number
        self.names[identifier] = name
        self._identifiers[name] = identifier
        return identifier


def spdx_license(text: str, others: OtherLicenses) -> str:
    """Return an expression for the document; names that are not on the list go into ``others``."""
    if not text:
        return "NOASSERTION"
    if _parsed(text, lambda word: word) is None:
        return others.identifier(text)
    expression = _parsed(text, others.identifier)
    assert expression is not None, "the names of licenses do not matter to the parser"
    return expression
