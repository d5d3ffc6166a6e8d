"""What work costs in messages from the kernel: exact on every machine, where times are not.

Each budget is held on a mount of its own, cold: nothing was asked before but what the mount itself
asks. What the kernel sends later, and waits for nobody (RELEASEDIR, FORGET), is left out.
"""

from __future__ import annotations

import math
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import CommandLine

from unionmount.mounting.records import MountTable
from unionmount.mounting.statistics import ask_stats

pytestmark = [pytest.mark.needs("fuse"), pytest.mark.alone]

LATER = {"FORGET", "BATCH_FORGET", "RELEASEDIR", "INTERRUPT"}
NAMES = 240
DEPTH = 6
LARGE = 16 << 20


class Counting:
    """What the kernel sends to one mount."""

    def __init__(self, mount_id: str, root: Path) -> None:
        self.root = root
        self._socket = MountTable.of_user().socket_path(mount_id)

    def messages(self) -> Counter[str]:
        told = ask_stats(self._socket, str(self.root))["messages"]
        return Counter({name: one["fast"] + one["forwarded"] for name, one in told.items()})

    def forwarded(self) -> dict[str, int]:
        told = ask_stats(self._socket, str(self.root))["messages"]
        return {name: one["forwarded"] for name, one in told.items() if one["forwarded"]}

    @contextmanager
    def spent(self) -> Iterator[Counter[str]]:
        """What is sent in the block: known when it has ended."""
        spent: Counter[str] = Counter()
        before = self.messages()
        yield spent
        spent.update(self.messages() - before)
        for name in LATER:
            del spent[name]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layer = Layer().directory("many")
    for number in range(NAMES):
        layer.file(f"many/file-{number:04}", b"%d" % number)
    deep = "/".join(f"d{number}" for number in range(DEPTH - 1))
    for number in range(1, DEPTH):
        layer.directory("/".join(deep.split("/")[:number]))
    layer.file(f"{deep}/file", b"deep").file("small", b"small")
    layer.file("noted", b"x", xattrs={"user.note": b"value"})
    layer.file("large", b"x" * LARGE)
    return docker_archive(tmp_path_factory.mktemp("image") / "image.tar", [layer])


@pytest.fixture
def mounted(cli: CommandLine, image: Path, tmp_path: Path) -> Iterator[Callable[..., Counting]]:
    """A function that mounts the image afresh."""
    places: list[Path] = []

    def mount(*options: str) -> Counting:
        where = tmp_path / f"mnt{len(places)}"
        where.mkdir()
        cli.run("mount", *options, image, where)
        places.append(where)
        (found,) = [one for one in MountTable.of_user().all() if one.record.path == where]
        return Counting(found.record.id, where)

    yield mount
    for where in places:
        cli.run("umount", "--lazy", where)


@pytest.fixture(params=["--ro", "--ephemeral"])
def cold(request: pytest.FixtureRequest, mounted: Callable[..., Counting]) -> Counting:
    """A mount, read-only and writable."""
    counting = mounted(request.param)
    assert set(counting.messages()) <= {"INIT", "GETATTR", "STATFS", "LOOKUP"}
    return counting


def work(*command: str | Path) -> None:
    """A program, which finds all of its own files outside."""
    environment = os.environ | {"LC_ALL": "C"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def read(path: Path) -> bytes:
    """Open, read and close, and no more: Python's own files ask whether they are a terminal."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def write_new(path: Path, content: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)


def test_stat(cold: Counting) -> None:
    path = cold.root.joinpath(*(f"d{number}" for number in range(DEPTH - 1)), "file")
    with cold.spent() as first:
        path.stat()
    with cold.spent() as second:
        path.stat()
    assert sum(first.values()) <= DEPTH + 1, first
    assert sum(second.values()) == 0, second


def test_a_name_that_does_not_exist(cold: Counting) -> None:
    with cold.spent() as first:
        assert not (cold.root / "nothing").exists()
    with cold.spent() as second:
        assert not (cold.root / "nothing").exists()
    assert first == {"LOOKUP": 1}
    assert sum(second.values()) == 0, second


def test_long_listing_read_only(mounted: Callable[..., Counting]) -> None:
    cold = mounted("--ro")
    with cold.spent() as first:
        work("ls", "-l", cold.root / "many")
    with cold.spent() as second:
        work("ls", "-l", cold.root / "many")
    assert first["READDIRPLUS"] <= math.ceil(NAMES / 25) + 1
    # the directory; its label and ACLs, of which "ls" learns that there are none here
    assert first - Counter(READDIRPLUS=first["READDIRPLUS"], OPENDIR=1) <= Counter(
        LOOKUP=1, GETXATTR=4
    )
    assert second <= Counter(GETXATTR=4), second


def test_long_listing_writable(mounted: Callable[..., Counting]) -> None:
    cold = mounted("--ephemeral")
    write_new(cold.root / "many/new", b"content")
    work("ls", "-l", cold.root / "many")
    with cold.spent() as spent:
        work("ls", "-l", cold.root / "many")
    # Whether it is to be said that a file has an ACL; nobody wants to know when it was born.
    assert spent["STATX"] == 0, spent
    assert spent - Counter(READDIRPLUS=spent["READDIRPLUS"], GETXATTR=spent["GETXATTR"]) <= Counter(
        GETATTR=1
    )


def test_listing(cold: Counting) -> None:
    directory = cold.root / "many"
    with cold.spent() as first:
        assert sum(one.stat().st_size > 0 for one in os.scandir(directory)) == NAMES
    with cold.spent() as second:
        assert sum(one.stat().st_size > 0 for one in os.scandir(directory)) == NAMES
    assert first["READDIRPLUS"] <= math.ceil(NAMES / 25) + 1
    assert first - Counter(READDIRPLUS=first["READDIRPLUS"]) <= Counter(
        LOOKUP=1, OPENDIR=1, GETATTR=1
    )
    # Where it is writable, reading a directory changes its access time, for all that is known.
    assert second <= Counter(GETATTR=1), second


def test_reading_a_small_file(cold: Counting) -> None:
    (cold.root / "small").stat()
    read(cold.root / "noted")  # what is asked once was asked
    with cold.spent() as first:
        assert read(cold.root / "small") == b"small"
    with cold.spent() as second:
        assert read(cold.root / "small") == b"small"
    assert first == {"READ": 1}
    assert sum(second.values()) == 0, second


@pytest.mark.needs("root")
def test_reading_a_large_file(cold: Counting) -> None:
    """The kernel begins with less than it reads ahead in the end, and the test reads in pieces."""
    read(cold.root / "small")  # what is asked once was asked
    with cold.spent() as spent, open(cold.root / "large", "rb", buffering=0) as file:
        while file.read(1 << 16):
            pass
    assert spent["READ"] <= LARGE // (512 << 10) + 4, spent


@pytest.mark.needs("statx-of-fuse")
def test_birth_times_are_asked_for_once_read_only(mounted: Callable[..., Counting]) -> None:
    cold = mounted("--ro")
    with cold.spent() as first:
        work("stat", cold.root / "small")
    with cold.spent() as others:
        work("stat", cold.root / "small", cold.root / "noted")
    assert first == {"LOOKUP": 1, "STATX": 1}  # and that there are none
    assert others == {"LOOKUP": 1}


@pytest.mark.needs("statx-of-fuse")
def test_birth_times_are_asked_for_once_for_each_file(mounted: Callable[..., Counting]) -> None:
    cold = mounted("--ephemeral")
    write_new(cold.root / "new", b"content")
    names = ("new", "small", "noted")
    for name in names:
        (cold.root / name).stat()
    with cold.spent() as first:
        work("stat", *(cold.root / name for name in names))
    with cold.spent() as second:
        work("stat", *(cold.root / name for name in names))
    assert first == {"STATX": len(names)}
    assert sum(second.values()) == 0, second


@pytest.mark.needs("lsattr")
def test_flags(cold: Counting) -> None:
    (cold.root / "small").stat()
    with cold.spent() as spent:
        work("lsattr", cold.root / "small")
    assert spent["IOCTL"] == 1
    assert set(spent) <= {"IOCTL", "OPEN", "FLUSH"}, spent


def test_whether_it_is_a_terminal(cold: Counting) -> None:
    """Each Python program asks that of each file that it opens."""
    read(cold.root / "small")
    with cold.spent() as spent, open(cold.root / "small", "rb") as file:
        assert not file.isatty()
    assert spent["IOCTL"] >= 1
    assert cold.forwarded() == {}


def test_making_a_file_without_a_name(mounted: Callable[..., Counting]) -> None:
    cold = mounted("--ephemeral")
    read(cold.root / "small")  # what is asked once was asked
    with cold.spent() as spent:
        fd = os.open(cold.root, os.O_TMPFILE | os.O_RDWR)
        os.write(fd, b"content")
        os.close(fd)
    assert spent - Counter(FLUSH=1) == {"TMPFILE": 1, "GETXATTR": 1, "WRITE": 1}


def test_getxattr(cold: Counting) -> None:
    (cold.root / "noted").stat()
    with cold.spent() as spent:
        assert os.getxattr(cold.root / "noted", "user.note") == b"value"
    assert spent == {"GETXATTR": 1}


def test_find(cold: Counting) -> None:
    with cold.spent() as spent:
        work("find", cold.root, "-ls")
    assert spent["LOOKUP"] == 0
    assert spent["OPENDIR"] <= 1
    assert set(spent) <= {"READDIRPLUS", "OPENDIR", "GETATTR", "STATFS"}, spent


def test_writing_a_new_small_file(mounted: Callable[..., Counting]) -> None:
    cold = mounted("--ephemeral")
    write_new(cold.root / "before", b"x")  # what is asked once was asked
    cold.root.stat()  # the kernel asks for a directory again that has changed
    with cold.spent() as spent:
        write_new(cold.root / "new", b"content")
    # Before it is made, its name is looked up; before it is written, its capability is asked for.
    assert spent == {"LOOKUP": 1, "MKNOD": 1, "GETXATTR": 1, "WRITE": 1}


def test_appending(mounted: Callable[..., Counting]) -> None:
    cold = mounted("--ephemeral")
    with open(cold.root / "log", "ab", buffering=0) as log:
        log.write(b"line\n")
        with cold.spent() as spent:
            for _ in range(10):
                log.write(b"line\n")
    assert spent["WRITE"] == 10
    assert spent["GETXATTR"] == 0
    assert sum(spent.values()) <= 11, spent


def test_everything_is_answered_in_c(cold: Counting) -> None:
    work("cp", "-a", cold.root / "many", cold.root.parent / "copied")
    assert cold.forwarded() == {}
