"""When an image was last used: the time of modification of ``used/ALG-HEX`` in the store.

It is a note for ``prune --until`` and ``--keep-size``, and nothing depends on it. Where it cannot
be written, or is lost, the image counts as used when it was imported.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from unionmount.images.reference import Digest
    from unionmount.store.catalogue import StoredImage
    from unionmount.store.directory import StoreDirectory

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def note_use(directory: StoreDirectory, image_id: Digest) -> None:
    """Note that an image is used now."""
    with suppress(OSError):  # the store may be full or read-only
        fd = os.open(_path(directory, image_id), _FLAGS, 0o600)
        try:
            os.utime(fd)
        finally:
            os.close(fd)


def last_use(directory: StoreDirectory, image: StoredImage) -> float:
    """Return the time of the last use in seconds since 1970."""
    with suppress(OSError):
        return max(image.created, _path(directory, image.id).lstat().st_mtime)
    return image.created


def forget_uses(directory: StoreDirectory, known: set[Digest]) -> None:
    """Remove the notes of images that are not ``known``."""
    names = {_path(directory, one).name for one in known}
    with suppress(OSError):
        for path in directory.used.iterdir():
            if path.name not in names:
                path.unlink(missing_ok=True)


def _path(directory: StoreDirectory, image_id: Digest) -> Path:
    return directory.used / f"{image_id.algorithm}-{image_id.hex}"
