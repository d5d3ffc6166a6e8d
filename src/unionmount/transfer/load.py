"""Loading and opening images: plain layers in place, all others by way of the store."""

from __future__ import annotations

import os
import re
import stat
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import (
    DigestMismatch,
    FormatError,
    LimitExceeded,
    NotAnImage,
    NotFoundError,
    NotRegular,
    StoreError,
    UsageError,
)
from unionmount.formats.compression import MAGIC_SIZE, Compression, decompressor, sniff
from unionmount.images.image import SCRATCH, scratch
from unionmount.images.opened import OpenImage, OpenLayer
from unionmount.images.reference import Digest, Reference
from unionmount.sources import (
    STDIN,
    ImageArchive,
    LayerBlob,
    Location,
    choose,
    distinct,
    looks_like_file,
    near_file,
    no_such_file,
)
from unionmount.sources.archive import TarFiles, has_image, open_archive, open_directory
from unionmount.sources.flat import FlatArchive, FlatFile, refuse_flat
from unionmount.sources.layout import BlobArchive, DirectoryFiles, OciLayout
from unionmount.store.last_use import note_use
from unionmount.store.layer_import import (
    LIMIT_VARIABLE,
    Expected,
    Progress,
    check_digest,
    refuse_marks,
)
from unionmount.store.store import StoredImage
from unionmount.system.closing import Closing
from unionmount.system.files import FileIdentity, FileRange, open_stream, pieces_of, write_all
from unionmount.system.os_errors import naming, storing
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from unionmount.images.platform import Platform
    from unionmount.sources import Entry
    from unionmount.store.in_place import FlatFacts
    from unionmount.store.layer_import import ImportLimits
    from unionmount.store.leases import Lease
    from unionmount.store.store import Store
    from unionmount.trust.file_trust import FileTrust
from unionmount.store.image_name import name_of

_READ_STEP = 1024 * 1024


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The store, and the options of loading or opening an image."""

    store: Store
    platform: Platform | None = None
    verify: bool = False
    progress: Progress | None = None
    lease: Lease | None = None  # protects the image until it is open, or in the catalogue
    streams: bool = False  # whether a FIFO may be read, from start to end
    trust: FileTrust | None = None  # the policy that must accept the image; None only to look


def open_image(
    store: Store,
    source: Location | str,
    *,
    platform: Platform | None = None,
    verify: bool = False,
    progress: Progress | None = None,
    lease: Lease | None = None,
    trust: FileTrust | None = None,
) -> OpenImage:
    """Open an image with all its layers, after importing those that are compressed.

    Plain layers of an archive or layout are used where they are; ``verify`` hashes them first. A
    ``lease`` protects the layers that are in the store. A policy must accept the image of a file if
    ``trust`` is given; without it, the image is for looking into it only. One of a docker daemon
    comes into the store, so that the policy of the user must accept it in any case.
    """
    location = Location.of(source)
    how = LoadOptions(store, platform, verify, progress, lease, trust=trust)
    if location.kind == "stored":
        stored = _find_stored(how, location.path)
        return _open_stored(how, stored, name_of(stored))
    if location.kind == "docker-daemon":
        with _leased(how, "load", location) as how:
            return _open_stored(how, _fetched(how, location), str(location))
    if location.is_unpacked:
        from unionmount.transfer.open_unpacked import open_unpacked  # noqa: PLC0415 - rarely needed

        return open_unpacked(location, platform, verify=verify)
    with _leased(how, "load", location) as how, _open_source(how, location) as opened:
        entry = choose(opened.archive.entries(), location.selector, opened.archive.what)
        found = opened.archive.image(entry, platform)
        with ExitStack() as stack:
            layers = []
            for blob in found.layers:
                layers.append(_open_layer(how, blob, in_place=not opened.spooled))
                stack.callback(layers[-1].close)
            opened.archive.check_unchanged()
            stack.pop_all()
    return OpenImage(found.image, str(location), tuple(layers))


def load(
    store: Store,
    source: Location | str,
    *,
    platform: Platform | None = None,
    progress: Progress | None = None,
    loaded: Callable[[StoredImage, tuple[Reference, ...]], None] | None = None,
    trust: FileTrust | None = None,
) -> list[StoredImage]:
    """Import all images of an archive or layout, or the one that REF names, into the store.

    ``trust`` is the policy that must accept them, by default that of the user. Artifacts are
    skipped. ``loaded`` is called for each image when it is in the store, with its
    names in the archive (the store may know others). If a later image fails, the earlier ones stay.
    """
    location = Location.of(source)
    if location.kind == "stored":  # a directory that does not look like a layout, perhaps
        location = replace(location, kind="path")
    trust = trust or _users_trust()
    how = LoadOptions(store, platform, progress=progress, streams=True, trust=trust)
    if location.kind == "docker-daemon":
        stored = _fetched(how, location, take_over=True)
        if loaded is not None:
            loaded(stored, tuple(map(Reference.parse, stored.names)))
        return [stored]
    with _leased(how, "load", location) as how, _open_source(how, location) as opened:
        refuse_flat(opened.archive)
        entries = opened.archive.entries()
        if location.selector or not entries:
            entries = [choose(entries, location.selector, opened.archive.what)]
        images: list[StoredImage] = []
        artifact: NotAnImage | None = None  # only the first, since it keeps its document in memory
        for entry in distinct(entries):
            try:
                images.append(_load_entry(how, opened.archive, entry))
            except NotAnImage as error:
                artifact = artifact or error
                continue
            if loaded is not None:
                loaded(images[-1], tuple(name.with_default_tag() for name in entry.names))
        if artifact is not None and not images:
            raise artifact
    return images


def keep_image(
    store: Store,
    source: Location | str,
    *,
    platform: Platform | None = None,
    progress: Progress | None = None,
    lease: Lease | None = None,
    names: Sequence[Reference] | None = None,
    trust: FileTrust | None = None,
) -> StoredImage:
    """Import the image that ``open_image`` would open, with all its layers.

    It gets those of its names that no other image has, as only ``load`` moves names. If ``names``
    are given, it gets these instead, even from other images. ``trust`` is the policy that must
    accept an image of a file, by default that of the user.
    """
    location = Location.of(source)
    trust = trust or _users_trust()
    how = LoadOptions(store, platform, progress=progress, lease=lease, trust=trust)
    if location.kind == "stored":
        return _find_stored(how, location.path)
    if location.kind == "docker-daemon":
        return _fetched(how, location, names, take_over=names is not None)
    with _leased(how, "load", location) as how, _open_source(how, location) as opened:
        entry = choose(opened.archive.entries(), location.selector, opened.archive.what)
        if names is not None:
            return _load_entry(how, opened.archive, replace(entry, names=tuple(names)))
        return _load_entry(how, opened.archive, entry, take_over=False)


def open_source(store: Store, location: Location, trust: FileTrust | None = None) -> OpenArchive:
    """Open an archive or a layout, which the policy ``trust`` must accept, if it is given."""
    return _open_source(LoadOptions(store, trust=trust), location)


def open_stored(
    store: Store,
    stored: StoredImage,
    name: str,
    *,
    verify: bool = False,
    progress: Progress | None = None,
    lease: Lease | None = None,
) -> OpenImage:
    """Open an image of the store under ``name``."""
    how = LoadOptions(store, verify=verify, progress=progress, lease=lease)
    return _open_stored(how, stored, name)


@contextmanager
def _leased(how: LoadOptions, kind: str, location: Location) -> Iterator[LoadOptions]:
    """Add a lease to the options, which ends with the block, unless the caller gave one."""
    if how.lease is not None:
        yield how
        return
    with how.store.lease(kind, f"{kind} {printable(str(location))}") as lease:
        yield replace(how, lease=lease)


def _users_trust() -> FileTrust:
    from unionmount.trust.file_trust import FileTrust  # noqa: PLC0415 - a stored image needs none

    return FileTrust()


# -- sources


class OpenArchive(Closing):
    """An open archive; if ``spooled``, its file vanishes with it, so layers are imported."""

    def __init__(self, archive: ImageArchive, *, spooled: bool) -> None:
        self.archive = archive
        self.spooled = spooled

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()


def _open_source(how: LoadOptions, location: Location) -> OpenArchive:
    """Open an archive or layout; raise NotTrusted if the policy refuses its images.

    An image that another tool has unpacked is an archive, too: its layers are made again.
    """
    if location.is_unpacked:
        from unionmount.transfer.open_unpacked import open_to_load  # noqa: PLC0415 - rarely needed

        return OpenArchive(open_to_load(location, how.trust), spooled=False)
    opened = _open_untrusted(how, location)
    try:
        if how.trust is not None:
            how.trust.check_file(_transport(opened.archive, location), location.path)
    except BaseException:
        opened.close()
        raise
    return opened


def _transport(archive: ImageArchive, location: Location) -> str:
    """Return what policy.json calls the kind of an archive."""
    if isinstance(archive, OciLayout):
        is_directory = location.path != STDIN and Path(location.path).is_dir()
        return "oci" if is_directory else "oci-archive"
    if isinstance(archive, BlobArchive):  # the only other one is a directory of skopeo's
        return "dir"
    return "tarball" if isinstance(archive, FlatArchive) else "docker-archive"


def _open_untrusted(how: LoadOptions, location: Location) -> OpenArchive:
    if location.kind == "registry":
        raise UsageError(f"{location}: is in a registry; fetch it with 'unionmount pull' first")
    path = Path(location.path)
    what = "standard input" if location.path == STDIN else printable(location.path)
    default_name = fallback_name(path)
    in_directory = location.kind in ("path", "docker-archive") and path.is_dir()
    if location.kind in ("oci", "dir") or in_directory:
        return OpenArchive(_open_directory(path, location.kind, default_name), spooled=False)
    fd, spooled = _open_file(how, location.path, what)
    flat = None
    with ExitStack() as stack:
        if location.kind == "path":
            flat = _FlatOpener(how, os.dup(fd), what, spooled=spooled)
            stack.callback(flat.file.close)
        archive = _open_tar(fd, what, location.kind, default_name, flat)
        if isinstance(archive, FlatArchive):
            stack.pop_all()
    return OpenArchive(archive, spooled=spooled)


def _open_tar(
    fd: int, what: str, kind: str, default_name: str, flat: _FlatOpener | None
) -> ImageArchive:
    """Open the images in a tar, or the root file system; takes over ``fd``."""
    if flat is not None and flat.is_known():
        os.close(fd)
        return flat.archive()
    try:
        files = TarFiles(fd, what)
    except FormatError as error:
        if flat is None:
            raise
        if isinstance(error, LimitExceeded):  # no archive of images has so many members
            return flat.archive()
        reason = str(error).removeprefix(f"{what}: ")
        raise FormatError(
            f"{what}: not an image archive, and no root file system: {reason}"
        ) from error
    if flat is None or has_image(files):
        return open_archive(files, kind, default_name)
    is_empty = files.is_empty
    files.close()
    if is_empty:
        raise FormatError(f"{what}: not an image archive, and no root file system: it is empty")
    return flat.archive()


class _FlatOpener:
    """The opening of a tar that may be a root file system; ``file`` has the descriptor."""

    def __init__(self, how: LoadOptions, fd: int, what: str, *, spooled: bool) -> None:
        self.file = FlatFile(fd, what)
        self._how = how
        self._what = what
        self._spooled = spooled

    def is_known(self) -> bool:
        """Return whether the tar is indexed as a root file system."""
        return not self._spooled and self._recalled(self.file.whole) is not None

    def archive(self) -> ImageArchive:
        """Return the root file system as an archive of one image, which owns ``file``."""
        return FlatArchive(self.file, self._facts)

    def _recalled(self, data: FileRange) -> FlatFacts | None:
        known = self._how.store.flat_in_place(data, self._what)
        if known is None:
            return None
        os.close(known.index_fd)
        return known.facts

    def _facts(self, data: FileRange) -> FlatFacts:
        """Return the facts of the tar, which is read once if they are not known."""
        known = None if self._spooled else self._recalled(data)
        if known is not None:
            return known
        identity = FileIdentity.of(data.fd)
        hasher = Digest.of(b"").hasher()
        done = 0
        for piece in pieces_of(data, self._what):
            hasher.update(piece)
            done += len(piece)
            if self._how.progress is not None:
                self._how.progress(self._what, done, data.length)
        diff_id = Digest("sha256", hasher.hexdigest())
        if self._spooled:
            return self._how.store.flat_facts(data, self._what, diff_id)
        made = self._how.store.index_flat_in_place(data, self._what, diff_id, identity)
        os.close(made.index_fd)
        return made.facts


def _open_directory(path: Path, kind: str, default_name: str) -> ImageArchive:
    try:
        files = DirectoryFiles(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{printable(str(path))}: {os.strerror(error.errno or 0)}") from None
    return open_directory(files, kind, default_name)


def fallback_name(path: Path) -> str:
    """Return the name of an image that has only a tag: that of its file, in valid characters."""
    stem = re.sub(r"\.(tar(\.(gz|zst|xz|bz2))?|tgz|tzst|txz|tbz2?|oci)$", "", path.name.lower())
    return re.sub(r"[^a-z0-9]+", "-", stem).strip("-") or "image"


def _open_file(how: LoadOptions, path: str, what: str) -> tuple[int, bool]:
    """Open an archive that can be read at any offset; copy any other to the store first."""

    def waiting() -> None:
        if how.progress is not None:
            how.progress("waiting for a FIFO", 0, None)

    try:
        if path == STDIN:
            fd, first = os.dup(0), b""
        else:
            fd, first = open_stream(path, os.environ, fifo=how.streams, waiting=waiting)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{what}: no such file or directory{near_file(path)}") from None
    except NotRegular as error:
        raise UsageError(f"{what}: is {error.kind}, not an archive") from None
    with ExitStack() as stack:
        stack.callback(os.close, fd)
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{what}: is a directory, not an archive")
        if stat.S_ISREG(mode) and path != STDIN:
            with naming(what):
                head = os.pread(fd, MAGIC_SIZE, 0)
            if sniff(head, what) is Compression.PLAIN:
                stack.pop_all()
                return fd, False
        return _spool(how, fd, first, what), True


def _spool(how: LoadOptions, fd: int, first: bytes, what: str) -> int:
    """Decompress a stream to a nameless file of the store; ``first`` was read before."""
    spool = how.store.spool()
    try:
        with naming(what):
            head = first + _read_full(fd, MAGIC_SIZE - len(first))
        stream = decompressor(sniff(head, what), what)
        left = how.store.limits.max_layer_size
        data = head
        while data:
            for piece in stream.feed(data):
                left -= len(piece)
                _check_left(left, how.store.limits, what)
                with storing(how.store.root):
                    write_all(spool, piece)
            with naming(what):
                data = os.read(fd, _READ_STEP)
        stream.finish()
    except BaseException:
        os.close(spool)
        raise
    return spool


def _check_left(left: int, limits: ImportLimits, what: str) -> None:
    if left < 0:
        raise LimitExceeded(
            f"{what}: more than {limits.max_layer_size} bytes "
            f"(the limit; {LIMIT_VARIABLE} changes it)"
        )


def _read_full(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := os.read(fd, size - len(data))):
        data += more
    return data


# -- images


def _fetched(
    how: LoadOptions,
    location: Location,
    names: Sequence[Reference] | None = None,
    *,
    take_over: bool = False,
) -> StoredImage:
    """Return an image of a docker daemon, from the store if it has it."""
    from unionmount.transfer.daemon import DaemonOptions, fetch_now  # noqa: PLC0415 - with trio

    trust = how.trust or _users_trust()  # also only to look, since the store gets the image
    wanted = DaemonOptions(
        how.platform, how.progress, how.lease, names, take_over=take_over, trust=trust
    )
    return fetch_now(how.store, location.path, wanted)


def _find_stored(how: LoadOptions, text: str) -> StoredImage:
    if text == SCRATCH:
        return _fitting(how.store, _keep_scratch(how.store), text, how.platform)
    return find_stored(how.store, text, how.platform)


def find_stored(store: Store, text: str, platform: Platform | None = None) -> StoredImage:
    """Find the image of the store that a name or ID means for a platform.

    A name means one image. If that is for another platform, an image from the same index of a
    registry is returned, so the same version. For a word that looks like a file, the error says
    that there is no such file.
    """
    try:
        stored = store.find_image(text)
    except NotFoundError:
        if looks_like_file(text):
            raise no_such_file(text) from None
        raise
    if platform is not None and store.has_image_named(text):
        stored = _sibling(store, text, stored, platform) or stored
    return _fitting(store, stored, text, platform)


def _fitting(
    store: Store, stored: StoredImage, text: str, platform: Platform | None
) -> StoredImage:
    if platform is not None:
        offered = store.read_image(stored).config.platform
        if platform.distance(offered) is None:
            raise NotFoundError(f"image '{printable(text)}' is for {offered}, not {platform}")
    return stored


def _sibling(
    store: Store, text: str, stored: StoredImage, platform: Platform
) -> StoredImage | None:
    """Return the image of the same index that fits best, if the named one does not fit."""
    if platform.distance(store.read_image(stored).config.platform) is not None:
        return None
    wanted = Reference.parse(text).digest
    shared = {one for one in stored.digests if wanted is None or one.endswith(f"@{wanted}")}
    found = []
    for one in store.list_images():
        if shared.intersection(one.digests):
            distance = platform.distance(store.read_image(one).config.platform)
            found += [] if distance is None else [(distance, one)]
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _keep_scratch(store: Store) -> StoredImage:
    """Keep the documents of the empty image, and return its entry, which no list shows."""
    image = scratch()
    manifest = store.put_blob(image.manifest.raw, image.manifest.digest)
    return StoredImage((), manifest, store.put_blob(image.config.raw, image.id), 0)


def _open_stored(how: LoadOptions, stored: StoredImage, name: str) -> OpenImage:
    if how.lease is not None:
        image = how.store.use_image(stored, how.lease)
    else:
        image = how.store.read_image(stored)
    note_use(how.store.directory, stored.id)
    with ExitStack() as stack:
        layers = []
        for diff_id in image.diff_ids:
            layer = how.store.open_layer(diff_id)
            stack.callback(layer.close)
            layers.append(layer)
            if how.verify:
                check_digest(data_of(layer), diff_id, f"layer {diff_id}", how.progress)
        stack.pop_all()
    return OpenImage(image, name, tuple(layers))


def _load_entry(
    how: LoadOptions, archive: ImageArchive, entry: Entry, *, take_over: bool = True
) -> StoredImage:
    found = archive.image(entry, how.platform)
    for blob in found.layers:
        _import(how, blob)
    archive.check_unchanged()
    archive.release()
    image = found.exact(how.store)
    if how.lease is not None:  # a lease of the caller, who will open the image
        how.lease.protect(image.manifest.digest, image.id, *image.diff_ids)
        how.lease.protect_image(image.id)
    return how.store.put_image(entry.names, image, take_over=take_over)


# -- layers


def _open_layer(how: LoadOptions, blob: LayerBlob, *, in_place: bool) -> OpenLayer:
    data = blob.data
    with naming(blob.what):
        compression = sniff(os.pread(data.fd, MAGIC_SIZE, data.offset), blob.what)
    if compression is not Compression.PLAIN or not in_place:
        _import(how, blob)
        return how.store.open_layer(blob.diff_id)
    _check_plain(how, blob)
    marked: tuple[bytes, ...] = ()
    if blob.flat is None:
        index = how.store.index_in_place(data, blob.what)
    else:
        flat = how.store.flat_in_place(data, blob.what)
        if flat is None:  # the index was removed meanwhile
            identity = FileIdentity.of(data.fd)
            flat = how.store.index_flat_in_place(data, blob.what, blob.diff_id, identity)
        index, marked = flat.index_fd, tuple(flat.facts.marked)
    try:
        with storing(blob.what):
            copy = os.dup(data.fd)
    except StoreError:
        os.close(index)
        raise
    return OpenLayer(blob.diff_id, copy, data.offset, data.length, index, marked)


def _check_plain(how: LoadOptions, blob: LayerBlob) -> None:
    """Check a layer that stays in place, as far as possible."""
    data, digest = blob.data, blob.digest
    if digest is not None and digest.algorithm == blob.diff_id.algorithm and digest != blob.diff_id:
        # An uncompressed layer is its own diff_id.
        raise DigestMismatch(f"{blob.what} (diff_id)", str(blob.diff_id), str(digest))
    if how.verify:
        what = f"{blob.what} (diff_id)"
        check_digest(data, blob.diff_id, what, how.progress)


def data_of(layer: OpenLayer) -> FileRange:
    """Return the range of a file that holds a layer."""
    return FileRange(layer.data_fd, layer.offset, layer.length)


def _import(how: LoadOptions, blob: LayerBlob) -> None:
    """Import a layer into the store, unless it is there."""
    if blob.flat is not None:
        refuse_marks(blob.what, blob.flat.marks, blob.flat.marked)
    if how.lease is not None:
        how.lease.protect(blob.diff_id)
    if how.store.has_layer(blob.diff_id):
        return
    data = blob.data
    literal = blob.flat is not None
    size = data.length if blob.pieces is None else None
    expected = Expected(blob.diff_id, blob.what, blob.digest, size, literal=literal)
    with how.store.import_layer(expected) as layer:
        done = 0
        for piece in pieces_of(data, blob.what) if blob.pieces is None else blob.pieces():
            layer.write(piece)
            done += len(piece)
            if how.progress is not None:
                how.progress(str(blob.diff_id), done, max(done, data.length))
        layer.finish()
