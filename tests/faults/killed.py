"""Killing what serves a mount, and what there is to see of it."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from support.commands import Commands
from support.compare import Item, Snapshot, differences

from faults.model import NOW, Model
from unionmount.mounting.records import MountTable
from unionmount.system.closing import Closing

PATIENCE = 30.0


class Killable(Closing):
    """A process, to be killed whatever it does; ``fd`` can be read when it has ended."""

    def __init__(self, pid: int) -> None:
        self.fd = os.pidfd_open(pid)

    def kill(self) -> None:
        """SIGKILL; returns when it has ended."""
        signal.pidfd_send_signal(self.fd, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait for its end."""
        ended = select.select([self.fd], [], [], PATIENCE)[0]
        assert ended, "a killed process still runs"

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def daemon_of(mountpoint: Path) -> Killable:
    """The daemon of a mount, by its record."""
    (found,) = (
        one.record
        for one in MountTable.of_user().all()
        if one.alive and one.record.path == mountpoint
    )
    return Killable(found.pid)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an upper is, and how it is mounted on its layers."""

    commands: Commands
    words: tuple[str | Path, ...]  # all but the mount point
    mountpoint: Path
    upper: Path
    work: Path

    def mount(self) -> None:
        """Mount; returns when the mount is there."""
        self.commands.run(*self.words, self.mountpoint)

    def unmount(self) -> None:
        """Unmount, or take away what a killed daemon left."""
        self.commands.run("umount", self.mountpoint)

    def kill(self) -> None:
        """Kill the daemon."""
        with daemon_of(self.mountpoint) as daemon:
            daemon.kill()

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """A mount for a while, whatever happens in it."""
        self.mount()
        try:
            yield self.mountpoint
        finally:
            self.unmount()

    def left_in_work(self) -> list[str]:
        """What the work directory holds."""
        return sorted(os.listdir(self.work))  # noqa: PTH208


def spin(seconds: float) -> None:
    """Let time pass that is too short to sleep."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def part_of(whole: Snapshot, part: str) -> Snapshot:
    """What a snapshot shows below one directory, named from there."""
    start = part.encode() + b"/"
    return {
        path.removeprefix(start): _renamed(item, start)
        for path, item in whole.items()
        if path.startswith(start)
    }


def _renamed(item: Item, start: bytes) -> Item:
    return replace(item, names=tuple(name.removeprefix(start) for name in item.names))


def unlike(model: Model, found: Snapshot, since_ns: int) -> list[str]:
    """How what was found is not what the model says; a line for each difference."""
    expected = model.snapshot()

    def excuse(path: bytes, field: str, wanted: object, got: object) -> bool:
        if field != "mtime_ns":
            return False
        is_directory = model.at(path.decode()).children is not None
        return is_directory or (wanted == NOW and isinstance(got, int) and got >= since_ns)

    return differences(expected, found, excuse)


@contextmanager
def seeded() -> Iterator[random.Random]:
    """What everything random comes of; a failure names it."""
    given = os.environ.get("FAULTS_SEED")
    start = int(given) if given else random.SystemRandom().randrange(10**6)
    try:
        yield random.Random(start)
    except BaseException as error:
        error.add_note(f"FAULTS_SEED={start}")
        raise


def soak_seconds() -> float:
    """How long a test is to go on that usually ends sooner; 0 for not."""
    return 60 * float(os.environ.get("SOAK_MINUTES", "0"))
