"""A lower directory whose own server does not answer: who asks for something else is answered.

The lower directory is a mount of an image, and its server is stopped with SIGSTOP.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from archives import Layer, docker_archive
from mounting import CommandLine

from unionmount.mounts import MountTable
from unionmount.stats import ask_stats

pytestmark = [pytest.mark.needs("fuse"), pytest.mark.needs("root")]

PATIENCE = 30.0
QUESTIONS = 2000  # far more than can be asked before the other one has asked once

ASK = """
import os, sys
what, path = sys.argv[1:]
if what == "read":
    fd = os.open(path, os.O_RDONLY)
os.write(1, b"asks\\n")
if what == "read":
    os.read(fd, 100)
else:
    os.lstat(path)
"""

OTHERS = """
import errno, os, sys
for _ in range(int(sys.argv[2])):
    try:
        os.getxattr(sys.argv[1], "user.none")
    except OSError as error:
        assert error.errno == errno.ENODATA
"""


class Place:
    """A mount on a mount."""

    def __init__(self, top: Path) -> None:
        self.below = top / "below"
        self.root = top / "mnt"
        self.upper, self.work = top / "upper", top / "work"
        for path in (self.below, self.root, self.upper, self.work):
            path.mkdir()
        layer = Layer().directory("dir").file("dir/file", b"content").file("dir/other", b"x")
        self.image = docker_archive(top / "image.tar", [layer], name="slow:latest")

    def server(self, mountpoint: Path) -> int:
        (found,) = [one for one in MountTable.of_user().all() if one.record.path == mountpoint]
        return found.record.pid

    def waits(self) -> int:
        (found,) = [one for one in MountTable.of_user().all() if one.record.path == self.root]
        socket = MountTable.of_user().socket_path(found.record.id)
        waits: int = ask_stats(socket, "the mount")["waits"]
        return waits


@pytest.fixture(params=["1", "4"])
def place(request: pytest.FixtureRequest, cli: CommandLine, tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    cli.run("mount", "--ro", place.image, place.below)
    directories = f"lowerdir={place.below},upperdir={place.upper},workdir={place.work}"
    cli.run("overlay", "-o", f"{directories},threads={request.param}", place.root)
    yield place
    cli.run("umount", place.root)
    cli.run("umount", place.below)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def others_are_answered(place: Place) -> None:
    command = [sys.executable, "-c", OTHERS, str(place.root / "new"), str(QUESTIONS)]
    subprocess.run(command, check=True, timeout=PATIENCE)


@pytest.mark.parametrize("what", ["stat", "read"])
def test_others_are_answered(place: Place, what: str) -> None:
    (place.root / "new").write_bytes(b"new")
    path = place.root / "dir/file"
    place.root.joinpath("dir").stat()
    if what == "read":
        path.stat()
    with stopped(place.server(place.below)):
        asking = subprocess.Popen([sys.executable, "-c", ASK, what, path], stdout=subprocess.PIPE)
        assert asking.stdout is not None
        assert asking.stdout.readline() == b"asks\n"
        others_are_answered(place)
        assert asking.poll() is None
    assert asking.wait(PATIENCE) == 0
    asking.stdout.close()
    assert path.read_bytes() == b"content"


def test_one_who_reads_alone_waits_alone(place: Place) -> None:
    """The wait is counted, and nobody need come for it; the answer is right."""
    before = place.waits()
    assert (place.root / "dir/other").read_bytes() == b"x"
    assert place.waits() == before + 1
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENODATA):
        os.getxattr(place.root / "dir/other", "user.none")
