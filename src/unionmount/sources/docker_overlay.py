"""Images that docker has unpacked with its driver overlay2, read in place.

::

    <root>/image/overlay2/repositories.json                 names and digests of images
    <root>/image/overlay2/imagedb/content/sha256/<ID>       the config of an image
    <root>/image/overlay2/layerdb/sha256/<chain ID>/…       a layer: cache-id, diff, size, record
    <root>/overlay2/<cache-id>/diff                         the files of one layer

docker has no lock for other processes. It writes each of these files under another name first, so
none is read half written; an image that is removed meanwhile is one that is not found. Everything
here is untrusted, as in ``container_storage``. The newer way, images in containerd's store, has
nothing of this; it is recognised and refused.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unionmount.errors import (
    FormatError,
    InvalidReference,
    NotFoundError,
    StoreError,
    UsageError,
)
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.json_fields import MAX_DOCUMENT, parse_object
from unionmount.images.reference import Digest, Reference
from unionmount.sources.container_storage import FoundImage, UnpackedLayer
from unionmount.system.files import read_document
from unionmount.system.nearest import did_you_mean
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "docker-overlay2:"

_DEFAULT = Path("/var/lib/docker")
_SETTINGS = Path("/etc/docker/daemon.json")
_SNAPSHOTTER = "io.containerd.snapshotter.v1.overlayfs"
_CONTAINERD = Path("/var/lib/containerd")
_MAX_SMALL = 4096
_CACHE_ID = re.compile("[0-9a-zA-Z-]{1,128}")
_REMAPPED = re.compile(r"[0-9]+\.[0-9]+")  # the directory below the root that docker has then
_PART_OF_ID = re.compile("(?:sha256:)?([0-9a-f]{3,64})")


def split_root(text: str) -> tuple[Path, str]:
    """Split ``[ROOT]NAME`` into docker's data root and the name; without ROOT, it is looked up."""
    if not text.startswith("["):
        return _configured_root(), text
    root, bracket, name = text[1:].partition("]")
    if not bracket or not root.startswith("/"):
        raise UsageError(f"'{PREFIX}{printable(text)}': write [ROOT]NAME, with an absolute path")
    if not name:
        raise UsageError(f"'{PREFIX}{printable(text)}': the name of the image is missing behind it")
    return Path(root), name


def _configured_root(settings: Path = _SETTINGS) -> Path:
    try:
        found = parse_object(_read(settings, MAX_DOCUMENT), str(settings))
    except FileNotFoundError:
        return _DEFAULT
    root = found.string("data-root", "")
    return Path(root) if root.startswith("/") else _DEFAULT


class DockerOverlay:
    """The data root of a docker daemon, which is only read."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._what = printable(str(root))
        self._images = root / "image/overlay2"

    def find(self, word: str) -> FoundImage:
        """Find an image by name, by name and digest, or by ID or its beginning."""
        image_id, name = self._chosen(word)
        where = f"{PREFIX}{image_id[:12]}"
        try:
            raw = _read(self._images / "imagedb/content/sha256" / image_id, MAX_DOCUMENT)
        except FileNotFoundError:
            raise NotFoundError(f"{where}: docker has removed the image meanwhile") from None
        config = Config.parse(raw, f"{where}: config")
        if config.digest.hex != image_id:
            raise FormatError(f"{where}: the config is {config.digest}")
        count = range(1, len(config.diff_ids) + 1)
        chains = [ImageDocuments.chain_of(config.diff_ids[:n]) for n in count]
        layers = tuple(
            self._layer(chain, diff_id, where)
            for chain, diff_id in zip(chains, config.diff_ids, strict=True)
        )
        documents = ImageDocuments.from_config(config, [one.size for one in layers], where)
        mapped = "userns-remap" if _REMAPPED.fullmatch(self._root.name) else ""
        return FoundImage(
            image_id, documents, layers, self._root, name, made_up=True, mapped=mapped
        )

    def _chosen(self, word: str) -> tuple[str, Reference | None]:
        """Return the ID of the image that a word means, and its full name if that was meant."""
        names = self._names()
        try:
            meant = Reference.parse(word).with_default_tag()
            named = names.get(str(meant))
        except InvalidReference:
            named = None
        if named is not None:
            return named, meant
        if part := _PART_OF_ID.fullmatch(word):
            ids = [one for one in self._ids() if one.startswith(part[1])]
            if len(ids) > 1:
                raise InvalidReference(
                    f"{PREFIX}{printable(word)} is ambiguous: {len(ids)} images begin with it"
                )
            if ids:
                return ids[0], None
        known = [Reference.parse(name).familiar for name in names]
        near = printable(did_you_mean(word, known)) or self._elsewhere(word)
        raise NotFoundError(f"{PREFIX}{printable(word)}: no such image in {self._what}{near}")

    def _ids(self) -> list[str]:
        try:
            paths = list((self._images / "imagedb/content/sha256").iterdir())
        except OSError:  # there is no image
            return []
        return [path.name for path in paths if re.fullmatch("[0-9a-f]{64}", path.name)]

    def _names(self) -> Mapping[str, str]:
        """Return the IDs of images by their full names."""
        path = self._images / "repositories.json"
        try:
            raw = _read(path, MAX_DOCUMENT)
        except FileNotFoundError:
            why = (
                self._elsewhere("NAME") or "; is docker's driver overlay2, and this its data root?"
            )
            raise NotFoundError(f"{printable(str(path))}: does not exist{why}") from None
        names: dict[str, str] = {}
        repositories = parse_object(raw, printable(str(path))).object("Repositories")
        for repository in repositories.values:
            for name, image in repositories.object(repository).values.items():
                if _is_id(image):
                    try:
                        names[str(Reference.parse(name))] = image.removeprefix("sha256:")
                    except InvalidReference:
                        continue
        return names

    def _elsewhere(self, word: str) -> str:
        """Return why images are not here, if docker keeps them in containerd's store."""
        for above in (self._root / "containerd/daemon", _CONTAINERD):
            snapshots = above / _SNAPSHOTTER / "snapshots"
            with suppress(OSError):  # it is not there, or only root may look into it
                if any(snapshots.iterdir()):
                    return (
                        f"; docker may keep it in containerd's store ({_SNAPSHOTTER}), which is "
                        f"not supported: unionmount load docker-daemon:{printable(word)}"
                    )
        return ""

    def _layer(self, chain: Digest, diff_id: Digest, where: str) -> UnpackedLayer:
        directory = self._images / "layerdb" / chain.algorithm / chain.hex
        try:
            found, cache, size = (
                _read(directory / name, _MAX_SMALL).decode("ascii", "replace").strip()
                for name in ("diff", "cache-id", "size")
            )
        except FileNotFoundError:
            raise StoreError(
                f"{where}: layer {diff_id.short} is not in {self._what}; docker has removed it"
            ) from None
        if found != str(diff_id) or not _CACHE_ID.fullmatch(cache):
            raise FormatError(f"{printable(str(directory))}: is not layer {diff_id}")
        if not re.fullmatch("[0-9]{1,18}", size):
            raise FormatError(f"{printable(str(directory))}: size '{printable(size)[:40]}'")
        record = directory / "tar-split.json.gz"
        return UnpackedLayer(self._root / "overlay2" / cache / "diff", int(size), record)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("sha256:[0-9a-f]{64}", value) is not None


def _read(path: Path, limit: int) -> bytes:
    """Read a small file; FileNotFoundError is passed on, other errors become StoreError."""
    try:
        return read_document(path, limit, os.environ)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(f"{printable(str(path))}: {error.strerror}") from None
