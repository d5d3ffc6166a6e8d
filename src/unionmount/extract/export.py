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
    done = 0
    for item in ImageSource(view, found, warn, owners).items():
        target.put(item)
        done += item.size if item.content is not None else 0
        if progress is not None:
            progress(what, done, None)
    target.finish()
