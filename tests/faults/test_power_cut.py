"""Power cuts while several processes change a mount: what the upper is afterwards.

The upper is on a disk whose writes are recorded (recorder.py), between marks that say which change
had begun and which had ended. Then the disks are made that a cut at any moment could have left
(power.py), and the next mount of each must show a tree that there was: not one from before what was
synced, and no file that is half of anything (history.py).
"""

from __future__ import annotations

import json
import mmap
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.commands import Commands
from support.compare import snapshot
from support.effort import amount

from faults.disks import overlay_place
from faults.history import Found, History
from faults.killed import Place, part_of, seeded, soak_seconds
from faults.lowers import built
from faults.model import Model, Planner
from faults.power import (
    ALL_KINDS,
    BLOCK,
    EXT4,
    ORDERED_KINDS,
    Cut,
    Cutter,
    Event,
    Kind,
    Recording,
    check_cuts,
    committing,
    loop_device,
    make_image,
    marks_of,
    mounted,
    read_trace,
    recording,
)
from faults.recorder import MARK, WRITE
from faults.steps import Step, apply

pytestmark = [
    pytest.mark.needs("fuse", "root", "backing-ext4", "e2fsck", "losetup"),
    pytest.mark.timeout(300 + 2 * soak_seconds()),
]

CUTS = {"ext4": amount(30, 80), "xfs": amount(10, 20)}  # of one trace
PARTS = 2
STEPS = 70  # of one part between mount and unmount
ROUNDS = amount(1, 2)
SYNCED = 0.25  # of the changes are followed by a sync of what was changed
UNMOUNTED = 0  # the number of the marks that say so; the parts count from 1


@pytest.fixture(scope="module")
def lowers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Live directories on another disk; they are the same when the tests end."""
    with built(PARTS, tmp_path_factory.mktemp("lowers")) as paths:
        yield paths


# ---- recording -----------------------------------------------------------------------------------


_CAN_BE_SYNCED = (stat.S_IFREG, stat.S_IFDIR)


def with_syncs(steps: list[Step], model: Model, rng: random.Random) -> list[Step]:
    """The changes, some of what they change synced after them."""
    found = []
    for step in steps:
        found.append(step)
        model.apply(step)
        path: str = step["to"] if "to" in step else step["path"]
        how = rng.choice(("fsync", "fdatasync"))
        if rng.random() < 0.2:
            path, how = path.rpartition("/")[0], "fsync"
        there = bool(path) and model.has(path) and model.at(path).kind in _CAN_BE_SYNCED
        if there and rng.random() < SYNCED:
            found.append({"do": how, "path": path})
    return found


def _work(
    recorded: Recording, number: int, top: Path, steps: list[Step]
) -> subprocess.Popen[bytes]:
    """A process that makes changes; its output are marks."""
    marks = recorded.marks(number)
    try:
        program = Path(__file__).with_name("steps.py")
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", program, top], stdin=subprocess.PIPE, stdout=marks
        )
    finally:
        os.close(marks)
    assert process.stdin is not None
    process.stdin.write(json.dumps(steps).encode())
    process.stdin.close()
    return process


@dataclass(slots=True)
class Changes:
    """Parts of a tree, what was done to them, and how much of that when everything was synced."""

    parts: list[str]
    histories: list[History]
    originals: list[Model]
    since_ns: int
    settled: list[list[int]] = field(default_factory=lambda: [[0] * PARTS])

    @classmethod
    def of(cls, place: Place) -> Changes:
        """None as yet."""
        parts = [f"part{number}" for number in range(PARTS)]
        with place.mounted() as top:
            originals = [Model.of(top / part) for part in parts]
        return cls(parts, [History(one) for one in originals], originals, time.time_ns())

    def make(self, place: Place, recorded: Recording, rng: random.Random) -> None:
        """Mount, let a process change each part, unmount."""
        with place.mounted() as top, ExitStack() as stack:
            workers = []
            for number, history in enumerate(self.histories):
                planner = Planner(history.model.copy(), rng, self.originals[number])
                steps = with_syncs(planner.steps(STEPS), history.model.copy(), rng)
                history.extend(steps)
                where = top / self.parts[number]
                workers.append(stack.enter_context(_work(recorded, number + 1, where, steps)))
                stack.callback(workers[-1].kill)
            for worker in workers:
                assert worker.wait() == 0
        recorded.mark(UNMOUNTED, "unmounted")
        self.settled.append([len(history.steps) for history in self.histories])

    def check(self, top: Path, events: list[Event]) -> int:
        """The tree is one of those that there were; how many changes it lacks that had ended."""
        synced, lacking = self.settled[len(marks_of(events, UNMOUNTED))], 0
        shown = snapshot(top)
        for number, (part, history) in enumerate(zip(self.parts, self.histories, strict=True)):
            marks = [mark.split()[0] for mark in marks_of(events, number + 1)]
            assert "failed" not in marks
            done = marks.count("end")
            found = Found(part_of(shown, part), _reader(top / part), self.since_ns)
            floor = history.floor(done, synced[number])
            lacking += done - min(done, history.find(found, floor, marks.count("begin")))
        return lacking


def _reader(top: Path) -> Callable[[bytes], bytes]:
    return lambda path: (top / os.fsdecode(path)).read_bytes()


def _new_upper(
    kind: Kind, commands: Commands, lowers: list[Path], scratch: Path, *options: str
) -> tuple[Place, Path, Path]:
    """An upper on a new disk: how it is mounted, the image of the disk, and where that is."""
    disk, image = scratch / "disk", scratch / "new.img"
    disk.mkdir(parents=True)
    make_image(kind, image)
    with loop_device(image) as device, mounted(kind, device, disk):
        place = overlay_place(commands, lowers, disk, scratch / "mnt", *options)
    return place, image, disk


def _cut_again_and_again(
    kind: Kind, cuts: int, commands: Commands, lowers: list[Path], scratch: Path
) -> None:
    end = time.monotonic() + soak_seconds() / 4
    lacking: list[int] = []
    with seeded() as rng:
        while not lacking or time.monotonic() < end:
            where = scratch / f"upper{len(lacking)}"
            place, image, disk = _new_upper(kind, commands, lowers, where)
            with loop_device(image) as device, mounted(kind, device, disk):
                changes = Changes.of(place)
            with recording(kind, image, disk, where) as recorded, committing(disk, rng):
                for _ in range(ROUNDS):
                    changes.make(place, recorded, rng)
            cutter = Cutter(image, read_trace(where / "trace"), rng)

            def check(
                cut: Cut, place: Place = place, changes: Changes = changes, cutter: Cutter = cutter
            ) -> None:
                with place.mounted() as top:
                    assert place.left_in_work() == []
                    lacking.append(changes.check(top, cutter.events[: cut.at]))

            check_cuts(kind, cutter, cutter.random_cuts(cuts), where, disk, check)
            shutil.rmtree(where)
    assert sum(lacking) > 0, "nothing was lost: these were no power cuts"


@pytest.mark.parametrize("kind", ORDERED_KINDS)
def test_power_cuts_of_an_upper(
    kind: Kind, commands: Commands, lowers: list[Path], tmp_path: Path
) -> None:
    _cut_again_and_again(kind, CUTS[kind.name], commands, lowers, tmp_path)


# ---- what is synced ------------------------------------------------------------------------------

SIZE = 200_000  # such a file is copied up without its data where only its attributes change
OLD, NEW = b"o" * SIZE, b"n" * 5000


def _write(path: Path, *, how: int = 0, truncate: bool = False, offset: int = 0) -> int:
    """Write to a file in place; the descriptor."""
    fd = os.open(path, os.O_RDWR | how | (os.O_TRUNC if truncate else 0))
    os.pwrite(fd, NEW, offset)
    return fd


def _synced(path: Path, sync: Callable[[int], None] = os.fdatasync, **more: Any) -> None:
    fd = _write(path, **more)
    try:
        sync(fd)
    finally:
        os.close(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _overwrite_twice(top: Path) -> None:
    _synced(top / "file")
    _synced(top / "file", offset=len(NEW))


def _complete(top: Path) -> None:
    """Sync a copy without data, then write: the data is there, and the mark gone."""
    (top / "file").chmod(0o600)
    _synced(top / "file", offset=SIZE)  # the data is fetched for that


def _through_a_map(top: Path) -> None:
    with (top / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[: len(NEW)] = NEW
        mapped.flush()
        os.fdatasync(file.fileno())


def _without_data(top: Path) -> None:
    (top / "file").chmod(0o600)
    _sync(top / "file")


def _completed_after_a_sync(top: Path) -> None:
    _without_data(top)
    _synced(top / "file")


def _without_sync_of_its_own(top: Path) -> None:
    os.close(_write(top / "file"))
    os.sync()


def _replace(top: Path) -> None:
    (top / "new").write_bytes(NEW)
    _sync(top / "new")
    (top / "new").replace(top / "file")
    _sync(top)


def _move_directory(top: Path) -> None:
    (top / "directory").rename(top / "moved")
    _sync(top)


def _remove(top: Path) -> None:
    (top / "file").unlink()
    _sync(top)


def _make_again(top: Path) -> None:
    shutil.rmtree(top / "directory")
    (top / "directory").mkdir()
    _sync(top)


def _mode_and_directory(top: Path) -> None:
    (top / "file").chmod(0o600)
    _sync(top)


def _rename(name: str, to: str, sync: str) -> Callable[[Path], None]:
    """Rename without a sync; something else is synced."""

    def change(top: Path) -> None:
        (top / name).rename(top / to)
        _sync(top / sync)

    return change


def _link_and_remove(to: str) -> Callable[[Path], None]:
    def change(top: Path) -> None:
        (top / to).hardlink_to(top / "file")
        (top / "file").unlink()
        _sync(top)

    return change


def _exchange_then_sync(top: Path) -> None:
    _synced(top / "linked")
    apply({"do": "exchange", "path": str(top / "file"), "to": str(top / "directory/link")})
    _synced(top / "small")


def _link_and_sync(*synced: str) -> Callable[[Path], None]:
    """Give a file without data of its own another name; things beside it are synced."""

    def change(top: Path) -> None:
        (top / "other/new").hardlink_to(top / "file")
        for name in synced:
            (top / name).chmod(0o700)
            _sync(top / name)

    return change


def _exchange_across(top: Path) -> None:
    _synced(top / "other/inside", truncate=True)
    apply({"do": "exchange", "path": str(top / "file"), "to": str(top / "other/inside")})
    _synced(top / "small")


def _either(content: bytes, *names: str) -> Callable[[Path], bool]:
    """Whether one of the names has this content."""
    return lambda top: any(_has(name, content)(top) for name in names)


def _has(name: str, content: bytes) -> Callable[[Path], bool]:
    """Whether a file has this content."""

    def check(top: Path) -> bool:
        path = top / name
        return path.exists() and path.read_bytes() == content

    return check


CHANGED = NEW + OLD[len(NEW) :]

SYNCED_CHANGES: dict[str, tuple[Callable[[Path], None], Callable[[Path], bool]]] = {
    "fsync": (lambda top: _synced(top / "file", os.fsync), _has("file", CHANGED)),
    "fdatasync": (lambda top: _synced(top / "file"), _has("file", CHANGED)),
    "fdatasync of a small file": (
        lambda top: _synced(top / "small"),
        _has("small", NEW + b"o" * 1000),
    ),
    "O_DSYNC": (lambda top: os.close(_write(top / "file", how=os.O_DSYNC)), _has("file", CHANGED)),
    "O_SYNC": (lambda top: os.close(_write(top / "file", how=os.O_SYNC)), _has("file", CHANGED)),
    "msync": (_through_a_map, _has("file", CHANGED)),
    "twice": (_overwrite_twice, _has("file", NEW * 2 + OLD[2 * len(NEW) :])),
    "truncated": (lambda top: _synced(top / "file", truncate=True), _has("file", NEW)),
    "appended": (lambda top: _synced(top / "file", offset=SIZE), _has("file", OLD + NEW)),
    "completed": (_complete, _has("file", OLD + NEW)),
    "completed after a sync": (_completed_after_a_sync, _has("file", CHANGED)),
    "another name": (lambda top: _synced(top / "directory/link"), _has("linked", CHANGED)),
    "mode": (_without_data, lambda top: (top / "file").stat().st_mode & 0o777 == 0o600),
    "sync(2)": (_without_sync_of_its_own, _has("file", CHANGED)),
    "mode and directory": (_mode_and_directory, _has("file", OLD)),
    "renamed": (_rename("file", "moved", "."), _has("moved", OLD)),
    "renamed to elsewhere": (
        _rename("file", "directory/f", "."),
        _either(OLD, "file", "directory/f"),
    ),
    "renamed from elsewhere": (
        _rename("directory/large", "moved", "directory"),
        _either(OLD, "directory/large", "moved"),
    ),
    "directory renamed to elsewhere": (
        _rename("directory", "other/d", "."),
        _either(b"inside", "directory/inside", "other/d/inside"),
    ),
    "symlink renamed": (
        _rename("symlink", "other/s", "."),
        lambda top: os.path.lexists(top / "symlink") or os.path.lexists(top / "other/s"),
    ),
    "linked and removed": (_link_and_remove("new"), _has("new", OLD)),
    "linked elsewhere and removed": (
        _link_and_remove("other/new"),
        _either(OLD, "other/new", "file"),
    ),
    "linked, and another synced": (
        _link_and_sync("other", "linked"),
        lambda top: _has("file", OLD)(top) and _has("linked", OLD)(top),
    ),
    "exchanged across": (
        _exchange_across,
        lambda top: (
            _either(OLD, "file", "other/inside")(top) and _either(NEW, "file", "other/inside")(top)
        ),
    ),
    "exchanged": (_exchange_then_sync, _either(OLD, "file", "directory/link")),
    "replaced": (_replace, _has("file", NEW)),
    "moved": (_move_directory, _has("moved/inside", b"inside")),
    "removed": (_remove, lambda top: not (top / "file").exists()),
    "made again": (_make_again, lambda top: list((top / "directory").iterdir()) == []),
}


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A lower directory with a tree for each change."""
    lower = tmp_path / "lower"
    for name in SYNCED_CHANGES:
        top = lower / name
        (top / "directory").mkdir(parents=True)
        for file, content in (("file", OLD), ("linked", OLD), ("small", b"o" * 6000)):
            (top / file).write_bytes(content)
        (top / "directory/link").hardlink_to(top / "linked")
        (top / "directory/inside").write_bytes(b"inside")
        (top / "directory/large").write_bytes(OLD)
        (top / "other").mkdir()
        (top / "other/inside").write_bytes(b"inside")
        (top / "symlink").symlink_to("file")
    return lower


def _cut_after_each(
    kind: Kind, commands: Commands, cases: Path, scratch: Path, *options: str
) -> list[str]:
    """Make each change, and cut at once; which are not there then."""
    place, image, disk = _new_upper(kind, commands, [cases], scratch / kind.name, *options)
    with recording(kind, image, disk, scratch) as recorded, place.mounted() as top:
        for name, (change, _) in SYNCED_CHANGES.items():
            change(top / name)
            recorded.mark(0, name)
    cutter = Cutter(image, read_trace(scratch / "trace"), random.Random(0))
    lost = []

    def check(cut: Cut) -> None:
        name = marks_of(cutter.events[: cut.at], 0)[-1]
        with place.mounted() as top:
            if not SYNCED_CHANGES[name][1](top / name):
                lost.append(name)

    check_cuts(kind, cutter, cutter.cuts_at_marks(0), scratch, disk, check)
    return lost


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_what_is_synced_is_there_after_a_cut(
    kind: Kind, commands: Commands, cases: Path, tmp_path: Path
) -> None:
    assert _cut_after_each(kind, commands, cases, tmp_path) == []


def test_what_a_volatile_mount_syncs_is_lost(
    commands: Commands, cases: Path, tmp_path: Path
) -> None:
    """It says so; and if these cuts lost nothing, the others would prove nothing."""
    lost = _cut_after_each(EXT4, commands, cases, tmp_path, "volatile")
    assert {"fsync", "fdatasync", "O_DSYNC", "moved"} <= set(lost)


def test_fdatasync_costs_no_journal_once_the_copy_is_durable(
    commands: Commands, cases: Path, tmp_path: Path
) -> None:
    place, image, disk = _new_upper(EXT4, commands, [cases], tmp_path / "ext4")
    file = place.mountpoint / "fdatasync/file"
    with recording(EXT4, image, disk, tmp_path) as recorded, place.mounted():
        for _ in range(5):
            _synced(file)
            recorded.mark(0, "synced")
    events = read_trace(tmp_path / "trace")
    marks = [at for at, one in enumerate(events) if one.kind == MARK]
    written = [
        sum(len(one.data) for one in events[start:end] if one.kind == WRITE)
        for start, end in pairwise(marks)
    ]
    # but for the one in which the journal is written all the same, since its time had come
    assert sorted(written)[:2] == [2 * BLOCK, 2 * BLOCK], written
