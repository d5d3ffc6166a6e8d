"""What a signature states: the name and the manifest of an image.

Signatures by GPG ("simple signing") and by sigstore sign the same JSON with another type. It is
parsed after its signature was verified, and strictly: containers-signature(5).
"""

from __future__ import annotations

from dataclasses import dataclass

from unionmount.errors import FormatError, InvalidReference
from unionmount.images.json_fields import Fields, parse_object
from unionmount.images.reference import Digest, Reference
from unionmount.system.text import printable
from unionmount.trust.identity import SignedIdentity
from unionmount.trust.strict import check_keys

GPG_TYPE = "atomic container signature"
SIGSTORE_TYPE = "cosign container image signature"

_MAX_TIME = 2**63


@dataclass(frozen=True, slots=True)
class SignedClaim:
    """The content of a signature that was verified."""

    digest: Digest
    reference: str

    @classmethod
    def parse(cls, raw: bytes, kind: str) -> SignedClaim:
        """Parse the JSON of a signature of the type ``kind``; raise FormatError if it is wrong."""
        document = parse_object(raw, "signature")
        both = ("critical", "optional")
        check_keys(document, both, needed=both)
        _check_optional(document, null=kind == SIGSTORE_TYPE)
        critical = document.object("critical")
        parts = ("type", "image", "identity")
        check_keys(critical, parts, needed=parts)
        if critical.string("type") != kind:
            raise critical.error("type", f"not '{kind}'")
        image, identity = critical.object("image"), critical.object("identity")
        check_keys(image, ("docker-manifest-digest",))
        check_keys(identity, ("docker-reference",))
        name = "docker-manifest-digest"
        return cls(image.digest(name, image.string(name)), identity.string("docker-reference"))

    def check(self, asked: Reference | None, manifest: bytes, identity: SignedIdentity) -> None:
        """Raise FormatError unless this is about ``manifest``, under a name that is accepted."""
        if self.digest != Digest.of(manifest):
            raise FormatError(f"signature for digest {self.digest}, which is another image")
        said = printable(self.reference[:400])
        try:
            signed = Reference.parse(self.reference)
        except InvalidReference:
            raise FormatError(f"signature for '{said}', which is not a name") from None
        if not identity.accepts(asked, signed):
            raise FormatError(f"signature for the name {said}, which is not accepted")


def _check_optional(document: Fields, *, null: bool) -> None:
    """Check ``optional``, whose fields do not count; cosign writes null for no fields."""
    if null and document.values["optional"] is None:
        return
    optional = document.object("optional")
    if "creator" in optional.values:
        optional.string("creator")
    stamp = optional.values.get("timestamp", 0)
    is_number = isinstance(stamp, int | float) and not isinstance(stamp, bool)
    if not is_number or stamp != stamp // 1 or abs(stamp) >= _MAX_TIME:
        raise optional.error("timestamp", "not a whole number")
