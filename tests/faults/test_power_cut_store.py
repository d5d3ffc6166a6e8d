"""Power cuts while a store is used: what a command reported is done, and nothing is half done.

Every command is noted in the trace of the disk when it begins and when it has returned 0. After a
cut the catalogue, the containers, what was saved and what was synced in a container are those
before or after the command that was going on, to the last byte: `check` hashes everything.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from support.commands import Commands
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
from support.servers import DockerRegistry

from faults.control import Control
from faults.killed import seeded, soak_seconds
from faults.power import (
    ALL_KINDS,
    BTRFS,
    EXT4,
    Cut,
    Cutter,
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
from unionmount.store.store import Store

pytestmark = [
    pytest.mark.needs(
        *("fuse", "root", "backing-ext4", "e2fsck", "losetup"), *("docker-registry", "skopeo")
    ),
    pytest.mark.timeout(300 + 2 * soak_seconds()),
]

CUTS = {
    "ext4": amount(15, 40),
    "xfs": 5,
    "btrfs": 5,
}  # of one trace, besides some right after a command
MAX_CALLS = 30  # that are counted, of a load
DONE = 0  # the number of the marks

BASE = tar({"base": random.Random(1).randbytes(300_000), "where": b"base"})
PLAIN, PACKED, PULLED = "example.org/plain:1", "example.org/packed:1", "pulled:1"
TAGGED, MADE = "example.org/tagged:1", "example.org/made:1"


def _image(name: str) -> MadeImage:
    own = {"where": name.encode(), "own": random.Random(name).randbytes(100_000)}
    return MadeImage((BASE, tar(own)), names=(name,))


@dataclass(frozen=True, slots=True)
class State:
    """What there is, between two commands."""

    images: frozenset[tuple[frozenset[str], str]]
    containers: frozenset[str]
    saved: str
    synced: bytes


class Work:
    """A store on a disk, and what is done with it."""

    def __init__(self, commands: Commands, scratch: Path, disk: Path, server: str) -> None:
        self._commands = commands
        self._scratch = scratch
        self._disk = disk
        self.root = disk / "store"
        self._mountpoint = scratch / "mnt"
        self._mountpoint.mkdir()
        self._pulled = f"{server}/{PULLED}"
        self._synced = b""
        self.states: list[State] = []
        self.plan = self._make_plan()

    def run(self, *words: str | Path) -> str:
        """A command that has to succeed; what it said."""
        return self._commands.run("--root", self.root, *words).stdout

    def _command(self, *words: str | Path) -> Callable[[], object]:
        return lambda: self.run(*words)

    def _change(self, number: int) -> Callable[[], None]:
        """Change the container, and sync one of the files."""

        def change() -> None:
            new = random.Random(number).randbytes(1000)
            for name in ("one", "two"):
                (self._mountpoint / f"{name}{number}").write_bytes(new)
            with (self._mountpoint / "where").open("r+b") as file:
                file.write(new)
                file.flush()
                os.fdatasync(file.fileno())
            self._synced = new

        return change

    def _make_plan(self) -> list[tuple[bool, Callable[[], object]]]:
        """What is done, and whether it can be done again where it was cut off."""
        top, saved, command = self._mountpoint, self._disk / "saved.tar", self._command
        layout = write_directory(
            self._scratch / "layout", oci_layout(_image(PACKED), compress=gzipped)
        )
        plain = write_tar(self._scratch / "plain.tar", docker_archive(_image(PLAIN)))
        pull = command("pull", "-q", "--tls-verify=false", "--keep-blobs", self._pulled)
        return [
            (True, command("load", "-q", "-i", plain)),
            (True, command("load", "-q", "-i", f"oci:{layout}")),
            (True, pull),
            (False, command("mount", "--name", "box", PLAIN, top)),
            (False, self._change(1)),
            (False, command("commit", "box", MADE)),
            (True, command("tag", PLAIN, TAGGED)),
            (False, self._change(2)),
            (False, command("commit", "box", MADE)),
            (True, command("save", "-o", saved, PLAIN)),
            (True, command("save", "-o", saved, MADE)),
            (False, command("rmi", PACKED)),
            (True, command("load", "-q", "-i", f"oci:{layout}")),
            (False, self._change(3)),
            (False, command("umount", top)),
            (False, command("mount", "--name", "other", self._pulled, top)),
            (False, command("umount", top)),
            (False, command("rm", "other")),
            (True, command("prune")),
            (False, command("rmi", TAGGED)),
            (True, command("prune", "-a")),
            (True, pull),
            (False, command("rm", "box")),
            (True, command("prune", "-a")),
            (True, command("load", "-q", "-i", plain)),
        ]

    def state(self, synced: bytes) -> State:
        """What there is now."""
        images = frozenset(
            (frozenset(one.names), str(one.id)) for one in Store(self.root).list_images()
        )
        containers = frozenset(path.name for path in (self.root / "containers").iterdir())
        saved = self._disk / "saved.tar"
        digest = hashlib.sha256(saved.read_bytes()).hexdigest() if saved.exists() else ""
        return State(images, containers, digest, synced if "box" in containers else b"")

    def do(self, recorded: Recording) -> None:
        """All of it, with marks."""
        self.states.append(self.state(b""))
        for number, (_, action) in enumerate(self.plan):
            recorded.mark(DONE, f"begin {number}")
            action()
            recorded.mark(DONE, f"end {number}")
            self.states.append(self.state(self._synced))

    # -- after a cut

    def check(self, marks: list[str]) -> None:
        """What there is is as it was before or after the command that was going on."""
        done = sum(mark.startswith("end") for mark in marks)
        going_on = sum(mark.startswith("begin") for mark in marks) > done
        assert self.run("check") == ""
        assert list((self.root / "tmp").iterdir()) == []
        found = self.state(self._box_has())
        wanted = self.states[done : done + 1 + going_on]
        assert found in wanted, f"{done} commands had ended"
        if going_on and self.plan[done][0]:
            self.plan[done][1]()
            assert self.state(self._box_has()) == self.states[done + 1], "done again"
            assert self.run("check") == ""
        self._leave_nothing()

    def _box_has(self) -> bytes:
        """What a container's file begins with; what it has below says that it was not changed."""
        if not (self.root / "containers/box").exists():
            return b""
        self.run("mount", "box", self._mountpoint)
        try:
            found = (self._mountpoint / "where").read_bytes()
            assert (self._mountpoint / "base").stat().st_size == 300_000
        finally:
            self.run("umount", self._mountpoint)
        return b"" if found == PLAIN.encode() else found

    def _leave_nothing(self) -> None:
        """What a cut leaves is removed by the commands that remove things."""
        for path in sorted((self.root / "containers").iterdir()):
            self.run("rm", path.name)
        self.run("prune", "-a")
        kinds = ("tmp", "leases", "locks", "quarantine", "layers/sha256", "blobs/sha256")
        assert [path for kind in kinds for path in (self.root / kind).iterdir()] == []


def _send(server: DockerRegistry, place: Path) -> None:
    archive = write_tar(place / "pulled.tar", docker_archive(_image(PULLED)))
    target = f"docker://{server.address}/{PULLED}"
    command = ["skopeo", "copy", "--dest-tls-verify=false", f"docker-archive:{archive}", target]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_power_cuts_of_a_store(kind: Kind, commands: Commands, tmp_path: Path) -> None:
    end = time.monotonic() + soak_seconds() / 6
    with seeded() as rng, DockerRegistry(tmp_path / "registry") as server:
        _send(server, tmp_path)
        for number in count():
            scratch = tmp_path / str(number)
            _cut_a_store(kind, commands, scratch, server, rng)
            shutil.rmtree(scratch)
            if time.monotonic() >= end:
                break


def _cut_a_store(
    kind: Kind, commands: Commands, scratch: Path, server: DockerRegistry, rng: random.Random
) -> None:
    disk, image = scratch / "disk", scratch / "new.img"
    disk.mkdir(parents=True)
    make_image(kind, image)
    work = Work(commands, scratch, disk, server.address)
    with recording(kind, image, disk, scratch) as recorded, committing(disk, rng):
        work.do(recorded)
    cutter = Cutter(image, read_trace(scratch / "trace"), rng)
    ends = cutter.cuts_at_marks(DONE)[1 :: 2 if kind is EXT4 else 6]  # every other is a beginning
    cuts = [*cutter.random_cuts(CUTS[kind.name]), *ends]

    def check(cut: Cut) -> None:
        work.check(marks_of(cutter.events[: cut.at], DONE))

    check_cuts(kind, cutter, sorted(cuts, key=lambda cut: cut.at), scratch, disk, check)


# ---- after a kill --------------------------------------------------------------------------------


@pytest.mark.needs("cc", "backing-btrfs", "btrfs")
def test_what_a_killed_load_left_is_there_after_the_next_one_and_a_cut(
    fragile: Commands, control: Control, tmp_path: Path
) -> None:
    """Who takes over what a dead process renamed, and did not sync, has to sync it.

    On btrfs, which keeps a directory that nobody synced least of all.
    """
    kind = BTRFS
    disk, image = tmp_path / "disk", tmp_path / "new.img"
    disk.mkdir()
    make_image(kind, image)
    archive = write_tar(tmp_path / "plain.tar", docker_archive(_image(PLAIN)))
    other = write_tar(tmp_path / "other.tar", docker_archive(_image(PACKED)))
    with loop_device(image) as device, mounted(kind, device, disk):
        fragile.run("--root", disk / "store1", "load", "-q", "-i", other)
        for number in range(2, MAX_CALLS + 1):
            shutil.copytree(disk / "store1", disk / f"store{number}")
    with recording(kind, image, disk, tmp_path) as recorded:
        kills = _kill_and_load_again(fragile, control, archive, recorded)
    assert kills > 5
    cutter = Cutter(image, read_trace(tmp_path / "trace"), random.Random(0))

    def check(cut: Cut) -> None:
        root = disk / marks_of(cutter.events[: cut.at], DONE)[-1]
        assert fragile.run("--root", root, "check").stdout == ""
        assert fragile.run("--root", root, "images", "-q").stdout.count("\n") == 2

    check_cuts(kind, cutter, cutter.cuts_at_marks(DONE), tmp_path, disk, check)


def _kill_and_load_again(
    fragile: Commands, control: Control, archive: Path, recorded: Recording
) -> int:
    """In stores of their own, kill a load at its first call, its second, …; then load. How many."""
    for number in range(1, MAX_CALLS + 1):
        words = ("--root", recorded.disk / f"store{number}", "load", "-q", "-i", archive)
        with control.armed(number):
            fragile.start(*words)
            fragile.wait()
        if not control.hit:
            return number - 1
        fragile.run(*words)
        recorded.mark(DONE, f"store{number}")
    raise AssertionError("a load takes more calls")
