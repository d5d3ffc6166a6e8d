"""kill -9 of a commit, and of the daemon while one runs: the store has the image, or it has not."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from differential.lowers import image
from support.commands import Commands, Result
from support.compare import differences, snapshot
from support.effort import amount

from faults.changes_seen import ChangesSeen
from faults.killed import Killable, daemon_of, seeded, soak_seconds, spin
from faults.lowers import layers

pytestmark = [
    pytest.mark.needs("fuse", "root"),
    pytest.mark.timeout(300 + soak_seconds()),
]

KILLS = amount(12, 24)
KILLS_OF_A_STORE = 8
MAX_DELAY = 0.002


class Container:
    """A store with an image, and a container of it that is mounted."""

    def __init__(self, commands: Commands, place: Path) -> None:
        self._commands = commands
        self.store = place / "store"
        self.mountpoint = place / "mnt"
        self.mountpoint.mkdir()
        archive = image(layers(1), place / "image.tar")
        self.run("mount", "--name", "killed", archive, self.mountpoint)

    def run(self, *words: str | Path) -> Result:
        """Run a command on this store."""
        return self._commands.run("--root", self.store, *words)

    def change(self, rng: random.Random) -> None:
        """Make the next commit another layer."""
        (self.mountpoint / "part0/small2").write_bytes(rng.randbytes(300_000))
        for number in range(20):
            (self.mountpoint / f"new{number}").write_bytes(rng.randbytes(100))

    @contextmanager
    def _committing(self) -> Iterator[tuple[Killable, ChangesSeen]]:
        """A commit that runs, and what it does in the store."""
        with ChangesSeen() as seen:
            for name in ("tmp", "layers/sha256", "blobs/sha256", "."):
                seen.watch(self.store / name)
            self._commands.start("--root", self.store, "commit", self.mountpoint, "image:latest")
            with Killable(self._commands.pid) as commit:
                yield commit, seen

    def commit(self) -> int:
        """Commit; how many changes of the store that took."""
        enough = 10_000
        with self._committing() as (commit, seen):
            missing = seen.wait(enough, commit.fd)
            done = self._commands.wait()
        assert done.status == 0, done
        assert 0 < missing < enough
        return enough - missing

    def commit_and_kill(self, rng: random.Random, changes: int) -> bool:
        """Kill the commit, or the daemon, of which a commit needs nothing; whether it was cut off.

        ``changes`` is what a whole commit takes.
        """
        with self._committing() as (commit, seen):
            seen.wait(rng.randrange(1, changes), commit.fd)
            spin(rng.random() * MAX_DELAY)
            if rng.random() < 0.8:
                commit.kill()
                status = self._commands.wait().status
                assert status in (0, -9)
                return status != 0
            with daemon_of(self.mountpoint) as daemon:
                daemon.kill()
            done = self._commands.wait()
            assert done.status == 0, done
        self.run("umount", self.mountpoint)
        self.run("mount", "killed", self.mountpoint)
        return False

    def check_store(self) -> None:
        """Nothing half done is there, and what is there is whole."""
        listed = json.loads(self.run("images", "--format", "json").stdout)
        assert list((self.store / "tmp").iterdir()) == []
        json.loads((self.store / "images.json").read_bytes())
        for layer in (self.store / "layers/sha256").iterdir():
            assert hashlib.sha256((layer / "layer.tar").read_bytes()).hexdigest() == layer.name
            assert (layer / "layer.idx").exists()
        for blob in (self.store / "blobs/sha256").iterdir():
            assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
        for one in listed:
            self.run("check", one["id"])

    def check_commit(self, again: Path) -> None:
        """A commit that nobody kills has what the mount has."""
        self.run("commit", self.mountpoint, "last:one")
        again.mkdir()
        self.run("mount", "--ro", "last:one", again)
        try:
            assert differences(snapshot(self.mountpoint), snapshot(again)) == []
        finally:
            self.run("umount", again)

    def close(self) -> None:
        """Unmount, and remove the container."""
        self.run("umount", self.mountpoint)
        self.run("rm", "killed")


def _kill_some(commands: Commands, place: Path, rng: random.Random) -> int:
    place.mkdir()
    container = Container(commands, place)
    try:
        cut_off = 0
        container.change(rng)
        changes = container.commit()
        for _ in range(KILLS_OF_A_STORE):
            container.change(rng)
            cut_off += container.commit_and_kill(rng, changes)
            container.check_store()
        container.check_commit(place / "again")
    finally:
        container.close()
    return cut_off


def test_kills_of_commits(commands: Commands, tmp_path: Path) -> None:
    end = time.monotonic() + soak_seconds() / 4
    kills = cut_off = 0
    with seeded() as rng:
        while kills < KILLS or time.monotonic() < end:
            cut_off += _kill_some(commands, tmp_path / str(kills), rng)
            shutil.rmtree(tmp_path / str(kills))
            kills += KILLS_OF_A_STORE
    assert cut_off > 0, "kills came all too late"
