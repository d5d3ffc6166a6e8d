"""Media types and annotation keys of OCI image-spec 1.1 and of Docker's image manifests."""

from __future__ import annotations

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
"""The config of an artifact that needs none."""
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
CONFIGS = (OCI_CONFIG, DOCKER_CONFIG)

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that names an image in a layout: a tag or a full name."""
FULL_NAME = "io.containerd.image.name"
"""The annotation with the full name, as Docker and containerd write it."""
ATTESTATION = "vnd.docker.reference.type"
"""The annotation of a manifest that makes a statement about another one."""
ATTESTATION_OF = "vnd.docker.reference.digest"
"""The annotation with the digest of that other one."""

_ARTIFACTS = {
    "application/vnd.cncf.helm.": "a Helm chart",
    "application/vnd.dev.cosign.simplesigning.": "a cosign signature",
    "application/vnd.dev.cosign.artifact.sig.": "a cosign signature",
    "application/vnd.dev.sigstore.bundle": "a Sigstore bundle",
    "application/vnd.docker.attestation.": "an attestation",
    "application/vnd.dsse.envelope.": "an attestation",
    "application/vnd.in-toto": "an attestation",
}
_FOREIGN = ("nondistributable", "foreign")


def artifact_name(media_type: str) -> str:
    """Return the common name of an artifact with this type, or an empty string."""
    return next((name for start, name in _ARTIFACTS.items() if media_type.startswith(start)), "")


def is_text(media_type: str) -> bool:
    """Return whether the type says that the content is text, and so not a tar."""
    kind = media_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind.endswith(("+json", "/json", "+xml", "/xml"))


def is_encrypted(media_type: str) -> bool:
    """Return whether a layer of this type is encrypted."""
    return media_type.endswith("+encrypted")


def is_foreign(media_type: str) -> bool:
    """Return whether registries may lack a layer of this type because its publisher serves it."""
    return any(word in media_type for word in _FOREIGN)
