"""Fifty pulls of overlapping images at once, some of them killed: the store stays whole."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mounting import CommandLine

from registry.servers import DockerRegistry, FaultProxy
from registry.servers.proxy import Drip, Forward, Request, Response
from registry.transfers import Sender, assert_nothing_partial, blobs_of, command_line, image, layer
from unionmount.reference import Digest
from unionmount.store import Store

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

_PULLS = 50
_AT_ONCE = 10
_IMAGES = 5
_KILLED = 0.4  # of the pulls
_SHARED = [layer(f"shared{number}", 60_000) for number in range(4)]


def _images() -> list[list[bytes]]:
    """Each has two layers that others have, too, and one of its own."""
    return [
        [_SHARED[number % 4], _SHARED[(number + 1) % 4], layer(f"own{number}", 40_000)]
        for number in range(_IMAGES)
    ]


class _Pulls:
    """Runs pulls, and kills some at a moment of chance."""

    def __init__(self, cli: CommandLine, names: list[str], seed: int) -> None:
        self._cli = cli
        self._names = names
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._left = _PULLS
        self.killed = 0
        self.failed: list[str] = []

    def run(self) -> None:
        threads = [threading.Thread(target=self._worker) for _ in range(_AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _worker(self) -> None:
        while True:
            with self._lock:
                if self._left == 0:
                    return
                self._left -= 1
                name = self._random.choice(self._names)
                kill = self._random.random() < _KILLED
                after = self._random.uniform(0.5, 2.5)
            self._pull(name, after if kill else None)

    def _pull(self, name: str, kill_after: float | None) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "unionmount", "pull", "-q", name],
            env=self._cli.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            _, said = process.communicate(timeout=kill_after or 120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            with self._lock:
                self.killed += 1
            return
        if process.returncode:
            with self._lock:
                self.failed.append(said)


@pytest.mark.timeout(240)
def test_many_pulls_and_kills(tmp_path: Path, registry: DockerRegistry, sender: Sender) -> None:
    cli = command_line(tmp_path / "store")
    made = [image(*layers) for layers in _images()]
    with FaultProxy(registry.address) as proxy:
        names = [sender.send(one, proxy, f"many/i{i}:1") for i, one in enumerate(made)]
        proxy.reset()
        store = Store(tmp_path / "store")
        wanted = {
            blob: diff_id
            for one in made
            for blob, diff_id in zip(blobs_of(one), one.diff_ids, strict=True)
        }
        fetched_again: list[str] = []

        def watched(request: Request, forward: Forward) -> Response:
            """Slow, and notes where a layer is asked for that is complete in the store."""
            _, _, blob = request.classified()
            if blob in wanted and store.has_layer(Digest.parse(wanted[blob])):
                fetched_again.append(blob)
            return Drip(8_000, 0.01)(request, forward)

        proxy.fault(watched, kind="blob", method="GET", times=10_000)
        pulls = _Pulls(cli, names, seed=1)
        pulls.run()
        assert pulls.failed == []
        assert pulls.killed >= 3
        assert fetched_again == []
        there = {path.name for path in (store.root / "layers/sha256").iterdir()}
        proxy.reset()
        for name in names:
            cli.run("pull", "-q", name)
        after = proxy.fetched()
    for blob, diff_id in wanted.items():
        complete = diff_id.removeprefix("sha256:") in there
        # what was complete is not fetched again; what a killed pull had is fetched by the next
        assert after.get(blob, 0) == (0 if complete else 1)
    cli.run("prune")
    assert cli.run("check").stdout == ""
    assert_nothing_partial(store, set(wanted.values()))
    assert len(store.list_images()) == _IMAGES
