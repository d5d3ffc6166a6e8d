"""Names of images and digests of bytes: ``docker.io/library/nginx:1.25@sha256:…``.

The grammar is that of the distribution project ("reference"), as docker and podman use it: a first
component with a dot, a colon, or ``localhost`` is a registry; a name without a registry belongs to
``docker.io``, and there one without a slash to ``library/``.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from unionmount.errors import InvalidReference

if TYPE_CHECKING:
    from hashlib import _Hash
from unionmount.system.text import printable

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"

CONTAINER_PREFIX = "container:"
"""The prefix of a word that is the name of a container, if it could be something else."""

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_HASHERS = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_NAME_MAX = 255

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The digest of some bytes: the algorithm and the hash in hexadecimal."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str, what: str = "digest") -> Self:
        """Parse ``sha256:<64 hex digits>``; raise InvalidReference if it is not of that form."""
        algorithm, _, digits = text.partition(":")
        length = _HEX_LENGTH.get(algorithm)
        if length is None or not re.fullmatch(f"[0-9a-f]{{{length}}}", digits):
            raise InvalidReference(f"{what}: '{printable(text[:200])}' is not a digest")
        return cls(algorithm, digits)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        """Return the digest of ``data``."""
        return cls(algorithm, _HASHERS[algorithm](data).hexdigest())

    def hasher(self) -> _Hash:
        """Return a new hash object of this digest's algorithm."""
        return _HASHERS[self.algorithm]()

    @property
    def short(self) -> str:
        """The first twelve hex digits, as tools show them."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True)
class Reference:
    """The full name of an image: registry, repository, and a tag or a digest or both."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a user's name of an image; only the registry and its namespace have defaults."""
        rest, at, digest_text = text.partition("@")
        digest = Digest.parse(digest_text, "image name") if at else None
        rest, tag = _split_tag(rest)
        registry, repository = _split_registry(rest)
        if not _valid(registry, repository, tag):
            raise InvalidReference(f"'{printable(text[:400])}' is not an image name")
        return cls(registry, repository, tag, digest)

    def with_default_tag(self) -> Self:
        """Return the same name with the tag ``latest`` if it has neither tag nor digest."""
        if self.tag is None and self.digest is None:
            return replace(self, tag=DEFAULT_TAG)
        return self

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The short form for people: ``nginx:1.25``."""
        name = self.name.removeprefix(f"{DEFAULT_REGISTRY}/")
        if name != self.name:
            name = name.removeprefix("library/")
        return name + self._suffix()

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        return tag + (f"@{self.digest}" if self.digest is not None else "")

    def __str__(self) -> str:
        return self.name + self._suffix()


def is_tag(text: str) -> bool:
    """Return whether a text can be a tag."""
    return _TAG.fullmatch(text) is not None


def _split_tag(text: str) -> tuple[str, str | None]:
    """Split off ``:tag``; a colon before the last slash belongs to a port."""
    head, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        return text, None
    return head, tag


def has_registry(text: str) -> bool:
    """Return whether a name contains a registry; otherwise it is a short name."""
    first, slash, _ = text.partition("/")
    return bool(slash) and (
        first == "localhost" or first.lower() != first or bool(set(first) & set(".:["))
    )


def registry_itself(registry: str) -> Reference:
    """Return a reference to a registry as a whole, without a repository."""
    return Reference(registry, "")


def _split_registry(text: str) -> tuple[str, str]:
    if has_registry(text):
        first, _, rest = text.partition("/")
    else:
        first, rest = DEFAULT_REGISTRY, text
    if first in (DEFAULT_REGISTRY, "index.docker.io"):
        return DEFAULT_REGISTRY, rest if "/" in rest else f"library/{rest}"
    return first, rest


def _valid(registry: str, repository: str, tag: str | None) -> bool:
    return bool(
        len(registry) + 1 + len(repository) <= _NAME_MAX
        and _REGISTRY.fullmatch(registry)
        and _REPOSITORY.fullmatch(repository)
        and (tag is None or _TAG.fullmatch(tag))
    )
