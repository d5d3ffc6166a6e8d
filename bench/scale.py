"""How a mount does with several clients, many files, many lower directories and at half its load.

Half load is of each subject by itself: calls one after the other say how long one takes, and then
one comes every two of these times, whether the last has been answered or not. A late call's time
begins when it was due, so that a stall counts for every call that waits because of it.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path

from bench import digest, disk, fastpath, lower, subjects
from bench.clients import at_once
from bench.measuring import (
    COLD,
    LATENCY,
    WARM,
    WRITING,
    Latencies,
    Measurement,
    Notebook,
    Reading,
    Scene,
    Step,
    present,
)
from bench.subjects import Choice, Places, Subject

CLIENTS = (1, 2, 4, 8)
LOWERS = 128
_BLOCK = 4096
_SPUN = 100_000  # nanoseconds before a call is due that are not slept: a sleeper wakes up late


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to do."""

    files: int  # that all clients together read, or make
    walked: int  # files of the large tree
    stacked: int  # files of all lower directories together
    calls: int  # of each kind at half load
    megabytes: int  # of the file that is read at random
    disk: int  # gigabytes, of everything


FULL = Sizes(8_000, 1_000_000, 12_800, 4_000, 1024, 14)
QUICK = Sizes(200, 2_000, 256, 100, 8, 1)


# ---- clients -------------------------------------------------------------------------------------


def _create(place: Path, numbers: range) -> None:
    place.mkdir()
    for number in numbers:
        (place / str(number)).write_bytes(b"x" * 3000)


def _who(count: int) -> str:
    return f"{count} client{'s' * (count > 1)}"


def _clients(top: Path, names: fastpath.Names, count: int, sizes: Sizes) -> Iterator[Step]:
    """The same work for any number of clients, each of which does its part."""
    who = _who(count)
    reads = [(fastpath.read_all, (top, names.small[one::count])) for one in range(count)]
    what = f"open, read, close of {sizes.files:,} files, cold, {who}"
    contents = partial(digest.of_tree, top / "bench")
    yield Step(what, partial(at_once, reads), COLD, result=contents)
    ranges = [range(one, sizes.files, count) for one in range(count)]
    made = [(_create, (top / f"new{one}", numbers)) for one, numbers in enumerate(ranges)]

    def result() -> str:
        return "; ".join(digest.of_tree(top / f"new{one}") for one in range(count))

    yield Step(
        f"create {sizes.files:,} files, {who}", partial(at_once, made), WRITING, result=result
    )


# ---- many ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Walk:
    """A walk that looks at the size of each file, and how many it found."""

    top: Path
    found: int = 0

    def take(self) -> None:
        words = ("find", self.top, "-type", "f", "-size", "-9", "-printf", ".")
        self.found = len(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)

    def result(self) -> str:
        return str(self.found)


def _walking(top: Path, what: str) -> Iterator[Step]:
    for state, table in (("cold", COLD), ("again", WARM)):
        walk = _Walk(top)
        yield Step(f"walk of {what}, {state}", walk.take, table, result=walk.result)


def _stacked(top: Path, files: int) -> Iterator[Step]:
    what = f"{files:,} files in {LOWERS} lower directories"
    yield from _walking(top, what)
    read = partial(_read_below, top)
    yield Step(f"read {what}", read, WARM, result=partial(digest.of_tree, top))


def _read_below(top: Path) -> None:
    for directory, _, files in os.walk(top):
        fastpath.read_all(Path(directory), files)


# ---- latency -------------------------------------------------------------------------------------


class AtHalfLoad(Latencies):
    """Latencies whose high percentiles are of enough calls to say something."""

    percentiles = (50.0, 95.0, 99.0)


def at_half_load(calls: Sequence[Callable[[], object]], answers: list[object]) -> AtHalfLoad:
    """Time the second half of the calls; the first half says how often one comes."""
    clock, half = time.perf_counter_ns, len(calls) // 2
    start = clock()
    answers += [call() for call in calls[:half]]
    every = 2 * (clock() - start) // half
    found, due = AtHalfLoad(), clock()
    for call in calls[half:]:
        due += every
        if (ahead := due - clock() - _SPUN) > 0:
            time.sleep(ahead / 1e9)
        while clock() < due:
            pass
        answers.append(call())
        found.append(clock() - due)
    return found


@dataclass(slots=True)
class _Task:
    """Calls at half load, and what they returned."""

    calls: Callable[[], Sequence[Callable[[], object]]]
    answers: list[object] = field(default_factory=list)

    def take(self) -> AtHalfLoad:
        return at_half_load(self.calls(), self.answers)

    def result(self) -> str:
        told = hashlib.sha256()
        for answer in self.answers:
            told.update(answer if isinstance(answer, bytes) else repr(answer).encode())
        return f"{len(self.answers)} answers, {told.hexdigest()}"


def _size(path: str) -> int:
    return os.lstat(path).st_size


def _open_and_close(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY))


def _paths(top: Path, names: fastpath.Names, count: int) -> list[str]:
    """As many as there are calls, in an order that no directory has."""
    found = [f"{top}/{name}" for name in names.small]
    random.Random(12).shuffle(found)
    return found[:count]


@contextmanager
def _random_blocks(path: Path, count: int) -> Iterator[list[Callable[[], object]]]:
    fd, rng = os.open(path, os.O_RDONLY), random.Random(13)
    try:
        blocks = os.fstat(fd).st_size // _BLOCK
        offsets = [rng.randrange(blocks) * _BLOCK for _ in range(count)]
        yield [partial(os.pread, fd, _BLOCK, offset) for offset in offsets]
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Reads(_Task):
    """The same for one file, which stays open meanwhile."""

    path: Path = Path()
    count: int = 0

    def take(self) -> AtHalfLoad:
        with _random_blocks(self.path, self.count) as calls:
            return at_half_load(calls, self.answers)


def _latencies(top: Path, names: fastpath.Names, sizes: Sizes) -> Iterator[Step]:
    """Each path is asked for once by each kind of call: the first stat is a look-up."""
    paths = partial(_paths, top, names, sizes.calls)
    for what, call in (("stat", _size), ("open and close", _open_and_close)):
        task = _Task(partial(_calls, call, paths))
        yield Step(f"one {what} at half load", task.take, LATENCY, result=task.result)
    reads = _Reads(list, path=top / "bench/large", count=sizes.calls)
    yield Step(
        *("one read of 4 KiB at half load", reads.take, LATENCY), cold=True, result=reads.result
    )


def _calls(
    call: Callable[[str], object], paths: Callable[[], list[str]]
) -> list[Callable[[], object]]:
    return [partial(call, path) for path in paths()]


# ---- measuring -----------------------------------------------------------------------------------


def _is_live(subject: Subject) -> bool:
    """Whether it has directories below; an image of 128 layers is another thing."""
    return subject.shows == "lower"


def _fill(places: Places, sizes: Sizes) -> fastpath.Names:
    top, rng = places.lower / "bench", random.Random(10)
    top.mkdir(parents=True)
    lower.write_small(top, sizes.files, rng)
    lower.write_large(top / "large", sizes.megabytes, rng)
    return fastpath.Names.of(places.lower)


def _fill_large_tree(top: Path, count: int) -> None:
    for number in range(0, count, 100):
        directory = top / f"{number // 10_000}/{number // 100 % 100}"
        directory.mkdir(parents=True)
        for one in range(number, number + 100):
            os.close(os.open(f"{directory}/file{one}", os.O_CREAT | os.O_WRONLY, 0o644))


def _stack(place: Path, count: int) -> Places:
    """Lower directories that share one directory, and have one each for themselves."""
    names = tuple(f"l{number}" for number in range(LOWERS))
    for number, name in enumerate(names):
        for directory in (place / name / "shared", place / name / f"own{number}"):
            directory.mkdir(parents=True)
            for one in range(count // LOWERS // 2):
                (directory / f"file{number}-{one}").write_bytes(b"a small file\n" * 20)
    return replace(Places.below(place), lowers=names)


def _places(top: Path) -> Places:
    top.mkdir()
    return Places.below(top)


def _many(place: Path, sizes: Sizes, choice: Choice, found: Sequence[Subject]) -> Iterator[Scene]:
    """Scenes with lower directories of their own, each made when its turn comes, and if wanted."""
    walks = Scene("large tree", partial(_walking, what=f"{sizes.walked:,} files"))
    if any(map(choice.takes, walks.named())):
        large = _places(place / "large")
        _fill_large_tree(large.lower, sizes.walked)
        lower.make_forms(large, found)
        yield replace(walks, places=large)
    stacked = Scene("lower directories", partial(_stacked, files=sizes.stacked), _is_live)
    if any(map(choice.takes, stacked.named())):
        (place / "stacked").mkdir()
        yield replace(stacked, places=_stack(place / "stacked", sizes.stacked))


def measure(work: Path, choice: Choice, notes: Notebook, *, quick: bool) -> Iterator[Reading]:
    """Every wanted row by every wanted subject."""
    sizes = QUICK if quick else FULL
    found = present(choice, subjects.TABLE, notes)
    inodes = 0 if quick else 2 * sizes.walked
    with disk.place_for("scale", work, sizes.disk * disk.GIGABYTE, notes, inodes) as place:
        places = _places(place / "files")
        names = _fill(places, sizes)
        lower.make_forms(places, found)
        taking = Measurement(places, choice, notes, before_step=os.sync)
        scenes = [
            Scene(_who(count), partial(_clients, names=names, count=count, sizes=sizes))
            for count in CLIENTS
        ]
        scenes.append(Scene("latency", partial(_latencies, names=names, sizes=sizes)))
        yield from taking.take(chain(scenes, _many(place, sizes, choice, found)), found)
