"""The files that a mount shows, and facts about them, for whatever answers the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.core import FOREVER
from unionmount.mounting.options import DISK_VIEW, MountView

if TYPE_CHECKING:
    from unionmount.core import LayerTrees, Tree, Upper


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The facts about all layers together: those of statfs, and their names."""

    layers: tuple[str, ...]  # lowest first: diff_ids or paths
    bytes: int
    inodes: int
    has_acls: bool = False
    directory: int | None = None  # a descriptor on the file system that answers statfs
    view: MountView = DISK_VIEW

    @property
    def obeys_acls(self) -> bool:
        """Whether the kernel enforces ACLs."""
        return self.has_acls and self.view.acls

    @property
    def seconds(self) -> float:
        """The time for which the kernel may keep names and attributes."""
        return FOREVER if self.view.seconds is None else self.view.seconds


@dataclass(frozen=True, slots=True)
class ShownFiles:
    """The tree or upper that a mount shows; the caller keeps it open."""

    files: Tree | LayerTrees | Upper
    facts: ImageFacts
    list_layers: bool  # whether listxattr names the layer of a file
