"""What an image says of itself: manifests, indexes and configs, parsed strictly from bytes.

Sources: OCI image-spec 1.1 (``manifest.md``, ``image-index.md``, ``config.md``) and Docker's
"Image Manifest Version 2, Schema 2". Everything here is hostile until parsed: a FormatError names
the document and the field. Nothing here does I/O; ``select`` asks its caller for the blobs that it
needs.
"""

from __future__ import annotations

import json
import platform as host_platform
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from unionmount.errors import (
    FormatError,
    InvalidReference,
    LimitExceeded,
    NotAnImage,
    NotFoundError,
    UsageError,
)
from unionmount.images.reference import Digest
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "MAX_DOCUMENT",
    "MAX_LAYERS",
    "SCRATCH",
    "Config",
    "Contents",
    "Descriptor",
    "Digest",
    "History",
    "Image",
    "Index",
    "Manifest",
    "Platform",
    "Selection",
    "fulfil",
    "load_json",
    "parse_manifest",
    "scratch",
    "select",
]

MAX_DOCUMENT = 4 * 1024 * 1024
"""Bytes of a manifest, index or config; the limit that the specification recommends."""
MAX_LAYERS = 4096
SCRATCH = "scratch"
"""The name of the image without layers, which every image begins with."""
_MAX_HISTORY = 16384
_MAX_MANIFESTS = 4096
_MAX_FETCHES = 256  # documents that one selection may ask for
_MAX_DEPTH = 8  # of nested indexes
_LISTED = 32  # platforms that a message names
_MAX_SIZE = 2**63 - 1

MEDIA_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MEDIA_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
MEDIA_OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
MEDIA_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
MEDIA_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MEDIA_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

_MANIFESTS = frozenset({MEDIA_OCI_MANIFEST, MEDIA_DOCKER_MANIFEST})
_INDEXES = frozenset({MEDIA_OCI_INDEX, MEDIA_DOCKER_LIST})
_CONFIGS = frozenset({MEDIA_OCI_CONFIG, MEDIA_DOCKER_CONFIG})

_EMPTY = "application/vnd.oci.empty.v1+json"  # the config of an artifact that needs none

_ATTESTATION = "vnd.docker.reference.type"

_ARTIFACTS = {
    "application/vnd.cncf.helm.": "a Helm chart",
    "application/vnd.dev.cosign.simplesigning.": "a cosign signature",
    "application/vnd.dev.cosign.artifact.sig.": "a cosign signature",
    "application/vnd.dev.sigstore.bundle": "a Sigstore bundle",
    "application/vnd.docker.attestation.": "an attestation",
    "application/vnd.dsse.envelope.": "an attestation",
    "application/vnd.in-toto": "an attestation",
}
"""What people call artifacts, by how their types begin."""

_OS_NAMES = {"macos": "darwin"}
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armel": ("arm", "v6"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "riscv64": ("riscv64", ""),
}
_COMPATIBLE = {"amd64": "386"}  # what every such machine runs, too
_DEFAULT_VARIANTS = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, spelled as images spell it (``linux/arm/v7``)."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """A platform from ``OS/ARCH[/VARIANT]``; UsageError where it is none."""
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(part.isprintable() and part for part in parts):
            raise UsageError(f"not a platform (OS/ARCH[/VARIANT]): '{printable(text)}'")
        return cls(*parts).normalised()

    @classmethod
    def host(cls) -> Self:
        """The platform of this machine."""
        return cls("linux", host_platform.machine()).normalised()

    def normalised(self) -> Self:
        """The same platform in the spelling of Go, variants that go without saying left out."""
        system = _OS_NAMES.get(self.os.lower(), self.os.lower())
        machine = self.architecture.lower()
        architecture, implied = _ARCHITECTURES.get(machine, (machine, ""))
        variant = self.variant.lower() or implied
        if variant.isdigit():
            variant = f"v{variant}"
        if architecture == "arm":
            variant = variant or "v7"
        elif variant == _DEFAULT_VARIANTS.get(architecture):
            variant = ""
        return replace(self, os=system, architecture=architecture, variant=variant)

    def distance(self, offered: Platform) -> int | None:
        """How far ``offered`` is from this: 0 is exact, None is unusable.

        A lower variant of the same architecture runs too, the nearest one best (``arm/v7`` takes
        v6 and v5); a higher one does not.
        """
        if (self.os, self.architecture) != (offered.os, offered.architecture):
            return None
        if self.variant == offered.variant:
            return 0
        mine, theirs = self._level(), offered._level()
        if mine is None or theirs is None or theirs > mine:
            return None
        return mine - theirs

    def is_like(self, other: Platform) -> bool:
        """Whether one of both runs what is for the other."""
        return self.distance(other) is not None or other.distance(self) is not None

    def is_foreign(self, offered: Platform) -> bool:
        """Whether a machine of this platform is not known to run what is for ``offered``.

        A variant that no machine tells of itself (``amd64/v3``) is not foreign, nor is what says
        nothing of where it runs.
        """
        if not offered.os or not offered.architecture:
            return False
        theirs = _COMPATIBLE.get(self.architecture, self.architecture), self.architecture
        if self.os != offered.os or offered.architecture not in theirs:
            return True
        return self.architecture == "arm" and self.distance(offered) is None

    def _level(self) -> int | None:
        variant = self.variant or _DEFAULT_VARIANTS.get(self.architecture, "")
        return int(variant[1:]) if variant[:1] == "v" and variant[1:].isdecimal() else None

    def __str__(self) -> str:
        parts = [self.os, self.architecture, *([self.variant] if self.variant else [])]
        return printable("/".join(parts))


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to bytes elsewhere: what they are, their digest and their size."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_index(self) -> bool:
        """Whether it points to an index (manifest list)."""
        return self.media_type in _INDEXES

    @property
    def is_manifest(self) -> bool:
        """Whether it points to an image manifest."""
        return self.media_type in _MANIFESTS

    @property
    def is_attestation(self) -> bool:
        """Whether it points to a statement about an image instead of an image."""
        if _ATTESTATION in self.annotations:
            return True
        return self.platform is not None and self.platform.os == "unknown"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an image consists of: a config and layers, lowest first."""

    digest: Digest
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    raw: bytes = field(repr=False)

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """A manifest from its bytes."""
        document = _document(raw, what)
        _refuse_if_ambiguous(document)
        _refuse_artifact(document, what)
        config = _descriptor(document.object("config"))
        layers = _layers(document)
        media_type = document.string("mediaType", MEDIA_OCI_MANIFEST)
        return cls(Digest.of(raw), media_type, config, layers, document.annotations(), raw)


@dataclass(frozen=True, slots=True)
class Index:
    """Several manifests, usually of one image for several platforms."""

    digest: Digest
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str]

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """An OCI index or Docker manifest list from its bytes."""
        document = _document(raw, what)
        _refuse_if_ambiguous(document)
        document.schema_version()
        manifests = document.objects("manifests", _MAX_MANIFESTS)
        return cls(
            Digest.of(raw),
            document.string("mediaType", MEDIA_OCI_INDEX),
            tuple(_descriptor(one) for one in manifests),
            document.annotations(),
        )


@dataclass(frozen=True, slots=True)
class Contents:
    """What a manifest or index leads to, whatever it is of: all that a copy of it needs."""

    media_type: str
    children: tuple[Descriptor, ...]
    blobs: tuple[Descriptor, ...]

    @classmethod
    def parse(cls, raw: bytes, what: str) -> Self:
        """The contents of an image, of an index, or of an artifact."""
        document = _document(raw, what)
        _refuse_if_ambiguous(document)
        if "manifests" in document.values:
            index = Index.parse(raw, what)
            return cls(index.media_type, index.manifests, ())
        if _is_artifact_manifest(document):
            blobs = tuple(map(_descriptor, document.objects("blobs", MAX_LAYERS)))
            return cls(document.string("mediaType"), (), blobs)
        document.schema_version()
        media_type = document.string("mediaType", MEDIA_OCI_MANIFEST)
        return cls(media_type, (), (_descriptor(document.object("config")), *_layers(document)))


@dataclass(frozen=True, slots=True)
class History:
    """One step of an image's build; a step without a layer is ``empty_layer``."""

    created: str
    created_by: str
    author: str
    comment: str
    empty_layer: bool


@dataclass(frozen=True, slots=True)
class Config:
    """How to run an image, how it was made, and the diff_ids of its layers, lowest first."""

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
        """A config from its bytes."""
        document = _document(raw, what)
        root = document.object("rootfs")
        if root.string("type", "layers") != "layers":
            raise root.error("type", "not 'layers'")
        diff_ids = root.strings("diff_ids", MAX_LAYERS)
        runtime = document.object("config", optional=True)
        return cls(
            Digest.of(raw),
            _platform(document),
            document.string("created", ""),
            document.string("author", ""),
            tuple(map(_history, document.objects("history", _MAX_HISTORY, optional=True))),
            tuple(root.digest(f"diff_ids[{i}]", text) for i, text in enumerate(diff_ids)),
            runtime.values,
            raw,
        )


@dataclass(frozen=True, slots=True)
class Image:
    """A config and the manifest that it belongs to; they agree on the number of layers."""

    config: Config
    manifest: Manifest

    @classmethod
    def of(cls, manifest: Manifest, config: Config, what: str) -> Self:
        """An image of both; FormatError where they do not fit together."""
        if manifest.config.digest.algorithm == "sha256" and manifest.config.digest != config.digest:
            raise FormatError(
                f"{what}: the manifest names config {manifest.config.digest}, "
                f"this is {config.digest}"
            )
        if len(manifest.layers) != len(config.diff_ids):
            raise FormatError(
                f"{what}: {len(manifest.layers)} layers in the manifest, but "
                f"{len(config.diff_ids)} diff_ids in config {config.digest}"
            )
        return cls(config, manifest)

    @property
    def id(self) -> Digest:
        """The digest of the config: what tools show as the image ID."""
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
        """What the layers make together (OCI image-spec, "Layer ChainID"); of none, of no bytes."""
        chain = str(self.diff_ids[0]) if self.diff_ids else ""
        for diff_id in self.diff_ids[1:]:
            chain = str(Digest.of(f"{chain} {diff_id}".encode("ascii")))
        return Digest.parse(chain) if chain else Digest.of(b"")

    @classmethod
    def from_config(cls, config: Config, sizes: Sequence[int], what: str) -> Self:
        """An image whose manifest is lost (a docker-archive has none): one is made.

        Its layers are the uncompressed tars, of ``sizes``; the same image gives the same bytes.
        """
        if len(sizes) != len(config.diff_ids):
            raise FormatError(
                f"{what}: {len(sizes)} layers, but {len(config.diff_ids)} diff_ids in config "
                f"{config.digest}"
            )
        layers = [
            {"mediaType": MEDIA_OCI_LAYER, "digest": str(diff_id), "size": size}
            for diff_id, size in zip(config.diff_ids, sizes, strict=True)
        ]
        document = {
            "schemaVersion": 2,
            "mediaType": MEDIA_OCI_MANIFEST,
            "config": {
                "mediaType": MEDIA_OCI_CONFIG,
                "digest": str(config.digest),
                "size": len(config.raw),
            },
            "layers": layers,
        }
        raw = json.dumps(document, separators=(",", ":")).encode("ascii")
        return cls(config, Manifest.parse(raw, what))


def scratch() -> Image:
    """The empty image, for this machine: always the same bytes, and so the same ID."""
    platform = Platform.host()
    document = {
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    raw = json.dumps(document, separators=(",", ":"), sort_keys=True).encode("ascii")
    return Image.from_config(Config.parse(raw, SCRATCH), [], SCRATCH)


def parse_manifest(raw: bytes, what: str) -> Manifest | Index:
    """A manifest or an index, told apart by what it holds, not by what it claims."""
    document = _document(raw, what)
    if "manifests" in document.values:
        return Index.parse(raw, what)
    return Manifest.parse(raw, what)


@dataclass(frozen=True, slots=True)
class Selection:
    """The manifest that ``select`` came to, and its config."""

    descriptor: Descriptor
    manifest: Manifest
    config: Config


def select(
    roots: Sequence[Descriptor],
    platform: Platform | None,
    what: str,
    available: Callable[[Descriptor], bool],
) -> Generator[Descriptor, bytes, Selection]:
    """Find the image for ``platform`` among ``roots``, manifests or indexes of any depth.

    Yields descriptors of documents and wants their verified bytes sent. Attestations, artifacts and
    what is not ``available`` are passed over. Of several images that fit, the nearest variant is
    taken, then the first. Without a platform a lone image is taken as it is, else the host decides.
    """
    found = yield from _candidates(roots, what, available)
    choice = _Choice(platform or (Platform.host() if len(found) > 1 else None))
    for candidate in found:
        if choice.is_wanted(candidate.platform):
            try:
                choice.take(candidate, (yield from _load(candidate, what)))
            except NotAnImage as error:
                choice.artifact = choice.artifact or error
        else:
            choice.others.append((candidate.platform, candidate, None))
        if choice.is_exact:
            break
    if choice.best is not None:
        return choice.best
    if len(choice.others) == 1 and platform is None:
        _, candidate, selection = choice.others[0]
        return selection or (yield from _load(candidate, what))
    raise choice.failure(what)


class _Choice:
    """The image that fits best so far, and what else was found."""

    def __init__(self, wanted: Platform | None) -> None:
        self.best: Selection | None = None
        self.others: list[tuple[Platform | None, Descriptor, Selection | None]] = []
        self.artifact: NotAnImage | None = None  # the first; it holds the document it is about
        self._wanted = wanted
        self._distance: int | None = None

    @property
    def is_exact(self) -> bool:
        return self._distance == 0

    def is_wanted(self, offered: Platform | None) -> bool:
        """Whether it has to be looked at: who does not say what it is for may be for anything."""
        return _distance(self._wanted, offered) is not None

    def take(self, candidate: Descriptor, selection: Selection) -> None:
        platform = candidate.platform or selection.config.platform
        distance = _distance(self._wanted, platform)
        if distance is None:
            # Only a lone one may be taken after all, and documents of many would fill the memory.
            self.others.append((platform, candidate, None if self.others else selection))
        elif self._distance is None or distance < self._distance:
            self._distance, self.best = distance, selection

    def failure(self, what: str) -> Exception:
        """Why there is no image: what there is instead."""
        if self.artifact is not None and not self.others:
            return self.artifact
        platforms = dict.fromkeys(str(one) for one, _, _ in self.others if one is not None)
        offered = ", ".join(list(platforms)[:_LISTED])
        more = ", …" if len(platforms) > _LISTED else ""
        there = f"it has {offered}{more}" if offered else "it has none"
        wanted = self._wanted or Platform.host()
        return NotFoundError(f"{what}: no image for platform {wanted} ({there})")


def fulfil(
    selection: Generator[Descriptor, bytes, Selection], fetch: Callable[[Descriptor], bytes]
) -> Selection:
    """Drive ``select`` with a function that has every document at hand."""
    try:
        wanted = next(selection)
        while True:
            wanted = selection.send(fetch(wanted))
    except StopIteration as stop:
        found: Selection = stop.value
        return found


def _candidates(
    roots: Sequence[Descriptor], what: str, available: Callable[[Descriptor], bool]
) -> Generator[Descriptor, bytes, list[Descriptor]]:
    """All manifests at or below ``roots``, in order; indexes are opened once each."""
    found: list[Descriptor] = []
    seen: set[Digest] = set()
    pending = [(root, 0) for root in reversed(roots)]
    while pending:
        descriptor, depth = pending.pop()
        if descriptor.is_attestation or descriptor.digest in seen or not available(descriptor):
            continue
        seen.add(descriptor.digest)
        if descriptor.is_manifest:
            found.append(descriptor)
        if not descriptor.is_index:
            continue
        if depth >= _MAX_DEPTH or len(seen) > _MAX_FETCHES + len(found):
            raise LimitExceeded(f"{what}: indexes are nested too deeply or are too many")
        index = Index.parse((yield descriptor), f"{what}: index {descriptor.digest}")
        pending.extend((one, depth + 1) for one in reversed(index.manifests))
    return found


def _load(descriptor: Descriptor, what: str) -> Generator[Descriptor, bytes, Selection]:
    raw = yield descriptor
    manifest = Manifest.parse(raw, f"{what}: manifest {descriptor.digest}")
    raw = yield manifest.config
    config = Config.parse(raw, f"{what}: config {manifest.config.digest}")
    return Selection(descriptor, manifest, config)


def _distance(wanted: Platform | None, offered: Platform | None) -> int | None:
    if wanted is None or offered is None:  # no wish, or not known before the config is read
        return 0
    return wanted.distance(offered)


class _Fields:
    """A JSON object whose fields are taken out with their types checked."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self.values = values
        self._where = where

    def error(self, name: str, problem: str) -> FormatError:
        return FormatError(f"{self._where}: field '{name}': {problem}")

    def _typed(self, name: str, kind: type, called: str) -> Any:
        value = self.values.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
            raise self.error(name, f"missing or not {called}")
        return value

    def string(self, name: str, default: str | None = None) -> str:
        if default is not None and self.values.get(name) is None:
            return default
        return str(self._typed(name, str, "a string"))

    def size(self, name: str) -> int:
        value = int(self._typed(name, int, "a number"))
        if not 0 <= value <= _MAX_SIZE:
            raise self.error(name, "out of range")
        return value

    def flag(self, name: str) -> bool:
        return self.values.get(name) is not None and bool(self._typed(name, bool, "true or false"))

    def digest(self, name: str, text: str) -> Digest:
        try:
            return Digest.parse(text)
        except InvalidReference as error:
            raise self.error(name, str(error)) from None

    def schema_version(self) -> None:
        version = self._typed("schemaVersion", int, "a number")
        if version != 2:
            old = " (Docker schema 1 is not supported)" if version == 1 else ""
            raise self.error("schemaVersion", f"not 2{old}")

    def object(self, name: str, *, optional: bool = False) -> _Fields:
        if optional and self.values.get(name) is None:
            return _Fields({}, f"{self._where}: {name}")
        return _Fields(self._typed(name, dict, "an object"), f"{self._where}: {name}")

    def _list(self, name: str, kind: type, limit: int) -> list[Any]:
        values: list[Any] = self._typed(name, list, "a list")
        if len(values) > limit:
            raise LimitExceeded(
                f"{self._where}: field '{name}': {len(values)} elements, more than {limit}"
            )
        if not all(isinstance(value, kind) for value in values):
            raise self.error(name, "has an element of another type")
        return values

    def objects(self, name: str, limit: int, *, optional: bool = False) -> list[_Fields]:
        if optional and self.values.get(name) is None:
            return []
        values = self._list(name, dict, limit)
        return [_Fields(value, f"{self._where}: {name}[{i}]") for i, value in enumerate(values)]

    def strings(self, name: str, limit: int) -> list[str]:
        if self.values.get(name) is None:  # Go writes null for an empty list
            return []
        return self._list(name, str, limit)

    def annotations(self) -> Mapping[str, str]:
        values = self.object("annotations", optional=True).values
        if not all(isinstance(value, str) for value in values.values()):
            raise self.error("annotations", "has a value that is not a string")
        return values


def load_json(raw: bytes, what: str) -> Any:
    """JSON from outside; refuses what is too large, damaged, nested too deeply or ambiguous."""
    if len(raw) > MAX_DOCUMENT:
        raise LimitExceeded(f"{what}: {len(raw)} bytes, more than {MAX_DOCUMENT}")
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: damaged JSON: {printable(str(error))[:200]}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):  # decoders disagree on which one counts
        raise ValueError("a key stands twice in one object")
    return values


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _document(raw: bytes, what: str) -> _Fields:
    value = load_json(raw, what)
    if not isinstance(value, dict):
        raise FormatError(f"{what}: not a JSON object")
    return _Fields(value, what)


def _refuse_if_ambiguous(document: _Fields) -> None:
    """Refuse what one reader takes for an index and another one for a manifest."""
    keys = document.values.keys()
    if "manifests" in keys and keys & {"layers", "config", "fsLayers"}:
        raise document.error("manifests", "both an index and a manifest")
    media_type = document.string("mediaType", "")
    if media_type in _INDEXES and "manifests" not in keys:
        raise document.error("manifests", "missing in an index")
    if media_type in _MANIFESTS and "manifests" in keys:
        raise document.error("mediaType", "says manifest, but this is an index")


def _refuse_artifact(document: _Fields, what: str) -> None:
    """NotAnImage where a manifest is of something else, named as what that is.

    Signatures and attestations also come with the config of an image; their layers are texts.
    """
    kind = document.string("artifactType", "")
    if _is_artifact_manifest(document):
        kind = kind or document.string("mediaType", "")
    else:
        document.schema_version()
        config = document.object("config").string("mediaType")
        layers = [one.media_type for one in _layers(document)]
        if config in _CONFIGS and not (layers and all(map(_is_text, layers))):
            return
        own = "" if config == _EMPTY or config in _CONFIGS else config
        kind = kind or own or next(iter(layers), config)
    called = next((name for start, name in _ARTIFACTS.items() if kind.startswith(start)), "")
    known = f" ({called})" if called else ""
    raise NotAnImage(f"{what}: an artifact of type {printable(kind[:200])}{known}, no image")


def _is_artifact_manifest(document: _Fields) -> bool:
    """Whether it is what drafts of OCI image-spec 1.1 had for artifacts."""
    return "blobs" in document.values and not document.values.keys() & {"layers", "config"}


def _is_text(media_type: str) -> bool:
    """Whether something is no tar by its type."""
    kind = media_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind.endswith(("+json", "/json", "+xml", "/xml"))


def _layers(document: _Fields) -> tuple[Descriptor, ...]:
    """The layers of a manifest; one without a type is taken for what its bytes are."""
    rows = document.objects("layers", MAX_LAYERS)
    return tuple(_descriptor(row, untyped="") for row in rows)


def _descriptor(fields: _Fields, untyped: str | None = None) -> Descriptor:
    platform = fields.object("platform", optional=True)
    return Descriptor(
        fields.string("mediaType", untyped),
        fields.digest("digest", fields.string("digest")),
        fields.size("size"),
        _platform(platform) if platform.values else None,
        fields.annotations(),
    )


def _platform(fields: _Fields) -> Platform:
    return Platform(
        fields.string("os", "linux"),
        fields.string("architecture", ""),
        fields.string("variant", ""),
    ).normalised()


def _history(fields: _Fields) -> History:
    return History(
        fields.string("created", ""),
        fields.string("created_by", ""),
        fields.string("author", ""),
        fields.string("comment", ""),
        fields.flag("empty_layer"),
    )
