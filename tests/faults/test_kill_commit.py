"""kill -9 of a commit, and of the daemon while one runs: the store has the image, or it has not."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import time
from pathlib import Path

import pytest
from compare import differences, snapshot
from differential.lowers import image

from faults.changes_seen import ChangesSeen
from faults.commands import Commands, Result
from faults.killed import Killable, daemon_of, seeded, soak_seconds, spin
from faults.lowers import layers

pytestmark = [
    pytest.mark.needs("fuse", "root"),
    pytest.mark.timeout(300 + soak_seconds()),
]

KILLS = 24
KILLS_OF_A_STORE = 8
MAX_CHANGES = 40
MAX_DELAY = 0.01


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

    def commit_and_kill(self, rng: random.Random) -> None:
        """Kill the commit; or the daemon, of which a commit needs nothing."""
        self._commands.start("--root", self.store, "commit", self.mountpoint, "image:latest")
        with Killable(self._commands.pid) as commit, ChangesSeen() as seen:
            for name in ("tmp", "layers/sha256", "blobs/sha256", "."):
                seen.watch(self.store / name)
            seen.wait(rng.randrange(1, MAX_CHANGES), commit.fd)
            spin(rng.random() * MAX_DELAY)
            if rng.random() < 0.8:
                commit.kill()
                assert self._commands.wait().status in (0, -9)
                return
            with daemon_of(self.mountpoint) as daemon:
                daemon.kill()
            done = self._commands.wait()
            assert done.status == 0, done
        self.run("umount", self.mountpoint)
        self.run("mount", "killed", self.mountpoint)

    def check_store(self) -> int:
        """Nothing half done is there, and what is there is whole; how many images."""
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
        return len(listed)

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
        images = 0
        for _ in range(KILLS_OF_A_STORE):
            container.change(rng)
            container.commit_and_kill(rng)
            images = container.check_store()
        container.check_commit(place / "again")
    finally:
        container.close()
    return images


def test_kills_of_commits(commands: Commands, tmp_path: Path) -> None:
    end = time.monotonic() + soak_seconds() / 4
    kills = images = 0
    with seeded() as rng:
        while kills < KILLS or time.monotonic() < end:
            images += _kill_some(commands, tmp_path / str(kills), rng)
            shutil.rmtree(tmp_path / str(kills))
            kills += KILLS_OF_A_STORE
    assert 0 < images < kills, "kills came all too late, or too early"
