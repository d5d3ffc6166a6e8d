"""Images in a tar or a directory: the archives of "docker save", and OCI image layouts.

Nothing is unpacked. The core indexes the outer tar in memory, as it indexes layers, and its members
are byte ranges of the file. Since version 25, Docker writes both forms into one archive; then the
layout is read, because it has the digests, and ``manifest.json`` only adds names. Source of
``manifest.json``: the Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset
Format". Older archives have a symlink for each layer that several images share.

An archive that somebody has unpacked is read in the same way, from its directory.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unionmount import core
from unionmount.errors import (
    DigestMismatch,
    FormatError,
    InvalidReference,
    LimitExceeded,
    NotFoundError,
    UsageError,
)
from unionmount.images.config import MAX_LAYERS, Config
from unionmount.images.image import ImageDocuments
from unionmount.images.json_fields import load_json
from unionmount.images.reference import Digest, Reference
from unionmount.sources import Entry, ImageArchive, LayerBlob, SourceImage
from unionmount.sources.layout import INDEX, MARKER, DirectoryFiles, OciLayout, read_range
from unionmount.system.files import FileIdentity, FileRange
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.images.platform import Platform
    from unionmount.sources import Files

MANIFEST = "manifest.json"

_MAX_MEMBERS = core.IndexLimits(max_entries=1 << 20, max_strings=128 << 20)
_MAX_HOPS = 40  # symlinks in one path, the limit of the kernel
_MAX_IMAGES = 65536
_NAMED_BY_DIGEST = re.compile(r"(?:^|/)(?:blobs/sha256/)?([0-9a-f]{64})(?:\.json|\.tar)?$")


class TarFiles:
    """The members of a plain tar, read in place; owns ``fd``."""

    def __init__(self, fd: int, what: str, index: int | None = None) -> None:
        """Take over ``fd``, even if this fails; ``index`` is its index, if there is one."""
        self.what = what
        self._fd = fd
        self._identity = FileIdentity.of(fd)
        self._resources = ExitStack()
        with ExitStack() as stack:
            stack.callback(os.close, fd)
            opened = self._make_index() if index is None else core.Index(index, what)
            stack.enter_context(opened)
            layer = core.TreeLayer(opened, fd, 0, self._identity.size)
            self._tree = stack.enter_context(core.Tree([layer]))
            self._resources = stack.pop_all()

    def _make_index(self) -> core.Index:
        memory = os.memfd_create("outer index")
        try:
            os.fchmod(
                memory, 0o600
            )  # a file that nobody else can change is mapped instead of copied
            with core.Indexer(self.what, _MAX_MEMBERS, literal=True) as indexer:
                for _ in indexer.scan(self._fd, 0, self._identity.size):
                    pass
                indexer.finish(self._identity.size, memory)
            return core.Index(memory, self.what)
        finally:
            os.close(memory)

    @property
    def is_empty(self) -> bool:
        """Whether the tar has no member at all."""
        return not self._tree.list(core.ROOT, 0, 1)

    def find(self, path: str) -> FileRange | None:
        """Return the range of a member; symlinks and hard links inside the archive are followed."""
        try:
            node = self._resolve(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
                return None
            raise FormatError(self._about(path, os.strerror(error.errno or 0))) from None
        if not stat.S_ISREG(node.mode):
            raise FormatError(self._about(path, "not a regular file"))
        try:
            offset, length = self._tree.extent(node.node)
        except OSError:
            raise FormatError(self._about(path, "is sparse, which is not supported")) from None
        return FileRange(self._fd, offset, length)

    def size(self, path: str) -> int | None:
        """Return the size of a member."""
        data = self.find(path)
        return None if data is None else data.length

    def read(self, path: str) -> bytes | None:
        """Read a document."""
        data = self.find(path)
        return None if data is None else read_range(data, f"{self.what}: '{printable(path)}'")

    def _about(self, path: str, problem: str) -> str:
        return f"{self.what}: '{printable(path)}': {problem}"

    def _resolve(self, path: str) -> core.Attributes:
        """Resolve a path; ``..`` and absolute symlinks stay in the archive."""
        root = self._tree.getattr(core.ROOT)
        trail: list[core.Attributes] = []
        pending = deque(path.encode("utf-8", "surrogatepass").split(b"/"))
        hops = 0
        while pending:
            name = pending.popleft()
            if name == b"..":
                del trail[-1:]
            if name in (b"", b".", b".."):
                continue
            found = self._tree.lookup((trail[-1] if trail else root).node, name)
            if not stat.S_ISLNK(found.mode):
                trail.append(found)
                continue
            hops += 1
            if hops > _MAX_HOPS:
                raise OSError(errno.ELOOP, "")
            target = self._tree.readlink(found.node)
            if target.startswith(b"/"):
                trail.clear()
            pending.extendleft(reversed(target.split(b"/")))
        return trail[-1] if trail else root

    def check_unchanged(self) -> None:
        """Raise FormatError if the archive has changed since it was opened."""
        self._identity.check(self._fd, self.what)

    def release(self) -> None:
        """Do nothing, as all members share one descriptor."""

    def close(self) -> None:
        """Close the archive."""
        self._resources.close()


@dataclass(frozen=True, slots=True)
class _ManifestItem:
    """One image of ``manifest.json``."""

    config: str
    names: tuple[Reference, ...]
    layers: tuple[str, ...]


def has_image(files: Files) -> bool:
    """Return whether files are those of an archive of images, perhaps a damaged one.

    Otherwise they are a root file system, in which a web application may have a manifest.json.
    """
    try:
        manifest, index = files.read(MANIFEST), files.read(INDEX)
        if index is not None:
            return files.size(MARKER) is not None or "manifests" in _fields(index, "manifests")
        if manifest is not None:
            return not _fields(manifest, "")  # a list, where others have an object
        return files.size(MARKER) is not None or files.size("repositories") is not None
    except FormatError:  # a directory, or too large
        return False


def is_image_tar(index: int, data: FileRange, what: str) -> bool:
    """Return whether a tar, whose index is open, is an archive of images."""
    files = TarFiles(os.dup(data.fd), what, index)
    try:
        return has_image(files)
    finally:
        files.close()


def _fields(raw: bytes, damaged: str) -> set[str]:
    """Return the names of the fields of a JSON object; ``damaged`` if it cannot be parsed."""
    try:
        document = load_json(raw, "")
    except FormatError:
        return {damaged} if damaged else set()
    return set(document) if isinstance(document, dict) else set()


def open_archive(files: Files, kind: str, fallback_name: str) -> ImageArchive:
    """Open the images in a tar; takes over ``files``, even if it fails."""
    try:
        return _recognise(files, kind, fallback_name)
    except BaseException:
        files.close()
        raise


def open_directory(files: DirectoryFiles, kind: str, fallback_name: str) -> ImageArchive:
    """Open the images in a directory; takes over ``files``, even if it fails.

    For the kind "path", the content decides between a layout, an archive that was unpacked, and a
    directory of skopeo's.
    """
    try:
        if kind == "path":
            kind = _kind_of_directory(files)
        if kind == "dir":
            from unionmount.sources.skopeo_dir import SkopeoDirectory  # noqa: PLC0415 - rare

            return SkopeoDirectory(files)
        _refuse_other_directory(files, kind)
        if kind == "docker-archive":
            files.follow_links()
            return _recognise(files, kind, fallback_name)
        return OciLayout(files, fallback_name)
    except BaseException:
        files.close()
        raise


def _refuse_other_directory(files: Files, kind: str) -> None:
    if files.size(INDEX) is not None:
        return
    if _kind_of_directory(files) == "dir":
        raise UsageError(
            f"{files.what}: is a directory as skopeo's dir: makes it; write dir:{files.what}"
        )
    if kind == "docker-archive" and files.size(MANIFEST) is None:
        raise UsageError(
            f"{files.what}: is a directory, and no archive that was unpacked (it has no {MANIFEST})"
        )


def _kind_of_directory(files: Files) -> str:
    raw = files.read(MANIFEST)
    try:
        document = None if raw is None else load_json(raw, f"{files.what}: {MANIFEST}")
    except FormatError:
        if files.size(INDEX) is None:
            raise
        return "oci"
    if isinstance(document, list):  # Docker 25 and later write a layout beside it
        return "docker-archive"
    is_manifest = isinstance(document, dict) and "schemaVersion" in document
    return "dir" if is_manifest and files.size(INDEX) is None else "oci"


def _recognise(files: Files, kind: str, fallback_name: str) -> ImageArchive:
    raw = files.read(MANIFEST)
    items = _parse_items(raw, f"{files.what}: {MANIFEST}") if raw is not None else []
    if files.size(INDEX) is not None:
        return OciLayout(files, fallback_name, _names_by_config(items))
    if kind == "oci-archive":
        raise FormatError(f"{files.what}: not an OCI archive (it has no {INDEX})")
    if raw is not None:
        return DockerArchive(files, items)
    if files.size("repositories") is not None:
        raise FormatError(f"{files.what}: archives older than Docker 1.10 are not supported")
    raise FormatError(f"{files.what}: not an image archive (it has no {MANIFEST} or {INDEX})")


def _names_by_config(items: Sequence[_ManifestItem]) -> dict[Digest, Sequence[Reference]]:
    """Return the names of images; one may have an item for each of its names."""
    found: dict[Digest, list[Reference]] = {}
    for item in items:
        digest = _digest_of(item.config)
        if digest is not None:
            found.setdefault(digest, []).extend(item.names)
    return dict(found)


class DockerArchive(ImageArchive):
    """A docker-archive, which has ``manifest.json`` only."""

    def __init__(self, files: Files, items: Sequence[_ManifestItem]) -> None:
        super().__init__(files)
        self._items = items

    def entries(self) -> Sequence[Entry]:
        """Return the images of ``manifest.json``."""
        return [
            Entry(
                number,
                tuple(dict.fromkeys(item.names)),
                tuple(dict.fromkeys(name.familiar for name in item.names)),
                (item.config, item.layers),
            )
            for number, item in enumerate(self._items)
        ]

    def image(self, entry: Entry, platform: Platform | None) -> SourceImage:
        """Find the image of ``entry``; raise NotFoundError if its platform does not fit."""
        item = self._items[entry.number]
        config = self._config(item.config)
        if platform is not None and platform.distance(config.platform) is None:
            raise NotFoundError(
                f"{self.what}: image {config.digest} is for {config.platform}, not {platform}"
            )
        what = f"{self.what}: image {config.digest}"
        ranges = [self._range(path) for path in item.layers]
        image = ImageDocuments.from_config(config, [one.length for one in ranges], what)
        layers = [
            LayerBlob(
                f"{self.what}: layer '{printable(path)}' ({diff_id})",
                data,
                diff_id,
                _digest_of(path) if path.startswith("blobs/") else None,
            )
            for path, data, diff_id in zip(item.layers, ranges, config.diff_ids, strict=True)
        ]
        return SourceImage(image, tuple(layers), made_up=True)

    def _range(self, path: str) -> FileRange:
        data = self._files.find(path)
        if data is None:
            raise FormatError(f"{self.what}: '{printable(path)}' is missing")
        return data

    def _config(self, path: str) -> Config:
        what = f"{self.what}: config '{printable(path)}'"
        raw = self._files.read(path)
        if raw is None:
            raise FormatError(f"{what}: is missing")
        config = Config.parse(raw, what)
        named = _digest_of(path)
        if named is not None and named != config.digest:
            raise DigestMismatch(what, str(named), str(config.digest))
        return config


def _digest_of(path: str) -> Digest | None:
    """Return the digest that a member is named by, if it is."""
    match = _NAMED_BY_DIGEST.search(path)
    return Digest("sha256", match[1]) if match else None


def _parse_items(raw: bytes, what: str) -> list[_ManifestItem]:
    document = load_json(raw, what)
    if not isinstance(document, list):
        raise FormatError(f"{what}: not a list")
    if len(document) > _MAX_IMAGES:
        raise LimitExceeded(f"{what}: {len(document)} images, more than {_MAX_IMAGES}")
    return [_parse_item(one, f"{what}: [{i}]") for i, one in enumerate(document)]


def _parse_item(value: Any, what: str) -> _ManifestItem:
    if not isinstance(value, dict) or not isinstance(value.get("Config"), str):
        raise FormatError(f"{what}: field 'Config' is missing or not a string")
    layers = _strings(value, "Layers", what)
    if len(layers) > MAX_LAYERS:
        raise LimitExceeded(f"{what}: {len(layers)} layers, more than {MAX_LAYERS}")
    try:
        names = tuple(Reference.parse(tag) for tag in _strings(value, "RepoTags", what))
    except InvalidReference as error:
        raise FormatError(f"{what}: field 'RepoTags': {error}") from None
    return _ManifestItem(value["Config"], names, tuple(layers))


def _strings(value: dict[str, Any], name: str, what: str) -> list[str]:
    strings = value.get(name)
    if strings is None:
        return []
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise FormatError(f"{what}: field '{name}' is not a list of strings")
    return strings
