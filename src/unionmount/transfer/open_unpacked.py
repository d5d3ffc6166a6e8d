"""Opening images that podman, buildah or docker have unpacked, where they are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionmount.errors import NotFoundError, UsageError
from unionmount.mounting.unpacked import UnpackedImage
from unionmount.sources.container_storage import ContainerStorage
from unionmount.sources.docker_overlay import DockerOverlay, split_root
from unionmount.sources.storage_places import find_place, split_specifier

if TYPE_CHECKING:
    from unionmount.images.platform import Platform
    from unionmount.sources import Location


def open_unpacked(
    location: Location, platform: Platform | None = None, *, verify: bool = False
) -> UnpackedImage:
    """Open an image of another tool's store; its tree is opened by whoever needs it."""
    if verify:
        raise UsageError(
            f"--verify {location}: the layers are directories, so there are no bytes to verify"
        )
    image = _found(location)
    offered = image.image.config.platform
    if platform is not None and platform.distance(offered) is None:
        raise NotFoundError(f"{location}: is for {offered}, not {platform}")
    return image


def _found(location: Location) -> UnpackedImage:
    if location.kind == "docker-overlay2":
        root, word = split_root(location.path)
        return UnpackedImage(DockerOverlay(root).find(word), str(location), ("docker",), ())
    specifier, word = split_specifier(location.path)
    place = find_place(specifier, os.environ)
    found = ContainerStorage(place).find(word)
    return UnpackedImage(found, str(location), ("buildah", "podman"), place.options())
