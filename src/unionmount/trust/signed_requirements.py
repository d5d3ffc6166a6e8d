"""Requirements of signatures: ``signedBy`` and ``sigstoreSigned`` of policy.json.

The types, and what is an error, are those of containers/image (``signature/policy_config.go``).
Types that it knows and nobody can meet here are parsed as well, and refuse every image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from unionmount.system.files import read_document
from unionmount.system.text import printable
from unionmount.trust.identity import MatchRepoDigestOrExact, SignedIdentity, parse_identity
from unionmount.trust.requirements import AcceptAnything, Reject
from unionmount.trust.strict import check_keys, decoded, strings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unionmount.images.json_fields import Fields

_KEY_TYPES = ("GPGKeys", "signedByGPGKeys", "X509Certificates", "signedByX509CAs")
_MAX_KEY = 4 * 1024 * 1024  # bytes of a file of keys
_GPG_KEYS = ("keyPath", "keyPaths", "keyData")
_SIGSTORE_KEYS = ("keyPath", "keyPaths", "keyData", "keyDatas")
_REKOR_KEYS = tuple(f"rekorPublicKey{end}" for end in ("Path", "Paths", "Data", "Datas"))
_FULCIO = ("caPath", "caData", "oidcIssuer", "subjectEmail")
_PKI = ("caRootsPath", "caRootsData", "caIntermediatesPath", "caIntermediatesData")
_SUBJECTS = ("subjectEmail", "subjectHostname")


@dataclass(frozen=True, slots=True)
class KeySource:
    """Keys in files or in the policy itself; files are read at each use."""

    paths: tuple[str, ...] = ()
    datas: tuple[bytes, ...] = ()

    def read(self, environment: Mapping[str, str]) -> list[bytes]:
        """Return the contents of all; raise OSError or FormatError if a file cannot be read."""
        files = [read_document(Path(path), _MAX_KEY, environment) for path in self.paths]
        return [*files, *self.datas]


_UNSIGNED = "a signature is required, and there is none"


@dataclass(frozen=True, slots=True)
class SignedBy:
    """``signedBy``: a signature by one of the keys of GPG keyrings."""

    why_unsigned: ClassVar[str] = _UNSIGNED
    keys: KeySource
    identity: SignedIdentity


@dataclass(frozen=True, slots=True)
class SigstoreSigned:
    """``sigstoreSigned`` with keys; with ``rekor``, that log must have recorded the signature."""

    why_unsigned: ClassVar[str] = _UNSIGNED
    keys: KeySource
    rekor: KeySource | None
    identity: SignedIdentity


Requirement = AcceptAnything | Reject | SignedBy | SigstoreSigned
"""Everything that a policy may require."""


def parse_signed(fields: Fields) -> SignedBy | SigstoreSigned | Reject:
    """Parse a requirement of signatures; raise FormatError for one that is not known."""
    kind = fields.string("type")
    if kind == "signedBy":
        return _signed_by(fields)
    if kind == "sigstoreSigned":
        return _sigstore_signed(fields)
    if kind == "signedBaseLayer":
        check_keys(fields, ("type", "baseLayerIdentity"))
        parse_identity(fields.object("baseLayerIdentity"))
        return Reject("signedBaseLayer is not supported")
    raise fields.error("type", f"'{printable(kind[:200])}' is not a known requirement")


def _signed_by(fields: Fields) -> SignedBy | Reject:
    check_keys(fields, ("type", "keyType", *_GPG_KEYS, "signedIdentity"))
    kind = fields.string("keyType")
    if kind not in _KEY_TYPES:
        raise fields.error("keyType", f"'{printable(kind[:200])}' is not known")
    keys, identity = _keys(fields, _one_of(fields, _GPG_KEYS)), _identity(fields)
    if kind != "GPGKeys":
        return Reject(f"signedBy with the keyType {kind} is not supported")
    return SignedBy(keys, identity)


def _sigstore_signed(fields: Fields) -> SigstoreSigned | Reject:
    sources = (*_SIGSTORE_KEYS, "fulcio", "pki")
    check_keys(fields, ("type", *sources, *_REKOR_KEYS, "signedIdentity"))
    source, identity = _one_of(fields, sources), _identity(fields)
    rekor = _one_of(fields, _REKOR_KEYS) if fields.values.keys() & set(_REKOR_KEYS) else None
    log = _keys(fields, rekor, some=True) if rekor is not None else None
    if source == "fulcio":
        _check_fulcio(fields.object("fulcio"))
        if log is None:
            raise fields.error("fulcio", "needs a public key of Rekor")
        return Reject("sigstoreSigned with fulcio is not supported; use keys")
    if source == "pki":
        _check_pki(fields.object("pki"))
        if log is not None:
            raise fields.error("pki", "cannot be combined with a public key of Rekor")
        return Reject("sigstoreSigned with pki is not supported; use keys")
    return SigstoreSigned(_keys(fields, source, some=True), log, identity)


def _identity(fields: Fields) -> SignedIdentity:
    if "signedIdentity" not in fields.values:
        return MatchRepoDigestOrExact()
    return parse_identity(fields.object("signedIdentity"))


def _one_of(fields: Fields, names: tuple[str, ...]) -> str:
    """Return the one field of ``names`` that is there."""
    found = [name for name in names if name in fields.values]
    if len(found) != 1:
        what = "missing" if not found else f"is there beside '{found[0]}'"
        raise fields.error(found[1] if found else names[0], f"{what}; give one of {_listed(names)}")
    return found[0]


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _keys(fields: Fields, name: str, *, some: bool = False) -> KeySource:
    """Return the keys of one field; with ``some``, a list must not be empty."""
    if name.endswith("s"):
        texts = strings(fields, name)
        if some and not texts:
            raise fields.error(name, "has no entries")
    else:
        texts = [fields.string(name)]
    if name.lower().endswith(("path", "paths")):
        if not name.endswith("s") and not texts[0]:
            raise fields.error(name, "is empty")
        return KeySource(paths=tuple(texts))
    return KeySource(datas=tuple(decoded(fields, name, text) for text in texts))


def _check_fulcio(fields: Fields) -> None:
    check_keys(fields, _FULCIO)
    _keys(fields, _one_of(fields, ("caPath", "caData")))
    for name in ("oidcIssuer", "subjectEmail"):
        if not fields.string(name):
            raise fields.error(name, "is empty")


def _check_pki(fields: Fields) -> None:
    check_keys(fields, (*_PKI, *_SUBJECTS))
    _keys(fields, _one_of(fields, ("caRootsPath", "caRootsData")))
    if fields.values.keys() & {"caIntermediatesPath", "caIntermediatesData"}:
        _keys(fields, _one_of(fields, ("caIntermediatesPath", "caIntermediatesData")))
    if not any(fields.string(name, "") for name in _SUBJECTS):
        raise fields.error("subjectEmail", "missing; give subjectEmail or subjectHostname")
