"""Images that podman, buildah, skopeo and CRI-O have unpacked: containers/storage, read in place.

::

    <root>/<driver>-images/images.json        images: ID, names, top layer, names of documents
    <root>/<driver>-images/<ID>/<document>    manifest and config of an image
    <root>/<driver>-layers/layers.json        layers: ID, parent, digest and size of the tar
    <root>/<driver>-layers/<ID>.tar-split.gz  what of the tar is not in the files
    <root>/overlay/<ID>/diff                  the files of one layer, with marks of whiteouts
    <root>/vfs/dir/<ID>                       the files of one layer and of all below it

Both lists are read under the library's own locks, which are record locks of fcntl(2). Everything
in them is untrusted: an ID becomes part of a path only if it is 64 hexadecimal digits.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unionmount.errors import (
    FormatError,
    InvalidReference,
    NotFoundError,
    StoreError,
)
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.json_fields import MAX_DOCUMENT, Fields
from unionmount.images.manifest import Manifest
from unionmount.images.reference import Reference, has_registry
from unionmount.sources.storage_places import PREFIX, StoragePlace
from unionmount.system.files import read_document
from unionmount.system.nearest import did_you_mean
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_MAX_LIST = 256 * 1024 * 1024
_MAX_NAMES = 10_000
_MAX_MAPS = 340  # of a user namespace
_MAX_LAYERS = 4096  # of one tree
_ID = re.compile("[0-9a-f]{64}")
_PART_OF_ID = re.compile("[0-9a-f]{3,64}")


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """A layer that another tool has unpacked: its directory, and the bytes of its tar.

    ``record`` is the file from which the tar can be made again (``tar_split``), if it is there.
    """

    path: Path
    size: int
    record: Path


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image of another tool's store, its layers lowest first.

    ``id`` is what the tool calls it, ``root`` the directory of the store. ``name`` is the full name
    by which it was found; None if that was an ID.

    ``whole``: each directory has all files of the layers below, too, so only the last is mounted.
    ``made_up``: the tool keeps no manifest, so one was made. ``mapped`` says how the owners of
    files were changed on disk, so that they cannot be used in place; empty if they were not.
    """

    id: str
    image: ImageDocuments
    layers: tuple[UnpackedLayer, ...]
    root: Path
    name: Reference | None
    whole: bool = False
    made_up: bool = False
    mapped: str = ""


@dataclass(frozen=True, slots=True)
class _StoredEntry:
    """An image as images.json has it, and the directory of its store."""

    root: Path
    id: str
    names: tuple[str, ...]
    digests: frozenset[str]
    top: str


class ContainerStorage:
    """A store of containers/storage, which is only read."""

    def __init__(self, place: StoragePlace) -> None:
        self._place = place
        self._what = printable(str(place.graph_root))

    def find(self, word: str) -> FoundImage:
        """Find an image by name, by ID or its beginning, or by ``NAME@ID``."""
        with self._locked():
            images = [one for root in self._place.roots for one in self._images(root)]
            chosen, name = self._chosen(images, word)
            documents = self._documents(chosen)
            layers, mapped = self._chain(chosen, documents)
        is_whole = self._place.driver == "vfs"
        return FoundImage(
            *(chosen.id, documents, layers, self._place.graph_root, name),
            whole=is_whole,
            mapped=mapped,
        )

    def has_container(self, name: str) -> bool:
        """Return whether a container of this name is recorded, as holds are."""
        directory = self._place.graph_root / f"{self._place.driver}-containers"
        with ExitStack() as stack:
            stack.enter_context(_read_lock(directory / "containers.lock"))
            lists = [directory / one for one in ("containers.json", "volatile-containers.json")]
            found = [one for path in lists for one in _records(path)]
        return any(name in one.strings("names", _MAX_NAMES) for one in found)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the read locks of all layers and images, in the library's order."""
        with ExitStack() as stack:
            for kind in ("layers", "images"):
                for root in self._place.roots:
                    lock = root / f"{self._place.driver}-{kind}" / f"{kind}.lock"
                    stack.enter_context(_read_lock(lock))
            yield

    def _images(self, root: Path) -> Iterator[_StoredEntry]:
        path = root / f"{self._place.driver}-images" / "images.json"
        for one in _records(path):
            digests = {one.string("digest", "")}
            known = one.object("big-data-digests", optional=True).values
            digests |= {str(value) for key, value in known.items() if key.startswith("manifest")}
            yield _StoredEntry(
                root,
                _checked(one, "id"),
                tuple(one.strings("names", _MAX_NAMES)),
                frozenset(digests),
                _checked(one, "layer") if one.string("layer", "") else "",
            )

    # ---- names ----

    def _chosen(
        self, images: Sequence[_StoredEntry], word: str
    ) -> tuple[_StoredEntry, Reference | None]:
        """Return an image, and the full name by which it was found, if it was."""
        meant: Reference | None = None
        name, at, wanted = word.rpartition("@")
        if at and ":" not in wanted:  # a digest has a colon, an ID has none
            found = _with_id(images, wanted)
            found = [one for one in found if not name or _is_of(one, name)]
        elif _PART_OF_ID.fullmatch(word) and (found := _with_id(images, word)):
            pass
        else:
            found, meant = _named(images, word)
        ids = {one.id for one in found}
        if len(ids) > 1:
            raise InvalidReference(
                f"{PREFIX}{printable(word)} is ambiguous: {len(ids)} images of {self._what} have "
                "it; write more of the ID"
            )
        if not found:
            known = [_familiar(one) for image in images for one in image.names]
            near = printable(did_you_mean(word, known))
            if not images:
                near = f", which has no images with the driver {self._place.driver}"
            raise NotFoundError(f"{PREFIX}{printable(word)}: no such image in {self._what}{near}")
        return found[0], meant

    # ---- documents and layers ----

    def _documents(self, one: _StoredEntry) -> ImageDocuments:
        where = f"{PREFIX}{one.id[:12]}"
        manifest = Manifest.parse(self._document(one, "manifest"), f"{where}: manifest")
        config = Config.parse(self._document(one, str(manifest.config.digest)), f"{where}: config")
        return ImageDocuments.of(manifest, config, where)

    def _document(self, one: _StoredEntry, key: str) -> bytes:
        path = one.root / f"{self._place.driver}-images" / one.id / _file_name(key)
        try:
            return read_document(path, MAX_DOCUMENT, os.environ)
        except OSError as error:
            raise StoreError(f"{printable(str(path))}: {error.strerror}") from None

    def _chain(
        self, image: _StoredEntry, documents: ImageDocuments
    ) -> tuple[tuple[UnpackedLayer, ...], str]:
        """Return the layers of an image by following parents, and how owners are mapped.

        The layers fit the config.
        """
        known = {
            _checked(one, "id"): (root, one)
            for root in reversed(self._place.roots)
            for one in _records(root / f"{self._place.driver}-layers" / "layers.json")
        }
        where, at, found = f"{PREFIX}{image.id[:12]}", image.top, list[UnpackedLayer]()
        mapped = ""
        expected = list(documents.diff_ids)
        while at:
            if at not in known or len(found) == min(len(expected), _MAX_LAYERS):
                raise FormatError(
                    f"{where}: its layers in {self._what} are not those of its config"
                )
            root, one = known[at]
            digest = one.string("diff-digest", "")
            if digest and digest != str(expected[-1 - len(found)]):
                raise FormatError(f"{where}: layer {at[:12]} has digest {printable(digest)}")
            directory = self._directory(root, at)
            if (directory.parent / "composefs-data").exists():
                raise FormatError(
                    f"{where}: layer {at[:12]}: is stored with composefs, which is not supported"
                )
            mapped = mapped or _mapped(one)
            # Unknown sizes are missing, or -1.
            size = 0 if one.values.get("diff-size", -1) == -1 else one.size("diff-size")
            record = root / f"{self._place.driver}-layers" / f"{at}.tar-split.gz"
            found.append(UnpackedLayer(directory, size, record))
            at = _checked(one, "parent") if one.string("parent", "") else ""
        if len(found) != len(expected):
            raise FormatError(
                f"{where}: {len(found)} layers in {self._what}, but {len(expected)} in its config"
            )
        return tuple(reversed(found)), mapped

    def _directory(self, root: Path, layer: str) -> Path:
        if self._place.driver == "vfs":
            return root / "vfs/dir" / layer
        return root / "overlay" / layer / "diff"


@contextmanager
def _read_lock(path: Path) -> Iterator[None]:
    """Hold a lock file of the library for reading; a store that was never written has none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # of a FIFO, say
    except FileNotFoundError:
        yield
        return
    except OSError as error:
        raise StoreError(f"{printable(str(path))}: {error.strerror}") from None
    try:
        try:
            fcntl.lockf(fd, fcntl.LOCK_SH)
        except OSError as error:
            raise StoreError(f"{printable(str(path))}: {error.strerror}") from None
        yield
    finally:
        os.close(fd)


def _records(path: Path) -> Iterator[Fields]:
    """Yield the objects of a list; none if there is no such file."""
    what = printable(str(path))
    try:
        raw = read_document(path, _MAX_LIST, os.environ)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror}") from None
    try:
        values: Any = json.loads(raw) if raw.strip() else None
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: damaged JSON: {printable(str(error))[:200]}") from None
    if values is None:  # Go writes null for an empty list
        return
    if not isinstance(values, list) or not all(isinstance(one, dict) for one in values):
        raise FormatError(f"{what}: not a list of objects")
    for number, one in enumerate(values):
        yield Fields(one, f"{what}: [{number}]")


def _mapped(layer: Fields) -> str:
    """Return which of its maps changes the owners of a layer's files; empty if none does."""
    for name in ("uidmap", "gidmap"):
        for one in layer.objects(name, _MAX_MAPS, optional=True):
            if one.size("container_id") != one.size("host_id"):
                return name
    return ""


def _checked(one: Fields, name: str) -> str:
    """Return an ID, which may become part of a path."""
    value = one.string(name)
    if not _ID.fullmatch(value):
        raise one.error(name, f"'{printable(value)[:80]}' is no ID")
    return value


def _file_name(key: str) -> str:
    """Return the name of the file that has a document (makeBigDataBaseName of the library)."""
    if re.fullmatch("[a-z0-9.]*", key):
        return key
    return "=" + base64.standard_b64encode(key.encode()).decode()


def _with_id(images: Sequence[_StoredEntry], word: str) -> list[_StoredEntry]:
    if not _PART_OF_ID.fullmatch(word):
        raise InvalidReference(f"{PREFIX} '{printable(word)}' is no ID: 3 to 64 digits of 0-9a-f")
    return [one for one in images if one.id.startswith(word)]


def _named(
    images: Sequence[_StoredEntry], word: str
) -> tuple[list[_StoredEntry], Reference | None]:
    """Return the image of a name, and its full name; that may be localhost's, as podman has it."""
    for name in _meanings(word):
        if name.digest is not None:
            digest = str(name.digest)
            found = [one for one in images if digest in one.digests and _is_of(one, word)]
        else:
            text = str(name.with_default_tag())
            found = [one for one in images if text in one.names]
        if found:
            return found, name.with_default_tag()
    return [], None


def _is_of(one: _StoredEntry, word: str) -> bool:
    """Return whether an image has a name in the same repository."""
    wanted = {name.name for name in _meanings(word)}
    return any(_repository(name) in wanted for name in one.names)


def _meanings(word: str) -> list[Reference]:
    """Return the full names that a word may mean, the first one found counts."""
    full = Reference.parse(word)  # first, as its error has the word
    return [full] if has_registry(word) else [full, Reference.parse(f"localhost/{word}")]


def _repository(name: str) -> str:
    try:
        return Reference.parse(name).name
    except InvalidReference:  # a name that only containers/storage accepts
        return ""


def _familiar(name: str) -> str:
    try:
        return Reference.parse(name).familiar
    except InvalidReference:  # a name that only containers/storage accepts
        return printable(name)
