"""An image as an object: its config, history, layers and files."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path as HostPath
from typing import TYPE_CHECKING

from unionmount.api.operands import operand_of
from unionmount.api.paths import ImagePath
from unionmount.api.shared_view import SharedView
from unionmount.api.tree import FileTree
from unionmount.browse.open import OpenOptions, open_view
from unionmount.images.history import steps_of_layers
from unionmount.images.platform import Platform
from unionmount.store.layer_import import ImportLimits
from unionmount.store.location import additional_stores, default_root
from unionmount.store.store import Store
from unionmount.system.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionmount.api.tree import Path
    from unionmount.browse.open import OpenView
    from unionmount.core import Change, LayerSummary
    from unionmount.images.config import Config, History
    from unionmount.images.manifest import Manifest
    from unionmount.images.opened import OpenImage
    from unionmount.images.reference import Digest


class Layer:
    """One layer of an open image."""

    def __init__(self, image: Image, number: int, step: History | None) -> None:
        opened = image._opened.layers[number]  # noqa: SLF001 - its own kind
        self._image = image
        self.number = number
        self.diff_id: Digest = opened.diff_id
        self.size: int = opened.length  # of its tar
        self.created_by: str = step.created_by if step is not None else ""

    def changes(self) -> Iterator[Change]:
        """Yield the changes to lower layers, depth first and sorted: kind, path, mode and size."""
        shared = self._image._shared  # noqa: SLF001
        with shared as view:
            view.image.require_indexes()
            found = view.tree.changes(self.number)
        while True:
            with shared:
                change = next(found, None)
            if change is None:
                return
            yield change._replace(path=b"/" + change.path)

    def __repr__(self) -> str:
        return f"<Layer {self.number} {self.diff_id.short}>"


class Image(Closing):
    """An open image, or a container with its changes; close it, or use it as a context manager."""

    def __init__(self, view: OpenView) -> None:
        """Take over ``view``."""
        self._shared = SharedView(view)
        self.name: str = view.image.name
        self.tree: FileTree = FileTree(self._shared)

    @property
    def _opened(self) -> OpenImage:
        return self._shared.description.image

    @property
    def config(self) -> Config:
        """The config of the image; ``config.runtime`` has Cmd, Env and so on."""
        return self._opened.image.config

    @property
    def manifest(self) -> Manifest:
        """The manifest; ``manifest.raw`` has its bytes."""
        return self._opened.image.manifest

    @property
    def id(self) -> Digest:
        """The digest of the config."""
        return self._opened.image.id

    @property
    def history(self) -> tuple[History, ...]:
        """The steps that made the image, oldest first."""
        return self.config.history

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, lowest first."""
        count = len(self._opened.layers)
        steps = steps_of_layers(self.history, len(self.config.diff_ids))
        return tuple(Layer(self, number, steps[number]) for number in range(count))

    def path(self, path: Path = "/") -> ImagePath:
        """Return a path object for a path inside the image."""
        return ImagePath(self.tree, path)

    def usage(self) -> tuple[LayerSummary, ...]:
        """Return what each layer did, and how many of its bytes the image does not show."""
        with self._shared as view:
            view.image.require_indexes()
            return view.tree.summarise().layers

    def close(self) -> None:
        """Close everything, ``tree`` included; a second call does nothing."""
        self._shared.close()

    def __repr__(self) -> str:
        return f"<Image {self.name} {self.id.short}>"


def open_image(
    ref: str | os.PathLike[str],
    *,
    layer: int | None = None,
    platform: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Image:
    """Open what ``unionmount mount`` would mount: an archive, a layout, a name or a container.

    A path object is always the path of a file. With ``layer``, the image is opened as of that
    layer. ``root`` is the store, by default the user's. Nothing is changed, except that compressed
    layers are imported into the store once.
    """
    with ExitStack() as stack:
        view = open_image_view(ref, layer=layer, platform=platform, root=root)
        image = Image(stack.enter_context(view))
        stack.pop_all()
    return image


def open_image_view(
    ref: str | os.PathLike[str],
    *,
    layer: int | None = None,
    platform: str | None = None,
    root: str | os.PathLike[str] | None = None,
) -> OpenView:
    """Open the same for the other functions of the API."""
    looking = OpenOptions(Platform.parse(platform) if platform else None, layer)
    return open_view(store_at(root), operand_of(ref), looking)


def store_at(root: str | os.PathLike[str] | None) -> Store:
    """Open the store at ``root``, by default the user's, and those that the environment adds.

    An empty ``root`` is the default, too, as for ``--root``.
    """
    place = HostPath(root) if root else default_root(os.environ)
    limits = ImportLimits.from_environment(os.environ)
    more = [one.absolute() for one in additional_stores(os.environ)]
    return Store(place.absolute(), limits, additional=more)
