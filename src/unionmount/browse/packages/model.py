"""Packages as their metadata describes them, and where they were found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unionmount.errors import FormatError

if TYPE_CHECKING:
    from unionmount.images.reference import Digest

Kind = Literal["deb", "apk", "rpm", "python", "npm"]
KINDS: tuple[Kind, ...] = ("deb", "apk", "rpm", "python", "npm")

MAX_FIELD = 4096  # characters of a name, version, architecture …


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package; what its metadata does not tell is empty.

    ``source`` is the source package that it was built from, ``source_version`` the version of that.
    ``license`` is what the metadata calls it, in most cases an SPDX expression.
    """

    kind: Kind
    name: str
    version: str
    architecture: str = ""
    source: str = ""
    source_version: str = ""
    license: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes two packages the same."""
        return self.kind, self.name, self.version, self.architecture


@dataclass(frozen=True, slots=True)
class FoundPackage:
    """A package, the file that tells of it, and the layer that brought it.

    ``diff_id`` is None for the changes of a container, whose ``layer`` is the number after the last
    layer of the image.
    """

    package: Package
    path: bytes
    layer: int
    diff_id: Digest | None


@dataclass(frozen=True, slots=True)
class Distribution:
    """What ``/etc/os-release`` says; empty where an image has none."""

    id: str = ""
    version: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All packages of an image, sorted, and what could not be read."""

    packages: tuple[FoundPackage, ...]
    distribution: Distribution
    problems: tuple[str, ...]


def as_text(raw: bytes, field: str) -> str:
    """Decode one field; bytes that are not UTF-8 become U+FFFD. Raise FormatError if it is long."""
    if len(raw) > MAX_FIELD:
        raise FormatError(f"the field '{field}' has more than {MAX_FIELD} bytes")
    return raw.decode("utf-8", "replace").strip()
