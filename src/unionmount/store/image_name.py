"""The name under which an image is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionmount.images.image import SCRATCH, scratch
from unionmount.images.reference import Reference
from unionmount.store.store import StoredImage

if TYPE_CHECKING:
    pass


def name_of(stored: StoredImage) -> str:
    """Return the name of a stored image for people."""
    if stored.names:
        return Reference.parse(stored.names[0]).familiar
    return SCRATCH if stored.id == scratch().id else stored.id.short
