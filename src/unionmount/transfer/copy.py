"""Copying an image from a registry, archive, layout or the store to any of these.

Between registries, OCI layouts (also in a tar) and directories of skopeo's ``dir:``, everything
stays as it is, to the last byte: manifests, and blobs as they are compressed; the store only
buffers blobs. All other copies go through a store, like pull, load, save and push: a docker-archive
has no manifest, and its layers are plain. It is converted in a temporary store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import trio

from unionmount.errors import UsageError
from unionmount.images.opened import OpenImage
from unionmount.images.reference import Digest, Reference
from unionmount.sources import STDIN, Location
from unionmount.store.layer_import import Progress
from unionmount.store.store import Store, StoredImage
from unionmount.transfer.blobs import (
    cancelling,
)
from unionmount.transfer.copy_documents import Copied, DocumentOptions, copy_documents
from unionmount.transfer.copy_list import ReferrerChoice
from unionmount.transfer.daemon import DaemonOptions, fetch, find_fetched
from unionmount.transfer.image_files import DirectoryWriter, TarWriter, new_directory, replaced_file
from unionmount.transfer.layout_growth import layout_directory
from unionmount.transfer.load import (
    find_stored,
    keep_image,
    open_stored,
)
from unionmount.transfer.pull import PullOptions, pull_as
from unionmount.transfer.push import PushOptions, push
from unionmount.transfer.save import find_wanted, keeps_manifest, save
from unionmount.transfer.scratch_store import scratch_store
from unionmount.transfer.to_daemon import send
from unionmount.trust.image_trust import ImageTrust

if TYPE_CHECKING:
    from unionmount.formats.compression import Compression
    from unionmount.images.image import ImageDocuments
    from unionmount.images.platform import Platform
    from unionmount.registry import RegistryClient
    from unionmount.transfer.image_files import FileWriter
    from unionmount.transfer.save import Form, ImageToSave
from unionmount.transfer.endpoints import (
    DirectorySink,
    LayoutSink,
    RegistrySink,
    Source,
    open_documents,
)

Squash = Callable[[Store, OpenImage, Sequence[Reference], Progress], StoredImage]
"""A function that makes an image with fewer layers of an open one, in a store and with names."""

_DOCUMENTS = frozenset({"registry", "oci", "oci-archive", "dir"})  # targets that take them


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """The options of a copy; ``compression`` is for layers that are compressed anew.

    ``resolve`` returns the reference for a name of a registry as the user wrote it. With
    ``referrers``, signatures and the like are copied, too. ``destination`` is the client for the
    target if its login differs. Several ``platforms`` are given instead of one ``platform``.
    ``trust`` is the policy that must accept the image, by default that of the user.
    """

    resolve: Callable[[str], Reference]
    platform: Platform | None = None
    all_platforms: bool = False
    compression: Compression | None = None
    keep_digest: bool = False
    progress: Progress | None = None
    squash: Squash | None = None
    referrers: ReferrerChoice | None = None
    destination: RegistryClient | None = None
    platforms: tuple[Platform, ...] = ()
    trust: ImageTrust = field(default_factory=ImageTrust)

    @property
    def chosen_platforms(self) -> tuple[Platform, ...]:
        """The platforms of the copy: none, one, or several."""
        return self.platforms or ((self.platform,) if self.platform is not None else ())

    def client_of_target(self, client: RegistryClient) -> RegistryClient:
        """Return the client for the target, whose login may be another one."""
        return self.destination or client


async def copy(
    store: Store, client: RegistryClient, source: Location, target: Location, how: CopyOptions
) -> Copied:
    """Copy one image, or with ``all_platforms`` all images of an index."""
    if source.path == STDIN:
        raise UsageError("copy cannot read standard input; use load")
    if how.squash is not None:
        return await _squashed(store, client, source, target, how, how.squash)
    async with open_documents(
        store, client, source, how.resolve, how.progress, trust=how.trust
    ) as origin:
        if origin is not None and target.kind in _DOCUMENTS:
            if how.compression is not None:
                raise UsageError(
                    "--compress cannot be used between registries, OCI layouts and dir:, "
                    "which keep their blobs"
                )
            if target.kind == "dir":
                _check_no_referrers(how)
            return await _copy_as_it_is(how.client_of_target(client), origin, target, how)
    _check_for_one_image(how)
    if target.kind == "stored":
        name = Reference.parse(target.path)
        return Copied((await _to_store(store, client, source, [name], how)).id)
    if source.kind == "stored":
        return await _from_store(
            store, client, find_stored(store, source.path), source.path, target, how
        )
    if source.kind == "docker-daemon":
        here = await find_fetched(store, source.path, DaemonOptions(how.platform, trust=how.trust))
        if here is not None:
            return await _from_store(store, client, here, str(here.id), target, how)
    with _temporary_store(store) as between:
        stored = await _to_store(between, client, source, None, how)
        return await _from_store(between, client, stored, str(stored.id), target, how)


def _check_for_one_image(how: CopyOptions) -> None:
    """Raise UsageError if options are only for copies that keep manifests as they are."""
    named = (
        ("--all", how.all_platforms),
        ("--platform given twice", bool(how.platforms)),
    )
    for option, is_given in named:
        if is_given:
            raise UsageError(
                f"{option} is only for copies between registries, OCI layouts and dir:; other "
                "places hold an image for one platform"
            )
    _check_no_referrers(how)


def _check_no_referrers(how: CopyOptions) -> None:
    """Raise UsageError for a place that has no list of referrers."""
    if how.referrers is not None:
        raise UsageError(
            "--referrers is only for copies between registries and OCI layouts; other places hold "
            "no manifests that others are about"
        )


# -- by way of a store


@contextmanager
def _temporary_store(store: Store) -> Iterator[Store]:
    """Create a store inside a directory of the store that is removed with this process."""
    with store.staging() as staging:
        yield Store(staging.path / "store", store.limits)


async def _squashed(
    store: Store,
    client: RegistryClient,
    source: Location,
    target: Location,
    how: CopyOptions,
    squash: Squash,
) -> Copied:
    """Copy an image with fewer layers, which is made in the store or in a temporary one."""
    for option, is_given in (("--all", how.all_platforms), ("--keep-digest", how.keep_digest)):
        if is_given:
            raise UsageError(
                f"{option} cannot be combined with --squash, which makes another image"
            )
    _check_for_one_image(how)
    with ExitStack() as stack:
        between = stack.enter_context(scratch_store(store))
        origin = store if source.kind == "stored" else between
        lease = stack.enter_context(origin.lease("copy", f"copy of {source}"))
        if source.kind == "stored":
            stored = find_stored(store, source.path, how.platform)
            names: Sequence[Reference] = find_wanted(store, [source.path])[0].names
        else:
            stored = await _to_store(between, client, source, None, how)
            names = [Reference.parse(name) for name in stored.names]
        place = between
        if target.kind == "stored":
            place, names = store, [Reference.parse(target.path)]

        def make() -> StoredImage:
            with open_stored(between, stored, str(source), lease=lease) as image:
                return squash(place, image, names, cancelling(how.progress))

        made = await trio.to_thread.run_sync(make)
        if target.kind == "stored":
            return Copied(made.id)
        return await _from_store(between, client, made, str(made.id), target, how)


async def _to_store(
    store: Store,
    client: RegistryClient,
    source: Location,
    names: Sequence[Reference] | None,
    how: CopyOptions,
) -> StoredImage:
    if source.kind == "registry":
        pulling = PullOptions(
            *(how.platform, "always"), progress=how.progress, names=names, trust=how.trust
        )
        return await pull_as(store, client, how.resolve(source.path), pulling)
    if source.kind == "docker-daemon":
        wanted = DaemonOptions(
            *(how.platform, how.progress), names=names, take_over=True, trust=how.trust
        )
        return await fetch(store, source.path, wanted)
    if source.kind == "stored":
        found = find_stored(store, source.path)
        for name in names or ():
            found = store.tag(found, name)
        return found
    progress = cancelling(how.progress)
    keep = partial(
        keep_image, platform=how.platform, progress=progress, names=names, trust=how.trust
    )
    return await trio.to_thread.run_sync(keep, store, source)


async def _from_store(
    store: Store,
    client: RegistryClient,
    stored: StoredImage,
    word: str,
    target: Location,
    how: CopyOptions,
) -> Copied:
    """Copy an image of a store that ``word`` names there."""
    if target.kind == "registry":
        pushing = PushOptions(how.compression, how.keep_digest, how.progress)
        there = how.client_of_target(client)
        done = await push(store, there, stored, how.resolve(target.path), pushing)
        return Copied(done.digest, done.changes)
    (wanted,) = find_wanted(store, [word])
    if how.keep_digest:
        _check_digest_stays(wanted.image, target, how)
    if target.kind == "docker-daemon":
        if how.compression is not None:
            raise UsageError(
                "--compress cannot be used for a docker daemon, which gets plain layers"
            )
        name = Reference.parse(target.path).with_default_tag()
        await send(store, replace(wanted, names=(name,)), str(target), how.progress)
        return Copied(None)
    if target.selector and target.kind == "docker-archive":
        name = Reference.parse(target.selector).with_default_tag()
        wanted = replace(wanted, names=(name,))
    elif target.selector:
        wanted = replace(wanted, ref=target.selector)
    elif not wanted.names:
        wanted = replace(wanted, names=tuple(map(Reference.parse, stored.names)))
    return Copied(await trio.to_thread.run_sync(_save, store, wanted, target, how))


def _check_digest_stays(image: ImageDocuments, target: Location, how: CopyOptions) -> None:
    """Raise UsageError if a target that is no registry would get another manifest, or none."""
    if target.kind in _DOCUMENTS and keeps_manifest(image, how.compression):
        return
    why = "has no manifest"
    if target.kind in _DOCUMENTS:
        why = f"gets layers compressed otherwise than those of manifest {image.manifest.digest}"
    raise UsageError(f"--keep-digest: {target} {why}; leave out the option, or copy to a registry")


def _save(store: Store, wanted: ImageToSave, target: Location, how: CopyOptions) -> Digest | None:
    """Write an image; return the digest of its manifest, which a docker-archive has not."""
    form = cast("Form", target.kind)
    with layout_writer(target) as writer:
        progress = cancelling(how.progress)
        digests = save(
            store, [wanted], writer, form, compression=how.compression, progress=progress
        )
    return digests[0] if digests else None


@contextmanager
def layout_writer(target: Location) -> Iterator[FileWriter]:
    """Open a directory or tar to write; it is complete when the block ends, or does not appear.

    A layout in a directory that exists gets more images.
    """
    if target.kind == "oci":
        with layout_directory(Path(target.path)) as growing:
            yield growing
        return
    if target.kind == "dir":
        with new_directory(Path(target.path)) as directory:
            yield DirectoryWriter(directory)
        return
    with replaced_file(Path(target.path)) as fd:
        writer = TarWriter.to_file(fd, target.path)
        yield writer
        writer.finish()


@asynccontextmanager
async def layout_writer_of_task(target: Location) -> AsyncIterator[FileWriter]:
    """Do the same for a task: a thread waits for the disk and for the lock of a layout."""
    opened = layout_writer(target)
    writer = await trio.to_thread.run_sync(opened.__enter__)
    try:
        yield writer
    except BaseException as error:
        end = partial(opened.__exit__, type(error), error, error.__traceback__)
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(end)
        raise
    await trio.to_thread.run_sync(opened.__exit__, None, None, None)


async def _copy_as_it_is(
    there: RegistryClient, source: Source, target: Location, how: CopyOptions
) -> Copied:
    """Copy documents and blobs as they are; ``there`` is the client for the target."""
    chosen = DocumentOptions(
        how.chosen_platforms, how.all_platforms, how.keep_digest, how.referrers, trust=how.trust
    )
    if target.kind == "registry":
        ref = how.resolve(target.path).with_default_tag()
        return await copy_documents(
            RegistrySink(there, ref, source.names, how.progress), source, chosen
        )
    async with layout_writer_of_task(target) as writer:
        if target.kind == "dir":
            return await copy_documents(DirectorySink(writer, str(target)), source, chosen)
        sink = LayoutSink(writer)
        copied = await copy_documents(sink.part(target.selector, source), source, chosen)
        sink.complete()
        return copied
