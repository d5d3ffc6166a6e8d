"""A disk that gets full, of data or of inodes, while an upper is on it.

Whatever can't be done fails with ENOSPC and changes nothing; once there is room again, it can.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from differential.lowers import image
from support.backing import backing
from support.commands import Commands
from support.compare import differences, snapshot

from faults.disks import (
    Change,
    check_same,
    check_survival,
    fails,
    overlay_place,
    write_until_full,
)
from faults.killed import Place
from faults.lowers import layers

pytestmark = pytest.mark.needs("fuse", "root")

LARGE = 8 << 20  # more than a disk has
_PATIENCE = 30  # seconds
MANY = 6  # of each kind of file
_RNG = random.Random(1)


def _write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_RNG.randbytes(size))
    os.utime(path, ns=(10**18, 10**18))


@pytest.fixture(scope="module")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a few of everything, which does not change."""
    top = tmp_path_factory.mktemp("lower")
    for number in range(MANY):
        _write(top / f"file{number}", 30_000)
        _write(top / f"directory{number}/sub/file", 5_000)
        _write(top / f"group{number}/one", 20_000)
        os.link(top / f"group{number}/one", top / f"group{number}/other")
        (top / f"symlink{number}").symlink_to("x" * 100)
    before = snapshot(top)
    yield top
    assert differences(before, snapshot(top)) == [], "a lower layer has changed"


@pytest.fixture(
    params=[
        pytest.param("tmpfs", marks=pytest.mark.needs("backing-tmpfs")),
        pytest.param("ext4", marks=pytest.mark.needs("backing-ext4")),
    ]
)
def place(
    request: pytest.FixtureRequest, commands: Commands, lower: Path, tmp_path: Path
) -> Iterator[Place]:
    """A mount on a small disk."""
    with backing(request.param, megabytes=6) as disk:
        made = overlay_place(commands, [lower], disk, tmp_path / "mnt")
        with made.mounted():
            yield made


@pytest.fixture
def place_of_large(
    place: Place, commands: Commands, lower: Path, tmp_path: Path
) -> Iterator[Place]:
    """The same disk under another upper, whose lower layers have a file larger than the disk."""
    large = tmp_path / "large"
    _write(large / "large", LARGE)
    before = snapshot(large)
    made = overlay_place(commands, [large, lower], place.upper.parent / "other", tmp_path / "mnt2")
    with made.mounted():
        yield made
    assert differences(before, snapshot(large)) == [], "a lower layer has changed"


@pytest.fixture
def few_inodes(commands: Commands, lower: Path, tmp_path: Path) -> Iterator[Place]:
    """A mount on a disk with room for few files."""
    with backing("tmpfs", options="noatime,nr_inodes=60") as disk:
        made = overlay_place(commands, [lower], disk, tmp_path / "mnt")
        with made.mounted():
            yield made


def _append(path: Path, size: int = 1) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        data = memoryview(os.urandom(size))
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def _overwrite_mapped(path: Path, size: int) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as memory:
        memory[:] = b"m" * size
        memory.flush()


# What needs room for data or for names; each is possible once for a number.
CHANGES: dict[str, Callable[[int, Path], object]] = {
    "copy-up": lambda n, top: _append(top / f"file{n}"),
    "copy-up below": lambda n, top: _append(top / f"directory{n}/sub/file"),
    "copy-up of a group": lambda n, top: _append(top / f"group{n}/other"),
    "chmod": lambda n, top: (top / f"file{n}").chmod(0o600),
    "chmod of a directory": lambda n, top: (top / f"directory{n}/sub").chmod(0o700),
    "chown of a symlink": lambda n, top: os.lchown(top / f"symlink{n}", 1, 1),
    "setxattr": lambda n, top: os.setxattr(top / f"file{n}", "user.x", b"x" * 500),
    "mkdir": lambda n, top: (top / f"made{n}").mkdir(),
    "mkdir below": lambda n, top: (top / f"directory{n}/made").mkdir(),
    "create": lambda n, top: (top / f"created{n}").open("xb").close(),
    "symlink": lambda n, top: (top / f"linked{n}").symlink_to("y" * 1000),
    "fifo": lambda n, top: os.mkfifo(top / f"fifo{n}"),
    "link": lambda n, top: os.link(top / f"file{n}", top / f"hard{n}"),
    "rename": lambda n, top: (top / f"file{n}").rename(top / f"renamed{n}"),
    "rename of a directory": lambda n, top: (top / f"directory{n}").rename(top / f"moved{n}"),
    "rename of a name": lambda n, top: (top / f"group{n}/one").rename(top / f"alone{n}"),
    "unlink": lambda n, top: (top / f"symlink{n}").unlink(),
    "rmdir": lambda n, top: _remove_tree(top / f"moved{n}"),
}


def _remove_tree(top: Path) -> None:
    for path in sorted(top.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    top.rmdir()


def _try_all(place: Place, number: int) -> list[str]:
    """Try every change; the names of those that failed for want of room."""
    failed = []
    for name, change in CHANGES.items():
        # ENOENT: a change before this one has failed
        if fails(place, partial(change, number), errno.ENOSPC, errno.ENOENT):
            failed.append(name)
    return failed


def _overwrite(path: Path) -> None:
    """Opening alone copies nothing up: the first write does."""
    with path.open("r+b", buffering=0) as file:
        file.write(b"x")


def test_a_file_that_is_too_large_to_be_copied_up(place_of_large: Place) -> None:
    place = place_of_large
    large, renamed = place.mountpoint / "large", place.mountpoint / "renamed"
    changes: list[Change] = [
        lambda top: _append(top / "large"),
        lambda top: os.truncate(top / "large", LARGE - 1),
        lambda top: _overwrite(top / "large"),
    ]
    for change in changes:
        assert fails(place, change, errno.ENOSPC)
    large.chmod(0o600)  # needs no data
    for change in changes:
        assert fails(place, change, errno.ENOSPC)
    large.rename(renamed)
    assert renamed.stat().st_mode & 0o777 == 0o600
    check_survival(place)
    os.truncate(renamed, 0)
    _append(renamed, 1000)
    check_survival(place)


def _fill(place: Place) -> None:
    for size in (1 << 16, 4096, 1):
        path = place.mountpoint / f"filler{size}"
        assert write_until_full(path, size) == errno.ENOSPC


def _make_room(place: Place) -> None:
    """Remove what fills the disk, and wait for the room: the kernel forgets files when it likes."""
    removed = 0
    for path in place.mountpoint.glob("filler*"):
        removed += path.stat().st_blocks * 512
        path.unlink()
    end = time.monotonic() + _PATIENCE
    while True:
        disk = os.statvfs(place.upper)
        if disk.f_bavail * disk.f_frsize >= removed * 9 // 10:
            return
        assert time.monotonic() < end, "the room of removed files does not come back"
        os.sched_yield()


def test_no_room_for_data(place: Place) -> None:
    top = place.mountpoint
    (top / "own").write_bytes(b"own" * 1000)
    (top / "hole").touch()
    os.truncate(top / "hole", 1 << 20)
    _fill(place)
    assert os.statvfs(top).f_bavail == 0
    assert {"copy-up", "copy-up below", "copy-up of a group"} <= set(_try_all(place, 1))
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOSPC):
        _append(top / "own", 100_000)
    with pytest.raises(OSError, check=lambda error: error.errno in (errno.ENOSPC, errno.EIO)):
        _overwrite_mapped(top / "hole", 1 << 20)
    assert (top / "own").read_bytes()[:3000] == b"own" * 1000
    _make_room(place)
    assert _try_all(place, 2) == []
    _overwrite_mapped(top / "hole", 1 << 20)
    check_survival(place)
    assert (top / "hole").read_bytes() == b"m" * (1 << 20)


def test_what_has_no_room_is_not_begun(place: Place) -> None:
    """Room for a part of it is none: nothing is allocated, and the size stays."""
    path = place.mountpoint / "own"
    path.write_bytes(b"own")
    room = os.statvfs(place.mountpoint)
    more = room.f_bfree * room.f_frsize + (1 << 20)

    def allocate(top: Path) -> None:
        with (top / "own").open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, more)

    assert fails(place, allocate, errno.ENOSPC)
    assert os.statvfs(place.mountpoint).f_bfree == room.f_bfree
    check_survival(place)
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, more - (2 << 20))
    check_survival(place)


def test_changes_until_there_is_no_room(place: Place) -> None:
    """One after the other, on a disk that is nearly full, until none is possible."""
    top = place.mountpoint
    (top / "reserve").write_bytes(os.urandom(250_000))
    _fill(place)
    (top / "reserve").unlink()
    failed = [_try_all(place, number) for number in range(MANY)]
    assert failed[-1]
    assert sum(map(len, failed)) < len(CHANGES) * MANY
    check_survival(place)
    _make_room(place)
    for number, names in enumerate(failed):
        for name in names:
            with suppress(FileNotFoundError):  # a later change has moved it
                CHANGES[name](number, top)
    check_survival(place)


def _touch_all(paths: list[Path]) -> int:
    """Make files until an error; which one."""
    try:
        for path in paths:
            path.touch()
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.mark.needs("backing-tmpfs")
def test_no_room_for_inodes(few_inodes: Place) -> None:
    place, top = few_inodes, few_inodes.mountpoint
    (top / "own").write_bytes(b"own")
    made = [top / f"inode{number}" for number in range(60)]
    assert _touch_all(made) == errno.ENOSPC
    failed = set(_try_all(place, 1))
    assert {"copy-up", "chmod", "mkdir", "create", "symlink", "fifo", "rename", "unlink"} <= failed
    _append(top / "own")
    for path in made:
        path.unlink(missing_ok=True)
    assert _try_all(place, 2) == []
    check_survival(place)


@pytest.mark.needs("backing-tmpfs")
def test_no_room_for_a_commit(commands: Commands, tmp_path: Path) -> None:
    archive = image(layers(1), tmp_path / "image.tar")
    with backing("tmpfs", megabytes=4) as disk:
        store, mnt = disk / "store", tmp_path / "mnt"
        mnt.mkdir()
        commands.run("--root", store, "mount", "--name", "one", archive, mnt)
        try:
            (mnt / "new").write_bytes(os.urandom(1_500_000))
            assert write_until_full(mnt / "filler") == errno.ENOSPC
            os.truncate(mnt / "filler", 0)
            _fill_all_but(disk / "other", disk, 1_000_000)
            before = snapshot(store)
            places = (b"tmp", b"leases")  # where something came and went
            for _ in range(2):
                done = commands.run("--root", store, "commit", mnt, "image:one", status=1)
                assert os.strerror(errno.ENOSPC) in done.stderr
                assert done.stderr.count("\n") == 1
                now = snapshot(store)
                changed = {
                    place: found
                    for place, found in now.items()
                    if place in places or place.startswith(b"used")  # when it was last used
                }
                check_same(before | changed, store)
                assert list((store / "tmp").iterdir()) == []
            (disk / "other").unlink()
            commands.run("--root", store, "commit", mnt, "image:one")
            commands.run("--root", store, "check", "image:one")
        finally:
            commands.run("umount", mnt)


def _fill_all_but(path: Path, disk: Path, left: int) -> None:
    room = os.statvfs(disk)
    path.write_bytes(bytes(room.f_bavail * room.f_bsize - left))
