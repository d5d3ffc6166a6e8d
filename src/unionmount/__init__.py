"""Mount a container image as a directory.

For programs (``docs/reference/api.md``): ``open_image`` looks into an image, ``mount`` mounts one
while a block of code runs. Both are imported when they are used.

The parts, each a module: ``reference`` and ``image`` (what an image is), ``sources``, ``pull``,
``layer`` and ``store`` (how it gets here and is kept), ``core`` (the tree, in C), ``operations``
and ``server`` (the file system), ``api`` (for programs), ``cli`` (the command line).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unionmount.api import File, FileTree, Image, Layer, Mounted, mount, open_image

__all__ = ["File", "FileTree", "Image", "Layer", "Mounted", "mount", "open_image"]


if not TYPE_CHECKING:  # type checkers know what there is

    def __getattr__(name: str) -> Any:
        """What the API has, imported now."""
        if name not in __all__:
            raise AttributeError(f"module 'unionmount' has no attribute '{name}'")
        from unionmount import api  # noqa: PLC0415

        return getattr(api, name)


def __dir__() -> list[str]:
    """What there is, without importing it."""
    return sorted({*globals(), *__all__})
