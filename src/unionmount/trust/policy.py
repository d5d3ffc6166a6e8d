"""policy.json: which requirements apply to an image.

The file of the user, ``~/.config/containers/policy.json``, replaces that of the machine,
``/etc/containers/policy.json``. If neither exists, everything is accepted; a file that exists and
cannot be read, or is not valid, is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from unionmount.errors import FormatError, LimitExceeded
from unionmount.images.json_fields import MAX_DOCUMENT, Fields, parse_object
from unionmount.system.files import read_document
from unionmount.system.text import printable
from unionmount.trust.places import SYSTEM, policy_file
from unionmount.trust.requirements import parse_plain
from unionmount.trust.scopes import ImageScopes, problem_with_scope
from unionmount.trust.strict import MAX_LISTED, check_keys

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from unionmount.trust.signed_requirements import Requirement


class PolicyRule:
    """The requirements for an image, all of which it must meet, and where they are written."""

    def __init__(self, where: str, requirements: tuple[Requirement, ...]) -> None:
        self.where = where
        self.requirements = requirements


class Policy:
    """A parsed policy.json."""

    def __init__(
        self,
        file: str,
        default: tuple[Requirement, ...],
        transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]],
    ) -> None:
        self.file = file
        self.default = default
        self.transports = transports

    @classmethod
    def load(cls, environment: Mapping[str, str], system: Path = SYSTEM) -> Self | None:
        """Read the policy of this user; return None if there is none."""
        path = policy_file(environment, system)
        return None if path is None else cls.read(path, environment)

    @classmethod
    def read(cls, path: Path, environment: Mapping[str, str]) -> Self:
        """Read a policy; raise an error if the file cannot be read, or is not valid."""
        return cls.parse(read_document(path, MAX_DOCUMENT, environment), printable(str(path)))

    @classmethod
    def parse(cls, raw: bytes, where: str) -> Self:
        """Parse a policy; raise FormatError, which names the field, if it is not valid."""
        document = parse_object(raw, where)
        check_keys(document, ("default", "transports"), needed=("default",))
        default = _requirements(document.values["default"], f"{where}: default")
        transports = document.values.get("transports", {})
        read = {
            name: _scopes(name, scopes, f"{where}: transports: {printable(name[:200])}")
            for name, scopes in _object(transports, f"{where}: transports").items()
        }
        return cls(where, default, read)

    def rule_for(self, image: ImageScopes) -> PolicyRule:
        """Return the requirements of the most specific scope that an image is in."""
        scopes = self.transports.get(image.transport, {})
        for name in (*image.names, ""):
            if name in scopes:
                where = f'{self.file} ({image.transport} scope "{printable(name)}")'
                return PolicyRule(where, scopes[name])
        return PolicyRule(f"{self.file} (default)", self.default)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{where}: not an object")
    return value


def _scopes(transport: str, value: Any, where: str) -> dict[str, tuple[Requirement, ...]]:
    read = {}
    for scope, requirements in _object(value, where).items():
        inner = f'{where}: "{printable(scope[:400])}"'
        if problem := problem_with_scope(transport, scope):
            raise FormatError(f"{inner}: not a valid scope: {problem}")
        read[scope] = _requirements(requirements, inner)
    return read


def _requirements(value: Any, where: str) -> tuple[Requirement, ...]:
    if not isinstance(value, list) or not value:
        raise FormatError(f"{where}: not a list with at least one requirement")
    if len(value) > MAX_LISTED:
        raise LimitExceeded(f"{where}: more than {MAX_LISTED} requirements")
    fields = [Fields(_object(one, f"{where}[{i}]"), f"{where}[{i}]") for i, one in enumerate(value)]
    return tuple(map(_requirement, fields))


def _requirement(fields: Fields) -> Requirement:
    plain = parse_plain(fields)
    if plain is not None:
        return plain
    from unionmount.trust.signed_requirements import parse_signed  # noqa: PLC0415 - rare

    return parse_signed(fields)
