"""The API for programs: images as objects, mounts as blocks, and transfers as functions.

``docs/reference/api.md`` describes it with examples. Errors are those of ``errors``, and OSError
with the path if something inside the image does not exist or has the wrong type. Each name is
imported at its first use, so that a program that reads an image imports nothing for mounts.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unionmount.api.changes import ContainerInfo, commit, containers, diff, export
    from unionmount.api.images import Image, Layer, open_image
    from unionmount.api.mounts import MountBlock, Mounted, mount
    from unionmount.api.paths import ImagePath
    from unionmount.api.transfer_thread import TransferProgress
    from unionmount.api.transfers import ImageInStore, RegistryAccess, copy, pull, push
    from unionmount.api.tree import File, FileTree, Path

__all__ = [
    "ContainerInfo",
    "File",
    "FileTree",
    "Image",
    "ImageInStore",
    "ImagePath",
    "Layer",
    "MountBlock",
    "Mounted",
    "Path",
    "RegistryAccess",
    "TransferProgress",
    "commit",
    "containers",
    "copy",
    "diff",
    "export",
    "mount",
    "open_image",
    "pull",
    "push",
]

_PLACES = {
    "changes": ("ContainerInfo", "commit", "containers", "diff", "export"),
    "images": ("Image", "Layer", "open_image"),
    "mounts": ("MountBlock", "Mounted", "mount"),
    "paths": ("ImagePath",),
    "transfer_thread": ("TransferProgress",),
    "transfers": ("ImageInStore", "RegistryAccess", "copy", "pull", "push"),
    "tree": ("File", "FileTree", "Path"),
}


if not TYPE_CHECKING:  # type checkers see the imports above

    def __getattr__(name: str) -> Any:
        """Import the module of a name and return the name's value."""
        from importlib import import_module

        for module, names in _PLACES.items():
            if name in names:
                return getattr(import_module(f"unionmount.api.{module}"), name)
        raise AttributeError(f"module 'unionmount.api' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the names without importing anything."""
    return sorted({*globals(), *__all__})
