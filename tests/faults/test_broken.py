"""A disk that loses writes, and layers that lose data, while they are mounted.

The disk is a file system on a loop device, whose file is in a tmpfs that is full: what has no block
in the file yet can't be written. What the mount says of it is what the disk itself says.
"""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.backing import backing
from support.commands import Commands

from faults.disks import check_survival, fails, overlay_place, write_until_full
from faults.killed import Place

pytestmark = pytest.mark.needs("fuse", "root", "backing-tmpfs")

SIZE = 1 << 20
_CODES = (errno.EIO, errno.ENOSPC)
_OF_LOST_DATA = (errno.EIO, errno.ENOENT, errno.ESTALE)


@dataclass(frozen=True, slots=True)
class FailingDisk:
    """A file system on a device that can lose the ability to take more data."""

    top: Path
    memory: Path

    def break_down(self) -> None:
        """From now on new blocks can't be written."""
        os.sync()
        for size in (1 << 20, 4096):
            assert write_until_full(self.memory / f"filler{size}", size) == errno.ENOSPC

    def repair(self) -> None:
        """Let it be as before."""
        for path in self.memory.glob("filler*"):
            path.unlink()


@contextmanager
def failing_disk() -> Iterator[FailingDisk]:
    """ext4 without a journal, which would not go on after an error."""
    with backing("tmpfs", megabytes=24) as memory:
        image, top = memory / "disk.img", memory / "disk"
        image.touch()
        os.truncate(image, 64 << 20)
        options = ("-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", "-N", "512")
        subprocess.run(["mkfs.ext4", "-q", "-F", *options, image], check=True)
        top.mkdir()
        how = ("-t", "ext4", "-o", "loop,noatime,errors=continue")
        subprocess.run(["mount", *how, image, top], check=True)
        try:
            yield FailingDisk(top, memory)
        finally:
            subprocess.run(["umount", top], check=True)


@pytest.fixture
def disk() -> Iterator[FailingDisk]:
    with failing_disk() as made:
        yield made


@pytest.fixture
def place(commands: Commands, disk: FailingDisk, tmp_path: Path) -> Iterator[Place]:
    lower = tmp_path / "lower"
    lower.mkdir()
    for name in ("one", "two", "group"):
        (lower / name).write_bytes(os.urandom(SIZE))
    os.link(lower / "group", lower / "group too")
    made = overlay_place(commands, [lower], disk.top / "union", tmp_path / "mnt")
    with made.mounted():
        yield made


def _error_of(action: Callable[[], object]) -> int:
    """The errno of what fails; 0 where nothing does."""
    try:
        action()
    except OSError as error:
        return error.errno or 0
    return 0


def _write_and_sync(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(os.urandom(SIZE))
        os.fsync(file.fileno())


def _append(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b"appended")
        os.fsync(file.fileno())


@pytest.mark.needs("backing-ext4")
def test_a_disk_that_loses_writes(place: Place, disk: FailingDisk) -> None:
    top = place.mountpoint
    (top / "kept").write_bytes(b"kept" * 1000)
    _append(top / "kept")
    disk.break_down()
    expected = _error_of(lambda: _write_and_sync(disk.top / "direct"))
    assert expected in _CODES
    assert _error_of(lambda: _write_and_sync(top / "new")) == expected
    for name in ("one", "group too"):
        assert fails(place, lambda at: _append(at / name), expected)  # noqa: B023
    assert _error_of(lambda: _append(top / "one")) == expected, "not the first time alone"
    assert (top / "kept").read_bytes() == b"kept" * 1000 + b"appended"
    assert os.statvfs(top).f_bavail
    disk.repair()
    for name in ("one", "group too"):
        _append(top / name)
    assert (top / "group").read_bytes().endswith(b"appended")
    _write_and_sync(top / "new")
    check_survival(place)


@pytest.mark.needs("backing-ext4")
def test_a_disk_that_loses_the_data_of_a_copy_without(place: Place, disk: FailingDisk) -> None:
    """A file of which only the mode was changed before."""
    one = place.mountpoint / "one"
    one.chmod(0o600)
    disk.break_down()
    before = hashlib.sha256(one.read_bytes()).digest()
    assert fails(place, lambda top: _append(top / "one"), *_CODES)
    check_survival(place)
    assert hashlib.sha256(one.read_bytes()).digest() == before
    disk.repair()
    _append(one)
    assert hashlib.sha256(one.read_bytes()[:SIZE]).digest() == before
    check_survival(place)


# ---- layers --------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An image that is mounted where it is; the large files are in its second half."""
    layer = Layer().file("first", b"first" * 1000)
    layer.file("large", os.urandom(SIZE)).file("group", os.urandom(SIZE))
    layer.hard_link("group too", "group").file("last", b"last")
    return docker_archive(tmp_path / "image.tar", [layer])


@contextmanager
def _truncated(path: Path) -> Iterator[None]:
    """The first part of a file for a while."""
    whole = path.read_bytes()
    os.truncate(path, 20_000)
    try:
        yield
    finally:
        with path.open("r+b") as file:  # the same inode
            file.write(whole)


def test_a_layer_that_loses_its_end(commands: Commands, archive: Path, tmp_path: Path) -> None:
    upper, work, top = tmp_path / "upper", tmp_path / "work", tmp_path / "mnt"
    top.mkdir()
    words = ("mount", "--upper", upper, "--work", work, archive)
    place = Place(commands, words, top, upper, work)
    digest = hashlib.sha256(archive.read_bytes()).digest()
    with place.mounted():
        with _truncated(archive):
            for name in ("large", "group too", "last"):
                assert _error_of(partial(_append, top / name)) == errno.EIO
                assert place.left_in_work() == []
                assert not (upper / name).exists()
            assert _error_of((top / "large").read_bytes) == errno.EIO
            (top / "large").chmod(0o600)
            assert _error_of(lambda: _append(top / "large")) == errno.EIO
            _append(top / "first")
            (top / "new").write_bytes(b"new")
        check_survival(place)
        for name in ("large", "group too", "last"):
            _append(top / name)
        assert (top / "first").read_bytes() == b"first" * 1000 + b"appended"
        check_survival(place)
    assert hashlib.sha256(archive.read_bytes()).digest() == digest


def test_a_directory_that_loses_data(commands: Commands, tmp_path: Path) -> None:
    """What somebody else does to a lower directory is undefined, but harms nothing else."""
    lower = tmp_path / "lower"
    lower.mkdir()
    for name in ("shorter", "removed", "other"):
        (lower / name).write_bytes(os.urandom(SIZE))
    place = overlay_place(commands, [lower], tmp_path / "union", tmp_path / "mnt")
    with place.mounted() as top:
        assert {path.stat().st_size for path in top.iterdir()} == {SIZE}
        os.truncate(lower / "shorter", 1000)
        (lower / "removed").unlink()
        for name in ("shorter", "removed"):
            assert _error_of(partial(_append, top / name)) in (0, *_OF_LOST_DATA)
            assert place.left_in_work() == []
        _append(top / "other")
        assert (top / "other").read_bytes()[:SIZE] == (lower / "other").read_bytes()
