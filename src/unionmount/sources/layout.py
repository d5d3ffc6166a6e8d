"""Images whose blobs are files that are found by digest, and OCI image layouts among them.

Source: OCI image-spec 1.1, ``image-layout.md``. Names: ``org.opencontainers.image.ref.name`` is a
tag or a name; Docker and containerd write the full name as ``io.containerd.image.name``.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from unionmount.core import open_within
from unionmount.errors import (
    FormatError,
    InvalidReference,
    LimitExceeded,
    NotFoundError,
    SizeMismatch,
    UnionmountError,
)
from unionmount.images.image import ImageDocuments
from unionmount.images.json_fields import MAX_DOCUMENT, load_json
from unionmount.images.manifest import Contents, Descriptor, ImageIndex
from unionmount.images.media_types import FULL_NAME, REF_NAME, is_encrypted
from unionmount.images.reference import Digest, Reference
from unionmount.images.referrers import Referrer, is_about_digest
from unionmount.images.selection import run_selection, select
from unionmount.sources import Entry, Files, ImageArchive, LayerBlob, SourceImage
from unionmount.system.files import FileIdentity, FileRange, not_regular, open_below
from unionmount.system.os_errors import reason_of
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from unionmount.images.platform import Platform
    from unionmount.images.selection import Selection

INDEX = "index.json"
MARKER = "oci-layout"


class DirectoryFiles:
    """Regular files below a directory, in whose paths no symlink is followed by default."""

    def __init__(self, path: Path) -> None:
        self.what = printable(str(path))
        self._links = False
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._opened: dict[str, tuple[FileRange, FileIdentity]] = {}

    def follow_links(self) -> None:
        """Follow symlinks from now on, as if the directory were the root directory.

        So they lead nowhere else, and to the same files as in a tar of the directory.
        """
        self._links = True

    def find(self, path: str) -> FileRange | None:
        """Return the range of a whole file."""
        if path not in self._opened:
            fd = self._open_file(path)
            if fd is None:
                return None
            identity = FileIdentity.of(fd)
            self._opened[path] = FileRange(fd, 0, identity.size), identity
        return self._opened[path][0]

    def size(self, path: str) -> int | None:
        """Return the size of a regular file; raise FormatError for any other."""
        try:
            fd = self._open(path)
        except OSError:
            return None
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def read(self, path: str) -> bytes | None:
        """Read a document."""
        fd = self._open_file(path)
        if fd is None:
            return None
        try:
            what = f"{self.what}: '{printable(path)}'"
            return read_range(FileRange(fd, 0, os.fstat(fd).st_size), what)
        finally:
            os.close(fd)

    def _open_file(self, path: str) -> int | None:
        try:
            return self._open(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            where = f"{self.what}: '{printable(path)}'"
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise UnionmountError(f"{where}: {reason_of(error)}") from error
            raise FormatError(f"{where}: {os.strerror(error.errno or 0)}") from None

    def _open(self, path: str) -> int:
        """Open a regular file; raise NotRegular for any other, OSError if that is impossible."""
        try:
            name = os.fsencode(path)
        except UnicodeEncodeError:
            name = b"\0"
        if b"\0" in name:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if not self._links:
            return open_below(self._root, path, self.what)
        found = open_within(self._root, name, os.O_PATH, in_root=True)  # opens nothing, yet
        try:
            mode = os.fstat(found).st_mode
            if not stat.S_ISREG(mode):
                raise not_regular(f"{self.what}: '{printable(path)}'", mode)
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(found)

    def check_unchanged(self) -> None:
        """Raise FormatError if an opened file has changed."""
        for path, (found, identity) in self._opened.items():
            identity.check(found.fd, f"{self.what}: '{printable(path)}'")

    def release(self) -> None:
        """Close all files."""
        opened, self._opened = self._opened, {}
        for found, _ in opened.values():
            os.close(found.fd)

    def close(self) -> None:
        """Close all files and the directory."""
        self.release()
        root, self._root = self._root, -1
        if root >= 0:
            os.close(root)


def read_range(data: FileRange, what: str) -> bytes:
    """Read a document after checking its size."""
    if data.length > MAX_DOCUMENT:
        raise LimitExceeded(f"{what}: {data.length} bytes, more than {MAX_DOCUMENT}")
    raw = os.pread(data.fd, data.length, data.offset)
    if len(raw) != data.length:
        raise SizeMismatch(what, data.length, len(raw))
    return raw


class BlobArchive(ImageArchive):
    """Images as they are transported: manifests and blobs, which are found by their digests."""

    def __init__(self, files: Files, roots: Sequence[Descriptor]) -> None:
        super().__init__(files)
        roots = [one for one in roots if not one.is_attestation]
        self._groups = _grouped([one for one in roots if one.is_manifest or one.is_index])

    def entries(self) -> Sequence[Entry]:
        """Return the images; manifests that differ in platform only are one image."""
        return [Entry(number, (), ()) for number in range(len(self._groups))]

    def _path(self, digest: Digest) -> str:
        """Return the path of a manifest, index, config or layer."""
        return f"blobs/{digest.algorithm}/{digest.hex}"

    def image(self, entry: Entry, platform: Platform | None) -> SourceImage:
        """Find the image of ``entry`` for a platform."""
        selection = self._select(self._groups[entry.number], platform)
        what = f"{self.what}: manifest {selection.manifest.digest}"
        image = ImageDocuments.of(selection.manifest, selection.config, what)
        layers = [
            self._layer(descriptor, diff_id)
            for descriptor, diff_id in zip(image.layers, image.diff_ids, strict=True)
        ]
        return SourceImage(image, tuple(layers), made_up=False)

    def descriptors(self, entry: Entry) -> Sequence[Descriptor]:
        """Return the descriptors of ``entry``: a manifest, an index, or one for each platform."""
        return self._groups[entry.number]

    def subjects(self) -> Sequence[Referrer]:
        """Return the manifests that are about others and are listed beside them."""
        return ()

    def tagged(self, tag: str) -> Sequence[Descriptor]:  # noqa: ARG002
        """Return the entries with a tag."""
        return ()

    def document(self, descriptor: Descriptor) -> bytes:
        """Return a verified manifest, index or config."""
        return self._fetch(descriptor)

    def blob(self, descriptor: Descriptor) -> FileRange:
        """Return the range of a blob, whose size is checked."""
        what = f"{self.what}: blob {descriptor.digest}"
        data = self._files.find(self._path(descriptor.digest))
        if data is None:
            raise FormatError(f"{what}: is missing")
        if data.length != descriptor.size:
            raise SizeMismatch(what, descriptor.size, data.length)
        return data

    def _select(self, group: Sequence[Descriptor], platform: Platform | None) -> Selection:
        return run_selection(select(group, platform, self.what, self._has), self._fetch)

    def _has(self, descriptor: Descriptor) -> bool:
        return self._files.size(self._path(descriptor.digest)) is not None

    def _fetch(self, descriptor: Descriptor) -> bytes:
        """Read and verify a document."""
        what = f"{self.what}: blob {descriptor.digest}"
        raw = self._files.read(self._path(descriptor.digest))
        if raw is None:
            raise FormatError(f"{what}: is missing")
        return descriptor.verify(raw, what)

    def _layer(self, descriptor: Descriptor, diff_id: Digest) -> LayerBlob:
        what = f"{self.what}: layer {descriptor.digest}"
        if is_encrypted(descriptor.media_type):
            raise FormatError(f"{what}: encrypted layers are not supported")
        return LayerBlob(what, self.blob(descriptor), diff_id, descriptor.digest)


class OciLayout(BlobArchive):
    """An OCI image layout."""

    def __init__(
        self,
        files: Files,
        fallback_name: str,
        names_by_config: Mapping[Digest, Sequence[Reference]] | None = None,
    ) -> None:
        self._fallback_name = fallback_name
        self._names_by_config = names_by_config or {}
        self._about: list[Referrer] | None = None
        _check_version(files)
        index = ImageIndex.parse(_required(files, INDEX), f"{files.what}: {INDEX}")
        self._rows = index.manifests
        super().__init__(files, index.manifests)

    def entries(self) -> Sequence[Entry]:
        """Return the images of the index; manifests that differ in platform only are one image."""
        said = {name for group in self._groups for one in group for name in self._names(one)}
        more = {
            digest: names
            for digest, known in self._names_by_config.items()
            if (names := tuple(name for name in known if name not in said))
        }
        return [self._entry(number, group, more) for number, group in enumerate(self._groups)]

    def _entry(
        self,
        number: int,
        group: Sequence[Descriptor],
        more: Mapping[Digest, tuple[Reference, ...]],
    ) -> Entry:
        """Return an image; ``more`` are names in ``manifest.json``, by the digest of the config."""
        labels = tuple(dict.fromkeys(label for one in group for label in _labels(one)))
        names = [name for one in group for name in self._names(one)]
        if more:
            others = self._names_of_config(group, more)
            names += others
            labels += tuple(name.familiar for name in others)
        same = tuple(sorted({one.digest for one in group}))
        about = len(self._groups) > 1 and self._is_about_another(group)
        return Entry(number, tuple(dict.fromkeys(names)), labels, same, about)

    def _is_about_another(self, group: Sequence[Descriptor]) -> bool:
        """Return whether an entry is a signature or the like of another entry, or their list."""
        if any(is_about_digest(label) for one in group for label in _labels(one)):
            return True
        referrers = {one.descriptor.digest for one in self.subjects()}
        return all(one.digest in referrers and not _labels(one) for one in group)

    def subjects(self) -> Sequence[Referrer]:
        """See BlobArchive; each document is read once."""
        if self._about is None:
            self._about = [found for row in self._rows if (found := self._as_referrer(row))]
        return self._about

    def _as_referrer(self, row: Descriptor) -> Referrer | None:
        if row.size > MAX_DOCUMENT or not self._has(row):
            return None
        try:
            raw = self._fetch(row)
            contents = Contents.parse(raw, f"{self.what}: manifest {row.digest}")
        except FormatError:  # the error is raised where it is opened for itself
            return None
        if contents.subject is None:
            return None
        own = replace(row, annotations=contents.annotations, artifact_type=contents.artifact_type)
        return Referrer(contents.subject.digest, own)

    def tags(self) -> Sequence[str]:
        """Return the names after which entries can be asked for with ``tagged``, each once."""
        named = [one.annotations[REF_NAME] for one in self._rows if REF_NAME in one.annotations]
        return list(dict.fromkeys(named))

    def tagged(self, tag: str) -> Sequence[Descriptor]:
        """See BlobArchive."""
        return [one for one in self._rows if one.annotations.get(REF_NAME) == tag]

    def _names(self, descriptor: Descriptor) -> list[Reference]:
        """Return the full names of a descriptor; a bare tag gets the name of the file."""
        full = descriptor.annotations.get(FULL_NAME)
        tag = descriptor.annotations.get(REF_NAME)
        if full is None and tag is not None:
            full = tag if set(tag) & set("/:") else f"localhost/{self._fallback_name}:{tag}"
        try:
            return [Reference.parse(full)] if full is not None else []
        except InvalidReference:  # an annotation may have any value
            return []

    def _names_of_config(
        self, group: Sequence[Descriptor], names: Mapping[Digest, tuple[Reference, ...]]
    ) -> tuple[Reference, ...]:
        try:
            selection = self._select(group, None)
        except (NotFoundError, FormatError):  # opening it reports the error
            return ()
        return names.get(selection.config.digest, ())


def _required(files: Files, path: str) -> bytes:
    raw = files.read(path)
    if raw is None:
        raise FormatError(f"{files.what}: {path} is missing; this is not an OCI image layout")
    return raw


def _check_version(files: Files) -> None:
    marker = load_json(_required(files, MARKER), f"{files.what}: {MARKER}")
    version = marker.get("imageLayoutVersion") if isinstance(marker, dict) else None
    if not isinstance(version, str) or not version.startswith("1."):
        raise FormatError(f"{files.what}: {MARKER}: unknown version '{printable(str(version))}'")


def _labels(descriptor: Descriptor) -> list[str]:
    annotations = descriptor.annotations
    return [annotations[key] for key in (FULL_NAME, REF_NAME) if key in annotations]


def _grouped(roots: Sequence[Descriptor]) -> list[list[Descriptor]]:
    """Group the descriptors of one image for several platforms.

    They have the same name or, without names, different platforms.
    """
    groups: dict[tuple[str, ...], list[Descriptor]] = {}
    for number, root in enumerate(roots):
        labels = tuple(_labels(root))
        platform = str(root.platform) if root.platform is not None else f"@{number}"
        group = groups.setdefault(labels, []) if labels else groups.setdefault(("",), [])
        clashes = any(str(one.platform) == platform for one in group)
        if not labels and (root.platform is None or clashes):
            group = groups.setdefault(("", str(number)), [])
        group.append(root)
    return [group for group in groups.values() if group]
