"""Docker-archives made from bytes, for tests that need a small image of known content."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MTIME_NS = 1_600_000_000_123_456_789


class Layer:
    """A layer that is put together entry by entry."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(  # noqa: SIM115 - closed by data()
            fileobj=self._buffer,
            mode="w",
            format=tarfile.PAX_FORMAT,
            encoding="utf-8",
            errors="surrogateescape",
        )

    def add(
        self,
        name: str,
        kind: bytes = tarfile.REGTYPE,
        *,
        content: bytes = b"",
        mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
        link: str = "",
        device: tuple[int, int] = (0, 0),
        mtime_ns: int = MTIME_NS,
        pax: dict[str, str] | None = None,
        xattrs: dict[str, bytes] | None = None,
    ) -> Layer:
        """Add one entry; returns the layer, so that calls can be chained."""
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.linkname = kind, mode, link
        info.uid, info.gid = owner
        info.devmajor, info.devminor = device
        info.mtime = max(mtime_ns // 10**9, 0)
        info.size = len(content)
        sign, rest = ("-", -mtime_ns) if mtime_ns < 0 else ("", mtime_ns)
        info.pax_headers = {"mtime": f"{sign}{rest // 10**9}.{rest % 10**9:09}"} | (pax or {})
        for key, value in (xattrs or {}).items():
            info.pax_headers[f"SCHILY.xattr.{key}"] = value.decode("utf-8", "surrogateescape")
        self._tar.addfile(info, io.BytesIO(content))
        return self

    def directory(self, name: str, mode: int = 0o755, **more: Any) -> Layer:
        """Add a directory."""
        return self.add(name, tarfile.DIRTYPE, mode=mode, **more)

    def file(self, name: str, content: bytes = b"", **more: Any) -> Layer:
        """Add a file."""
        return self.add(name, content=content, **more)

    def symlink(self, name: str, target: str, **more: Any) -> Layer:
        """Add a symlink."""
        options: Any = {"link": target, "mode": 0o777} | more
        return self.add(name, tarfile.SYMTYPE, **options)

    def hard_link(self, name: str, target: str) -> Layer:
        """Add another name of a file."""
        return self.add(name, tarfile.LNKTYPE, link=target)

    def data(self) -> bytes:
        """The tar."""
        self._tar.close()
        return self._buffer.getvalue()


def posix_acl(*entries: tuple[int, int, int]) -> bytes:
    """An ACL as the kernel keeps it, of (tag, permissions, id): see posix_acl_xattr.h."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def docker_archive(
    path: Path,
    layers: Sequence[Layer],
    name: str = "test:latest",
    history: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write an archive as ``docker save`` makes it, with plain layers.

    ``config`` has the execution parameters, in the words of the image specification.
    """
    blobs = [layer.data() for layer in layers]
    config_blob = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2020-09-13T12:26:40Z",
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(blob).hexdigest()}" for blob in blobs],
            },
            "history": [{"created_by": text} for text in history],
            **({} if config is None else {"config": config}),
        }
    ).encode()
    config_name = f"{hashlib.sha256(config_blob).hexdigest()}.json"
    names = [f"{number}/layer.tar" for number in range(len(blobs))]
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": names}]
    files = [*zip(names, blobs, strict=True), (config_name, config_blob)]
    with tarfile.open(path, "w") as tar:
        for member, content in [*files, ("manifest.json", json.dumps(manifest).encode())]:
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path
