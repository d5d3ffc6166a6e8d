"""Tar streams made by tests, and unpacked by the code of ``cp``."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

from unionmount.extract.host_target import HostTarget
from unionmount.extract.tar_source import TarSource
from unionmount.extract.target import CopyPolicy

TarMember = tuple[tarfile.TarInfo, bytes]
PLAIN = CopyPolicy()


def member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = ""
) -> TarMember:
    """Return a member of a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    info.mode = 0o777 if kind == tarfile.DIRTYPE else 0o644
    return info, content


def tar_of(*members: TarMember) -> bytes:
    """Return a tar in the pax format."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def descriptor_of(data: bytes) -> int:
    """Return a descriptor from which these bytes are read."""
    fd = os.memfd_create("tar")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def unpack(
    data: bytes, where: Path, policy: CopyPolicy = PLAIN, *, inside: bool = False
) -> list[str]:
    """Unpack a tar in a directory; return the warnings."""
    fd, root = descriptor_of(data), os.open(where, os.O_PATH | os.O_DIRECTORY)
    warnings: list[str] = []
    try:
        with HostTarget(root, b"", policy, warnings.append, inside=inside) as target:
            for item in TarSource(fd, "the tar").items():
                target.put(item)
            target.finish()
    finally:
        os.close(fd)
        os.close(root)
    return warnings
