"""Mount container images as directories.

The API (``docs/reference/api.md``) has two functions, which are imported on first use:
``open_image`` opens an image for reading, ``mount`` mounts one for the duration of a block. The
packages and their order are described in ``docs/architecture.md``.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing takes as long as all else before a command starts
if TYPE_CHECKING:
    from typing import Any

    from unionmount.api import File, FileTree, Image, Layer, Mounted, mount, open_image

__all__ = ["File", "FileTree", "Image", "Layer", "Mounted", "mount", "open_image"]


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
