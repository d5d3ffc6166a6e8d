"""A lower directory whose own server does not answer: who asks for something else is answered.

The lower directory is a mount of an image, and its server is stopped with SIGSTOP.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.mounting import CommandLine

from unionmount.mounting.records import MountTable
from unionmount.mounting.statistics import ask_stats

pytestmark = [pytest.mark.needs("fuse"), pytest.mark.needs("root")]

PATIENCE = 30.0
DATA = 100_000  # small enough to be copied with the attributes
QUESTIONS = 2000  # far more than can be asked before the other one has asked once

ASK = """
import os, sys
what, path = sys.argv[1:]
if what == "read":
    fd = os.open(path, os.O_RDONLY)
os.write(1, b"asks\\n")
if what == "read":
    os.read(fd, 100)
elif what == "chmod":
    os.chmod(path, 0o600)
else:
    os.lstat(path)
"""

HANDLES = """
import signal
signal.signal(signal.SIGUSR1, lambda *_: None)
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
        layer = layer.file("dir/data", bytes(DATA))
        self.image = docker_archive(top / "image.tar", [layer], name="slow:latest")

    def server(self, mountpoint: Path) -> int:
        (found,) = [one for one in MountTable.of_user().all() if one.record.path == mountpoint]
        return found.record.pid

    def stats(self) -> dict[str, Any]:
        (found,) = [one for one in MountTable.of_user().all() if one.record.path == self.root]
        return ask_stats(MountTable.of_user().socket_path(found.record.id), "the mount")

    def waits(self) -> int:
        waits: int = self.stats()["waits"]
        return waits

    def interrupts(self) -> int:
        messages = self.stats()["messages"].get("INTERRUPT", {"fast": 0})
        return int(messages["fast"])


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
        wait_until(lambda: has_stopped(pid))  # each of its threads does so by itself
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


@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGUSR1, signal.SIGKILL], []])
def test_who_is_killed_waits_for_no_copy(place: Place, signals: list[signal.Signals]) -> None:
    """A copy-up ends when nobody waits for it any more, whichever signal came first."""
    path = place.root / "dir/data"
    path.stat()
    with stopped(place.server(place.below)):
        command = [sys.executable, "-c", HANDLES + ASK, "chmod", str(path)]
        asking = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert asking.stdout is not None
        assert asking.stdout.readline() == b"asks\n"
        wait_until(lambda: waits_for_answer(place.server(place.root)))
        for one in signals:
            asking.send_signal(one)
            wait_until(lambda: place.interrupts() == 1)
    assert asking.wait(PATIENCE) == (-signal.SIGKILL if signals else 0)
    asking.stdout.close()
    assert (place.upper / "dir/data").exists() == (not signals)
    assert list(place.work.iterdir()) == []
    assert path.stat().st_size == DATA


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what nothing tells of."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def waits_for_answer(pid: int) -> bool:
    """Whether a thread of a process waits for a FUSE server."""
    waits = (task / "wchan" for task in Path(f"/proc/{pid}/task").iterdir())
    return any(one.read_text(encoding="ascii") == "request_wait_answer" for one in waits)


def has_stopped(pid: int) -> bool:
    """Whether all threads of a process have stopped."""
    states = (task / "stat" for task in Path(f"/proc/{pid}/task").iterdir())
    return all(
        one.read_text(encoding="ascii").rpartition(")")[2].split()[0] == "T" for one in states
    )
