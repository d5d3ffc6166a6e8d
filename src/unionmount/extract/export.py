"""The files of an image or a container as one tar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionmount.extract.image_source import ImageSource
from unionmount.extract.tar_target import TarTarget

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.browse.open import OpenView
    from unionmount.browse.owners import Owners
    from unionmount.browse.paths import Found


def export_tar(
    view: OpenView,
    found: Found,
    fd: int,
    what: str,
    warn: Callable[[str], None],
    owners: Owners | None,
) -> None:
    """Write everything at and below a path to ``fd``; ``what`` names that in messages.

    The names in the tar are relative to the path. ``owners`` are the maps of the ordinary user who
    has run a container.
    """
    name = b"" if found.is_directory else found.path.rpartition(b"/")[2]
    target = TarTarget(fd, name, what, warn)
    for item in ImageSource(view, found, warn, owners).items():
        target.put(item)
    target.finish()
