"""Flags of files (lsattr): those of the disk, as the kernel's overlayfs shows them."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.backing import backing
from support.errnos import failing
from support.mounting import CommandLine, is_mounted

pytestmark = pytest.mark.needs("fuse")

_GETFLAGS, _SETFLAGS = 0x80086601, 0x40086602
_FSGETXATTR = 0x801C581F
_GETVERSION = 0x80087601
NODUMP, NOATIME, IMMUTABLE = 0x40, 0x80, 0x10


def flags_of(path: Path) -> int:
    """As lsattr(1) asks for them; the number is that of a long, but the kernel fills an int."""
    fd = os.open(path, os.O_RDONLY)
    try:
        value = array.array("i", [0, 0])
        fcntl.ioctl(fd, _GETFLAGS, value)
        return value[0]
    finally:
        os.close(fd)


def set_flags(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, _SETFLAGS, array.array("i", [flags, 0]))
    finally:
        os.close(fd)


def attributes_of(path: Path) -> bytes:
    """As xfs_io and project quotas ask for them."""
    fd = os.open(path, os.O_RDONLY)
    try:
        value = bytearray(28)
        fcntl.ioctl(fd, _FSGETXATTR, value)
        return bytes(value)
    finally:
        os.close(fd)


NOT_THERE = (errno.ENOTTY, errno.EOPNOTSUPP)  # kernels say one or the other


@pytest.fixture(
    params=[pytest.param(k, marks=pytest.mark.needs(f"backing-{k}")) for k in ("ext4", "tmpfs")]
)
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Two lower directories and an upper that have files with flags."""
    with backing(request.param, 64) as top:
        for name in ("low/merged", "mid", "up/merged", "work", "theirs", "ours"):
            (top / name).mkdir(parents=True)
        for name in ("low/below", "low/merged/below", "mid/middle", "up/above", "low/plain"):
            (top / name).write_bytes(b"x")
        set_flags(top / "low/below", flags_of(top / "low/below") | NODUMP)
        set_flags(top / "low/merged", flags_of(top / "low/merged") | NOATIME)
        set_flags(top / "mid/middle", flags_of(top / "mid/middle") | NOATIME | NODUMP)
        set_flags(top / "up/above", flags_of(top / "up/above") | NODUMP)
        set_flags(top / "up/merged", flags_of(top / "up/merged") | NODUMP)
        yield top


@pytest.mark.needs("overlayfs")
def test_flags_are_those_of_overlayfs(disk: Path, cli: CommandLine) -> None:
    options = f"lowerdir={disk}/mid:{disk}/low,upperdir={disk}/up,workdir={disk}/work"
    names = (".", "below", "middle", "above", "plain", "merged", "merged/below")
    theirs, ours = disk / "theirs", disk / "ours"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, theirs], check=True)
    expected = {name: (flags_of(theirs / name), attributes_of(theirs / name)) for name in names}
    subprocess.run(["umount", theirs], check=True)
    assert expected["below"][0] & NODUMP
    cli.run("overlay", "-o", f"{options},suid,dev", ours)
    try:
        seen = {name: (flags_of(ours / name), attributes_of(ours / name)) for name in names}
        (ours / "new").write_bytes(b"x")
        (ours / "new").unlink()
        with open(ours / "above", "rb") as file:
            (ours / "above").unlink()  # it is asked without a name
            value = array.array("i", [0, 0])
            fcntl.ioctl(file, _GETFLAGS, value)
            assert value[0] & NODUMP
    finally:
        cli.run("umount", ours)
    assert seen == expected


@pytest.fixture(params=["--ro", "--ephemeral"])
def root(request: pytest.FixtureRequest, cli: CommandLine, tmp_path: Path) -> Iterator[Path]:
    """An image, which has no flags."""
    layer = Layer().file("file", b"x").directory("dir").symlink("link", "file")
    image = docker_archive(tmp_path / "image.tar", [layer], name="file-flags:1")
    where = tmp_path / "mnt"
    where.mkdir()
    cli.run("mount", request.param, image, where)
    yield where
    if is_mounted(where):
        cli.run("umount", "--lazy", where)


def test_files_of_images_have_none(root: Path) -> None:
    assert [flags_of(root / name) for name in ("file", "dir")] == [0, 0]
    assert attributes_of(root / "file") == bytes(28)


@pytest.mark.needs("lsattr")
def test_lsattr(root: Path) -> None:
    done = subprocess.run(["lsattr", root], capture_output=True, text=True, check=True)
    assert sorted(line.split()[1] for line in done.stdout.splitlines()) == [
        str(root / "dir"),
        str(root / "file"),
    ]
    assert all(set(line.split()[0]) == {"-"} for line in done.stdout.splitlines())


@pytest.mark.parametrize("flag", [NODUMP, IMMUTABLE])
def test_flags_are_not_set(root: Path, flag: int) -> None:
    read_only = os.statvfs(root).f_flag & os.ST_RDONLY
    with failing(*((errno.EROFS,) if read_only else NOT_THERE)):
        set_flags(root / "file", flag)


def other(root: Path) -> None:
    with open(root / "file", "rb") as file:
        fcntl.ioctl(file, _GETVERSION, array.array("i", [0, 0]))


def test_other_ioctls_are_refused(root: Path) -> None:
    with failing(errno.ENOTTY):
        other(root)


@pytest.mark.parametrize("ask", [other, lambda root: flags_of(root / "file")])
def test_python_alone_has_none(
    ask: Callable[[Path], object], cli: CommandLine, root: Path, tmp_path: Path
) -> None:
    other_place = tmp_path / "python"
    other_place.mkdir()
    cli.run("mount", "--no-fastpath", tmp_path / "image.tar", other_place)
    try:
        with failing(*NOT_THERE):
            ask(other_place)
    finally:
        cli.run("umount", other_place)
