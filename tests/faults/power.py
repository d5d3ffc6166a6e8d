"""A disk whose writes are recorded, and the disks that a power cut could have left of it.

A disk may keep what it was sent since the last flush in any order, lose any of it, and keep a part
of a write. What a flush that has ended covers is there. So a cut is a moment in the trace of the
recorder, and a choice of the writes since the last flush before it. `Cutter` makes as many as are
wanted of one trace, and each is an image to mount.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from faults.killed import spin
from faults.recorder import DISK, FLUSH, HEADER, MARK, WRITE

KEPT = Path(__file__).parents[2] / "build/power-cuts"
"""Where disks are kept that were found wrong: ``disk.img`` as the cut left it, ``cut.json`` why."""

BLOCK = 4096
SECTOR = 512
_GET_FREE_LOOP = 0x4C82
_LOOPS = 7  # the major number of loop devices
_ATTEMPTS = 20
_MAX_PAUSE = 0.004
_CHANCES = (0.0, 0.1, 0.5, 0.9, 1.0)
_PATIENCE = 30.0


# ---- file systems --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """How a file system is made, mounted and checked."""

    name: str
    megabytes: int
    make: tuple[str, ...]
    options: str
    check: tuple[str, ...]


EXT4 = Kind(
    "ext4",
    64,
    (
        *("mkfs.ext4", "-q", "-F", "-m", "0", "-b", "4096", "-J", "size=4", "-N", "4096"),
        # everything is written now: what the kernel did later by itself would be in the trace
        *("-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"),
    ),
    "noatime",
    ("e2fsck", "-fn"),
)
XFS = Kind(
    "xfs",
    304,
    ("mkfs.xfs", "-q", "-f", "-K", "-l", "size=64m"),
    "noatime,nouuid",
    ("xfs_repair", "-n"),
)
BTRFS = Kind(
    "btrfs",
    256,
    ("mkfs.btrfs", "-q", "-f", "-K"),
    "noatime,nodiscard",
    ("btrfs", "check", "--readonly"),
)
ORDERED_KINDS = [
    pytest.param(EXT4, id="ext4"),
    pytest.param(XFS, id="xfs", marks=pytest.mark.needs("backing-xfs", "xfs_repair")),
]
"""Those whose journals keep the order of all changes of names and attributes, synced or not."""

ALL_KINDS = [
    *ORDERED_KINDS,
    pytest.param(BTRFS, id="btrfs", marks=pytest.mark.needs("backing-btrfs", "btrfs")),
]
"""File systems for ``parametrize``, each where this machine has it."""


def run(*command: str | Path) -> str:
    """Run a program that has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def _free_loop() -> Path:
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _GET_FREE_LOOP)
    finally:
        os.close(control)
    device = Path(f"/dev/loop{number}")
    if not device.exists():  # /dev is not the kernel's own
        os.mknod(device, 0o600 | 0o060000, os.makedev(_LOOPS, number))
    return device


@contextmanager
def loop_device(file: Path, *, direct: bool = False) -> Iterator[Path]:
    """A loop device of a file. Somebody else may want the same one: then it is another."""
    mode = f"--direct-io={'on' if direct else 'off'}"
    for attempt in range(_ATTEMPTS):
        device = _free_loop()
        command = ("losetup", mode, device, file)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            break
        assert attempt < _ATTEMPTS - 1, done.stderr
    try:
        yield device
    finally:
        run("losetup", "-d", device)


@contextmanager
def mounted(kind: Kind, device: Path, where: Path) -> Iterator[Path]:
    """A device mounted for a while."""
    run("mount", "-t", kind.name, "-o", kind.options, device, where)
    try:
        yield where
    finally:
        run("umount", where)
        _until_free(device)


def _until_free(device: Path) -> None:
    """Wait for the mount namespaces that other tests make, each of which holds a copy for a while.

    Until then the file system is not unmounted: what is on the device may be unfinished.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
            os.sched_yield()
        else:
            return


def make_image(kind: Kind, path: Path) -> None:
    """A file with a fresh, empty file system."""
    with path.open("wb") as file:
        file.truncate(kind.megabytes << 20)
    run(*kind.make, path)


# ---- recording -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recording:
    """A disk that is mounted, and recorded."""

    disk: Path
    control: Path  # where the recorder is mounted

    def marks(self, number: int) -> int:
        """A descriptor: what is written to it is in the trace. The caller closes it."""
        return os.open(self.control / f"marks{number}", os.O_WRONLY | os.O_CLOEXEC)

    def mark(self, number: int, text: str) -> None:
        """Put one mark into the trace."""
        fd = self.marks(number)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


@contextmanager
def _served(image: Path, where: Path, trace: Path) -> Iterator[Path]:
    """The file of the disk, while the recorder runs."""
    command = (sys.executable, "-m", "faults.recorder", image, where, trace)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        try:
            ready = select.select([process.stdout], [], [], _PATIENCE)[0]
            assert ready, "the recorder does not begin"
            assert process.stdout.readline() == b"ready\n"
            try:
                yield where / DISK
            finally:
                run("umount", "--lazy", where)  # a loop device may be let go of a moment later
            assert process.wait(_PATIENCE) == 0
        finally:
            process.kill()


@contextmanager
def recording(kind: Kind, image: Path, disk: Path, place: Path) -> Iterator[Recording]:
    """Mount a copy of ``image`` at ``disk`` and record; afterwards ``place`` has the ``trace``."""
    control, copy = place / "recorder", place / "recorded.img"
    control.mkdir()
    run("cp", "--sparse=always", image, copy)
    with ExitStack() as stack:
        file = stack.enter_context(_served(copy, control, place / "trace"))
        device = stack.enter_context(loop_device(file, direct=True))
        yield Recording(stack.enter_context(mounted(kind, device, disk)), control)
    copy.unlink()


@contextmanager
def committing(disk: Path, rng: random.Random) -> Iterator[None]:
    """Somebody else syncs a file of the same disk: the journal is written at any time."""
    ended = threading.Event()
    own = random.Random(rng.random())  # so that the other numbers of a seed do not depend on time

    def work() -> None:
        with (disk / "of somebody else").open("wb") as file:
            while not ended.is_set():
                os.utime(file.fileno())
                os.fsync(file.fileno())
                spin(own.random() * _MAX_PAUSE)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# ---- the trace -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the trace."""

    kind: int
    number: int
    offset: int
    data: bytes


def read_trace(path: Path) -> list[Event]:
    """All that was recorded, in order."""
    raw, at, found = path.read_bytes(), 0, []
    while at < len(raw):
        kind, number, offset, size = HEADER.unpack_from(raw, at)
        at += HEADER.size
        found.append(Event(kind, number, offset, raw[at : at + size]))
        at += size
    return found


def marks_of(events: Sequence[Event], number: int) -> list[str]:
    """The marks of one number, a line each."""
    texts = (one.data.decode() for one in events if one.kind == MARK and one.number == number)
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts).splitlines()


class Blocks:
    """The content of a disk, but for blocks of zeros that nobody wrote."""

    def __init__(self, size: int, blocks: dict[int, bytes] | None = None) -> None:
        self._size = size
        self._blocks = blocks or {}

    @classmethod
    def of(cls, image: Path) -> Blocks:
        """What a file has."""
        made = cls(image.stat().st_size)
        with image.open("rb") as file:
            for number in range(made._size // BLOCK):
                data = file.read(BLOCK)
                if data.strip(b"\0"):
                    made._blocks[number] = data
        return made

    def copy(self) -> Blocks:
        """A disk of its own."""
        return Blocks(self._size, dict(self._blocks))

    def write(self, offset: int, data: bytes) -> None:
        """Change what is there."""
        at = 0
        while at < len(data):
            number, start = divmod(offset + at, BLOCK)
            piece = data[at : at + BLOCK - start]
            if len(piece) < BLOCK:
                old = self._blocks.get(number, bytes(BLOCK))
                piece = old[:start] + piece + old[start + len(piece) :]
            self._blocks[number] = piece
            at += BLOCK - start

    def save(self, image: Path) -> None:
        """Make it a file; a new one, since that of the last cut may still be mounted somewhere."""
        image.unlink(missing_ok=True)
        with image.open("wb", buffering=0) as file:
            file.truncate(self._size)
            for number, data in self._blocks.items():
                os.pwrite(file.fileno(), data, number * BLOCK)


# ---- cutting -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cut:
    """One power cut: what happened before it, and what the disk kept."""

    at: int  # this many events had been recorded
    flush: int  # of which these were before the last flush, and are all there
    pieces: tuple[tuple[int, bytes], ...]  # what was kept of the rest
    fate: tuple[str, ...]  # of each write since the flush, for people


class Cutter:
    """Cuts of one trace, each at a later moment than the one before."""

    def __init__(self, image: Path, events: list[Event], rng: random.Random) -> None:
        self.events = events
        self._blocks = Blocks.of(image)
        self._done = 0  # events that are in `_blocks`
        self._rng = rng

    def random_cuts(self, count: int) -> list[Cut]:
        """So many, at different moments; half of them between writes, where most can be lost."""
        writes = [n + 1 for n, one in enumerate(self.events) if one.kind == WRITE]
        everywhere = range(len(self.events) + 1)
        chosen = {*self._rng.sample(writes, min(len(writes), count // 2))}
        while len(chosen) < min(count, len(everywhere)):
            chosen.add(self._rng.choice(everywhere))
        return [self.cut(at, self._rng.choice(_CHANCES)) for at in sorted(chosen)]

    def cuts_at_marks(self, number: int) -> list[Cut]:
        """One right after each mark, the worst there can be: only what was flushed is left."""
        marks = [
            at + 1
            for at, one in enumerate(self.events)
            if one.kind == MARK and one.number == number
        ]
        return [self.cut(at, 0.0) for at in marks]

    def cut(self, at: int, chance: float) -> Cut:
        """A cut after ``at`` events; a write since the last flush is kept by this chance."""
        flushes = (n for n in range(at, 0, -1) if self.events[n - 1].kind == FLUSH)
        flush = next(flushes, 0)
        pieces: list[tuple[int, bytes]] = []
        fate = []
        for number in range(flush, at):
            event = self.events[number]
            if event.kind == WRITE:
                kept = self._kept(event, chance)
                pieces += kept
                size = sum(len(data) for _, data in kept)
                fate.append(f"event {number}: {event.offset}+{len(event.data)}, kept {size}")
        return Cut(at, flush, tuple(pieces), tuple(fate))

    def _kept(self, event: Event, chance: float) -> list[tuple[int, bytes]]:
        """All of a write, nothing, or some of its sectors.

        The superblock is never torn: it is two sectors long, and file systems rely on more.
        """
        if self._rng.random() >= 0.2 or event.offset < BLOCK:
            whole = self._rng.random() < chance
            return [(event.offset, event.data)] if whole else []
        unit = self._rng.choice((SECTOR, BLOCK))
        starts = range(0, len(event.data), unit)
        return [
            (event.offset + start, event.data[start : start + unit])
            for start in starts
            if self._rng.random() < chance
        ]

    def save(self, cut: Cut, image: Path) -> None:
        """The disk after a cut; cuts come in the order of time."""
        assert cut.flush >= self._done
        for event in self.events[self._done : cut.flush]:
            if event.kind == WRITE:
                self._blocks.write(event.offset, event.data)
        self._done = cut.flush
        left = self._blocks.copy()
        for offset, data in cut.pieces:
            left.write(offset, data)
        left.save(image)

    def explain(self, cut: Cut, place: Path) -> Path:
        """Keep a disk that was found wrong, as it was after the cut, and say what led there."""
        kept = KEPT / f"{place.name}-{os.getpid()}-{cut.at}"
        kept.mkdir(parents=True)
        self.save(cut, kept / "disk.img")
        marks = [
            f"event {n}: {one.number}: {one.data.decode().strip()}"
            for n, one in enumerate(self.events[: cut.at])
            if one.kind == MARK
        ]
        about = {"at": cut.at, "last flush": cut.flush, "since then": cut.fate, "marks": marks}
        (kept / "cut.json").write_text(json.dumps(about, indent=1))
        return kept


Check = Callable[[Cut], object]
"""Looks at a disk that is mounted."""


def check_cuts(
    kind: Kind, cutter: Cutter, cuts: Sequence[Cut], place: Path, disk: Path, check: Check
) -> None:
    """For each cut: journal replayed, file system checked, mounted at ``disk``, and ``check``.

    A disk that is wrong is kept below `KEPT`, and the error says where.
    """
    image = place / "cut.img"
    for cut in cuts:
        cutter.save(cut, image)
        try:
            _check(kind, image, disk, partial(check, cut))
        except BaseException as error:
            error.add_note(f"the disk after the cut: {cutter.explain(cut, place)}")
            raise
    image.unlink(missing_ok=True)


def _check(kind: Kind, image: Path, disk: Path, check: Callable[[], object]) -> None:
    with loop_device(image) as device:
        with mounted(kind, device, disk):
            pass  # replays the journal
        run(*kind.check, device)
        with mounted(kind, device, disk):
            check()
