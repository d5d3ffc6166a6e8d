"""Images that other tools have unpacked: holding them, and reading them as their owner."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import MountError
from unionmount.system.real_user import VARIABLE
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.images.opened import OpenImage
    from unionmount.sources import Location
    from unionmount.system.id_map import NamespaceIds


def namespace_of(image: OpenImage) -> NamespaceIds | None:
    """Return the maps of the user namespace in which the files of an image are read."""
    if not image.is_unpacked:
        return None
    from unionmount.mounting.unpacked import UnpackedImage

    assert isinstance(image, UnpackedImage)
    return image.ids


def hold(store: Path, image: OpenImage) -> Callable[[], None]:
    """Have the tool keep its image for a mount; return how to undo that.

    An ordinary user's mount will read the files in the user namespace that they belong to.
    """
    from unionmount.mounting.unpacked import UnpackedImage
    from unionmount.sources.holds import release_left

    assert isinstance(image, UnpackedImage)
    for failure in release_left(store):
        print(f"unionmount: warning: {failure}", file=sys.stderr)
    if not image.take_hold(store):
        print(
            f"unionmount: warning: {printable(image.name)}: nothing keeps it from being removed "
            f"while it is mounted: {_lacking(image.programs)}",
            file=sys.stderr,
        )
    image.ids = _ids()
    kept = image.hold

    def undo() -> None:
        if kept is not None:
            with suppress(MountError):  # the next mount releases it
                kept.release()

    return undo


def _lacking(programs: Sequence[str]) -> str:
    if list(programs) == ["docker"]:
        return "no docker is installed that reaches the daemon of this directory (DOCKER_HOST)"
    if any(map(shutil.which, programs)):
        return "the store belongs to another user, for whom a container cannot be made"
    return f"none of {', '.join(programs)} is installed"


def _ids() -> NamespaceIds | None:
    """Return the maps of this user's namespace; None where there is nothing to map."""
    from unionmount.runtime.subordinate_ids import SubordinateIds
    from unionmount.system.id_map import NamespaceIds

    if os.geteuid() == 0:
        return None
    ids = SubordinateIds.of_user()
    return NamespaceIds(ids.users, ids.groups) if ids.complete else None


def enter_namespace_of(settings: Settings, word: str) -> None:
    """Move this process to the user namespace of an ordinary user's images, to read them all.

    ``word`` is an image, or a container of one. Nothing happens for others, and where this user has
    no subordinate IDs.
    """
    if os.geteuid() and _is_unpacked(settings, word):
        _enter_namespace()


def enter_namespace_to_load(*sources: Location) -> None:
    """Do the same if one of the sources, which are no containers, is such an image."""
    if os.geteuid() and any(one.is_unpacked for one in sources):
        _enter_namespace()


def _enter_namespace() -> None:
    from unionmount.system.user_namespace import enter_users

    ids = _ids()
    if ids is not None:
        remember_user()
        enter_users(ids)


def remember_user() -> None:
    """Set the variables that podman has in its namespace: whose store it is, and that it is there.

    Whoever is root of a namespace of their own would be taken for root without them.
    """
    os.environ[VARIABLE] = str(os.geteuid())
    os.environ["_CONTAINERS_USERNS_CONFIGURED"] = "done"


def _is_unpacked(settings: Settings, word: str) -> bool:
    from unionmount.browse.open import container_named
    from unionmount.sources import Location
    from unionmount.store.containers import Containers

    store = settings.store()
    known = Containers(store)
    name = container_named(store, known, word)
    source = word if name is None else known.find(name).image.source
    return Location.parse(source).is_unpacked
