"""The common parts of pull, push, copy and mount: names, a client, and an orderly end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import unionmount.cli.declared as click
from unionmount.cli.options import RegistryOptions, registry_client
from unionmount.errors import (
    InvalidReference,
    NotFoundError,
    RegistryError,
    UsageError,
)
from unionmount.images.reference import Reference
from unionmount.system.text import human_size, printable

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    import trio

    from unionmount.cli.output import ProgressLine
    from unionmount.cli.settings import Settings
    from unionmount.images.platform import Platform
    from unionmount.registry import Registries, RegistryClient
    from unionmount.sources import Location
    from unionmount.store.leases import Lease
    from unionmount.store.store import Store, StoredImage
    from unionmount.transfer.pull import Policy, PullOptions, PullPlan

T = TypeVar("T")
C = TypeVar("C")
Work = Callable[["RegistryClient"], Awaitable[T]]

KEEP_BLOBS = "UNIONMOUNT_KEEP_BLOBS"
_REFRESHED = 0.5  # seconds between looks at a transfer that may have stalled
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def pull_image(
    settings: Settings, options: RegistryOptions, name: str, how: PullOptions
) -> tuple[Reference, StoredImage]:
    """Pull an image by a user's name; return its full name as well."""
    from unionmount.cli.output import ProgressLine

    store = settings.store()
    registries = registries_of_user()
    progress = how.progress if isinstance(how.progress, ProgressLine) else None
    if how.policy != "always":
        from unionmount.transfer.by_name import find_by_name

        here = find_by_name(store, registries, name, how.platform)
        if here is not None:
            return here

    async def work(client: RegistryClient) -> tuple[Reference, StoredImage]:
        from unionmount.transfer.by_name import pull_by_name

        return await pull_by_name(store, client, registries, name, how)

    candidates = registries.candidates(name)
    if progress is not None:  # before anything is imported that takes long
        names = " or ".join(printable(str(one.with_default_tag())) for one in candidates)
        progress.note(f"Asking for {names}")
        how = replace(how, planned=partial(_show_plan, progress))
    return run_transfer(settings, options, registries, work, candidates, progress)


def _show_plan(progress: ProgressLine, plan: PullPlan) -> None:
    """Print what is pulled, and which layers are here already."""
    image, missing = plan.image, plan.missing
    what = f"{printable(str(plan.ref))}: {image.manifest.digest.short} for {image.config.platform}"
    for diff_id in dict.fromkeys(image.diff_ids):
        if diff_id in plan.here:
            progress.note(f"{diff_id.short}: already here")
    count = len(missing)
    rest = f"{human_size(sum(missing.values()))} in {count} layer{'' if count == 1 else 's'}"
    progress.note(f"{what}, {f'fetching {rest}' if missing else 'all layers are here'}")


def find_or_pull(
    settings: Settings,
    options: RegistryOptions,
    location: Location,
    policy: Policy,
    platform: Platform | None,
    lease: Lease,
) -> Location:
    """Return a location on this machine for an image, pulled if it is a name and ``policy`` allows.

    A pulled image is protected by ``lease``. It gets the name, unless that belongs to an image for
    another platform: mounting for one platform does not change the meaning of the name for others.
    """
    from unionmount.images.image import SCRATCH

    if location.kind == "docker-daemon":
        return _from_daemon(settings.store(), location, platform, lease)
    if location.kind not in ("stored", "registry") or location.path == SCRATCH:
        return location
    return _found_or_pulled(settings, options, location, policy, platform, lease)


def _found_or_pulled(
    settings: Settings,
    options: RegistryOptions,
    location: Location,
    policy: Policy,
    platform: Platform | None,
    lease: Lease,
) -> Location:
    """Do the work of ``find_or_pull`` for a name."""
    from unionmount.cli.open_image import progress_line
    from unionmount.sources import looks_like_file, no_such_file
    from unionmount.transfer.load import find_stored

    store = settings.store()
    missing = None
    if policy != "always":
        try:
            return _meaning(store, location.path, find_stored(store, location.path, platform))
        except NotFoundError as error:
            missing = error
        if policy == "never":
            raise missing
    if location.kind == "stored" and looks_like_file(location.path):
        raise no_such_file(location.path)
    from unionmount.transfer.pull import PullOptions  # with trio

    try:
        with progress_line() as progress:
            how = PullOptions(
                *(platform, policy, keeps_blobs(), progress),
                lease=lease,
                keep_names=platform is not None,
            )
            ref, found = pull_image(settings, options, location.path, how)
        hint_at_default_tag(location.path)
    except InvalidReference:
        if missing is None or location.kind == "registry":
            raise
        raise missing from None
    except (NotFoundError, RegistryError) as error:
        raise type(error)(f"{missing}; {error}" if missing else str(error)) from error
    return _meaning(store, str(ref), found)


def _from_daemon(
    store: Store, location: Location, platform: Platform | None, lease: Lease
) -> Location:
    """Return the location in the store of an image of a docker daemon, fetched if it is missing."""
    from unionmount.cli.open_image import progress_line
    from unionmount.sources import Location
    from unionmount.transfer.load import keep_image

    with progress_line() as progress:
        found = keep_image(store, location, platform=platform, progress=progress, lease=lease)
    if str(found.id) != location.path and store.has_image_named(location.path):
        return _meaning(store, location.path, found)
    return Location("stored", str(found.id))


def _meaning(store: Store, name: str, image: StoredImage) -> Location:
    """Return the location of a stored image by its name, or by its ID if that name is another's."""
    from unionmount.sources import Location

    if store.has_image_named(name) and store.find_image(name).id != image.id:
        return Location("stored", str(image.id))
    return Location("stored", name)


def keeps_blobs() -> bool:
    """Return whether the environment asks to keep compressed layers as well."""
    text = os.environ.get(KEEP_BLOBS, "")
    try:
        return bool(click.BOOL.convert(text, None, None)) if text else False
    except click.BadParameter:
        raise UsageError(f"{KEEP_BLOBS} must be yes or no, not '{printable(text)}'") from None


def registries_of_user() -> Registries:
    """Read registries.conf."""
    from unionmount.registry import Registries

    return Registries.load(os.environ)


def run_transfer(
    settings: Settings,
    options: RegistryOptions,
    registries: Registries,
    work: Work[T],
    named: Sequence[Reference],
    progress: ProgressLine | None = None,
) -> T:
    """Run ``work`` with a client for registries; ``named`` are the references of the command line.

    A signal cancels it: incomplete files are removed, and the exit status names the signal.
    ``progress`` is refreshed while nothing arrives.
    """

    def make_client() -> RegistryClient:
        return registry_client(settings, options, registries, named)

    return run_attended(make_client, work, progress)


def run_attended(
    make_client: Callable[[], AbstractAsyncContextManager[C]],
    work: Callable[[C], Awaitable[T]],
    progress: ProgressLine | None = None,
) -> T:
    """Run ``work`` with a client; a signal cancels it, and the exit status names the signal.

    ``progress`` is refreshed while nothing arrives.
    """
    import trio

    return trio.run(_attended, make_client, work, progress)


async def _attended(
    make_client: Callable[[], AbstractAsyncContextManager[C]],
    work: Callable[[C], Awaitable[T]],
    progress: ProgressLine | None,
) -> T:
    import trio

    results: list[T] = []
    failures: list[Exception] = []
    received: list[int] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(_cancel_on_signal, nursery.cancel_scope, received)
        if progress is not None:
            nursery.start_soon(_refresh, progress)
        try:
            async with make_client() as client:
                results.append(await work(client))
        except Exception as error:  # noqa: BLE001 - raised below, out of the nursery
            failures.append(error)
        nursery.cancel_scope.cancel()
    if received:
        if received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        raise click.exceptions.Exit(128 + received[0])
    if failures:
        raise failures[0]
    return results[0]


async def _refresh(progress: ProgressLine) -> None:
    import trio

    while True:
        await trio.sleep(_REFRESHED)
        progress.tick()


async def _cancel_on_signal(
    scope: trio.CancelScope,
    received: list[int],
    task_status: trio.TaskStatus[None],
) -> None:
    import trio

    wanted = [one for one in _SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    with trio.open_signal_receiver(*wanted) as signals:
        task_status.started()
        async for number in signals:
            received.append(number)
            scope.cancel()


def hint_at_default_tag(name: str, *, quiet: bool = False) -> None:
    """Tell the user that the tag is ``latest`` because the name has none."""
    reference = Reference.parse(name)
    if reference.tag is None and reference.digest is None and not quiet:
        familiar = printable(reference.familiar)
        print(
            f"hint: no tag was given, so this is {familiar}:latest; "
            f"'unionmount tags {familiar}' lists the others",
            file=sys.stderr,
        )
