"""Mounts whose requests come through io_uring.

What they answer is compared with the same mount through /dev/fuse, which the other tests compare
with what others do. All mounted tests run on io_uring with UNIONMOUNT_TRANSPORT=io_uring.
"""

from __future__ import annotations

import hashlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.mount_fixtures import Mount
from support.mounting import CommandLine

from unionmount.errors import MountError
from unionmount.mounting.options import parse_options
from unionmount.mounting.records import MountTable
from unionmount.mounting.statistics import ask_stats
from unionmount.mounting.transport import queues_of

BIG = 5 << 20  # bytes; read in requests that other processors copy
PATIENCE = 60.0
QUEUED = 8  # requests that wait at once: more than a queue has entries at the start
ENDS = 6

live = [pytest.mark.needs("fuse"), pytest.mark.needs("root"), pytest.mark.needs("io_uring")]

STAT = "import os, sys; os.write(1, b'asks\\n'); os.lstat(sys.argv[1])"
LOAD = """
import os, sys
top = sys.argv[1]
n, device = 0, os.stat(top).st_dev
os.write(1, b"works\\n")
try:
    while os.stat(top).st_dev == device:
        path = f"{top}/{os.getpid()}-{n % 20}"
        with open(path, "wb") as file:
            file.write(bytes(300_000))
        with open(path, "rb") as file:
            file.read()
        os.listdir(top)
        n += 1
except OSError:
    pass
"""


def stats_of(where: Path) -> dict[str, Any]:
    table = MountTable.of_user()
    (found,) = [one for one in table.all() if one.record.path == where]
    return ask_stats(table.socket_path(found.record.id), "the mount")


def server_of(where: Path) -> int:
    (found,) = [one for one in MountTable.of_user().all() if one.record.path == where]
    return found.record.pid


def content(top: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, link count and content of every file below a directory."""
    found = {}
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        text = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(top))] = (info.st_mode, info.st_nlink, text)
    return found


@pytest.fixture
def image(tmp_path: Path) -> Path:
    layer = Layer().directory("dir").file("dir/big", os.urandom(BIG))
    for number in range(200):
        layer = layer.file(f"dir/small{number}", str(number).encode() * number)
    return docker_archive(tmp_path / "image.tar", [layer], name="ring:latest")


@pytest.fixture
def writable(image: Path, cli: CommandLine, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    mounted: list[Path] = []

    def mount_it(name: str) -> Path:
        where, upper = tmp_path / name, tmp_path / f"{name}-upper"
        where.mkdir()
        upper.mkdir(mode=0o700)
        cli.run("mount", "-o", "io_uring", "--upper-open", "--upper", upper, image, where)
        mounted.append(where)
        return where

    yield mount_it
    for where in mounted:
        if where.is_mount():
            cli.run("umount", "--lazy", where)


class TestChoice:
    """Which transport is chosen, and why not."""

    def test_dev_fuse_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("UNIONMOUNT_TRANSPORT", raising=False)
        assert queues_of(parse_options([]), routed=True) == 0

    def test_without_a_router_there_is_no_io_uring(self) -> None:
        with pytest.raises(MountError, match=r"needs the fast path.*; leave out -o io_uring"):
            queues_of(parse_options(["io_uring"]), routed=False)

    def test_the_variable_has_two_values(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UNIONMOUNT_TRANSPORT", "pigeon")
        with pytest.raises(MountError, match="names no transport; use fuse or io_uring"):
            queues_of(parse_options([]), routed=True)

    def test_the_option_overrides_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UNIONMOUNT_TRANSPORT", "io_uring")
        assert queues_of(parse_options(["noio_uring"]), routed=True) == 0

    def test_passthrough_is_not_combined_with_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(MountError, match="cannot be combined"):
            queues_of(parse_options(["io_uring", "passthrough"]), routed=True)
        monkeypatch.setenv("UNIONMOUNT_TRANSPORT", "io_uring")
        assert queues_of(parse_options(["passthrough"]), routed=True) == 0

    @pytest.mark.needs("io_uring")
    def test_there_is_a_queue_for_each_possible_processor(self) -> None:
        configured = os.sysconf("SC_NPROCESSORS_CONF")
        assert queues_of(parse_options(["io_uring"]), routed=True) == configured


class TestAnswers:
    """What programs see."""

    pytestmark = live

    def test_both_transports_show_the_same(self, image: Path, mount: Mount, tmp_path: Path) -> None:
        ring = mount(image, "-o", "io_uring", at=tmp_path / "ring")
        device = mount(image, "-o", "noio_uring", at=tmp_path / "device")
        assert content(ring) == content(device)
        told = stats_of(ring)
        assert told["queues"] == os.sysconf("SC_NPROCESSORS_CONF")
        assert told["transport"].startswith("io_uring")
        assert told["failed"] == 0
        assert stats_of(device)["queues"] == 0

    def test_what_is_written_is_read_by_many(self, writable: Callable[[str], Path]) -> None:
        where = writable("many")

        def work(number: int) -> None:
            for turn in range(20):
                path = where / f"file{number}"
                data = os.urandom(200_000 + turn)
                path.write_bytes(data)
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    wrong[number] += file.read() != data
                path.rename(where / f"old{number}")

        wrong = [0] * 8
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(wrong) == 0
        assert stats_of(where)["failed"] == 0

    def test_requests_that_wait_do_not_use_up_a_queue(
        self, image: Path, cli: CommandLine, tmp_path: Path
    ) -> None:
        """All clients are on one processor, so all requests are in one queue."""
        below, where = tmp_path / "below", tmp_path / "where"
        upper, work = tmp_path / "upper", tmp_path / "work"
        for path in (below, where, upper, work):
            path.mkdir()
        cli.run("mount", "--ro", image, below)
        directories = f"lowerdir={below},upperdir={upper},workdir={work}"
        cli.run("overlay", "-o", f"{directories},io_uring", where)
        (where / "new").write_bytes(b"new")
        (where / "dir").stat()
        processor = min(os.sched_getaffinity(0))
        pinned = ["taskset", "-c", str(processor), sys.executable, "-c"]
        server = server_of(below)
        os.kill(server, signal.SIGSTOP)
        try:
            asking = [
                subprocess.Popen(
                    [*pinned, STAT, where / f"dir/small{number}"], stdout=subprocess.PIPE
                )
                for number in range(QUEUED)
            ]
            for one in asking:
                assert one.stdout is not None
                assert one.stdout.readline() == b"asks\n"
            code = "import os, sys\nfor _ in range(500): os.statvfs(sys.argv[1])"
            subprocess.run([*pinned, code, where / "new"], check=True, timeout=PATIENCE)
            assert any(one.poll() is None for one in asking)
        finally:
            os.kill(server, signal.SIGCONT)
        assert [one.wait(PATIENCE) for one in asking] == [0] * len(asking)
        for one in asking:
            assert one.stdout is not None
            one.stdout.close()
        cli.run("umount", where)
        cli.run("umount", below)


class TestEnd:
    """A mount that ends under load leaves nothing that waits."""

    pytestmark = live

    @pytest.mark.parametrize("end", ["umount", "terminate", "kill"])
    def test_nothing_waits_after_the_end(
        self, end: str, writable: Callable[[str], Path], cli: CommandLine
    ) -> None:
        for turn in range(ENDS):
            where = writable(f"{end}{turn}")
            server = server_of(where)
            handle = os.pidfd_open(server)
            load = [
                subprocess.Popen([sys.executable, "-c", LOAD, where], stdout=subprocess.PIPE)
                for _ in range(4)
            ]
            for one in load:
                assert one.stdout is not None
                assert one.stdout.readline() == b"works\n"
            if end == "umount":
                cli.run("umount", "--lazy", where)
            else:
                os.kill(server, signal.SIGTERM if end == "terminate" else signal.SIGKILL)
            if end == "kill":
                cli.run("umount", "--lazy", where)
            for one in load:
                one.wait(PATIENCE)
                assert one.stdout is not None
                one.stdout.close()
            assert select.select([handle], [], [], PATIENCE)[0]
            os.close(handle)
