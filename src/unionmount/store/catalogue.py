"""The catalogue of images and their names: the content of ``images.json``.

Nothing here does I/O: ``store`` reads and writes the catalogue under its lock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unionmount.errors import InvalidReference
from unionmount.images.reference import Digest, Reference

_HEX = frozenset("0123456789abcdef")
_MIN_ID = 4  # least digits of an abbreviated ID
_LOCAL = "localhost"


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of the store: its names, of which there may be none, and its digests.

    ``digests`` are its digests in registries as ``name@digest``, oldest first; for a tag that led
    to an index, the digest of the index.
    """

    names: tuple[str, ...]
    manifest: Digest
    id: Digest
    created: int  # seconds since 1970, of the import
    digests: tuple[str, ...] = ()


def parse(raw: bytes) -> list[StoredImage]:
    """Parse a catalogue; raise one of ``DAMAGED`` if it is not valid."""
    return [_stored_image(one) for one in json.loads(raw)["images"]]


DAMAGED = (ValueError, KeyError, TypeError, RecursionError, InvalidReference)
"""The errors that ``parse`` raises."""


def serialize(images: Sequence[StoredImage]) -> bytes:
    """Write a catalogue."""
    rows = [
        {
            "names": list(one.names),
            "manifest": str(one.manifest),
            "id": str(one.id),
            "created": one.created,
            "digests": list(one.digests),
        }
        for one in images
    ]
    return json.dumps({"images": rows}, indent=1).encode()


def _stored_image(row: Any) -> StoredImage:
    return StoredImage(
        tuple(str(Reference.parse(name)) for name in row["names"]),
        Digest.parse(row["manifest"]),
        Digest.parse(row["id"]),
        int(row["created"]),
        tuple(str(Reference.parse(name)) for name in row.get("digests", ())),
    )


# -- changes


def put(known: Sequence[StoredImage], entry: StoredImage) -> tuple[list[StoredImage], StoredImage]:
    """Add ``entry``, whose names are taken from other images; return all images and the new entry.

    An image whose manifest is known keeps its other names, its digests and its time of import.
    """
    old = next((one for one in known if one.manifest == entry.manifest), entry)
    merged = replace(
        entry,
        names=_united([name for name in old.names if name not in entry.names], entry.names),
        digests=_united(old.digests, entry.digests),
        created=old.created,
    )
    others = [_without(one, entry.names) for one in known if one.manifest != entry.manifest]
    return [*others, merged], merged


def taken(known: Sequence[StoredImage], manifest: Digest) -> set[str]:
    """Return the names that belong to other images."""
    return {name for one in known if one.manifest != manifest for name in one.names}


def untag(
    known: Sequence[StoredImage], manifest: Digest, words: Iterable[str]
) -> list[StoredImage]:
    """Return the images after removing names and digests from one of them."""
    gone = frozenset(words)
    return [_less(one, gone) if one.manifest == manifest else one for one in known]


def _less(image: StoredImage, words: frozenset[str]) -> StoredImage:
    return replace(
        image,
        names=tuple(name for name in image.names if name not in words),
        digests=tuple(name for name in image.digests if name not in words),
    )


def _united(*words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word for some in words for word in some))


def _without(image: StoredImage, names: Sequence[str]) -> StoredImage:
    return replace(image, names=tuple(name for name in image.names if name not in names))


def overlaid(own: Sequence[StoredImage], other: Sequence[StoredImage]) -> list[StoredImage]:
    """Join two catalogues; names and manifests of ``own`` hide those of ``other``."""
    manifests = {one.manifest for one in own}
    names = [name for one in own for name in one.names]
    return [*own, *(_without(one, names) for one in other if one.manifest not in manifests)]


def by_image(known: Sequence[StoredImage]) -> list[StoredImage]:
    """Return each image once, with all its names and digests.

    An image that came by several routes has a manifest for each, and so several entries: layers of
    a registry are compressed, those of an archive are not. Its ID makes it one image. It takes the
    place and the manifest of its newest entry.
    """
    found: dict[Digest, StoredImage] = {}
    for one in known:
        old = found.get(one.id, one)
        newest = one if one.created > old.created else old
        found[one.id] = replace(
            newest,
            names=_united(old.names, one.names),
            digests=_united(old.digests, one.digests),
        )
    return list(found.values())


# -- looking for one


def find(known: Sequence[StoredImage], text: str) -> list[StoredImage]:
    """Return the images that ``text`` may mean: by name, or else by the beginning of the ID."""
    return by_name(known, text) or _by_id(known, text)


def by_name(known: Sequence[StoredImage], text: str) -> list[StoredImage]:
    """Return the images with this name; one without a registry may also be a local one."""
    for reference in _readings(text):
        found = [one for one in known if _means(reference, one)]
        if found:
            # An index has images for several platforms: the latest is meant.
            return found[-1:] if reference.digest is not None else found
    return []


def words_of(image: StoredImage, text: str) -> list[str]:
    """Return the names and digests of an image that ``text`` means."""
    for reference in _readings(text):
        words = {str(reference.with_default_tag()), _with_digest(reference)}
        found = [word for word in (*image.names, *image.digests) if word in words]
        if found:
            return found
    return []


def _readings(text: str) -> list[Reference]:
    found = []
    for spelling in (text, f"{_LOCAL}/{text}"):
        try:
            found.append(Reference.parse(spelling))
        except InvalidReference:
            continue
    return found


def _means(reference: Reference, image: StoredImage) -> bool:
    if reference.digest is None:
        return str(reference.with_default_tag()) in image.names
    if _with_digest(reference) in image.digests:
        return True
    names = {Reference.parse(name).name for name in image.names}
    return reference.digest == image.manifest and reference.name in names


def _with_digest(reference: Reference) -> str:
    return str(replace(reference, tag=None))


def _by_id(known: Sequence[StoredImage], text: str) -> list[StoredImage]:
    digits = text.removeprefix("sha256:")
    if len(digits) < _MIN_ID or not set(digits) <= _HEX:
        return []
    return [
        one for one in known if one.id.hex.startswith(digits) or one.manifest.hex.startswith(digits)
    ]
