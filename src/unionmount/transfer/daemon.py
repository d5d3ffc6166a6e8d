"""Docker daemon → store: an image by its name or ID, each layer imported while it arrives.

The daemon describes the image first. One that is in the store is not fetched. Of a stream, only
the documents are kept in memory; the layers go into the store, which verifies them against the
description, before the documents that name them arrive. When a transfer is interrupted, complete
layers stay until garbage is collected, and incomplete ones leave nothing behind.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import trio

from unionmount.engine import EngineClient, EngineEndpoint, EngineImage
from unionmount.errors import FormatError, InvalidReference, NotFoundError
from unionmount.formats.tar_reader import TarReader
from unionmount.images.reference import Digest, Reference
from unionmount.sources import choose
from unionmount.sources.archive import open_archive
from unionmount.sources.layout import BlobArchive
from unionmount.sources.streamed import StreamedFiles, is_document, normal
from unionmount.store.layer_import import Expected
from unionmount.system.attentive_wait import wait_for
from unionmount.system.text import printable
from unionmount.trust.file_trust import FileTrust

if TYPE_CHECKING:
    import tarfile

    from unionmount.images.image import ImageDocuments
    from unionmount.images.platform import Platform
    from unionmount.store.layer_import import Progress
    from unionmount.store.leases import Lease
    from unionmount.store.store import Store, StoredImage

_BEGINNING = re.compile("[0-9a-f]+")  # of an ID
_PATH_MAX = 4096
_PIECE = 1024 * 1024  # bytes that are handed to the importing thread at once


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    """The options of a transfer.

    The image gets ``names``, or by default the name of the request. Without ``take_over``, it gets
    only names that no other image has. ``lease`` protects the image beyond the transfer. ``trust``
    is the policy that must accept the image, by default that of the user.
    """

    platform: Platform | None = None
    progress: Progress | None = None
    lease: Lease | None = None
    names: Sequence[Reference] | None = None
    take_over: bool = False
    trust: FileTrust = field(default_factory=FileTrust)


def fetch_now(store: Store, name: str, how: DaemonOptions) -> StoredImage:
    """Do the same as ``fetch``, for a caller that may run an event loop of its own."""
    return _OwnLoop(partial(fetch, store, name, how)).run()


async def fetch(store: Store, name: str, how: DaemonOptions) -> StoredImage:
    """Return the image of a daemon from the store, after fetching it if it is not there."""
    _check_trust(how.trust, name)
    async with _client() as client:
        if how.lease is not None:
            return await _Fetch(store, client, name, how, how.lease).run()
        with store.lease("pull", f"docker-daemon:{name}") as lease:
            return await _Fetch(store, client, name, how, lease).run()


async def find_fetched(store: Store, name: str, how: DaemonOptions) -> StoredImage | None:
    """Return the image of a daemon if the store has it; it gets no name."""
    _check_trust(how.trust, name)
    async with _client() as client:
        with store.lease("pull", f"docker-daemon:{name}") as lease:
            found = await _Fetch(store, client, name, how, lease).find()
    return None if found is None else found[0]


def _client() -> EngineClient:
    return EngineClient(EngineEndpoint.find(os.environ), os.environ)


def _check_trust(trust: FileTrust, name: str) -> None:
    """Raise NotTrusted unless the policy accepts an image of the daemon, which has no signatures.

    Names have the scopes of names in a registry. An ID has none, so only the default decides. What
    may be a name or the beginning of an ID must be accepted as both.
    """
    if trust.policy() is None:
        return
    from unionmount.trust.scopes import ImageScopes, scopes_of_reference  # noqa: PLC0415 - rare

    what, is_id = printable(f"docker-daemon:{name}"), name.startswith("sha256:")
    if not is_id:
        trust.check_unsigned(scopes_of_reference(Reference.parse(name), "docker-daemon"), what)
    if is_id or _BEGINNING.fullmatch(name):
        trust.check_unsigned(ImageScopes("docker-daemon", ()), what)


class _OwnLoop:
    """A task in a thread of its own, which ends if the caller's thread is interrupted."""

    def __init__(self, work: Callable[[], Awaitable[StoredImage]]) -> None:
        self._work = work
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._result: StoredImage | None = None
        self._failure: BaseException | None = None
        self._done = threading.Event()
        self._ended = False

    def run(self) -> StoredImage:
        """Run the task to its end."""
        thread = threading.Thread(target=self._run, name="docker-daemon", daemon=True)
        thread.start()
        try:
            wait_for(self._done)
        except BaseException:
            self._ended = True  # in case that the token is not there, yet
            with suppress(trio.RunFinishedError):
                if self._token is not None:
                    self._token.run_sync_soon(self._scope.cancel)
            wait_for(self._done)
            raise
        if self._failure is not None:
            raise self._failure
        assert self._result is not None
        return self._result

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self._failure = error
        finally:
            self._done.set()  # Thread.join takes an interrupted thread for one that has ended

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self._ended:
            return
        with self._scope:
            self._result = await self._work()


class _Fetch:
    """One transfer of one image."""

    def __init__(
        self, store: Store, client: EngineClient, name: str, how: DaemonOptions, lease: Lease
    ) -> None:
        self._store = store
        self._client = client
        self._name = name
        self._how = how
        self._lease = lease
        self._what = printable(f"docker-daemon:{name}")

    async def run(self) -> StoredImage:
        described = await self._client.image(self._name, self._what)
        self._lease.protect(described.image_id, *described.diff_ids)
        found = self._stored(described)
        if found is not None:
            image = found[1]
        else:
            async with self._client.archive(self._name, self._what) as pieces:
                image = await trio.to_thread.run_sync(self._take, described, _from_task(pieces))
        _check_platform(image, self._how.platform, self._what)
        self._lease.protect(image.manifest.digest, image.id, *image.diff_ids)
        self._lease.protect_image(image.id)
        names = self._how.names
        if names is None:
            names = _names(self._name, described)
        return self._store.put_image(names, image, take_over=self._how.take_over)

    async def find(self) -> tuple[StoredImage, ImageDocuments] | None:
        """Return the image if the store has it with all its layers."""
        return self._stored(await self._client.image(self._name, self._what))

    def _stored(self, described: EngineImage) -> tuple[StoredImage, ImageDocuments] | None:
        for stored in self._store.list_images():
            roots = {str(stored.id), str(stored.manifest)}
            roots.update(one.rpartition("@")[2] for one in stored.digests)
            if str(described.image_id) in roots:
                image = self._store.use_image(stored, self._lease)
                fits = self._how.platform is None or _fits(image, self._how.platform)
                if fits and image.diff_ids == described.diff_ids and self._has_all(image):
                    return stored, image
        return None

    def _has_all(self, image: ImageDocuments) -> bool:
        return all(self._store.has_layer(diff_id) for diff_id in image.diff_ids)

    # -- in a thread

    def _take(self, described: EngineImage, pieces: Iterator[bytes]) -> ImageDocuments:
        """Import the layers of a stream, and return the image when it has ended."""
        files = StreamedFiles(self._what)
        layers = frozenset(described.diff_ids)
        reader = TarReader(pieces, self._what)
        for member in reader.members():
            path = normal(member.name)
            if len(path) > _PATH_MAX:
                raise FormatError(f"{self._what}: '{printable(path[:200])}…' is too long a name")
            if member.issym() or member.islnk():
                files.link(path, member.linkname, symbolic=member.issym())
            elif member.isreg():
                self._take_file(files, layers, path, member, reader)
            elif not member.isdir():
                raise FormatError(f"{self._what}: '{printable(path)}' is neither file nor link")
        with open_archive(files, "docker-archive", "image") as archive:
            entry = choose(archive.entries(), "", self._what)
            found = archive.image(entry, self._how.platform)
            roots = {found.image.id, found.image.manifest.digest}
            if isinstance(archive, BlobArchive):
                roots.update(one.digest for one in archive.descriptors(entry))
        if described.image_id not in roots or found.image.diff_ids != described.diff_ids:
            raise FormatError(f"{self._what}: the daemon has sent another image than it described")
        if not self._has_all(found.image):
            raise FormatError(f"{self._what}: the daemon has sent only some of the layers")
        return found.exact(self._store)

    def _take_file(
        self,
        files: StreamedFiles,
        layers: frozenset[Digest],
        path: str,
        member: tarfile.TarInfo,
        reader: TarReader,
    ) -> None:
        """Keep a document, or import a layer; pass over what is neither."""
        size, data = member.size, reader.data(member)
        named = _digest_of(path)
        if is_document(path):
            files.keep(path, size, data)
            return
        if path.startswith("blobs/") and named is not None and named not in layers:
            first = next(data, b"")
            data = chain([first], data)
            if first[:1] == b"{":  # neither a tar nor a compressed one, which is no diff_id
                files.keep(path, size, data)
                return
        elif named is None and not path.endswith(".tar"):
            return
        files.note(path, size)
        self._import(layers, path, named, size, data)

    def _import(
        self,
        layers: frozenset[Digest],
        path: str,
        named: Digest | None,
        size: int,
        data: Iterator[bytes],
    ) -> None:
        diff_id = named if named in layers else None
        if diff_id is not None and self._store.has_layer(diff_id):
            return
        what = f"{self._what}: layer '{printable(path)}'"
        digest = named if path.startswith("blobs/") else None
        expected = Expected(diff_id, what, digest, size, among=layers)
        with self._store.import_layer(expected, lease=self._lease) as layer:
            done = 0
            for piece in data:
                layer.write(piece)
                done += len(piece)
                if self._how.progress is not None:
                    shown = named.short if named is not None else path[:12]
                    self._how.progress(printable(shown), done, size)
            layer.finish()


def _digest_of(path: str) -> Digest | None:
    """Return the digest that the name of a member is; its algorithm is that of its directory."""
    directory, _, name = path.rpartition("/")
    algorithm = directory.rpartition("/")[2] if directory.startswith("blobs/") else "sha256"
    try:
        return Digest.parse(f"{algorithm}:{name.removesuffix('.tar')}")
    except InvalidReference:
        return None


def _from_task(pieces: AsyncIterator[bytes]) -> Iterator[bytes]:
    """Yield, in a thread, the pieces that a task receives, joined to larger ones."""

    async def receive() -> bytes:
        parts, size = [], 0
        while size < _PIECE and (part := await anext(pieces, b"")):
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    while piece := trio.from_thread.run(receive):
        yield piece


def _names(name: str, described: EngineImage) -> list[Reference]:
    """Return the name of the request as the daemon knows it; none for an ID."""
    wanted = _reference(name)
    if wanted is None or wanted.digest is not None:
        return []
    known = {_reference(one) for one in described.names}
    local = _reference(f"localhost/{name}")  # as podman calls images that it has built
    return [one for one in (wanted, local) if one is not None and one in known][:1]


def _reference(name: str) -> Reference | None:
    try:
        return Reference.parse(name).with_default_tag()
    except InvalidReference:  # such as <none>:<none>
        return None


def _fits(image: ImageDocuments, platform: Platform) -> bool:
    return platform.distance(image.config.platform) is not None


def _check_platform(image: ImageDocuments, platform: Platform | None, what: str) -> None:
    if platform is not None and not _fits(image, platform):
        raise NotFoundError(f"{what}: is for {image.config.platform}, not {platform}")
