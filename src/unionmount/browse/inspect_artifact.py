"""The details of artifacts, and of the referrers of an image: signatures, SBOMs, attestations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unionmount.gotemplate import Map, Slice, Struct
from unionmount.images.manifest import Contents
from unionmount.images.media_types import MANIFESTS
from unionmount.images.referrers import kind_of

if TYPE_CHECKING:
    from unionmount.images.manifest import Descriptor
    from unionmount.transfer.artifact import ArtifactManifest
    from unionmount.transfer.referrers import AttachedDocument


def inspect_artifact(found: ArtifactManifest) -> Struct:
    """Return what the manifest of an artifact says, with the descriptors of its contents."""
    contents = found.contents
    config, layers = None, contents.blobs
    if contents.media_type in MANIFESTS:
        config, layers = contents.blobs[0], contents.blobs[1:]
    names, digests = _names(found)
    fields: dict[str, Any] = {
        "Digest": str(found.digest),
        "RepoTags": Slice(names),
        "RepoDigests": Slice(digests),
        "MediaType": contents.media_type,
        "ArtifactType": kind_of(contents),
        "Size": len(found.raw) + sum(one.size for one in contents.blobs),
        "Subject": str(contents.subject.digest) if contents.subject is not None else "",
        "Config": _described(config) if config is not None else None,
        "Layers": [_described(one) for one in layers],
        "Manifests": [_described(one) for one in contents.children],
        "Annotations": _annotations(contents.annotations),
    }
    return Struct("artifact.InspectResponse", fields, {"ID": "Digest"})


def _names(found: ArtifactManifest) -> tuple[list[str], list[str]]:
    """Return its name and its name with the digest; an artifact in a file has none here."""
    if found.ref is None:
        return [], []
    by_digest = replace(found.ref, tag=None, digest=found.digest)
    return [found.ref.familiar] if found.ref.digest is None else [], [by_digest.familiar]


def inspect_referrer(attached: AttachedDocument) -> Struct:
    """Return what is known of a referrer; the size is that of its manifest."""
    referrer = attached.referrer
    contents = Contents.parse(attached.raw, f"manifest {referrer.descriptor.digest}")
    fields: dict[str, Any] = {
        "Subject": str(referrer.subject),
        "Digest": str(referrer.descriptor.digest),
        "MediaType": referrer.descriptor.media_type,
        "ArtifactType": kind_of(contents),
        "Size": referrer.descriptor.size,
        "Tag": referrer.tag,
        "Annotations": _annotations(referrer.descriptor.annotations),
    }
    return Struct("artifact.Referrer", fields, {"ID": "Digest"})


def _described(descriptor: Descriptor) -> Struct:
    fields = {
        "MediaType": descriptor.media_type,
        "Digest": str(descriptor.digest),
        "Size": descriptor.size,
        "Annotations": _annotations(descriptor.annotations),
    }
    return Struct("artifact.Descriptor", fields)


def _annotations(values: Mapping[str, str]) -> Map:
    return Map(dict(values))
