"""Image configs (OCI image-spec 1.1, ``config.md``), parsed strictly from untrusted bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from unionmount.images.json_fields import Fields, parse_object
from unionmount.images.platform import Platform
from unionmount.images.reference import Digest

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LAYERS = 4096
_MAX_HISTORY = 16384


@dataclass(frozen=True, slots=True)
class History:
    """One step of an image's build; a step that left no layer has ``empty_layer`` set."""

    created: str
    created_by: str
    author: str
    comment: str
    empty_layer: bool


@dataclass(frozen=True, slots=True)
class Config:
    """The config of an image: how to run it, its history, and its diff_ids, lowest first."""

    digest: Digest
    platform: Platform
    created: str
    author: str
    history: tuple[History, ...]
    diff_ids: tuple[Digest, ...]
    runtime: Mapping[str, Any]
    raw: bytes = field(repr=False)

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """Parse a config."""
        document = parse_object(raw, what)
        root = document.object("rootfs")
        if root.string("type", "layers") != "layers":
            raise root.error("type", "is not 'layers'")
        diff_ids = root.strings("diff_ids", MAX_LAYERS)
        runtime = document.object("config", optional=True)
        return cls(
            Digest.of(raw),
            platform_of(document),
            document.string("created", ""),
            document.string("author", ""),
            tuple(map(_history, document.objects("history", _MAX_HISTORY, optional=True))),
            tuple(root.digest(f"diff_ids[{i}]", text) for i, text in enumerate(diff_ids)),
            runtime.values,
            raw,
        )


def platform_of(fields: Fields) -> Platform:
    """Return the platform that a config or descriptor names."""
    return Platform(
        fields.string("os", "linux"),
        fields.string("architecture", ""),
        fields.string("variant", ""),
    ).normalised()


def _history(fields: Fields) -> History:
    return History(
        fields.string("created", ""),
        fields.string("created_by", ""),
        fields.string("author", ""),
        fields.string("comment", ""),
        fields.flag("empty_layer"),
    )
