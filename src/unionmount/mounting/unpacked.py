"""Images whose layers another tool has unpacked: directories of its store, used in place.

docs/explanation/unpacked.md says who owns what. Nothing here writes to the tool's store; a hold is
made and released by the tool itself.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.errors import StoreError, UsageError
from unionmount.images.opened import OpenImage, OpenLayer
from unionmount.mounting.directories import OpenDirectories
from unionmount.mounting.upper_directory import name_directories
from unionmount.sources.holds import find_tool, hold_image, serves
from unionmount.system.text import printable
from unionmount.system.trust import reads_trusted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from unionmount.sources.container_storage import FoundImage
    from unionmount.sources.holds import Hold
    from unionmount.system.id_map import NamespaceIds


class UnpackedImage(OpenImage):
    """An image of another tool's store; its layers are live directories.

    ``programs`` can hold it, the first that is installed does, with ``options``. ``ids``: the maps
    of the user namespace that its files belong to, or None where this process reaches all of them.
    """

    is_unpacked = True

    def __init__(
        self, found: FoundImage, name: str, programs: Sequence[str], options: Sequence[str]
    ) -> None:
        """Open nothing yet: the directories are opened by ``tree``, once a hold keeps them."""
        sizes = zip(found.image.diff_ids, found.layers, strict=True)
        layers = tuple(OpenLayer(diff_id, -1, 0, layer.size, -1) for diff_id, layer in sizes)
        super().__init__(found.image, name, layers)
        self.ids: NamespaceIds | None = None
        self.hold: Hold | None = None
        self._found = found
        self.programs, self._options = programs, options
        self._directories: OpenDirectories | None = None

    @property
    def directories(self) -> list[Path]:
        """The directory of each layer, also where only the topmost one is mounted."""
        return [one.path for one in self._found.layers[: len(self.layers)]]

    @property
    def indexes(self) -> tuple[core.Index, ...]:
        """There are none: a UsageError says how to get them."""
        self.require_indexes()
        return ()

    def require_indexes(self) -> None:
        """Raise UsageError, which says how to get them."""
        raise UsageError(
            f"{self.name}: its layers are directories of another tool, and this needs their tars; "
            f"load the image, and use that: unionmount load {self.name}"
        )

    @property
    def layer_bytes(self) -> list[int]:
        """The bytes of each layer as its tool recorded them, which are those of its tar."""
        return [layer.length for layer in self.layers]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The directories that are mounted, lowest first."""
        paths = tuple(self.directories)
        return paths[-1:] if self._found.whole else paths

    @property
    def lowers(self) -> str:
        """Name the directories for an upper, whose numbers of files belong to them."""
        self.tree()  # says what is missing
        return name_directories(self.paths)

    @property
    def descriptor(self) -> int | None:
        """A descriptor of the topmost directory; None of an image without layers."""
        opened = self._directories
        return opened.layers[-1].fd if opened is not None and opened.layers else None

    def take_hold(self, store: Path) -> bool:
        """Hold the image until ``hold.release``; return False if there is no tool for that."""
        tool = find_tool(self.programs, self._options)
        if tool is None or not serves(tool, self._found.root):
            return False
        self.hold = hold_image(store, tool, self._found.id)
        return True

    def tree(self) -> core.Tree:
        """Return the directories as one tree, with the scaffold if there is one."""
        if self._tree is None:
            if self._directories is None:
                self._directories = self._open()
            layers: list[core.TreeLayer | core.DirectoryLayer] = []
            layers += self._directories.for_tree()
            layers += self._scaffold_layers()
            self._tree = core.Tree(layers)
        return self._tree

    @property
    def layer_names(self) -> list[str]:
        """The names of the mounted layers, lowest first."""
        names = [str(layer.diff_id) for layer in self.layers]
        return names[-1:] if self._found.whole else names

    def _open(self) -> OpenDirectories:
        try:
            # No image has redirects and metacopies: its layers were never uppers.
            return OpenDirectories(
                self.paths, self.name, leads=False, no_user_marks=reads_trusted(), removable=True
            )
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise StoreError(
                f"{self.name}: layer {printable(os.fsdecode(error.filename or b''))}: {why}"
            ) from None

    def close(self) -> None:
        """Close everything; the hold stays."""
        super().close()
        directories, self._directories = self._directories, None
        if directories is not None:
            directories.close()
        if self.hold is not None:
            self.hold.close()
