"""Directories of skopeo's transport ``dir:``, which hold one image or one index.

``manifest.json`` is the manifest or index, byte for byte; the manifests that an index lists are
``HEX.manifest.json``, and blobs are ``HEX``, after the digits of their digests. ``version`` has the
version of the form, and signatures are ``signature-N``; they are left where they are. There are no
names. Source: containers-transports(5), and containers/image, ``directory/directory_transport.go``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionmount.errors import FormatError
from unionmount.images.manifest import Contents, Descriptor
from unionmount.images.reference import Digest
from unionmount.sources.layout import BlobArchive
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.sources import Files

MANIFEST = "manifest.json"
VERSION = "version"
VERSION_TEXT = b"Directory Transport Version: 1.1\n"

_KNOWN = b"Directory Transport Version: 1."


class SkopeoDirectory(BlobArchive):
    """One image or index in a directory."""

    def __init__(self, files: Files) -> None:
        version = files.read(VERSION)  # skopeo before 2018 wrote none
        if version is not None and not version.startswith(_KNOWN):
            shown = printable(version[:100].decode("utf-8", "replace").strip())
            raise FormatError(f"{files.what}: {VERSION}: unknown version '{shown}'")
        raw = files.read(MANIFEST)
        if raw is None:
            raise FormatError(
                f"{files.what}: {MANIFEST} is missing; this is not a directory of skopeo's dir:"
            )
        if raw.lstrip()[:1] == b"[":
            raise FormatError(
                f"{files.what}: {MANIFEST} is that of a docker-archive; write "
                f"docker-archive:{files.what}"
            )
        media_type = Contents.parse(raw, f"{files.what}: {MANIFEST}").media_type
        self._root = Digest.of(raw)
        super().__init__(files, [Descriptor(media_type, self._root, len(raw))])

    def _path(self, digest: Digest) -> str:
        if digest == self._root:
            return MANIFEST
        of_index = manifest_name(digest)
        return of_index if self._files.size(of_index) is not None else digest.hex


def manifest_name(digest: Digest) -> str:
    """Return the name of a manifest that an index lists."""
    return f"{digest.hex}.{MANIFEST}"
