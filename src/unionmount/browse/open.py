"""Opening images, containers and mounts for reading their files or their changes.

Nothing is locked and nothing on disk is changed: a mount may keep working meanwhile. All that it
has confirmed to its users is in the upper directory, so that is seen.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.browse.diff import Comparison
from unionmount.errors import InvalidReference, MountError, NotFoundError, UsageError
from unionmount.images.image import SCRATCH
from unionmount.images.opened import OpenImage
from unionmount.images.reference import CONTAINER_PREFIX
from unionmount.mounting.namespace import recorded_namespace
from unionmount.mounting.stat_marks import StatName, stat_name
from unionmount.mounting.upper_directory import recorded_lowers
from unionmount.sources import Location
from unionmount.store.containers import Containers
from unionmount.system.closing import Closing
from unionmount.system.os_errors import naming
from unionmount.system.text import printable
from unionmount.system.trust import is_ours, reads_trusted
from unionmount.transfer.load import open_image, open_stored

if TYPE_CHECKING:
    from unionmount.images.platform import Platform
    from unionmount.store.containers import Container, ContainerImage
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import Store


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """The options of opening an image: platform, topmost layer and progress."""

    platform: Platform | None = None
    layer: int | None = None
    progress: Progress | None = None


class OpenChanges(Closing):
    """An image and the upper directory on it, both of which it owns."""

    def __init__(self, image: OpenImage, upper: Path) -> None:
        """Take over ``image``, even if this fails."""
        self.image = image
        self._resources = ExitStack()
        with ExitStack() as stack:
            stack.callback(image.close)
            fd = stack.enter_context(_open_directory(upper))
            self._upper, self._fd = upper, fd
            opened = stack.enter_context(_looked_at(image.tree(), fd))
            self.view: core.View = stack.enter_context(core.View(opened))
            self._layer = opened.layer
            self._resources = stack.pop_all()

    @property
    def upper(self) -> Path:
        """The upper directory."""
        return self._upper

    def compare(self, *, for_layer: bool = False) -> Comparison:
        """Compare the upper with the layers alone."""
        return Comparison(self.image.tree(), self.view, self._layer, for_layer=for_layer)

    def check_there(self) -> None:
        """Raise NotFoundError if the upper was removed: it may have been read in part only."""
        try:
            there = os.path.samestat(self._upper.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            there = False
        if not there:
            raise NotFoundError(f"{printable(str(self._upper))} was removed meanwhile")

    def close(self) -> None:
        """Close everything; a second call does nothing."""
        self._resources.close()


@contextmanager
def view_of_upper(tree: core.Tree, upper: Path) -> Iterator[core.View]:
    """Open the files that a tree shows with the changes in an upper directory."""
    with _open_directory(upper) as fd, _looked_at(tree, fd) as opened, core.View(opened) as view:
        yield view


@contextmanager
def _open_directory(path: Path) -> Iterator[int]:
    with naming(printable(str(path))):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _looked_at(tree: core.Tree, fd: int) -> core.Upper:
    """Open an upper for reading.

    Marks are those of its owner. Nothing that needs a work directory is done, as recovery is a task
    of the next mount.
    """
    name = stat_name(fd, closed=is_ours(fd))
    # In a user namespace an ordinary user's own files are root's, too; the attribute tells.
    is_users = os.fstat(fd).st_uid != 0 or (name is not None and not reads_trusted())
    flags = core.UpperFlags(
        trusted=recorded_namespace(fd) != "user",
        override=is_users,
        look=True,
        stat_fuse=name is StatName.FUSE,
        stat_security=name is StatName.SECURITY,
        closed=is_ours(fd),
    )
    return core.Upper(tree, fd, fd, flags)


class OpenView(Closing):
    """The files of an image, or of a container with its changes; owns everything that it opened.

    ``upper`` is the value of ``Attributes.layer`` for the changes of a container; None for an
    image.
    """

    def __init__(self, opened: OpenImage | OpenChanges) -> None:
        """Take over ``opened``, even if this fails."""
        self._opened = opened
        with ExitStack() as stack:
            stack.callback(opened.close)
            self.image: OpenImage = opened.image if isinstance(opened, OpenChanges) else opened
            self.tree: core.Tree = self.image.tree()
            stack.pop_all()
        self.files: core.BrowsableTree = self.tree
        self.upper: int | None = None
        self.changes: Path | None = None  # the upper directory
        if isinstance(opened, OpenChanges):
            self.files, self.upper = opened.view, len(self.image.layers)
            self.changes = opened.upper

    def layer_trees(self) -> core.LayerTrees:
        """Return the layers as separate directories; the caller closes them first."""
        self.image.require_indexes()
        return core.LayerTrees(self.tree)

    def close(self) -> None:
        """Close everything; a second call does nothing."""
        self._opened.close()


def open_view(store: Store, word: str, how: OpenOptions = OpenOptions()) -> OpenView:
    """Open what ``mount`` would mount: an image, or a container with its changes."""
    known = Containers(store)
    name = container_named(store, known, word)
    if name is not None and how.layer is None:
        if how.platform is not None:
            raise UsageError(f"'{name}' is a container; --platform is only for images")
        return OpenView(open_container(store, known.find(name)))
    return OpenView(open_layers(store, word, how))


def open_layers(store: Store, word: str, how: OpenOptions = OpenOptions()) -> OpenImage:
    """Open an image, or that of a container, without changes."""
    known = Containers(store)
    name = container_named(store, known, word)
    if name is None:
        image = open_image(store, word, platform=how.platform, progress=how.progress)
    else:
        image = open_lowers(store, known.find(name))
    with ExitStack() as stack:
        stack.callback(image.close)
        if how.layer is not None:
            image.cut(how.layer)
        stack.pop_all()
    return image


def container_named(store: Store, known: Containers, word: str) -> str | None:
    """Return the container that a word names; None if it names none.

    Raise InvalidReference if the word also names a file or an image.
    """
    if word.startswith(CONTAINER_PREFIX):
        return word.removeprefix(CONTAINER_PREFIX)
    if word == SCRATCH or word not in known:
        return None
    if Location.parse(word).kind == "path":
        other = f"./{word} a file"
    elif store.has_image_named(word):
        other = f"{word}:TAG an image"
    else:
        return word
    raise InvalidReference(
        f"'{word}' is ambiguous: {CONTAINER_PREFIX}{word} is a container, {other}"
    )


def open_container(store: Store, container: Container) -> OpenChanges:
    """Open a container of the store."""
    return OpenChanges(open_lowers(store, container), container.upper)


def open_lowers(store: Store, container: Container, *, verify: bool = False) -> OpenImage:
    """Open the layers of a container's image, without its changes."""
    found = container.image
    if is_unpacked(store, found):
        layers = open_image(store, found.source, verify=verify)
        _check(layers, layers.image.id == found.id, found.source)
        return layers
    try:
        layers = open_stored(store, found.stored, found.name, verify=verify)
    except NotFoundError:  # the layers of an ephemeral container may still be in an archive
        layers = open_image(store, found.source, verify=verify)
        _check(layers, layers.image.id == found.id, found.source)
    return layers


def is_unpacked(store: Store, found: ContainerImage) -> bool:
    """Return whether the layers of a container's image are another tool's directories.

    They are not if they were loaded into the store since.
    """
    return found.unpacked and not all(map(store.has_layer, store.read_image(found.stored).diff_ids))


def open_upper_directory(store: Store, source: str, upper: Path) -> OpenChanges:
    """Open an upper directory outside of the store that is mounted on the image ``source``."""
    layers = open_image(store, source)
    lowers = recorded_lowers(upper)
    _check(layers, lowers in (None, layers.lowers), source)
    return OpenChanges(layers, upper)


def open_mounted_image(
    store: Store, source: str, image_id: str, layers: int, how: OpenOptions
) -> OpenImage:
    """Open what a read-only mount shows: an image, perhaps without its upper layers.

    It is found by its ID first, since its name may belong to another image by now.
    """
    in_store = image_id and Location.parse(source).kind == "stored" and source != SCRATCH
    words = [image_id, source] if in_store else [source]
    for word in words:
        try:
            image = open_image(store, word, progress=how.progress)
        except NotFoundError:
            if word is words[-1]:
                raise
        else:
            break
    _check(image, image_id in ("", str(image.image.id)), source)
    with ExitStack() as stack:
        stack.callback(image.close)
        if how.layer is not None or layers:
            image.cut(layers - 1 if how.layer is None else how.layer)
        stack.pop_all()
    return image


def _check(layers: OpenImage, is_meant: bool, source: str) -> None:
    if not is_meant:
        layers.close()
        raise MountError(f"'{printable(source)}' is no longer the image that was mounted")
