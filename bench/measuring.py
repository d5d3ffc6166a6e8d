"""What is timed, who takes turns, and what is kept of it.

A part has scenes. A scene is a fresh mount and the steps that are done there one after the other.
Each pass does a scene with every subject in turn, so that the machine's moods hit all of them.
Where a row is asked for alone, the steps before it in its scene are done, too: they decide what is
in the kernel's caches.
"""

from __future__ import annotations

import gc
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import Watch
from bench.subjects import BASE, Choice, Places, Subject, costs_of, mounted, prepared

COLD, WARM, LATENCY, COSTS, WRITING = "cold", "warm", "latency", "costs", "writing"
_NOTHING: Callable[[], AbstractContextManager[object]] = nullcontext


class UnableError(RuntimeError):
    """A subject does not do what a row is about; the text says why."""


class WrongError(UnableError):
    """A subject has done something else than what was asked for."""


class Seconds(float):
    """What a step has taken by a clock of its own, where ours would count other things, too."""


class Latencies(list[int]):
    """Nanoseconds of single calls."""

    percentiles: tuple[float, ...] = (50.0, 99.0, 99.9)  # the rows that they become

    def percentile(self, percent: float) -> float:
        """The nearest rank, in microseconds."""
        rank = max(1, -(-int(percent * 10) * len(self) // 1000))
        return sorted(self)[rank - 1] / 1000


def each(calls: Iterable[Callable[[], object]]) -> Latencies:
    """Time every call by itself."""
    found, clock = Latencies(), time.perf_counter_ns
    gc.disable()
    try:
        for call in calls:
            start = clock()
            call()
            found.append(clock() - start)
    finally:
        gc.enable()
    return found


@dataclass(frozen=True, slots=True)
class Step:
    """Something to time; what is done ``around`` it is not."""

    what: str
    work: Callable[[], object]  # Latencies become one row for each percentile
    table: str = WARM
    around: Callable[[], AbstractContextManager[object]] = _NOTHING
    cold: bool = False  # the kernel's caches are dropped right before it
    result: Callable[[], str] | None = None  # what it has done: the same by every subject


@dataclass(frozen=True, slots=True)
class Scene:
    """Steps on one mount; making the list touches nothing."""

    name: str
    steps: Callable[[Path], Iterable[Step]]
    fits: Callable[[Subject], bool] = lambda _: True
    cold: bool = True  # the kernel's caches are dropped before
    places: Places | None = None  # where it is done, if not where the others are
    unmounted: Callable[[Subject, Places], Iterable[Step]] | None = None  # steps that mount

    def named(self) -> list[str]:
        """The rows that it has."""
        return [step.what for step in self.steps(Path())]


@dataclass(frozen=True, slots=True)
class Reading:
    """One row: what each subject took in each pass."""

    what: str
    unit: str
    table: str
    taken: dict[str, list[float]]


def _why(error: Exception | str) -> str:
    """Without the paths, which are of one run."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"{Path(str(error.cmd[0])).name}: exit {error.returncode}"
    return str((isinstance(error, OSError) and error.strerror) or error)


@dataclass(slots=True)
class Notebook:
    """What has been measured, and what could not be."""

    taken: dict[tuple[str, str, str], dict[str, list[float]]] = field(default_factory=dict)
    missing: dict[str, None] = field(default_factory=dict)
    file_systems: dict[str, str] = field(default_factory=dict)  # what a part was done on
    results: dict[str, dict[str, set[str]]] = field(default_factory=dict)  # of rows, by subject
    wrong: list[str] = field(default_factory=list)  # rows whose results differ
    watch: Watch = field(default_factory=Watch)  # what else the machine does

    def add(self, what: str, unit: str, table: str, subject: str, value: float) -> None:
        """Keep one number."""
        row = self.taken.setdefault((what, unit, table), defaultdict(list))
        row[subject].append(value)

    def miss(self, what: str, subject: str, error: Exception | str) -> None:
        """Keep that there is none."""
        self.missing[f"{what} ({subject}): {_why(error)}"] = None

    def judge(self) -> None:
        """Take out what a subject has taken for another result than overlayfs has.

        Without overlayfs the first subject says what is right.
        """
        for what, found in self.results.items():
            first = BASE if BASE in found else next(iter(found))
            for subject, results in found.items():
                if results != found[first] or len(results) != 1:
                    self.wrong.append(f"{what} ({subject}): not the result of {first}")
                    for (row, _, _), taken in self.taken.items():
                        if row == what:
                            taken.pop(subject, None)
        self.results.clear()

    def readings(self) -> Iterator[Reading]:
        """Hand over the rows."""
        self.judge()
        for (what, unit, table), taken in self.taken.items():
            yield Reading(what, unit, table, dict(taken))
        self.taken.clear()


@dataclass(frozen=True, slots=True)
class Measurement:
    """How the scenes of a part are done."""

    places: Places
    choice: Choice
    notes: Notebook
    before_step: Callable[[], object] = lambda: None
    mount: Callable[[Subject, Places], AbstractContextManager[Path]] = mounted

    def wants(self, scene: Scene) -> bool:
        """Whether any row of it is wanted."""
        return any(map(self.choice.takes, scene.named()))

    def take(self, scenes: Iterable[Scene], subjects: Sequence[Subject]) -> Iterator[Reading]:
        """Every scene that has a wanted row, by every subject; each pass another one begins."""
        for scene in scenes:
            if self.wants(scene):
                fitting = list(filter(scene.fits, subjects))
                for number in range(self.choice.passes if fitting else 0):
                    self.notes.watch.look()
                    first = number % len(fitting)
                    for subject in fitting[first:] + fitting[:first]:
                        self._play(scene, subject)
                yield from self.notes.readings()

    def _play(self, scene: Scene, subject: Subject) -> None:
        places = scene.places or self.places
        if scene.cold and self.choice.drop_caches:
            _drop_caches()
        try:
            if scene.unmounted is not None:
                with prepared(places):
                    self._do(list(scene.unmounted(subject, places)), subject)
                return
            with self.mount(subject, places) as top:
                whole = self._do(list(scene.steps(top)), subject)
                costs = costs_of(places.mountpoint)
        except (OSError, subprocess.SubprocessError) as error:
            self.notes.miss(f"scene {scene.name}", subject.name, error)
            return
        if costs is not None and whole:
            self._keep_costs(scene, subject, *costs)

    def _keep_costs(self, scene: Scene, subject: Subject, seconds: float, memory: float) -> None:
        who = f"of the server, {scene.name}"
        self.notes.add(f"CPU seconds {who}", "s", COSTS, subject.name, seconds)
        self.notes.add(f"peak memory {who}, MB", "MB", COSTS, subject.name, memory)

    def _do(self, steps: Sequence[Step], subject: Subject) -> bool:
        """Do the steps up to the last that is wanted; whether all of them were done."""
        wanted = [self.choice.takes(step.what) for step in steps]
        last = max(number for number, one in enumerate(wanted) if one)
        done = 0
        for number in range(last + 1):
            step = steps[number]
            try:
                found = self._time(step)
                if wanted[number] and step.result is not None:
                    self._keep_result(found, step.result(), subject)
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                self.notes.miss(step.what, subject.name, error)
                if isinstance(error, WrongError):
                    self.notes.wrong.append(f"{step.what} ({subject.name}): {error}")
                continue
            done += 1
            for what, unit, value in found if wanted[number] else ():
                self.notes.add(what, unit, step.table, subject.name, value)
        return done == len(steps)

    def _keep_result(
        self, found: Sequence[tuple[str, str, float]], result: str, subject: Subject
    ) -> None:
        for what, _, _ in found:
            self.notes.results.setdefault(what, {}).setdefault(subject.name, set()).add(result)

    def _time(self, step: Step) -> list[tuple[str, str, float]]:
        with step.around():
            self.before_step()
            if step.cold and self.choice.drop_caches:
                _drop_caches()
            start = time.perf_counter()
            found = step.work()
            seconds = time.perf_counter() - start
        if isinstance(found, Latencies):
            return [
                (f"{step.what}, p{percent:g}", "µs", found.percentile(percent))
                for percent in found.percentiles
            ]
        return [(step.what, "s", float(found) if isinstance(found, Seconds) else seconds)]


def present(choice: Choice, every: Sequence[Subject], notes: Notebook) -> list[Subject]:
    """The wanted subjects that this machine has; the others are named."""
    found = []
    for subject in choice.among(every):
        if subject.program() is None:
            notes.miss("every row", subject.name, subject.absent)
        else:
            found.append(subject)
    return found


def _drop_caches() -> None:
    """Make the kernel forget what it has read: of the whole machine."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
