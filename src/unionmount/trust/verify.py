"""The decision about an image that must be signed: all requirements of its rule must hold.

What is verified are the bytes of the manifest that the caller has, and goes on with. Of an index,
that is the manifest of the chosen image, as with containers/image: signatures are asked for by its
digest, and state the name under which the index was asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from unionmount.errors import FormatError, NotTrusted, UnionmountError
from unionmount.images.reference import Digest
from unionmount.system.text import printable
from unionmount.trust.file_trust import refused
from unionmount.trust.gpg import verify_gpg
from unionmount.trust.registries_d import RegistriesD
from unionmount.trust.requirements import AcceptAnything, Reject
from unionmount.trust.scopes import as_identified
from unionmount.trust.signatures import (
    COSIGN_PAYLOAD,
    ImageSignature,
    SigstoreAttachment,
    SimpleSignature,
    fetch_signatures,
)
from unionmount.trust.signed_requirements import SignedBy, SigstoreSigned
from unionmount.trust.sigstore import read_keys, verify_sigstore
from unionmount.trust.simple_signing import GPG_TYPE, SIGSTORE_TYPE, SignedClaim

if TYPE_CHECKING:
    from collections.abc import Mapping

    from unionmount.images.reference import Reference
    from unionmount.registry import RegistryClient
    from unionmount.trust.file_trust import FileTrust
    from unionmount.trust.policy import PolicyRule

_MAX_REASONS = 3  # that a message lists

Signatures = Callable[[], Awaitable[Sequence[ImageSignature]]]
"""A function that fetches the signatures of an image."""


async def check_signed(
    rule: PolicyRule,
    client: RegistryClient,
    ref: Reference,
    manifest: bytes,
    trust: FileTrust,
) -> None:
    """Raise NotTrusted unless the image ``ref`` with this manifest meets all requirements."""
    environment = trust.environment

    async def signatures() -> Sequence[ImageSignature]:
        places = RegistriesD.load(environment, trust.system)
        return await fetch_signatures(client, ref, Digest.of(manifest), places, environment)

    await _ImageCheck(str(ref), rule, environment, as_identified(ref), manifest).run(signatures)


class _ImageCheck:
    """The check of one manifest by one rule."""

    def __init__(
        self,
        what: str,
        rule: PolicyRule,
        environment: Mapping[str, str],
        name: Reference,
        manifest: bytes,
    ) -> None:
        self._what = what
        self._rule = rule
        self._environment = environment
        self._name = name
        self._manifest = manifest

    async def run(self, fetch: Signatures) -> None:
        """Raise NotTrusted unless all requirements hold; fetch signatures if one needs them."""
        signatures: Sequence[ImageSignature] | None = None
        for requirement in self._rule.requirements:
            if isinstance(requirement, AcceptAnything):
                continue
            if isinstance(requirement, Reject):
                raise self._refused(requirement.why_unsigned)
            if signatures is None:
                try:
                    signatures = await fetch()
                except (UnionmountError, OSError) as error:
                    raise self._refused(f"its signatures cannot be read: {_said(error)}") from error
            await self._require(requirement, signatures)

    async def _require(
        self, requirement: SignedBy | SigstoreSigned, signatures: Sequence[ImageSignature]
    ) -> None:
        """Raise NotTrusted unless one of the signatures fulfils the requirement."""
        reasons: list[str] = []
        for signature in signatures:
            try:
                claim = await self._verified(requirement, signature)
                if claim is None:
                    continue
                claim.check(self._name, self._manifest, requirement.identity)
            except (UnionmountError, OSError) as error:
                reasons.append(_said(error))
            else:
                return
        if not reasons:
            raise self._refused(requirement.why_unsigned)
        listed = "; ".join(dict.fromkeys(reasons[:_MAX_REASONS]))
        more = "; …" if len(reasons) > _MAX_REASONS else ""
        raise self._refused(listed + more)

    async def _verified(
        self, requirement: SignedBy | SigstoreSigned, signature: ImageSignature
    ) -> SignedClaim | None:
        """Return what a signature states, once it is verified; None for one of another kind."""
        if isinstance(requirement, SignedBy):
            if not isinstance(signature, SimpleSignature):
                return None
            keyrings = requirement.keys.read(self._environment)
            content = await verify_gpg(keyrings, signature.raw, self._environment)
            return SignedClaim.parse(content, GPG_TYPE)
        if not isinstance(signature, SigstoreAttachment) or signature.media_type != COSIGN_PAYLOAD:
            return None
        keys = read_keys(requirement.keys.read(self._environment), "key")
        log = None
        if requirement.rekor is not None:
            log = read_keys(requirement.rekor.read(self._environment), "key of Rekor")
            if not all(key.is_ecdsa for key in log):
                raise FormatError("a key of Rekor is not for ECDSA")
        verify_sigstore(signature, keys, log)
        return SignedClaim.parse(signature.payload, SIGSTORE_TYPE)

    def _refused(self, why: str) -> NotTrusted:
        return refused(self._what, self._rule, why)


def _said(error: UnionmountError | OSError) -> str:
    """Return the message of an error on one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{printable(str(error.filename))}: {error.strerror}"
    return printable(str(error))
