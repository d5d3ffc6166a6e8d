"""Images by the names that users write: which registries are asked, and which name is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from unionmount.errors import (
    InvalidReference,
    NotFoundError,
    RegistryError,
    UnionmountError,
    UsageError,
)
from unionmount.images.reference import Reference
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from unionmount.images.platform import Platform
    from unionmount.registry import Registries, RegistryClient
    from unionmount.store.store import Store, StoredImage
    from unionmount.transfer.pull import PullOptions

T = TypeVar("T")

DOCKER = "docker://"
"""The prefix of names of a registry."""


def without_transport(name: str) -> str:
    """Return a name without ``docker://``."""
    return name.removeprefix(DOCKER)


async def first_of(
    registries: Registries, name: str, work: Callable[[Reference], Awaitable[T]]
) -> T:
    """Return the result of ``work`` for the first registry that has the image of a name."""
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


def find_by_name(
    store: Store, registries: Registries, name: str, platform: Platform | None
) -> tuple[Reference, StoredImage] | None:
    """Return the image of a name with its full name, if the store has it for this platform."""
    from unionmount.transfer.pull import find  # noqa: PLC0415 - with trio

    for candidate in registries.candidates(name):
        ref = candidate.with_default_tag()
        found = find(store, str(ref), platform)
        if found is not None:
            return ref, found
    return None


async def pull_by_name(
    store: Store, client: RegistryClient, registries: Registries, name: str, how: PullOptions
) -> tuple[Reference, StoredImage]:
    """Pull the image of a name from the first registry that has it; return its full name, too."""
    from unionmount.transfer.pull import pull_as  # noqa: PLC0415

    async def one(ref: Reference) -> tuple[Reference, StoredImage]:
        return ref.with_default_tag(), await pull_as(store, client, ref, how)

    return await first_of(registries, name, one)


def push_target(stored: StoredImage, image: str, name: str | None) -> Reference:
    """Return the name to push to: the given one, or the one by which the image was named."""
    if name is not None:
        return Reference.parse(without_transport(name)).with_default_tag()
    try:
        meant = Reference.parse(image).with_default_tag()
    except InvalidReference:
        meant = None
    if meant is not None and str(meant) in stored.names:
        return meant
    if len(stored.names) == 1:
        return Reference.parse(stored.names[0])
    raise UsageError(
        f"'{printable(image)}' has {len(stored.names)} names; give the NAME to push it to"
    )
