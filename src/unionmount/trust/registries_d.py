"""registries.d: where the signatures of a registry's images are.

Each ``*.yaml`` has a section ``default-docker`` and sections by scope below ``docker``. For each
setting, the most specific scope that has it counts. containers-registries.d(5) describes the files;
as in containers/image, unknown keys are ignored, and a section in two files is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from unionmount.errors import FormatError
from unionmount.system.files import read_document
from unionmount.system.home import home_of
from unionmount.system.real_user import real_user
from unionmount.system.text import printable
from unionmount.trust.extra import optional_module
from unionmount.trust.places import SYSTEM, registries_directory
from unionmount.trust.scopes import scopes_of_reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unionmount.images.reference import Reference

_MAX_FILE = 1024 * 1024
_TRUE = frozenset({"true", "True", "TRUE", "y", "Y", "yes", "on"})
_FALSE = frozenset({"false", "False", "FALSE", "n", "N", "no", "off"})
_ROOTS_OWN = "file:///var/lib/containers/sigstore"
_USERS_OWN = Path(".local/share/containers/sigstore")


@dataclass(frozen=True, slots=True)
class SignatureStorage:
    """One section: a URL below which signatures are, and whether a registry has some itself."""

    lookaside: str = ""
    attachments: bool | None = None


@dataclass(frozen=True, slots=True)
class RegistriesD:
    """All sections; that of ``default-docker`` has the scope ``None``."""

    sections: Mapping[str | None, SignatureStorage]
    builtin: str

    @classmethod
    def load(cls, environment: Mapping[str, str], system: Path = SYSTEM) -> Self:
        """Read the directory of this user, or else that of the machine."""
        directory = registries_directory(environment, system)
        sections: dict[str | None, SignatureStorage] = {}
        origins: dict[str | None, str] = {}
        for path in _files(directory):
            where = printable(str(path))
            for scope, section in _parse(read_document(path, _MAX_FILE, environment), where):
                if scope in sections:
                    what = "default-docker" if scope is None else f"docker: {printable(scope)}"
                    raise FormatError(f"{where}: {what} is in {origins[scope]}, too")
                sections[scope], origins[scope] = section, where
        return cls(sections, _builtin(environment))

    def lookaside(self, ref: Reference) -> str:
        """Return the URL below which the signatures of an image are."""
        found = (section.lookaside for section in self._sections(ref) if section.lookaside)
        return next(found, self.builtin)

    def attachments(self, ref: Reference) -> bool:
        """Return whether the registry of an image is asked for sigstore signatures."""
        found = (one.attachments for one in self._sections(ref) if one.attachments is not None)
        return next(found, False)

    def _sections(self, ref: Reference) -> Iterator[SignatureStorage]:
        for scope in (*scopes_of_reference(ref).names, None):
            if scope in self.sections:
                yield self.sections[scope]


def _builtin(environment: Mapping[str, str]) -> str:
    if real_user(environment) == 0:
        return _ROOTS_OWN
    return (home_of(environment).absolute() / _USERS_OWN).as_uri()


def _files(directory: Path | None) -> list[Path]:
    if directory is None:
        return []
    try:
        found = sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    return [path for path in found if path.name.endswith(".yaml")]


def _parse(raw: bytes, where: str) -> Iterator[tuple[str | None, SignatureStorage]]:
    """Yield the sections of a file."""
    yaml = optional_module("yaml", "PyYAML", f"{where}: reading YAML")
    try:
        top = yaml.compose(raw.decode("utf-8"), Loader=yaml.SafeLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise FormatError(f"{where}: not YAML: {printable(text[:200])}") from None
    for key, value in _mapping(top, where):
        if key == "default-docker" and not _is_null(value):
            yield None, _section(value, f"{where}: default-docker")
        if key == "docker":
            for scope, section in _mapping(value, f"{where}: docker"):
                yield scope, _section(section, f"{where}: docker: {printable(scope[:400])}")


def _section(node: Any, where: str) -> SignatureStorage:
    texts: dict[str, str] = {}
    attachments = None
    for key, value in _mapping(node, where):
        if key in ("lookaside", "sigstore", "lookaside-staging", "sigstore-staging"):
            texts[key] = _text(value, f"{where}: {key}")
        if key == "use-sigstore-attachments" and not _is_null(value):
            attachments = _flag(value, f"{where}: {key}")
    return SignatureStorage(texts.get("lookaside") or texts.get("sigstore", ""), attachments)


def _mapping(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a YAML mapping, each key once; nothing for null."""
    if node is None or _is_null(node):
        return
    if node.id != "mapping":
        raise FormatError(f"{where}: not a mapping")
    seen = set()
    for key, value in node.value:
        if key.id != "scalar" or key.tag.endswith(":merge"):
            raise FormatError(f"{where}: has a key that is not a text")
        if key.value in seen:
            raise FormatError(f"{where}: has the key {printable(key.value[:200])} twice")
        seen.add(key.value)
        yield key.value, value


def _is_null(node: Any) -> bool:
    return bool(node.id == "scalar" and node.tag.endswith(":null"))


def _text(node: Any, where: str) -> str:
    if node.id != "scalar":
        raise FormatError(f"{where}: not a text")
    return "" if _is_null(node) else str(node.value)


def _flag(node: Any, where: str) -> bool:
    text = _text(node, where)
    if text not in _TRUE | _FALSE or node.style is not None:  # in quotes it is a text
        raise FormatError(f"{where}: neither true nor false")
    return text in _TRUE
