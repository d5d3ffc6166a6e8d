"""The API for programs: images as objects, mounts as blocks, and transfers as functions.

``docs/reference/api.md`` describes it with examples. Errors are those of ``errors``, and OSError
with the path if something inside the image does not exist or has the wrong type.
"""

from __future__ import annotations

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
