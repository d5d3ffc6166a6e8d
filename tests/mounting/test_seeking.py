"""Places in directories: whoever seeks to any number goes on there, in every kind of directory.

POSIX knows only numbers that telldir gave. Programs, NFS servers and the kernel's own overlayfs
count entries. So a place is a number of entries, which an entry keeps while others come and go.
"""

from __future__ import annotations

import ctypes
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.commands import Commands, ForkedCommandLine
from support.mounting import CommandLine

pytestmark = pytest.mark.needs("fuse")

MANY = 1500
_BUFFER = 32768
_HEAD = struct.Struct("=QqHB")  # of struct linux_dirent64, before the name
_libc = ctypes.CDLL(None, use_errno=True)

Entry = tuple[str, int]


def getdents(fd: int) -> list[Entry]:
    """One call of getdents64(2): names, and where the descriptor goes on behind each."""
    buffer = ctypes.create_string_buffer(_BUFFER)
    size = _libc.syscall(ctypes.c_long(217), fd, buffer, ctypes.c_size_t(_BUFFER))
    assert size >= 0, os.strerror(ctypes.get_errno())
    found, at = [], 0
    while at < size:
        _, after, length, _ = _HEAD.unpack_from(buffer.raw, at)
        name = buffer.raw[at + _HEAD.size : at + length].split(b"\0", 1)[0]
        found.append((os.fsdecode(name), after))
        at += length
    return found


def entries_from(directory: Path, place: int) -> list[Entry]:
    """All entries from a place on, by a descriptor of its own."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert os.lseek(fd, place, os.SEEK_SET) == place
        found: list[Entry] = []
        while some := getdents(fd):
            found += some
        return found
    finally:
        os.close(fd)


def names(entries: list[Entry]) -> list[str]:
    return [name for name, _ in entries]


def fill(directory: Path, numbers: range) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (directory / f"{number:04}").touch()


def hide(directory: Path, numbers: range) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (directory / f"{number:04}").unlink(missing_ok=True)
        os.mknod(directory / f"{number:04}", 0o020000, 0)


def _live(low: Path, _high: Path, _upper: Path) -> None:
    fill(low, range(MANY))


def _lowers(low: Path, high: Path, _upper: Path) -> None:
    fill(low, range(0, MANY, 2))
    fill(high, range(1, MANY, 2))
    hide(high, range(0, MANY, 10))


def _hiding(low: Path, _high: Path, _upper: Path) -> None:
    fill(low, range(MANY))
    hide(low, range(0, MANY, 7))


def _continued(low: Path, _high: Path, upper: Path) -> None:
    fill(low, range(MANY))
    fill(upper, range(MANY, MANY + 500))


def _thinned(low: Path, _high: Path, upper: Path) -> None:
    fill(low, range(MANY))
    hide(upper, range(0, MANY, 2))


def _fresh(_low: Path, _high: Path, upper: Path) -> None:
    fill(upper, range(MANY))


KINDS = {
    "live": _live,
    "lowers": _lowers,
    "hiding": _hiding,
    "continued": _continued,
    "thinned": _thinned,
    "fresh": _fresh,
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """What there is of the directory, and where."""
    return str(request.param)


@pytest.fixture(params=["", "0"], ids=["router", "pyfuse3"])
def cli(request: pytest.FixtureRequest, server: Commands) -> CommandLine:
    """The command line, with each way to answer the kernel: the answers are the same."""
    return ForkedCommandLine(server, {"UNIONMOUNT_FASTPATH": request.param})


@pytest.fixture
def options(tmp_path: Path, kind: str) -> str:
    """A stack with one directory of that kind in it, as options of a mount."""
    low, high, upper = (tmp_path / name for name in ("low", "high", "upper"))
    for layer in (low, high, upper, tmp_path / "work"):
        layer.mkdir()
    KINDS[kind](low / "many", high / "many", upper / "many")
    return f"lowerdir={high}:{low},upperdir={upper},workdir={tmp_path / 'work'}"


@contextmanager
def mounted(cli: CommandLine, where: Path, *arguments: str | Path) -> Iterator[Path]:
    where.mkdir()
    cli.run(*arguments, where)
    try:
        yield where
    finally:
        cli.run("umount", where)


@pytest.fixture
def many(cli: CommandLine, options: str, tmp_path: Path) -> Iterator[Path]:
    with mounted(cli, tmp_path / "mnt", "overlay", "-o", options) as root:
        yield root / "many"


def check_places(directory: Path) -> None:
    """Whatever is sought first, and afterwards: place n is behind the first n entries."""
    first = entries_from(directory, 100)
    entries = entries_from(directory, 0)
    assert names(entries)[:2] == [".", ".."]
    assert sorted(names(entries)[2:]) == sorted(os.listdir(directory))
    assert [after for _, after in entries] == list(range(1, len(entries) + 1))
    assert first == entries[100:]
    for place in random.Random(1).sample(range(len(entries) + 1), 40):
        assert entries_from(directory, place) == entries[place:]
    assert entries_from(directory, len(entries) + 1000) == []


@pytest.mark.needs("root")
def test_any_place_is_one(many: Path) -> None:
    check_places(many)
    check_places(many)  # which the kernel knows by now


@pytest.mark.needs("root")
def test_places_of_a_directory_without_layers_above(cli: CommandLine, tmp_path: Path) -> None:
    fill(tmp_path / "low/many", range(MANY))
    hide(tmp_path / "low/many", range(0, MANY, 7))
    (tmp_path / "high").mkdir()
    stacked = f"lowerdir={tmp_path / 'high'}:{tmp_path / 'low'}"
    with mounted(cli, tmp_path / "mnt", "overlay", "-o", stacked) as root:
        check_places(root / "many")


def test_places_in_an_image(cli: CommandLine, tmp_path: Path) -> None:
    low, high = Layer().directory("one").directory("two"), Layer()
    for number in range(MANY):
        low.file(f"one/{number:04}" if number % 7 else f"one/.wh.{number:04}")
        low.file(f"two/{number:04}")
        high.file(f"two/x{number:04}" if number % 7 else f"two/.wh.{number:04}")
    image = docker_archive(tmp_path / "image.tar", [low, high])
    with mounted(cli, tmp_path / "mnt", "mount", "--ro", image) as root:
        check_places(root / "one")
        check_places(root / "two")


@pytest.mark.needs("root", "overlayfs")
@pytest.mark.parametrize("kind", ["lowers", "continued", "thinned"], indirect=True)
def test_the_kernels_overlayfs_counts_alike(
    many: Path, options: str, tmp_path: Path, kind: str
) -> None:
    """Oracle: how much is left behind a place of a merged directory.

    What the kernel's hides takes up places there; it goes on behind them all the same.
    """
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    lowers = options.partition(",upperdir=")[0]
    stacked = lowers.replace("lowerdir=", f"lowerdir={tmp_path / 'upper'}:")
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", stacked, kernel], check=True)
    try:
        total = len(entries_from(many, 0))
        for place in (1, 2, 3, 100, total // 2, total - 1, total, total + 5):
            behind = len(entries_from(many, place))
            theirs = len(entries_from(kernel / "many", place))
            assert behind == theirs or (kind != "continued" and theirs > behind)
    finally:
        subprocess.run(["umount", kernel], check=True)


@pytest.mark.needs("root")
def test_entries_keep_their_places(many: Path) -> None:
    """A reader who comes back by a descriptor of its own, as an NFS server does, misses nothing."""
    before = entries_from(many, 0)
    seen, rest = before[: len(before) // 2], before[len(before) // 2 :]
    for name in names(before)[2::3]:
        (many / name).unlink()
    assert names(entries_from(many, 0)) != names(before)  # somebody else begins anew
    for number in range(300):
        (many / f"new-{number}").touch()
    for name in names(before)[2::9]:
        (many / name).touch()
    listed = entries_from(many, 0)
    assert sorted(names(listed)[2:]) == sorted(os.listdir(many))
    for place in random.Random(2).sample(range(len(before)), 40):  # free ones among them
        assert entries_from(many, place) == [entry for entry in listed if entry[1] > place]
    kept = dict(before)
    gone = set(names(before)[2::3])
    assert all(kept[name] == after for name, after in listed if name in kept and name not in gone)
    stays = [name for name in names(rest) if name not in gone]
    behind = names(entries_from(many, seen[-1][1]))
    assert [name for name in behind if name in stays] == stays
    assert not set(behind) & set(names(seen)) - gone


@pytest.mark.needs("root")
@pytest.mark.parametrize("kind", ["fresh"], indirect=True)
def test_new_names_take_places_that_are_free(many: Path) -> None:
    """A directory through which files pass does not count on for ever."""
    for turn in range(4):
        for name in os.listdir(many):
            (many / name).unlink()
        for number in range(MANY // 2):
            (many / f"{turn}-{number}").touch()
        assert max(after for _, after in entries_from(many, 0)) <= MANY + 2
    for place in (2, 100, 1000):
        assert entries_from(many, place) == entries_from(many, 0)[place:]
