"""The signatures of an image of a registry: files beside the registry, and attachments in it.

They are untrusted bytes from an untrusted place, whose number and size are bounded here. What they
are worth is decided by ``verify``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit

from unionmount.errors import FormatError, LimitExceeded, NotFoundError, UsageError
from unionmount.images.json_fields import MAX_DOCUMENT, parse_object
from unionmount.images.manifest import Contents
from unionmount.images.media_types import OCI_MANIFEST
from unionmount.images.reference import Digest
from unionmount.registry.redaction import shown_url
from unionmount.system.files import read_document
from unionmount.system.text import printable
from unionmount.trust.strict import from_base64

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from unionmount.images.reference import Reference
    from unionmount.registry import RegistryClient
    from unionmount.trust.registries_d import RegistriesD

COSIGN_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
"""The media type of a signature among the attachments of an image."""

_MAX_SIGNATURES = 128  # of one image, in one place
_MAX_TOTAL = 16 * 1024 * 1024  # bytes of all of these; a signature has a few hundred
# The first bytes of an OpenPGP message: compressed, or begun by a (one-pass) signature.
_OPENPGP = frozenset(b"\xa0\xa1\xa2\xa3\xc8\x90\x91\x92\x3d\xc4\x88\x89\x8a\x8b\xc2")
_FORMAT = re.compile(rb"\x00([\x20-\x7e]*)\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SimpleSignature:
    """A signed message of GPG."""

    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SigstoreAttachment:
    """A signature of sigstore, or another attachment: its content and annotations."""

    media_type: str
    payload: bytes = field(repr=False)
    annotations: Mapping[str, str]


ImageSignature = SimpleSignature | SigstoreAttachment


def parse_signature(raw: bytes, what: str) -> ImageSignature:
    """Parse a file of a signature; raise FormatError if its format is not known."""
    if not raw:
        raise FormatError(f"{what}: an empty signature")
    if raw[0] in _OPENPGP:
        return SimpleSignature(raw)
    match = _FORMAT.match(raw)
    if match is None:
        raise FormatError(f"{what}: not a signature")
    rest = raw[match.end() :]
    if match[1] == b"simple-signing":
        return SimpleSignature(rest)
    if match[1] != b"sigstore-json":
        raise FormatError(f"{what}: a signature of the unknown format {printable(match[1][:200])}")
    document = parse_object(rest, what)
    return SigstoreAttachment(
        document.string("mimeType"),
        from_base64(document.string("payload")),
        document.annotations(),
    )


async def fetch_signatures(
    client: RegistryClient,
    ref: Reference,
    manifest: Digest,
    places: RegistriesD,
    environment: Mapping[str, str],
) -> list[ImageSignature]:
    """Fetch all signatures of one manifest of the image ``ref``."""
    there = client.place_of(ref)
    beside = _Lookaside(client, places.lookaside(there), there, manifest, environment)
    found = [signature async for signature in beside.signatures()]
    if places.attachments(there):
        found += await _attachments(client, ref, manifest)
    return found


class _Lookaside:
    """The numbered files with the signatures of one manifest, below a URL."""

    def __init__(
        self,
        client: RegistryClient,
        base: str,
        there: Reference,
        manifest: Digest,
        environment: Mapping[str, str],
    ) -> None:
        self._client = client
        self._base = _parsed(base)
        self._below = f"{there.repository}@{manifest.algorithm}={manifest.hex}"
        self._environment = environment

    async def signatures(self) -> AsyncIterator[ImageSignature]:
        total = 0
        for number in range(1, _MAX_SIGNATURES + 2):
            url = self._base._replace(
                path=f"{self._base.path}/{self._below}/signature-{number}"
            ).geturl()
            try:
                raw = await self._read(url)
            except (FileNotFoundError, NotFoundError):
                return
            total += len(raw)
            _check_limits(number, total, shown_url(url))
            yield parse_signature(raw, shown_url(url))

    async def _read(self, url: str) -> bytes:
        if self._base.scheme != "file":
            return await self._client.small_file(url, MAX_DOCUMENT)
        return read_document(Path(unquote(urlsplit(url).path)), MAX_DOCUMENT, self._environment)


def _check_limits(count: int, total: int, what: str) -> None:
    """Raise LimitExceeded for more signatures than anybody needs, or larger ones."""
    if count > _MAX_SIGNATURES:
        raise LimitExceeded(f"{what}: more than {_MAX_SIGNATURES} signatures")
    if total > _MAX_TOTAL:
        raise LimitExceeded(f"{what}: signatures of more than {_MAX_TOTAL} bytes")


def _parsed(base: str) -> SplitResult:
    try:
        parsed = urlsplit(base)
    except ValueError:
        raise UsageError(f"lookaside '{printable(base[:200])}' is not a URL") from None
    if parsed.scheme not in ("file", "http", "https"):
        raise UsageError(f"lookaside '{printable(base[:200])}' is not a URL of file, http or https")
    return parsed


async def _attachments(
    client: RegistryClient, ref: Reference, manifest: Digest
) -> list[ImageSignature]:
    """Fetch the signatures that cosign and others put beside an image, under a tag of their own."""
    tag = f"{manifest.algorithm}-{manifest.hex}.sig"
    where = f"{ref.name}:{tag}"
    try:
        found = await client.manifest_beside(ref, tag)
    except NotFoundError:
        return []
    if found.media_type != OCI_MANIFEST:
        raise FormatError(f"{where}: not a list of signatures, but {printable(found.media_type)}")
    layers = Contents.parse(found.raw, where).blobs[1:]
    signatures = [layer for layer in layers if layer.media_type == COSIGN_PAYLOAD]
    _check_limits(len(signatures), sum(layer.size for layer in signatures), where)
    return [
        SigstoreAttachment(layer.media_type, await client.document(ref, layer), layer.annotations)
        for layer in signatures
    ]
