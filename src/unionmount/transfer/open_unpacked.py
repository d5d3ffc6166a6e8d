"""Images that podman, buildah or docker have unpacked: opened where they are, or to be loaded."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionmount.errors import FormatError, NotFoundError, UsageError
from unionmount.sources.container_storage import ContainerStorage
from unionmount.sources.docker_overlay import DockerOverlay, split_root
from unionmount.sources.storage_places import find_place, split_specifier

if TYPE_CHECKING:
    from unionmount.images.platform import Platform
    from unionmount.mounting.unpacked import UnpackedImage
    from unionmount.sources import Location
    from unionmount.sources.container_storage import FoundImage
    from unionmount.sources.unpacked_archive import UnpackedArchive
    from unionmount.trust.file_trust import FileTrust


def open_unpacked(
    location: Location, platform: Platform | None = None, *, verify: bool = False
) -> UnpackedImage:
    """Open an image of another tool's store; its tree is opened by whoever needs it."""
    from unionmount.mounting.unpacked import UnpackedImage  # noqa: PLC0415 - a load needs none

    if verify:
        raise UsageError(
            f"{location}: the layers are directories, so there are no bytes to verify; load the "
            f"image, which verifies it: unionmount load {location}"
        )
    if location.kind == "docker-overlay2":
        found = _of_docker(location)
        image = UnpackedImage(found, str(location), ("docker",), ())
    else:
        specifier, word = split_specifier(location.path)
        place = find_place(specifier, os.environ)
        found = ContainerStorage(place).find(word)
        image = UnpackedImage(found, str(location), ("buildah", "podman"), place.options())
    if found.mapped:
        raise FormatError(
            f"{location}: the owners of its files on disk are not those of the image "
            f"({found.mapped}); load the image: unionmount load {location}"
        )
    offered = image.image.config.platform
    if platform is not None and platform.distance(offered) is None:
        raise NotFoundError(f"{location}: is for {offered}, not {platform}")
    return image


def open_to_load(location: Location, trust: FileTrust | None) -> UnpackedArchive:
    """Open an image of another tool's store to make its layers again.

    The policy ``trust`` must accept it, if that is given.
    """
    from unionmount.sources.unpacked_archive import UnpackedArchive  # noqa: PLC0415 - as above

    if location.kind == "docker-overlay2":
        found = _of_docker(location)
        driver = ""
    else:
        specifier, word = split_specifier(location.path)
        place = find_place(specifier, os.environ)
        found = ContainerStorage(place).find(word)
        driver = place.driver
    if trust is not None and trust.policy() is not None:
        _check(trust, found, driver, str(location))
    return UnpackedArchive(found, str(location))


def _of_docker(location: Location) -> FoundImage:
    root, word = split_root(location.path)
    return DockerOverlay(root).find(word)


def _check(trust: FileTrust, found: FoundImage, driver: str, what: str) -> None:
    """Raise NotTrusted unless the policy accepts an image; docker's count as its daemon's."""
    from unionmount.trust.scopes import (  # noqa: PLC0415 - many machines have no policy
        ImageScopes,
        scopes_of_reference,
        scopes_of_stored,
    )

    if driver:
        scopes = scopes_of_stored(driver, str(found.root), found.name, found.id)
    elif found.name is not None:
        scopes = scopes_of_reference(found.name, "docker-daemon")
    else:
        scopes = ImageScopes("docker-daemon", ())
    trust.check_unsigned(scopes, what)
