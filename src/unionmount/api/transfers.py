"""Moving images: pull, push and copy as functions.

They block. Under trio, call them by ``trio.to_thread.run_sync``, and under asyncio by
``asyncio.to_thread``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

from unionmount.api.images import store_at
from unionmount.api.transfer_thread import TransferProgress, TransferThread
from unionmount.errors import UsageError
from unionmount.images.platform import Platform
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.formats.compression import Compression
    from unionmount.images.opened import OpenImage
    from unionmount.images.reference import Digest, Reference
    from unionmount.registry import Registries, RegistryClient
    from unionmount.sources import Location
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import Store, StoredImage
    from unionmount.transfer.copy import CopyOptions, Squash
    from unionmount.transfer.copy_documents import Copied
    from unionmount.transfer.push import Pushed

T = TypeVar("T")

Policy = Literal["always", "missing", "never"]
"""When to ask a registry: even if the image is here, only if it is missing, or never."""
Compress = Literal["none", "gzip", "zstd"]
"""How layers are compressed that have to be compressed anew."""
Tell = Callable[[TransferProgress], object]
"""A function that gets the progress of a transfer; if it raises, the transfer is cancelled."""


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """How to reach registries: a login for the one that is named, and whether TLS is verified.

    ``authfile`` replaces the usual files with logins, ``cert_dir`` has certificates. Without
    ``tls_verify``, TLS is as configured.
    """

    user: str | None = None
    password: str = field(default="", repr=False)
    authfile: str | os.PathLike[str] | None = None
    tls_verify: bool | None = None
    cert_dir: str | os.PathLike[str] | None = None


@dataclass(frozen=True, slots=True)
class ImageInStore:
    """An image of the store: its names, its ID, and the digest of its manifest there.

    ``warnings`` says what was left out of an image that was made of a container.
    """

    id: Digest
    digest: Digest
    names: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def image_in_store(stored: StoredImage, warnings: Sequence[str] = ()) -> ImageInStore:
    """Return the description of an image in the store."""
    return ImageInStore(stored.id, stored.manifest, stored.names, tuple(warnings))


def pull(
    name: str,
    *,
    policy: Policy = "always",
    platform: str | None = None,
    keep_blobs: bool = False,
    access: RegistryAccess = RegistryAccess(),
    root: str | os.PathLike[str] | None = None,
    progress: Tell | None = None,
) -> ImageInStore:
    """Fetch an image from its registry into the store, as ``unionmount pull`` does.

    A name without a registry is searched in those of registries.conf. Layers that the store has are
    not fetched. ``progress`` is called in this thread. If it raises, or Ctrl-C interrupts this, the
    pull is cancelled: complete layers stay, and nothing else does. Raise NotFoundError,
    RegistryError or another error of ``unionmount.errors``.
    """
    from unionmount.registry import Registries
    from unionmount.sources import refuse_file
    from unionmount.transfer.by_name import find_by_name, pull_by_name, without_transport
    from unionmount.transfer.pull import PullOptions

    if policy not in get_args(Policy):
        raise UsageError(
            f"policy={policy!r} is not known; use one of {', '.join(get_args(Policy))}"
        )
    refuse_file(name)
    name = without_transport(name)
    store, registries = store_at(root), Registries.load(os.environ)
    wanted = Platform.parse(platform) if platform else None
    if policy != "always":
        found = find_by_name(store, registries, name, wanted)
        if found is not None:
            return image_in_store(found[1])

    async def work(client: RegistryClient, tell: Progress | None) -> StoredImage:
        how = PullOptions(platform=wanted, policy=policy, keep_blobs=keep_blobs, progress=tell)
        return (await pull_by_name(store, client, registries, name, how))[1]

    clients = _clients(access, registries, registries.candidates(name))
    return image_in_store(_run(work, clients, progress))


def push(
    image: str,
    name: str | None = None,
    *,
    compress: Compress | None = None,
    keep_digest: bool = False,
    access: RegistryAccess = RegistryAccess(),
    root: str | os.PathLike[str] | None = None,
    progress: Tell | None = None,
) -> Pushed:
    """Send an image of the store to a registry as ``name``, as ``unionmount push`` does.

    Without ``name``, it is pushed under its own name. The result has its ``digest`` there, and in
    ``changes`` why it is not the one that the image came with; with ``keep_digest`` that is an
    error. ``progress`` and Ctrl-C: see ``pull``; a cancelled push leaves the name as it was.
    """
    from unionmount.registry import Registries
    from unionmount.transfer.by_name import push_target
    from unionmount.transfer.push import PushOptions
    from unionmount.transfer.push import push as send

    store, registries = store_at(root), Registries.load(os.environ)
    stored = store.find_image(image)
    ref = push_target(stored, image, name)

    how = PushOptions(compression=_compression(compress), keep_digest=keep_digest)

    async def work(client: RegistryClient, tell: Progress | None) -> Pushed:
        return await send(store, client, stored, ref, replace(how, progress=tell))

    return _run(work, _clients(access, registries, [ref]), progress)


def copy(
    source: str,
    target: str,
    *,
    platform: str | None = None,
    all_platforms: bool = False,
    compress: Compress | None = None,
    keep_digest: bool = False,
    squash: int | Literal["all"] | None = None,
    epoch: int | None = None,
    referrers: bool = False,
    access: RegistryAccess = RegistryAccess(),
    target_access: RegistryAccess | None = None,
    root: str | os.PathLike[str] | None = None,
    progress: Tell | None = None,
) -> Copied:
    """Copy an image between registries, archives, layouts and the store.

    The places are written as for ``unionmount copy``: docker://NAME, docker-archive:FILE[:REF],
    oci-archive:FILE[:REF], oci:DIR[:REF], or the name of an image of the store. ``squash`` makes
    one layer of the topmost layers, of that many or of "all"; ``epoch`` (seconds since 1970) is the
    time of the image that this makes. With ``referrers``, signatures and the like are copied, too.
    ``target_access`` is for the target if its registry is reached in another way.

    The result has the ``digest`` in a registry or layout, or the ID in the store, ``changes`` as
    that of ``push``, and in ``notes`` what was left out. ``progress`` and Ctrl-C: see ``pull``; a
    file or directory appears when it is complete.
    """
    from unionmount.registry import Registries
    from unionmount.sources import Location
    from unionmount.transfer.copy import CopyOptions
    from unionmount.transfer.copy_list import ReferrerChoice

    registries = Registries.load(os.environ)
    warnings: list[str] = []
    how = CopyOptions(
        resolve=lambda name: registries.candidates(name)[0],
        platform=Platform.parse(platform) if platform else None,
        all_platforms=all_platforms,
        compression=_compression(compress),
        keep_digest=keep_digest,
        squash=_squasher(squash, epoch, warnings.append),
        referrers=ReferrerChoice() if referrers else None,
    )
    places = Location.parse(source), Location.parse_target(target)
    copied = _copy(store_at(root), registries, places, how, (access, target_access), progress)
    return replace(copied, notes=(*copied.notes, *warnings))


def _copy(
    store: Store,
    registries: Registries,
    places: tuple[Location, Location],
    how: CopyOptions,
    access: tuple[RegistryAccess, RegistryAccess | None],
    progress: Tell | None,
) -> Copied:
    """Copy between two places; ``access`` is that of the source and, if it has one, the target."""
    from unionmount.transfer.copy import copy as move

    reading, writing = (
        [how.resolve(place.path)] if place.kind == "registry" else [] for place in places
    )
    of_source, of_target = access
    if of_target is None:
        open_source, open_target = _clients(of_source, registries, [*reading, *writing]), None
    elif of_target.user is not None and not writing:
        raise UsageError("target_access has a user, but the target is no registry")
    else:
        open_target = _clients(of_target, registries, writing)
        open_source = _clients(of_source, registries, reading)

    async def work(client: RegistryClient, tell: Progress | None) -> Copied:
        ready = replace(how, progress=tell)
        if open_target is None:
            return await move(store, client, *places, ready)
        async with open_target() as destination:
            return await move(store, client, *places, replace(ready, destination=destination))

    return _run(work, open_source, progress)


def _squasher(
    layers: int | Literal["all"] | None, epoch: int | None, warn: Callable[[str], None]
) -> Squash | None:
    from unionmount.squash import SquashRequest
    from unionmount.squash import squash as run

    if layers is None:
        if epoch is not None:
            raise UsageError("epoch is the time of an image that squash makes; add squash='all'")
        return None
    if layers != "all" and (not isinstance(layers, int) or layers is True or layers < 1):
        raise UsageError(f"squash={layers!r} is not a number of layers; give one, or 'all'")
    request = SquashRequest(None if layers == "all" else layers, epoch)

    def squash(
        store: Store, image: OpenImage, names: Sequence[Reference], progress: Progress
    ) -> StoredImage:
        return run(store, image, names, request, warn, progress)

    return squash


def _clients(
    access: RegistryAccess, registries: Registries, named: Sequence[Reference]
) -> Callable[[], RegistryClient]:
    """Return what opens a client; ``named`` are the references that the caller has written."""
    from unionmount.registry.user_client import client_of_user

    asked = sorted({ref.registry for ref in named})
    if access.user is not None and len(asked) > 1:
        raise UsageError(
            "RegistryAccess.user is for one registry, but this may use several "
            f"({', '.join(map(printable, asked))}); name one, log in to each, or give copy "
            "target_access"
        )
    if access.cert_dir is not None and not Path(access.cert_dir).is_dir():
        raise UsageError(f"{printable(str(access.cert_dir))} (cert_dir) is not a directory")
    return partial(
        client_of_user,
        registries,
        named,
        creds=(access.user, access.password) if access.user is not None else None,
        authfile=os.fspath(access.authfile) if access.authfile is not None else None,
        tls_verify=access.tls_verify,
        cert_dir=os.fspath(access.cert_dir) if access.cert_dir is not None else None,
    )


def _run(
    work: Callable[[RegistryClient, Progress | None], Awaitable[T]],
    open_client: Callable[[], RegistryClient],
    tell: Tell | None,
) -> T:
    """Run ``work`` with a client in a thread of its own."""

    async def attended(progress: Progress | None) -> T:
        async with open_client() as client:
            return await work(client, progress)

    return TransferThread(attended, tell).run()


def _compression(word: Compress | None) -> Compression | None:
    """Return the compression of a word; raise UsageError for another word."""
    from unionmount.formats.compression import Compression

    if word is None:
        return None
    if word not in get_args(Compress):
        raise UsageError(
            f"compress={word!r} is not known; use one of {', '.join(get_args(Compress))}"
        )
    return Compression.PLAIN if word == "none" else Compression(word)
