"""The image that a bill of materials is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionmount.images.reference import Digest


@dataclass(frozen=True, slots=True)
class Subject:
    """The image or container of a document, and the time at which the document is made.

    ``identity`` makes the document's own name: it is another one for other contents.
    """

    name: str
    image_id: Digest
    diff_ids: tuple[Digest, ...]
    created: str
    identity: str
