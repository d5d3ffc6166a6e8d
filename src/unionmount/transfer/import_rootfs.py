"""The import of a root file system, from a tar or a directory, as an image of one layer.

The tar becomes the layer bit for bit, once decompressed, in one pass: it is written, hashed and
indexed as it comes, and appears in the store when everything is verified. The config is the one
that ``docker import`` writes. A layer cannot hold names that are whiteouts, so a tar with such
names is refused.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from unionmount import core
from unionmount.errors import FormatError, NotAnImage, NotFoundError, NotRegular, UsageError
from unionmount.images.build import compact_json, timestamp
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.instructions import apply_instructions
from unionmount.images.platform import Platform
from unionmount.sources import STDIN
from unionmount.sources.archive import is_image_tar
from unionmount.store.layer_import import Expected
from unionmount.system.files import open_stream
from unionmount.system.os_errors import naming
from unionmount.system.text import printable
from unionmount.transfer.blobs import cancelling, hand_on
from unionmount.transfer.directory_tar import DirectoryTar, Warn

if TYPE_CHECKING:
    from unionmount.images.reference import Digest, Reference
    from unionmount.registry.url_download import UrlClient
    from unionmount.store.layer_import import LayerImport, Progress
    from unionmount.store.leases import Lease
    from unionmount.store.store import Store, StoredImage
    from unionmount.system.files import FileRange

_STEP = 1024 * 1024
_MOST_WARNINGS = 5
_LOCAL = "-"  # docker's word in the history for a file that the client has sent


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """The name and the metadata of the image, and what the tar has to be.

    ``checksum`` is the digest of the file as it is, compressed or not. ``flat`` also accepts the
    files of an archive of images. ``epoch`` (seconds since 1970) is the time of the image.
    """

    name: Reference | None = None
    instructions: Sequence[str] = ()
    message: str = ""
    platform: Platform | None = None
    checksum: Digest | None = None
    flat: bool = False
    epoch: int | None = None

    def check(self) -> None:
        """Raise UsageError if something is wrong that would only show at the end."""
        if self.name is not None and self.name.digest is not None:
            raise UsageError(f"'{self.name}' has a digest; name the image by a tag instead")
        apply_instructions({}, self.instructions)
        timestamp(self.epoch)


def import_file(
    store: Store,
    path: str,
    request: ImportRequest,
    warn: Warn,
    progress: Progress | None = None,
) -> StoredImage:
    """Import a tar, plain or compressed, from a file, a FIFO or standard input (``-``)."""
    what = "standard input" if path == STDIN else printable(path)
    with (
        _opened(path, what, progress) as (fd, first),
        _importing(store, what, request, warn) as making,
    ):
        total = os.fstat(fd).st_size or None
        done = 0
        data = first or _read(fd, what)
        while data:
            making.write(data)
            done += len(data)
            if progress is not None:
                progress(what, done, total)
            data = _read(fd, what)
        return making.finish(_LOCAL)


def import_directory(
    store: Store,
    path: str,
    request: ImportRequest,
    warn: Warn,
    progress: Progress | None = None,
) -> StoredImage:
    """Import a directory with all its files of one file system."""
    if request.checksum is not None:
        raise UsageError("--checksum is for files and URLs; a directory has no digest")
    what = printable(path)
    tar = DirectoryTar(Path(path), warn, epoch=request.epoch, skipped=store.root)
    with _importing(store, what, request, warn) as making:
        waiting, done = bytearray(), 0
        for piece in tar.pieces():
            waiting += piece
            if len(waiting) >= _STEP:
                making.write(bytes(waiting))
                done += len(waiting)
                waiting.clear()
                if progress is not None:
                    progress(what, done, None)
        making.write(bytes(waiting))
        return making.finish(_LOCAL)


async def import_url(
    store: Store,
    client: UrlClient,
    url: str,
    request: ImportRequest,
    warn: Warn,
    progress: Progress | None = None,
) -> StoredImage:
    """Import a tar from a web server."""
    download = client.file(url, verified=request.checksum is not None)
    shown = cancelling(progress)
    with _importing(store, download.what, request, warn) as making:

        def take(data: bytes, done: int) -> None:
            making.write(data)
            shown(download.what, done, download.total)

        async with aclosing(download.chunks()) as chunks:
            await hand_on(chunks, take)
        return await trio.to_thread.run_sync(making.finish, download.what)


class _Making:
    """An image that is being imported."""

    def __init__(
        self, store: Store, lease: Lease, incoming: LayerImport, request: ImportRequest
    ) -> None:
        self._store = store
        self._lease = lease
        self._incoming = incoming
        self._request = request

    def write(self, data: bytes) -> None:
        """Take the next bytes of the tar as it comes."""
        self._incoming.write(data)

    def finish(self, origin: str) -> StoredImage:
        """Verify and store the layer, and the image of it."""
        self._incoming.finish()
        diff_id = self._incoming.diff_id
        raw = _config(self._request, diff_id, origin)
        config = Config.parse(raw, "the new image")
        size = self._store.layer_info(diff_id).layer_size
        image = ImageDocuments.from_config(config, [size], "the new image")
        name = self._request.name
        self._lease.protect(image.manifest.digest, image.id)
        return self._store.put_image([] if name is None else [name], image)


@contextmanager
def _importing(store: Store, what: str, request: ImportRequest, warn: Warn) -> Iterator[_Making]:
    """Begin an import, which leaves nothing behind unless it is finished."""
    request.check()
    expected = Expected(None, what, request.checksum, literal=True)
    left_out: list[str] = []

    def inspect(index: int, data: FileRange) -> None:
        _refuse_other(index, data, what, flat=request.flat)
        left_out.extend(_left_out(index, data, what))

    with (
        store.lease("import", f"import of {what}") as lease,
        store.import_layer(expected, lease=lease, inspect=inspect) as incoming,
    ):
        yield _Making(store, lease, incoming, request)
    for text in left_out:
        warn(text)


def _refuse_other(index: int, data: FileRange, what: str, *, flat: bool) -> None:
    """Raise an error for an empty tar, and without ``flat`` for one with images."""
    with core.Index(index, what) as opened:
        is_empty = opened.info.inodes <= 1
    if is_empty:
        raise FormatError(f"{what}: is empty; a root file system has files")
    if not flat and is_image_tar(index, data, what):
        raise NotAnImage(
            f"{what}: is an archive of images and no root file system; use 'unionmount load', or "
            "--flat to import its files"
        )


def _left_out(index: int, data: FileRange, what: str) -> list[str]:
    """Return warnings about entries that are in the tar, but have no place in the image."""
    with core.Index(index, what) as opened:
        texts: list[str] = []
        if opened.info.unresolved:
            texts.append(
                f"{what}: {opened.info.unresolved} entries left out, since symlinks on their way "
                "form a loop"
            )
        layer = core.TreeLayer(opened, data.fd, data.offset, data.length)
        with core.Tree([layer]) as tree:
            broken = list(islice(tree.broken_links(), _MOST_WARNINGS + 1))
    texts += [
        f"{what}: '{printable(link.name)}' left out, a hard link to "
        f"'{printable(link.target)}', which is not there"
        for link in broken[:_MOST_WARNINGS]
    ]
    if len(broken) > _MOST_WARNINGS:
        texts.append(f"{what}: and more such hard links; 'unionmount check' lists them")
    return texts


@contextmanager
def _opened(path: str, what: str, progress: Progress | None) -> Iterator[tuple[int, bytes]]:
    """Open a file for reading from start to end; also yield bytes that were read."""

    def waiting() -> None:
        if progress is not None:
            progress("waiting for a FIFO", 0, None)

    try:
        if path == STDIN:
            fd, first = os.dup(0), b""
        else:
            fd, first = open_stream(path, os.environ, fifo=True, waiting=waiting)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{what}: no such file or directory") from None
    except NotRegular as error:
        raise UsageError(f"{what}: is {error.kind}, not a tar") from None
    try:
        yield fd, first
    finally:
        os.close(fd)


def _read(fd: int, what: str) -> bytes:
    with naming(what):
        return os.read(fd, _STEP)


def _config(request: ImportRequest, diff_id: Digest, origin: str) -> bytes:
    """Return the config as docker writes it: the history is one step without a command."""
    created = timestamp(request.epoch)
    message = request.message or f"Imported from {origin}"
    platform = request.platform or Platform.host()
    document: dict[str, Any] = {
        "architecture": platform.architecture,
        "comment": message,
        "config": apply_instructions({}, request.instructions),
        "created": created,
        "history": [{"created": created, "comment": message}],
        "os": platform.os,
        "rootfs": {"type": "layers", "diff_ids": [str(diff_id)]},
    }
    if platform.variant:
        document["variant"] = platform.variant
    return compact_json(document)
