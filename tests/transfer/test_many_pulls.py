"""Fifty pulls of overlapping images at once, some killed in the middle: the store stays whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.servers import DockerRegistry, FaultProxy
from support.servers.proxy import Forward, HangUp, Request, Response
from support.transfers import Sender, assert_nothing_partial, blobs_of, command_line, image, layer

from unionmount.images.reference import Digest
from unionmount.store.store import Store

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

_PULLS = 50
_IMAGES = 5
_KILLS = 12
_SHARED = [layer(f"shared{number}", 300_000) for number in range(4)]


def _images() -> list[list[bytes]]:
    """Each has two layers that others have, too, and one of its own."""
    return [
        [_SHARED[number % 4], _SHARED[(number + 1) % 4], layer(f"own{number}", 200_000)]
        for number in range(_IMAGES)
    ]


class _Watch:
    """A fault that kills who fetches a layer, and notes where a complete one is asked for."""

    def __init__(self, store: Store, diff_ids: dict[str, Digest]) -> None:
        self._store = store
        self._diff_ids = diff_ids
        self._random = random.Random(1)
        self._lock = threading.Lock()
        self.killed: set[int] = set()
        self.fetched_again: list[str] = []
        self.sent: dict[str, list[int]] = {blob: [] for blob in diff_ids}  # to its end, to whom

    def __call__(self, request: Request, forward: Forward) -> Response:
        _, _, blob = request.classified()
        response = forward(request)
        diff_id = self._diff_ids.get(blob)
        if diff_id is None:
            return response
        if self._store.has_layer(diff_id):
            self.fetched_again.append(blob)
        return replace(response, body=self._killing(response.body, blob, diff_id))

    def _killing(self, body: Iterator[bytes], blob: str, diff_id: Digest) -> Iterator[bytes]:
        fetching = self._holders(diff_id)
        with self._lock:
            kill_at = self._random.randrange(200_000) if len(self.killed) < _KILLS else None
        sent = 0
        for piece in body:
            if kill_at is not None and sent + len(piece) > kill_at:
                yield piece[: kill_at - sent]
                self._kill(diff_id)
                raise HangUp  # there is nobody who could take the rest
            yield piece
            sent += len(piece)
        self.sent[blob] += fetching

    def _kill(self, diff_id: Digest) -> None:
        """Kill the process that fetches a layer."""
        for process in self._holders(diff_id):
            with self._lock, suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                self.killed.add(process)

    def _holders(self, diff_id: Digest) -> list[int]:
        """The process that has the lock of a layer, as the kernel knows it."""
        inode = os.stat(self._store.root / "locks" / f"sha256-{diff_id.hex}").st_ino  # noqa: PTH116
        locks = map(str.split, Path("/proc/locks").read_text(encoding="ascii").splitlines())
        return [
            int(fields[4])
            for fields in locks
            if "->" not in fields and fields[1] == "FLOCK" and fields[5].endswith(f":{inode}")
        ]


@pytest.mark.timeout(240)
def test_many_pulls_and_kills(tmp_path: Path, registry: DockerRegistry, sender: Sender) -> None:
    cli = command_line(tmp_path / "store")
    store = Store(tmp_path / "store")
    made = [image(*layers) for layers in _images()]
    diff_ids = {
        blob: Digest.parse(diff_id)
        for one in made
        for blob, diff_id in zip(blobs_of(one), one.diff_ids, strict=True)
    }
    watch = _Watch(store, diff_ids)
    with FaultProxy(registry.address) as proxy:
        names = [sender.send(one, proxy, f"many/i{i}:1") for i, one in enumerate(made)]
        proxy.reset()
        proxy.fault(watch, kind="blob", method="GET", times=10_000)
        pulls = [
            subprocess.Popen(
                [sys.executable, "-m", "unionmount", "pull", "-q", names[number % _IMAGES]],
                env=cli.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(_PULLS)
        ]
        for pull in pulls:
            _, said = pull.communicate(timeout=200)
            expected = -signal.SIGKILL if pull.pid in watch.killed else 0
            assert pull.returncode == expected, said
        assert watch.fetched_again == []
        assert len(watch.killed) >= _KILLS  # layers come in parallel: some are about to kill, too
        # Each layer was sent to its end once, but for those who were killed while another of their
        # layers came: such a process may have had all of it, and not have put it into the store.
        for blob, processes in watch.sent.items():
            assert proxy.fetched().get(blob) == len(processes) > 0
            assert len([one for one in processes if one not in watch.killed]) <= 1
        proxy.reset()
        for name in names:
            cli.run("pull", "-q", name)
        assert not proxy.fetched().keys() & diff_ids.keys()
    cli.run("prune")
    assert cli.run("check").stdout == ""
    assert_nothing_partial(store, {str(diff_id) for diff_id in diff_ids.values()})
    assert len(store.list_images()) == _IMAGES
