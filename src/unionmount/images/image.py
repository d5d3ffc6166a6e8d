"""An image as its documents describe it, and the making of documents that are missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from unionmount.errors import FormatError
from unionmount.images.build import compact_json, manifest_document
from unionmount.images.config import Config
from unionmount.images.manifest import Descriptor, Manifest
from unionmount.images.media_types import OCI_LAYER
from unionmount.images.platform import Platform
from unionmount.images.reference import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRATCH = "scratch"
"""The name of the image without layers, which is the base of every other image."""


@dataclass(frozen=True, slots=True)
class ImageDocuments:
    """The manifest and the config of an image; they agree on the number of layers."""

    config: Config
    manifest: Manifest

    @classmethod
    def of(cls, manifest: Manifest, config: Config, what: str) -> Self:
        """Combine a manifest and a config; raise FormatError if they do not belong together."""
        if manifest.config.digest.algorithm == "sha256" and manifest.config.digest != config.digest:
            raise FormatError(
                f"{what}: the manifest names config {manifest.config.digest}, "
                f"but the config is {config.digest}"
            )
        if len(manifest.layers) != len(config.diff_ids):
            raise FormatError(
                f"{what}: {len(manifest.layers)} layers in the manifest, but "
                f"{len(config.diff_ids)} diff_ids in config {config.digest}"
            )
        return cls(config, manifest)

    @property
    def id(self) -> Digest:
        """The digest of the config, which tools show as the image ID."""
        return self.config.digest

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """Descriptors of the layers as they are transported, lowest first."""
        return self.manifest.layers

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        """Digests of the uncompressed layers, lowest first."""
        return self.config.diff_ids

    @property
    def chain_id(self) -> Digest:
        """The ChainID of the layers (OCI image-spec); without layers, the digest of no bytes."""
        return self.chain_of(self.diff_ids)

    @staticmethod
    def chain_of(diff_ids: Sequence[Digest]) -> Digest:
        """Return the ChainID of layers, lowest first."""
        chain = str(diff_ids[0]) if diff_ids else ""
        for diff_id in diff_ids[1:]:
            chain = str(Digest.of(f"{chain} {diff_id}".encode("ascii")))
        return Digest.parse(chain) if chain else Digest.of(b"")

    @classmethod
    def from_config(cls, config: Config, sizes: Sequence[int], what: str) -> Self:
        """Make the manifest of an image that lacks one, such as that of a docker-archive.

        Its layers are the uncompressed tars, of ``sizes``; the same image gives the same bytes.
        """
        if len(sizes) != len(config.diff_ids):
            raise FormatError(
                f"{what}: {len(sizes)} layers, but {len(config.diff_ids)} diff_ids in config "
                f"{config.digest}"
            )
        layers = [
            Descriptor(OCI_LAYER, diff_id, size)
            for diff_id, size in zip(config.diff_ids, sizes, strict=True)
        ]
        raw = manifest_document(config.digest, len(config.raw), layers)
        return cls(config, Manifest.parse(raw, what))


def scratch() -> ImageDocuments:
    """Return the empty image for this machine; it always has the same bytes and the same ID."""
    platform = Platform.host()
    document = {
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": {},
        "rootfs": {"diff_ids": [], "type": "layers"},
    }
    raw = compact_json(dict(sorted(document.items())))
    return ImageDocuments.from_config(Config.parse(raw, SCRATCH), [], SCRATCH)
