"""Image files made from bytes: docker archives and OCI layouts, sound ones and others.

Everything is returned as data (a dict of member names to bytes), so that a test can spoil it before
it is written.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unionmount.images.opened import OpenImage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"

Members = dict[str, bytes]
Compress = Callable[[bytes], bytes]


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def plain(data: bytes) -> bytes:
    return data


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def gzip_members(data: bytes, count: int = 3) -> bytes:
    """Several gzip members, and zeros after the last."""
    step = len(data) // count + 1
    return b"".join(gzipped(data[i : i + step]) for i in range(0, len(data), step)) + bytes(512)


def skippable(data: bytes) -> bytes:
    return b"\x5a\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


def zstd_frame(data: bytes) -> bytes:
    return bytes(zstd.compress(data))


def zstd_frames(data: bytes, count: int = 3) -> bytes:
    """Several zstd frames among skippable ones, as zstd:chunked has them."""
    step = len(data) // count + 1
    frames = [zstd_frame(data[i : i + step]) for i in range(0, len(data), step)]
    return skippable(b"before") + skippable(b"").join(frames) + skippable(b"table of contents")


def zstd_long_window(data: bytes) -> bytes:
    """A frame that wants 256 MiB of memory."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 28})
    return bytes(compressor.compress(data) + compressor.flush())


def xz_stream(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def xz_streams(data: bytes, count: int = 3) -> bytes:
    """Several xz streams with padding between and after them, as ``xz`` takes them."""
    step = len(data) // count + 1
    streams = [xz_stream(data[i : i + step]) for i in range(0, len(data), step)]
    return bytes(4).join(streams) + bytes(512)


def bzip2_stream(data: bytes) -> bytes:
    return bz2.compress(data)


def bzip2_streams(data: bytes, count: int = 3) -> bytes:
    """Several bzip2 streams, as pbzip2 writes them."""
    step = len(data) // count + 1
    return b"".join(bz2.compress(data[i : i + step]) for i in range(0, len(data), step))


def xz_large_dictionary(data: bytes) -> bytes:
    """A stream that wants 256 MiB of memory."""
    small = {"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 4096}
    stream = lzma.compress(data, filters=[small])
    # the size of the dictionary is one byte in the header of the block; a checksum follows it
    header = bytearray(stream[12 : 12 + (stream[12] + 1) * 4])
    header[4] = 32  # 2 << (32 / 2 + 11)
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    return stream[:12] + bytes(header) + stream[12 + len(header) :]


def tar(members: Mapping[str, bytes] | Iterable[tarfile.TarInfo | tuple[str, bytes]]) -> bytes:
    """A tar of files, or of ready-made members without content."""
    buffer = io.BytesIO()
    items = members.items() if isinstance(members, Mapping) else members
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for item in items:
            if isinstance(item, tarfile.TarInfo):
                archive.addfile(item)
                continue
            info = tarfile.TarInfo(item[0])
            info.size = len(item[1])
            archive.addfile(info, io.BytesIO(item[1]))
    return buffer.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


@dataclass(frozen=True)
class MadeImage:
    """An image: plain layers, lowest first, and what is said of it."""

    layers: tuple[bytes, ...]
    names: tuple[str, ...] = ("example.org/made:1",)
    architecture: str = "amd64"
    variant: str = ""

    @property
    def diff_ids(self) -> list[str]:
        return [sha256(layer) for layer in self.layers]

    @property
    def config(self) -> bytes:
        document = {
            "architecture": self.architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            "history": [{"created_by": "made", "empty_layer": True}],
        }
        if self.variant:
            document["variant"] = self.variant
        return json.dumps(document).encode()

    @property
    def id(self) -> str:
        return sha256(self.config)


def small_image(seed: str = "", **changes: Any) -> MadeImage:
    """Two layers; the upper one hides a file of the lower one."""
    lower = tar({"etc/motd": f"hello {seed}\n".encode(), "gone": b"x"})
    upper = tar({".wh.gone": b"", "new": b"y" * 1000})
    return MadeImage((lower, upper), **changes)


SMALL_TREE = {b"etc": b"", b"etc/motd": b"hello \n", b"new": b"y" * 1000}


def tree_of(image: OpenImage) -> dict[bytes, bytes]:
    """All paths of an open image; of files with their content."""
    tree = image.tree()
    return {
        path: tree.read(found.node, 0, found.size) if found.mode & 0o170000 == 0o100000 else b""
        for path, found in tree.walk()
    }


def docker_archive(*images: MadeImage, compress: Compress = plain) -> Members:
    """What "docker save" wrote before version 25."""
    members: Members = {}
    items = []
    for image in images:
        paths = []
        for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
            path = diff_id.removeprefix("sha256:") + "/layer.tar"
            members[path] = compress(layer)
            paths.append(path)
        config = image.id.removeprefix("sha256:") + ".json"
        members[config] = image.config
        items.append({"Config": config, "RepoTags": list(image.names), "Layers": paths})
    members["manifest.json"] = json.dumps(items).encode()
    return members


def blob_path(data: bytes) -> str:
    return "blobs/sha256/" + sha256(data).removeprefix("sha256:")


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


def manifest_of(image: MadeImage, compress: Compress = plain, layer_type: str = OCI_LAYER) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(image.config, OCI_CONFIG),
        "layers": [descriptor(compress(layer), layer_type) for layer in image.layers],
    }
    return json.dumps(document).encode()


def index_of(manifests: Sequence[dict[str, Any]]) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(manifests)}
    return json.dumps(document).encode()


def oci_blobs(image: MadeImage, compress: Compress = plain) -> Members:
    """Everything that an image's manifest leads to, and itself."""
    blobs = [manifest_of(image, compress), image.config, *map(compress, image.layers)]
    return {blob_path(blob): blob for blob in blobs}


def named_descriptor(image: MadeImage, compress: Compress = plain) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if image.names:
        more["annotations"] = {"org.opencontainers.image.ref.name": image.names[0]}
    return descriptor(manifest_of(image, compress), OCI_MANIFEST, **more)


def oci_layout(*images: MadeImage, compress: Compress = plain) -> Members:
    """An OCI image layout with a manifest for each image."""
    members: Members = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    for image in images:
        members |= oci_blobs(image, compress)
    members["index.json"] = index_of([named_descriptor(image, compress) for image in images])
    return members


def write_tar(path: Path, members: Members) -> Path:
    path.write_bytes(tar(members))
    return path


def write_directory(path: Path, members: Members) -> Path:
    for name, data in members.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


def flip(data: bytes, at: int) -> bytes:
    """The same bytes with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= 0x10
    return bytes(changed)
