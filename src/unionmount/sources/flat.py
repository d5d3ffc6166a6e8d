"""A root file system in a tar, as an image of one layer.

``docker export``, debootstrap and LXC write such tars. There are no documents in them, so a config
with nothing but the platform and the layer is made. All names are files: nothing is a whiteout.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from unionmount.errors import NotFoundError
from unionmount.images.build import compact_json
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.platform import Platform
from unionmount.images.reference import Digest
from unionmount.sources import Entry, ImageArchive, LayerBlob, SourceImage
from unionmount.system.files import FileIdentity, FileRange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.store.in_place import FlatFacts

FactsOf = Callable[[FileRange], "FlatFacts"]
"""A function that returns the digest of a tar, and its names that are marks in a layer."""


class FlatFile:
    """A tar as one file, without its members; owns ``fd``."""

    def __init__(self, fd: int, what: str) -> None:
        self.what = what
        self._fd = fd
        self._identity = FileIdentity.of(fd)

    @property
    def whole(self) -> FileRange:
        """All bytes of the file."""
        return FileRange(self._fd, 0, self._identity.size)

    def find(self, path: str) -> FileRange | None:  # noqa: ARG002
        """Find nothing."""
        return None

    def size(self, path: str) -> int | None:  # noqa: ARG002
        """Find nothing."""
        return None

    def read(self, path: str) -> bytes | None:  # noqa: ARG002
        """Find nothing."""
        return None

    def check_unchanged(self) -> None:
        """Raise FormatError if the file has changed since it was opened."""
        self._identity.check(self._fd, self.what)

    def release(self) -> None:
        """Do nothing, as there is one descriptor."""

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class FlatArchive(ImageArchive):
    """A root file system in a tar; owns ``file``."""

    def __init__(self, file: FlatFile, facts_of: FactsOf) -> None:
        super().__init__(file)
        self._whole = file.whole
        self._facts_of = facts_of

    def entries(self) -> Sequence[Entry]:
        """Return the one image, which has no name."""
        return [Entry(0, (), ())]

    def image(self, entry: Entry, platform: Platform | None) -> SourceImage:  # noqa: ARG002
        """Return the image, for this machine unless a platform is named."""
        facts = self._facts_of(self._whole)
        diff_id = Digest.parse(facts.diff_id)
        config = Config.parse(_config(diff_id, platform or Platform.host()), self.what)
        image = ImageDocuments.from_config(config, [self._whole.length], self.what)
        blob = LayerBlob(self.what, self._whole, diff_id, None, facts)
        return SourceImage(image, (blob,), made_up=True)


def _config(diff_id: Digest, platform: Platform) -> bytes:
    """Return the config; the same tar gives the same bytes."""
    document = {
        "architecture": platform.architecture,
        "config": {},
        "os": platform.os,
        "rootfs": {"diff_ids": [str(diff_id)], "type": "layers"},
        **({"variant": platform.variant} if platform.variant else {}),
    }
    return compact_json(document)


def refuse_flat(archive: ImageArchive) -> None:
    """Raise NotFoundError if an archive that has to hold images is a root file system."""
    if isinstance(archive, FlatArchive):
        raise NotFoundError(
            f"{archive.what}: contains no image, but files; 'unionmount import' makes an image of "
            "a root file system"
        )
