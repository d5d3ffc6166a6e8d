"""Many processes at once on one store, killed at random: it stays sound, and ends clean."""

from __future__ import annotations

import errno
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.commands import Commands, Result
from support.effort import amount
from support.image_files import (
    MadeImage,
    docker_archive,
    gzipped,
    oci_layout,
    tar,
    write_directory,
    write_tar,
)
from support.mounting import is_mounted

from faults.killed import Killable, seeded, soak_seconds, spin
from unionmount.images.reference import Digest
from unionmount.mounting.records import LIVE, MountTable, Record, Status, stop, wait_until_gone
from unionmount.store.leases import Holding
from unionmount.store.store import Store

pytestmark = [
    pytest.mark.needs("fuse", "root"),
    pytest.mark.timeout(300 + soak_seconds()),
]

ROUNDS = amount(20, 40)
AT_ONCE = 4
MAX_DELAY = 0.06
PATIENCE = 30.0

BASE = tar({"base": b"b" * 300_000, "where": b"base"})
NAMES = [f"example.org/image{number}:1" for number in range(3)]
IMAGES = [
    MadeImage((BASE, tar({"where": name.encode(), "own": b"o" * 100_000})), names=(name,))
    for name in NAMES
]


def _sources(place: Path) -> list[str]:
    """Where the images come from: two are compressed, and take a while to load."""
    return [
        str(write_tar(place / "plain.tar", docker_archive(IMAGES[0]))),
        f"oci:{write_directory(place / 'layout', oci_layout(IMAGES[1], compress=gzipped))}",
        str(write_tar(place / "packed.tar", docker_archive(IMAGES[2], compress=gzipped))),
    ]


@dataclass(frozen=True, slots=True)
class Worker:
    """Runs one command at a time, and has a mount point."""

    commands: Commands
    mountpoint: Path


class Crowd:
    """Workers on one store."""

    def __init__(self, place: Path, rng: random.Random, stack: ExitStack) -> None:
        self.root = place / "store"
        self.ended: Counter[str] = Counter()
        self._rng = rng
        self._sources = _sources(place)
        self._workers = []
        for number in range(AT_ONCE):
            mountpoint = place / f"mnt{number}"
            mountpoint.mkdir()
            commands = Commands()
            stack.callback(commands.close)
            self._workers.append(Worker(commands, mountpoint))
        self.run("load", "-i", self._sources[0])

    def run(self, *words: str | Path, status: int = 0) -> Result:
        """A command while nothing else runs."""
        return self._workers[0].commands.run("--root", self.root, *words, status=status)

    def _choose(self, worker: Worker) -> tuple[str | Path, ...]:
        rng, where = self._rng, worker.mountpoint
        if is_mounted(where) and rng.random() < 0.4:
            return ("umount", where)
        name = rng.choice(NAMES)
        choices: list[tuple[str | Path, ...]] = [
            *[("load", "-q", "-i", source) for source in self._sources],
            ("rmi", name),
            ("rmi", "-f", name),
            ("tag", name, "example.org/tagged:1"),
            ("prune",),
            ("prune", "-a"),
            ("check",),
            ("df",),
            ("rm", "-f", f"box{rng.randrange(2)}"),
        ]
        if not is_mounted(where):
            source = rng.choice([name, *self._sources])
            choices += [
                ("mount", "--ro", source, where),
                ("mount", "--ephemeral", source, where),
                ("mount", "--name", f"box{rng.randrange(2)}", source, where),
            ]
        return rng.choice(choices)

    def round(self) -> None:
        """One command of each worker, some of them killed."""
        with ExitStack() as stack:
            running = []
            for worker in self._workers:
                words = self._choose(worker)
                worker.commands.start("--root", self.root, *words)
                process = stack.enter_context(Killable(worker.commands.pid))
                running.append((worker, words, process))
            for _, _, process in running:
                spin(self._rng.random() * MAX_DELAY / AT_ONCE)
                if self._rng.random() < 0.4:
                    process.kill()
            for worker, words, _ in running:
                self._judge(words, worker.commands.wait())
        self._kill_a_daemon()

    def _judge(self, words: tuple[str | Path, ...], done: Result) -> None:
        """A command may be too late, or be killed; nothing is damaged, whoever was killed."""
        said = f"{words}: {done}"
        assert done.status in (0, 1, -9), said
        for sign in ("Traceback", "internal error", "damaged", "digest is", "is not known"):
            assert sign not in done.stderr, said
        if words == ("check",):
            assert done.stdout == "", said
            assert done.status != 1, said
        self.ended[f"{words[0]} {done.status}"] += 1

    def _kill_a_daemon(self) -> None:
        alive = [one for one in self._records() if one.alive]
        if alive and self._rng.random() < 0.2:
            try:
                daemon = Killable(self._rng.choice(alive).record.pid)
            except ProcessLookupError:
                return
            with daemon:
                daemon.kill()

    def _records(self) -> list[Status]:
        return MountTable.of_user().all()

    def check(self) -> None:
        """What is there is whole, what is mounted is there, and can be read."""
        store = Store(self.root)
        with store.locked():
            for one in store.leases():
                for image in one.images & {Digest.parse(made.id) for made in IMAGES}:
                    (made,) = [made for made in IMAGES if made.id == str(image)]
                    if one.what.startswith("mounted at"):
                        assert all(store.has_layer(Digest.parse(d)) for d in made.diff_ids), one
        for found in self._records():
            if found.status == LIVE:
                self._read(found.record)

    @staticmethod
    def _read(record: Record) -> None:
        try:
            assert (record.path / "where").read_text() in NAMES
            assert (record.path / "own").read_bytes() == b"o" * 100_000
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT):
                raise
            # who asked for it, or was to unmount it, was killed: it is on its way out
            assert wait_until_gone(record, PATIENCE)

    def end(self) -> None:
        """Unmount everything and remove everything."""
        deadline = time.monotonic() + PATIENCE
        # a daemon whose command was killed may be on its way to a record: it has a lease
        while (records := self._records()) or self._held():
            assert time.monotonic() < deadline, records
            for one in records:
                if one.alive:
                    stop(one.record)
                    assert wait_until_gone(one.record, PATIENCE)
                else:
                    self.run("umount", one.record.id)
            spin(MAX_DELAY)
        for path in (self.root / "containers").iterdir():
            self.run("rm", path.name)

    def _held(self) -> list[Holding]:
        store = Store(self.root)
        with store.locked():
            return store.leases()


@pytest.fixture
def crowd(commands: Commands, tmp_path: Path) -> Iterator[Crowd]:
    with seeded() as rng, ExitStack() as stack:
        crowd = Crowd(tmp_path, rng, stack)
        try:
            yield crowd
        finally:
            crowd.end()


def left(root: Path) -> list[Path]:
    names = ("tmp", "leases", "locks", "quarantine", "layers/sha256", "blobs/sha256", "containers")
    return [path for name in names for path in (root / name).iterdir()]


def test_many_processes_killed_at_random(crowd: Crowd) -> None:
    end = time.monotonic() + soak_seconds() / 4
    rounds = 0
    while rounds < ROUNDS or time.monotonic() < end:
        crowd.round()
        crowd.check()
        rounds += 1
        if rounds % 5 == 0:
            assert crowd.run("check").stdout == ""
    crowd.end()
    assert crowd.run("check").stdout == ""
    crowd.run("prune", "-a")
    assert left(crowd.root) == []
    assert crowd.run("images", "-q").stdout == ""
    for kind in ("load", "rmi", "prune", "mount"):
        assert crowd.ended[f"{kind} 0"], crowd.ended
    assert sum(count for how, count in crowd.ended.items() if how.endswith("-9"))
