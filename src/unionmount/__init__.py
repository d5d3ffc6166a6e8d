"""Mount container images as directories.

The names of the API (``docs/reference/api.md``) are imported at their first use: ``open_image``
opens an image for reading, ``mount`` mounts one for the duration of a block, ``pull``, ``push`` and
``copy`` move images. The packages and their order are described in ``docs/architecture.md``.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes as long as all else before a command starts
if TYPE_CHECKING:
    from typing import Any

    from unionmount.api import (
        ContainerInfo,
        File,
        FileTree,
        Image,
        ImageInStore,
        ImagePath,
        Layer,
        MountBlock,
        Mounted,
        RegistryAccess,
        TransferProgress,
        commit,
        containers,
        copy,
        diff,
        export,
        mount,
        open_image,
        pull,
        push,
    )

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


if not TYPE_CHECKING:  # type checkers see the import above

    def __getattr__(name: str) -> Any:
        """Import the API and return the attribute."""
        if name not in __all__:
            raise AttributeError(f"module 'unionmount' has no attribute '{name}'")
        from unionmount import api  # noqa: PLC0415

        return getattr(api, name)


def __dir__() -> list[str]:
    """Return the names without importing the API."""
    return sorted({*globals(), *__all__})
