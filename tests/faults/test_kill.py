"""kill -9 of the daemon while several processes change the mount.

Each worker has a part of the tree to itself and makes one change after the other. The daemon is
killed when a random number of things has happened in the upper and the work directory, and a random
instant later: that is mostly in the middle of something. The next mount must show, of each part,
the tree before the change that was going on or the one after it, to the last link and time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from differential.lowers import image
from support.commands import Commands
from support.compare import Snapshot, snapshot
from support.effort import amount

from faults.changes_seen import ChangesSeen
from faults.killed import Place, daemon_of, part_of, seeded, soak_seconds, spin, unlike
from faults.lowers import built, layers
from faults.model import Model, Planner
from faults.steps import Step

pytestmark = [
    pytest.mark.needs("fuse", "root"),
    pytest.mark.timeout(300 + 2 * soak_seconds()),
]

KILLS = amount(27, 54)  # of each kind of mount, where there is no more time
KILLS_OF_AN_UPPER = 6  # then a fresh one: what is copied up can't be again
WORKERS = 3
STEPS = 120
MAX_CHANGES = 150
MAX_DELAY = 0.002

Make = Callable[[Path], Place]


# ---- where ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lowers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Live directories; they are the same when the tests end."""
    with built(WORKERS, tmp_path_factory.mktemp("lowers")) as paths:
        yield paths


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same layers as an image."""
    return image(layers(WORKERS), tmp_path_factory.mktemp("image") / "image.tar")


def _overlay(commands: Commands, lowers: list[Path]) -> Make:
    def make(top: Path) -> Place:
        upper, work = top / "upper", top / "work"
        for path in (upper, work, top / "mnt"):
            path.mkdir(parents=True)
            path.chmod(0o700)
        lower = ":".join(map(str, lowers))
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        return Place(commands, ("overlay", "-o", options), top / "mnt", upper, work)

    return make


def _image(commands: Commands, archive: Path) -> Make:
    def make(top: Path) -> Place:
        upper, work = top / "upper", top / "work"
        for path in (upper, work, top / "mnt"):
            path.mkdir(parents=True)
            path.chmod(0o700)
        words = ("mount", "--upper", upper, "--work", work, archive)
        return Place(commands, words, top / "mnt", upper, work)

    return make


# ---- workers -------------------------------------------------------------------------------------


class Worker:
    """A process that makes changes to one part of the mount, one after the other."""

    def __init__(self, top: Path, steps: list[Step], log: Path) -> None:
        self.steps = steps
        self._log = log
        program = Path(__file__).with_name("steps.py")
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", program, top], stdin=subprocess.PIPE, stdout=out
            )
        self.fd = os.pidfd_open(self._process.pid)

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self.steps).encode())
        self._process.stdin.close()

    def ended(self) -> tuple[int, bool]:
        """Wait for its end: how many changes were made, and whether one more was begun."""
        self._process.wait()
        os.close(self.fd)
        lines = [line.split(maxsplit=2) for line in self._log.read_text().splitlines()]
        words = [line[0] for line in lines]
        failed = [f"{self.steps[int(line[1])]}: {line[2]}" for line in lines if line[0] == "failed"]
        assert not failed, failed
        done = words.count("end")
        return done, words.count("begin") > done


# ---- the test ------------------------------------------------------------------------------------


class Killing:
    """One upper that is mounted, changed and killed again and again."""

    def __init__(self, place: Place, scratch: Path, rng: random.Random) -> None:
        self.place = place
        self._scratch = scratch
        self._rng = rng
        self._since_ns = time.time_ns()
        self._parts = [f"part{number}" for number in range(WORKERS)]
        with place.mounted() as top:
            self._originals = [Model.of(top / part) for part in self._parts]
        self._models = [model.copy() for model in self._originals]
        self.interrupted = 0  # changes that had begun and not ended
        self.leftovers = 0  # kills that left something in the work directory

    def kill_once(self) -> None:
        """Mount, change, kill, and look what the next mount shows."""
        self.place.mount()
        workers = self._start()
        with daemon_of(self.place.mountpoint) as daemon, ChangesSeen() as seen:
            self._watch(seen)
            for worker in workers:
                worker.go()
            seen.wait(self._rng.randrange(1, MAX_CHANGES), *(worker.fd for worker in workers))
            if self._rng.random() < 0.7:
                spin(self._rng.random() * MAX_DELAY)
            daemon.kill()
        ends = [worker.ended() for worker in workers]
        self.place.unmount()
        self.interrupted += sum(begun for _, begun in ends)
        self.leftovers += bool(self.place.left_in_work())
        with self.place.mounted() as top:
            assert self.place.left_in_work() == []
            self._settle(workers, ends, snapshot(top))

    def _start(self) -> list[Worker]:
        workers = []
        for part, model, original in zip(self._parts, self._models, self._originals, strict=True):
            steps = Planner(model.copy(), self._rng, original).steps(STEPS)
            where = self.place.mountpoint / part
            workers.append(Worker(where, steps, self._scratch / f"{part}.log"))
        return workers

    def _watch(self, seen: ChangesSeen) -> None:
        """What is in the upper already, too; what comes there is made in the work directory."""
        seen.watch(self.place.work)
        for part in self._parts:
            top = self.place.upper / part
            if top.exists():
                seen.watch(top)
                for path in top.rglob("*"):
                    if path.is_dir() and not path.is_symlink():
                        seen.watch(path)

    def _settle(self, workers: list[Worker], ends: list[tuple[int, bool]], found: Snapshot) -> None:
        """Each part is as before or as after the change that was going on."""
        for number, part in enumerate(self._parts):
            model, (done, begun) = self._models[number], ends[number]
            for step in workers[number].steps[:done]:
                model.apply(step)
            shown = part_of(found, part)
            before = unlike(model, shown, self._since_ns)
            if not before:
                continue
            assert begun, (part, "is not what it was made", before)
            self._models[number] = self._found_model(model, workers[number].steps[done], shown)

    def _found_model(self, before: Model, step: Step, shown: Snapshot) -> Model:
        """What was found, where it is not the tree before the change."""
        problems = {}
        for name, changes in _stages(step).items():
            model = before.copy()
            for change in changes:
                model.apply(change)
            problems[name] = unlike(model, shown, self._since_ns)
            if not problems[name]:
                return model
        problems["before"] = unlike(before, shown, self._since_ns)
        raise AssertionError(f"neither before nor after {step}: {problems}")


def _stages(step: Step) -> dict[str, list[Step]]:
    """The states that a change may end in, by what leads there."""
    found = {"after": [step]}
    if step["do"] in ("append", "overwrite", "truncate"):
        # The kernel sets the time, then sees that who writes was killed, and writes nothing; or
        # the data of a copy without was being fetched (docs/explanation/upper.md, what is not
        # kept).
        found["touched"] = [{"do": "touch", "path": step["path"]}]
    return found


@dataclass(slots=True)
class Total:
    """What became of the kills of a test; too quiet ones prove nothing."""

    kills: int = 0
    interrupted: int = 0  # changes
    leftovers: int = 0  # in the work directory

    def is_enough(self, end: float) -> bool:
        return self.kills >= KILLS and time.monotonic() >= end

    def add(self, killing: Killing) -> None:
        self.kills += KILLS_OF_AN_UPPER
        self.interrupted += killing.interrupted
        self.leftovers += killing.leftovers

    def check(self) -> None:
        assert self.interrupted > self.kills / 2, self
        assert self.leftovers > 0, self


def _kill_again_and_again(make: Make, scratch: Path, then: Callable[[Place], None]) -> None:
    total, end = Total(), time.monotonic() + soak_seconds() / 2
    with seeded() as rng:
        while not total.is_enough(end):
            place = make(scratch / f"upper{total.kills}")
            killing = Killing(place, scratch, rng)
            for _ in range(KILLS_OF_AN_UPPER):
                killing.kill_once()
            then(place)
            total.add(killing)
            shutil.rmtree(place.upper.parent)
    total.check()


def test_kills_of_an_overlay(commands: Commands, lowers: list[Path], tmp_path: Path) -> None:
    make = _overlay(commands, lowers)
    _kill_again_and_again(make, tmp_path, lambda _: None)


def test_kills_of_an_image(commands: Commands, archive: Path, tmp_path: Path) -> None:
    def then(place: Place) -> None:
        with place.mounted() as top:
            commands.run("diff", top, "--format", "json")

    before = archive.read_bytes()
    make = _image(commands, archive)
    _kill_again_and_again(make, tmp_path, then)
    assert archive.read_bytes() == before
