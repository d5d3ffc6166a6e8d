"""A container or mount, opened to look at what was changed in it.

Nothing is locked and nothing on disk is changed: a mount may go on working meanwhile. What it has
answered to its users is in the upper directory, so that is what is seen.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.changes import Comparison
from unionmount.closing import Closing
from unionmount.errors import MountError, NotFoundError
from unionmount.layer import OpenImage, reading
from unionmount.pull import open_image, open_stored
from unionmount.reference import printable
from unionmount.upper import recorded_lowers

if TYPE_CHECKING:
    from unionmount.containers import Container
    from unionmount.store import Store


class OpenTarget(Closing):
    """An image and the upper directory on it; owns both."""

    def __init__(self, image: OpenImage, upper: Path) -> None:
        """Take over ``image``, also where this fails."""
        self.image = image
        self._resources = ExitStack()
        with ExitStack() as stack:
            stack.callback(image.close)
            with reading(printable(str(upper))):
                fd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            self._upper, self._fd = upper, fd
            # Nothing is made that a work directory would be for; recovery is for who mounts it.
            # Marks of every kind are looked for, whoever made them.
            opened = core.Upper(image.tree(), fd, fd, core.UpperFlags(trusted=True))
            stack.callback(opened.close)
            self.view = stack.enter_context(core.View(opened))
            self._layer = opened.layer
            self._resources = stack.pop_all()

    def compare(self, *, for_layer: bool = False) -> Comparison:
        """The upper against the layers alone."""
        return Comparison(self.image.tree(), self.view, self._layer, for_layer=for_layer)

    def check_there(self) -> None:
        """NotFoundError where it is being removed: what was seen of it is not what it was."""
        try:
            there = os.path.samestat(self._upper.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            there = False
        if not there:
            raise NotFoundError(f"{printable(str(self._upper))} was removed meanwhile")

    def close(self) -> None:
        """Close everything; a second call does nothing."""
        self._resources.close()


def open_container(store: Store, container: Container) -> OpenTarget:
    """Open a container of the store."""
    found = container.image
    try:
        layers = open_stored(store, found.stored, found.name)
    except NotFoundError:  # the layers of an ephemeral one may be where they were
        layers = open_image(store, found.source)
        _check(layers, layers.image.id == found.id, found.source)
    return OpenTarget(layers, container.upper)


def open_upper_directory(store: Store, source: str, upper: Path) -> OpenTarget:
    """Open a directory of the user's that is mounted on the image ``source``."""
    layers = open_image(store, source)
    lowers = recorded_lowers(upper)
    _check(layers, lowers in (None, f"layers:{layers.image.chain_id}"), source)
    return OpenTarget(layers, upper)


def _check(layers: OpenImage, is_meant: bool, source: str) -> None:
    if not is_meant:
        layers.close()
        raise MountError(f"'{printable(source)}' is no longer the image that was mounted")
