"""Referrers: signatures, SBOMs and attestations, and the names under which a manifest has them.

Sources: OCI distribution-spec 1.1 ("Listing Referrers", "Referrers Tag Schema"), and the tags of
cosign, which it used before there was such a specification.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from unionmount.images.build import descriptor_row, index_document
from unionmount.images.manifest import Contents, Descriptor, ImageIndex
from unionmount.images.media_types import CONFIGS, OCI_EMPTY
from unionmount.images.reference import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_REFERRERS = 4096
"""The number of referrers that one manifest may have."""

COSIGN_SUFFIXES = (".sig", ".att", ".sbom")
_ABOUT = re.compile(r"(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{64,128})(\.sig|\.att|\.sbom)?")


@dataclass(frozen=True, slots=True)
class Referrer:
    """A manifest that is about another one, its ``subject``; ``tag`` is cosign's, if it has one."""

    subject: Digest
    descriptor: Descriptor
    tag: str = ""


def fallback_tag(digest: Digest) -> str:
    """Return the tag of the list of referrers where a registry has no API for them."""
    return f"{digest.algorithm[:32]}-{digest.hex[:64]}"


def cosign_tags(digest: Digest) -> list[str]:
    """Return the tags that cosign gives to signatures, attestations and SBOMs of a manifest."""
    return [f"{digest.algorithm}-{digest.hex}{suffix}" for suffix in COSIGN_SUFFIXES]


def is_about_digest(tag: str) -> bool:
    """Return whether a tag is one of those above, and so names no image."""
    return _ABOUT.fullmatch(tag) is not None


def kind_of(contents: Contents) -> str:
    """Return the type of an artifact: what it says, or that of its config or its first layer."""
    own = contents.artifact_type
    if own and own not in CONFIGS and own != OCI_EMPTY:
        return own
    layers = contents.blobs[1:]
    return layers[0].media_type if layers and layers[0].media_type else own


def described(descriptor: Descriptor, contents: Contents) -> Descriptor:
    """Return the descriptor of a referrer with what lists of referrers say of it."""
    return replace(
        descriptor,
        media_type=contents.media_type,
        annotations=contents.annotations,
        artifact_type=contents.artifact_type,
    )


def merged_list(raw: bytes | None, added: Sequence[Descriptor], what: str) -> bytes | None:
    """Return the list under a fallback tag with more referrers; None if it has all of them.

    ``raw`` is the list so far, which may also be missing.
    """
    listed = ImageIndex.parse(raw, what).manifests if raw is not None else ()
    rows = {one.digest: one for one in listed}
    if all(one.digest in rows for one in added):
        return None
    rows |= {one.digest: one for one in added if one.digest not in rows}
    return index_document([descriptor_row(one, one.annotations) for one in rows.values()])
