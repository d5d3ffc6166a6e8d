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
    from unionmount.store.layer_import import Progress


def export_tar(
    view: OpenView,
    found: Found,
    fd: int,
    what: str,
    warn: Callable[[str], None],
    owners: Owners | None,
    progress: Progress | None = None,
) -> None:
    """Write everything at and below a path to ``fd``; ``what`` names that in messages.

    The names in the tar are relative to the path. ``owners`` are the maps of the ordinary user who
    has run a container. ``progress`` gets the bytes of files so far, and may raise to end this.
    """
    name = b"" if found.is_directory else found.path.rpartition(b"/")[2]
    target = TarTarget(fd, name, what, warn)
    source = ImageSource(view, found, warn, owners)
    done = 0
    # Plain files that the target takes by itself are not told one by one.
    for item in source.items(target if progress is None else None):
        target.put(item)
        if progress is not None:
            done += item.size if item.content is not None else 0
            progress(what, done, None)
    target.finish()
