"""Manifests and indexes, parsed strictly from untrusted bytes.

Sources: OCI image-spec 1.1 (``manifest.md``, ``image-index.md``, ``descriptor.md``) and Docker's
"Image Manifest Version 2, Schema 2". A FormatError names the document and the field.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from unionmount.errors import DigestMismatch, NotAnImage, SizeMismatch
from unionmount.images.config import MAX_LAYERS, platform_of
from unionmount.images.json_fields import Fields, parse_object
from unionmount.images.media_types import (
    ATTESTATION,
    CONFIGS,
    INDEXES,
    MANIFESTS,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
    artifact_name,
    is_text,
)
from unionmount.images.platform import Platform
from unionmount.images.reference import Digest
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX_MANIFESTS = 4096


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to content: its media type, digest and size."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""  # of the manifest that it points to, if the descriptor names it

    @property
    def is_index(self) -> bool:
        """Whether it points to an index (manifest list)."""
        return self.media_type in INDEXES

    @property
    def is_manifest(self) -> bool:
        """Whether it points to an image manifest."""
        return self.media_type in MANIFESTS

    def verify(self, raw: bytes, what: str) -> bytes:
        """Return ``raw``; raise SizeMismatch or DigestMismatch if it is not this content."""
        if len(raw) != self.size:
            raise SizeMismatch(what, self.size, len(raw))
        actual = Digest.of(raw, self.digest.algorithm)
        if actual != self.digest:
            raise DigestMismatch(what, str(self.digest), str(actual))
        return raw

    @property
    def is_attestation(self) -> bool:
        """Whether it points to an attestation about an image instead of an image."""
        if ATTESTATION in self.annotations:
            return True
        return self.platform is not None and self.platform.os == "unknown"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of an image: descriptors of its config and its layers, lowest first."""

    digest: Digest
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    raw: bytes = field(repr=False)

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse the manifest of an image; raise NotAnImage for that of an artifact."""
        document = parse_object(raw, what)
        _refuse_if_ambiguous(document)
        _refuse_artifact(document, what)
        config = _descriptor(document.object("config"))
        layers = _layers(document)
        media_type = document.string("mediaType", OCI_MANIFEST)
        return cls(Digest.of(raw), media_type, config, layers, document.annotations(), raw)


@dataclass(frozen=True, slots=True)
class ImageIndex:
    """A list of manifests, usually of one image for several platforms."""

    digest: Digest
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str]

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse an OCI index or Docker manifest list."""
        document = parse_object(raw, what)
        _refuse_if_ambiguous(document)
        document.schema_version()
        manifests = document.objects("manifests", _MAX_MANIFESTS)
        return cls(
            Digest.of(raw),
            document.string("mediaType", OCI_INDEX),
            tuple(_descriptor(one) for one in manifests),
            document.annotations(),
        )


@dataclass(frozen=True, slots=True)
class Contents:
    """The descriptors in a manifest or index of any kind: all that a copy of it needs.

    ``subject`` is the manifest that this one is about, if it is a signature or the like.
    ``artifact_type`` is what the document says, or the type of its config.
    """

    media_type: str
    children: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse the manifest of an image or artifact, or an index."""
        document = parse_object(raw, what)
        _refuse_if_ambiguous(document)
        about = document.object("subject", optional=True)
        subject = _descriptor(about) if about.values else None
        kind, annotations = document.string("artifactType", ""), document.annotations()
        if "manifests" in document.values:
            index = ImageIndex.parse(raw, what)
            return cls(index.media_type, index.manifests, (), subject, kind, annotations)
        if _is_artifact_manifest(document):
            blobs = tuple(map(_descriptor, document.objects("blobs", MAX_LAYERS)))
            return cls(document.string("mediaType"), (), blobs, subject, kind, annotations)
        document.schema_version()
        media_type = document.string("mediaType", OCI_MANIFEST)
        config = _descriptor(document.object("config"))
        kind = kind or config.media_type
        return cls(media_type, (), (config, *_layers(document)), subject, kind, annotations)


def parse_manifest(raw: bytes, what: str) -> Manifest | ImageIndex:
    """Parse a manifest or an index, which differ in their fields, whatever their types say."""
    document = parse_object(raw, what)
    if "manifests" in document.values:
        return ImageIndex.parse(raw, what)
    return Manifest.parse(raw, what)


def _refuse_if_ambiguous(document: Fields) -> None:
    """Raise FormatError for a document that could be read as an index and as a manifest."""
    keys = document.values.keys()
    if "manifests" in keys and keys & {"layers", "config", "fsLayers"}:
        raise document.error("manifests", "stands in a manifest, which cannot be an index")
    media_type = document.string("mediaType", "")
    if media_type in INDEXES and "manifests" not in keys:
        raise document.error("manifests", "is missing in an index")
    if media_type in MANIFESTS and "manifests" in keys:
        raise document.error("mediaType", "says that this is a manifest, but it is an index")


def _refuse_artifact(document: Fields, what: str) -> None:
    """Raise NotAnImage, which names the kind of artifact, unless a manifest is that of an image.

    Signatures and attestations may have the config of an image, but their layers are texts.
    """
    kind = document.string("artifactType", "")
    if _is_artifact_manifest(document):
        kind = kind or document.string("mediaType", "")
    else:
        document.schema_version()
        config = document.object("config").string("mediaType")
        layers = [one.media_type for one in _layers(document)]
        if config in CONFIGS and not (layers and all(map(is_text, layers))):
            return
        own = "" if config == OCI_EMPTY or config in CONFIGS else config
        kind = kind or own or next(iter(layers), config)
    called = artifact_name(kind)
    known = f" ({called})" if called else ""
    raise NotAnImage(f"{what}: an artifact of type {printable(kind[:200])}{known}, not an image")


def _is_artifact_manifest(document: Fields) -> bool:
    """Return whether it is an artifact manifest, which drafts of OCI image-spec 1.1 had."""
    return "blobs" in document.values and not document.values.keys() & {"layers", "config"}


def _layers(document: Fields) -> tuple[Descriptor, ...]:
    """Return the layers of a manifest; the type of a layer may be missing."""
    rows = document.objects("layers", MAX_LAYERS)
    return tuple(_descriptor(row, untyped="") for row in rows)


def _descriptor(fields: Fields, untyped: str | None = None) -> Descriptor:
    platform = fields.object("platform", optional=True)
    return Descriptor(
        fields.string("mediaType", untyped),
        fields.digest("digest", fields.string("digest")),
        fields.size("size"),
        platform_of(platform) if platform.values else None,
        fields.annotations(),
        fields.string("artifactType", ""),
    )
