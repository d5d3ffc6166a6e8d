"""The API for programs: an image as an object, and a mount as a context manager.

``docs/reference/api.md`` describes it with examples. Errors are those of ``errors``, and OSError
with the path if something inside the image does not exist or has the wrong type.
"""

from __future__ import annotations

from unionmount.api.images import Image, Layer, open_image
from unionmount.api.mounts import MountBlock, Mounted, mount
from unionmount.api.paths import ImagePath
from unionmount.api.tree import File, FileTree, Path

__all__ = [
    "File",
    "FileTree",
    "Image",
    "ImagePath",
    "Layer",
    "MountBlock",
    "Mounted",
    "Path",
    "mount",
    "open_image",
]
