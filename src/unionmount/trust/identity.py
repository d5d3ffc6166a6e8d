"""The names that a signature may state for an image: ``signedIdentity`` of policy.json.

A signature states a name and a digest. Which names are accepted for an image that was asked for
under another name is decided here. ``image`` is None if the image has no name of a registry, as in
a file; then only rules that state the whole name accept anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from unionmount.errors import InvalidReference
from unionmount.images.reference import Reference
from unionmount.system.text import printable
from unionmount.trust.strict import check_keys

if TYPE_CHECKING:
    from unionmount.images.json_fields import Fields

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PREFIX = re.compile(rf"{_DOMAIN}(?:/{_COMPONENT})*")


class SignedIdentity(Protocol):
    """A rule for the name that a signature states."""

    def accepts(self, image: Reference | None, signed: Reference) -> bool:
        """Return whether an image that was asked for as ``image`` may be signed as ``signed``."""


@dataclass(frozen=True, slots=True)
class MatchExact:
    """The same name with the same tag or digest."""

    def accepts(self, image: Reference | None, signed: Reference) -> bool:
        """See SignedIdentity."""
        return image is not None and not _is_bare(image) and signed == image


@dataclass(frozen=True, slots=True)
class MatchRepoDigestOrExact:
    """The same name and tag; for an image that is named by its digest, the same repository."""

    def accepts(self, image: Reference | None, signed: Reference) -> bool:
        """See SignedIdentity."""
        return image is not None and _tag_or_repository(image, signed)


@dataclass(frozen=True, slots=True)
class MatchRepository:
    """The same repository with any tag, or none."""

    def accepts(self, image: Reference | None, signed: Reference) -> bool:
        """See SignedIdentity."""
        return image is not None and signed.name == image.name


@dataclass(frozen=True, slots=True)
class ExactReference:
    """The name that the policy states."""

    wanted: Reference

    def accepts(self, image: Reference | None, signed: Reference) -> bool:  # noqa: ARG002
        """See SignedIdentity."""
        return signed == self.wanted


@dataclass(frozen=True, slots=True)
class ExactRepository:
    """The repository that the policy states, with any tag, or none."""

    wanted: Reference

    def accepts(self, image: Reference | None, signed: Reference) -> bool:  # noqa: ARG002
        """See SignedIdentity."""
        return signed.name == self.wanted.name


@dataclass(frozen=True, slots=True)
class RemapIdentity:
    """The name of the image with another beginning, then as MatchRepoDigestOrExact."""

    prefix: str
    signed_prefix: str

    def accepts(self, image: Reference | None, signed: Reference) -> bool:
        """See SignedIdentity."""
        if image is None:
            return False
        if image.name == self.prefix or image.name.startswith(f"{self.prefix}/"):
            text = self.signed_prefix + str(image)[len(self.prefix) :]
            try:
                image = Reference.parse(text)
            except InvalidReference:
                return False
            if str(image) != text:  # a short name, which would mean something else
                return False
        return _tag_or_repository(image, signed)


def _is_bare(name: Reference) -> bool:
    return name.tag is None and name.digest is None


def _tag_or_repository(image: Reference, signed: Reference) -> bool:
    if _is_bare(signed):
        return False
    if image.tag is not None:
        return signed == image
    return image.digest is not None and signed.name == image.name


def parse_identity(fields: Fields) -> SignedIdentity:
    """Parse the object ``signedIdentity``; raise FormatError for one that is not known."""
    kind = fields.string("type")
    plain: dict[str, Callable[[], SignedIdentity]] = {
        "matchExact": MatchExact,
        "matchRepoDigestOrExact": MatchRepoDigestOrExact,
        "matchRepository": MatchRepository,
    }
    if kind in plain:
        check_keys(fields, ("type",))
        return plain[kind]()
    if kind == "exactReference":
        check_keys(fields, ("type", "dockerReference"))
        wanted = _name(fields, "dockerReference")
        if _is_bare(wanted):
            raise fields.error("dockerReference", "has neither a tag nor a digest")
        return ExactReference(wanted)
    if kind == "exactRepository":
        check_keys(fields, ("type", "dockerRepository"))
        return ExactRepository(_name(fields, "dockerRepository"))
    if kind == "remapIdentity":
        check_keys(fields, ("type", "prefix", "signedPrefix"))
        return RemapIdentity(_prefix(fields, "prefix"), _prefix(fields, "signedPrefix"))
    raise fields.error("type", f"'{printable(kind[:200])}' is not a known identity")


def _name(fields: Fields, name: str) -> Reference:
    try:
        return Reference.parse(fields.string(name))
    except InvalidReference as error:
        raise fields.error(name, str(error)) from None


def _prefix(fields: Fields, name: str) -> str:
    text = fields.string(name)
    if not _PREFIX.fullmatch(text):
        raise fields.error(name, f"'{printable(text[:200])}' is not HOST[:PORT][/NAMESPACE]")
    return text
