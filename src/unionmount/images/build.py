"""The writing of image documents: manifests, indexes and descriptors as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from unionmount.errors import UsageError
from unionmount.formats.compression import Compression
from unionmount.images.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from unionmount.images.manifest import Descriptor
    from unionmount.images.platform import Platform
    from unionmount.images.reference import Digest

LAYOUT_MARKER = {"imageLayoutVersion": "1.0.0"}
"""The content of the file ``oci-layout``."""

_SUFFIXES = {Compression.PLAIN: "", Compression.GZIP: "+gzip", Compression.ZSTD: "+zstd"}


def layer_type(compression: Compression) -> str:
    """Return the media type of an OCI layer."""
    return OCI_LAYER + _SUFFIXES[compression]


def compression_of(media_type: str) -> Compression | None:
    """Return how layers of a media type are compressed; None if the type is empty."""
    if not media_type:
        return None
    kinds = (Compression.GZIP, Compression.ZSTD)  # Docker writes ".gzip", OCI "+gzip"
    return next((kind for kind in kinds if media_type.endswith(kind.value)), Compression.PLAIN)


def compact_json(value: Any) -> bytes:
    """Write JSON without white space."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def timestamp(epoch: int | None) -> str:
    """Return a time of an image, now or in seconds since 1970; raise UsageError if it is absurd."""
    if epoch is None:
        return datetime.now(UTC).isoformat().replace("+00:00", "Z")
    try:
        return datetime.fromtimestamp(epoch, UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{epoch} is not a valid time") from None


def manifest_document(
    config: Digest,
    config_size: int,
    layers: Sequence[Descriptor],
    annotations: Mapping[str, str] | None = None,
) -> bytes:
    """Write an OCI manifest; the same arguments give the same bytes."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(config), "size": config_size},
        "layers": [descriptor_row(one) for one in layers],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return compact_json(document)


def index_document(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Write an OCI index of descriptors that ``descriptor_row`` made."""
    return compact_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(rows)})


def descriptor_row(
    descriptor: Descriptor, annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a descriptor as a JSON object, with these annotations instead of its own."""
    row: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.platform is not None:
        row["platform"] = _platform_row(descriptor.platform)
    if descriptor.artifact_type:
        row["artifactType"] = descriptor.artifact_type
    return row | ({"annotations": dict(annotations)} if annotations else {})


def _platform_row(platform: Platform) -> dict[str, str]:
    row = {"architecture": platform.architecture, "os": platform.os}
    return row | ({"variant": platform.variant} if platform.variant else {})
