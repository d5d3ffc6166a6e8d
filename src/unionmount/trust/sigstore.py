"""Signatures of sigstore by keys, and the log Rekor that may have recorded them.

The signature is over the bytes of the payload, by one of the keys of the policy: RSA (PKCS #1 v1.5)
or ECDSA with SHA-256, or Ed25519. With a key of Rekor, the annotation ``bundle`` must have a signed
timestamp of the log for exactly this key, signature and payload; the log itself is not asked.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from unionmount.errors import FormatError
from unionmount.images.json_fields import Fields, parse_object
from unionmount.trust.extra import optional_module
from unionmount.trust.strict import check_keys, from_base64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.trust.signatures import SigstoreAttachment

_SIGNATURE = "dev.cosignproject.cosign/signature"
_BUNDLE = "dev.sigstore.cosign/bundle"
_PURPOSE = "verifying sigstoreSigned"
_EXACT = 2**53  # integers that every reader of JSON reads alike


class PublicKey:
    """A public key of a PEM file, with what is needed to verify by it."""

    def __init__(self, pem: bytes, what: str) -> None:
        serialization = _module("hazmat.primitives.serialization")
        unsupported = _module("exceptions").UnsupportedAlgorithm
        try:
            self._key: Any = serialization.load_pem_public_key(pem)
        except (ValueError, unsupported):
            raise FormatError(f"{what}: not a public key in PEM") from None
        self.der: bytes = self._key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        if not self._is("ec.EllipticCurve") and not self._is("rsa.RSA"):
            self._require("ed25519.Ed25519", what)

    @property
    def is_ecdsa(self) -> bool:
        """Whether it is a key for ECDSA."""
        return self._is("ec.EllipticCurve")

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Return whether a signature over ``data`` is by this key."""
        hashes = _module("hazmat.primitives.hashes")
        if self._is("ec.EllipticCurve"):
            more = [_asymmetric("ec").ECDSA(hashes.SHA256())]
        elif self._is("rsa.RSA"):
            more = [_asymmetric("padding").PKCS1v15(), hashes.SHA256()]
        else:
            more = []
        try:
            self._key.verify(signature, data, *more)
        except _module("exceptions").InvalidSignature:
            return False
        return True

    def _is(self, kind: str) -> bool:
        module, _, name = kind.partition(".")
        return isinstance(self._key, getattr(_asymmetric(module), f"{name}PublicKey"))

    def _require(self, kind: str, what: str) -> None:
        if not self._is(kind):
            raise FormatError(f"{what}: a public key for neither ECDSA, RSA nor Ed25519")


def _module(name: str) -> Any:
    return optional_module(f"cryptography.{name}", "cryptography", _PURPOSE)


def _asymmetric(name: str) -> Any:
    return _module(f"hazmat.primitives.asymmetric.{name}")


def read_keys(pems: Sequence[bytes], what: str) -> list[PublicKey]:
    """Parse public keys; raise FormatError if one is not valid, even if others are."""
    return [PublicKey(pem, f"{what} {number}") for number, pem in enumerate(pems, 1)]


def verify_sigstore(
    attachment: SigstoreAttachment, keys: Sequence[PublicKey], log: Sequence[PublicKey] | None
) -> None:
    """Raise FormatError unless one of ``keys`` signed the payload, and ``log`` recorded that."""
    text = _annotation(attachment, _SIGNATURE)
    signature = from_base64(text)
    if log is not None:
        recorded = _RekorEntry.parse(_annotation(attachment, _BUNDLE), log)
        keys = [key for key in keys if key.der == recorded.key]
        recorded.check(signature, attachment.payload, known=bool(keys))
    if not any(key.verifies(signature, attachment.payload) for key in keys):
        raise FormatError("sigstore signature: by none of the keys of the policy")


def _annotation(attachment: SigstoreAttachment, name: str) -> str:
    if name not in attachment.annotations:
        raise FormatError(f"sigstore signature: the annotation {name} is missing")
    return attachment.annotations[name]


class _RekorEntry:
    """What a signed timestamp of Rekor says: a key, a signature, and the hash of a payload."""

    def __init__(self, key: bytes, signature: bytes, payload_hash: str) -> None:
        self.key = key
        self._signature = signature
        self._payload_hash = payload_hash

    @classmethod
    def parse(cls, text: str, log: Sequence[PublicKey]) -> _RekorEntry:
        """Parse a timestamp that one of the keys of the log has signed."""
        bundle = parse_object(text.encode("utf-8", "surrogatepass"), "Rekor bundle")
        parts = ("SignedEntryTimestamp", "Payload")
        check_keys(bundle, parts, needed=parts)
        payload = bundle.object("Payload")
        stamp = from_base64(bundle.string("SignedEntryTimestamp"))
        signed = _canonical(payload)
        if not any(key.verifies(stamp, signed) for key in log):
            raise FormatError("Rekor bundle: signed by none of the keys of the policy")
        return cls._entry(parse_object(from_base64(payload.string("body")), "Rekor entry"))

    @classmethod
    def _entry(cls, entry: Fields) -> _RekorEntry:
        if entry.string("kind") != "hashedrekord" or entry.string("apiVersion") != "0.0.1":
            raise FormatError("Rekor entry: not a hashedrekord of version 0.0.1")
        spec = entry.object("spec")
        signature, content_hash = spec.object("signature"), spec.object("data").object("hash")
        if content_hash.string("algorithm") != "sha256":
            raise content_hash.error("algorithm", "not sha256")
        pem = from_base64(signature.object("publicKey").string("content"))
        content = from_base64(signature.string("content"))
        return cls(_der_of(pem), content, content_hash.string("value").lower())

    def check(self, signature: bytes, payload: bytes, *, known: bool) -> None:
        """Raise FormatError unless it is about this signature over this payload."""
        if not known:
            raise FormatError("Rekor entry: of none of the keys of the policy")
        if self._signature != signature:
            raise FormatError("Rekor entry: of another signature")
        if self._payload_hash != hashlib.sha256(payload).hexdigest():
            raise FormatError("Rekor entry: of another payload")


def _canonical(payload: Fields) -> bytes:
    """Return the JSON that the log signed: canonical, RFC 8785, for these four fields."""
    parts = ("body", "integratedTime", "logIndex", "logID")
    check_keys(payload, parts, needed=parts)
    values = {
        "body": payload.string("body"),
        "integratedTime": payload.size("integratedTime"),
        "logIndex": payload.size("logIndex"),
        "logID": payload.string("logID"),
    }
    if any(isinstance(value, int) and value > _EXACT for value in values.values()):
        raise FormatError("Rekor bundle: a number is out of range")
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "surrogatepass")


def _der_of(pem: bytes) -> bytes:
    """Return the bytes of the only block of a PEM text, whatever its type."""
    lines = pem.decode("ascii", "replace").strip().splitlines()
    if len(lines) < 3 or not (lines[0].startswith("-----BEGIN ") and lines[-1][:8] == "-----END"):
        raise FormatError("Rekor entry: its public key is not PEM")
    return from_base64("".join(line.strip() for line in lines[1:-1]))
