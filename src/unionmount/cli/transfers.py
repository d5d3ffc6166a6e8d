"""What pull, push, copy and mount share: names, a client, and an end in good order."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from unionmount.errors import NotFoundError, RegistryError, UnionmountError
from unionmount.reference import Reference, printable

if TYPE_CHECKING:
    import trio

    from unionmount.cli import Settings
    from unionmount.download import Pulling
    from unionmount.registry import Registries, RegistryClient
    from unionmount.store import StoredImage

T = TypeVar("T")
Work = Callable[["RegistryClient"], Awaitable[T]]

DOCKER = "docker://"
"""What a name of a registry may begin with, to be told from other names."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def pull_image(settings: Settings, name: str, how: Pulling) -> StoredImage:
    """Pull the image that a user's name means."""
    from unionmount.download import pull

    store = settings.store()
    registries = registries_of(settings)

    async def work(client: RegistryClient) -> StoredImage:
        async def one(ref: Reference) -> StoredImage:
            return await pull(store, client, ref, how)

        return await first_of(registries, without_transport(name), one)

    return run_transfer(settings, registries, work)


def registries_of(settings: Settings) -> Registries:
    """What registries.conf says."""
    from unionmount.registry import Registries

    del settings
    return Registries.load(os.environ)


def run_transfer(settings: Settings, registries: Registries, work: Work[T]) -> T:
    """Run ``work`` with a client of registries.

    A signal ends it: what is not complete is removed, and then the process dies of the signal.
    """
    import trio

    from unionmount.registry import Credentials, RegistryClient

    del settings

    def make() -> RegistryClient:
        return RegistryClient(registries, Credentials.load(os.environ))

    return trio.run(_attended, make, work)


async def _attended(make_client: Callable[[], RegistryClient], work: Work[T]) -> T:
    import trio

    results: list[T] = []
    failures: list[Exception] = []
    received: list[int] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(_cancel_on_signal, nursery.cancel_scope, received)
        try:
            async with make_client() as client:
                results.append(await work(client))
        except Exception as error:  # noqa: BLE001 - raised below, out of the nursery
            failures.append(error)
        nursery.cancel_scope.cancel()
    if received:
        if received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(received[0], signal.SIG_DFL)
        signal.raise_signal(received[0])
    if failures:
        raise failures[0]
    return results[0]


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


def without_transport(name: str) -> str:
    """The name in ``docker://NAME``."""
    return name.removeprefix(DOCKER)


def hint_at_tag(name: str, *, quiet: bool = False) -> None:
    """Say which version is meant where none is named."""
    reference = Reference.parse(name)
    if reference.tag is None and reference.digest is None and not quiet:
        familiar = printable(reference.familiar)
        print(
            f"hint: no version named, so this is {familiar}:latest; "
            f"'unionmount tags {familiar}' lists the others",
            file=sys.stderr,
        )


async def first_of(
    registries: Registries, name: str, work: Callable[[Reference], Awaitable[T]]
) -> T:
    """What ``work`` makes of the first registry that has a user's name."""
    failures: list[UnionmountError] = []
    for candidate in registries.candidates(name):
        try:
            return await work(candidate)
        except (NotFoundError, RegistryError) as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    texts = "; ".join(str(one) for one in failures)
    raise type(failures[-1])(f"'{printable(name)}': {texts}")
