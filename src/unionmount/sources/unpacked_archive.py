"""An image that another tool has unpacked, as an archive whose layers are made again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from unionmount.errors import NotFoundError
from unionmount.sources import Entry, ImageArchive, LayerBlob, SourceImage
from unionmount.sources.streamed import StreamedFiles
from unionmount.sources.tar_split import restored
from unionmount.system.files import FileRange

if TYPE_CHECKING:
    from unionmount.images.platform import Platform
    from unionmount.sources.container_storage import FoundImage


class UnpackedArchive(ImageArchive):
    """One image; whoever imports its layers verifies their digests."""

    def __init__(self, found: FoundImage, what: str) -> None:
        super().__init__(StreamedFiles(what))
        self._found = found

    def entries(self) -> Sequence[Entry]:
        """Return the image, which has the name by which it was found."""
        name = self._found.name
        names = () if name is None or name.digest is not None else (name,)
        return [Entry(0, names, tuple(one.familiar for one in names))]

    def image(self, entry: Entry, platform: Platform | None) -> SourceImage:  # noqa: ARG002
        """Return the image; raise NotFoundError if its platform does not fit."""
        image = self._found.image
        offered = image.config.platform
        if platform is not None and platform.distance(offered) is None:
            raise NotFoundError(f"{self.what}: is for {offered}, not {platform}")
        layers = []
        for one, diff_id in zip(self._found.layers, image.diff_ids, strict=True):
            what = f"{self.what}: layer {diff_id.short}"
            pieces = partial(restored, one.record, one.path, what)
            made = f"{what}, made again from its files"  # of which one has changed, perhaps
            layers.append(LayerBlob(made, FileRange(-1, 0, one.size), diff_id, None, pieces=pieces))
        return SourceImage(image, tuple(layers), self._found.made_up)
