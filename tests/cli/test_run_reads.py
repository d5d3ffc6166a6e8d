"""What ``run`` reads from the disk, and keeps in memory: once, and fifty times at once.

The store is on a disk of the test's own, so the kernel's counters are exact. Before each
measurement it is mounted afresh, with nothing in the page cache.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import PAGESIZE
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.archives import Layer, docker_archive
from support.cold_disk import ColdDisk, cold_disk, pages_in_memory
from support.effort import amount
from support.running import RUNTIMES, Runner, busybox_layer, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,  # others' mount namespaces would keep the disk, and its page cache
    pytest.mark.needs("fuse", "root", "backing-ext4", "busybox", *RUNTIMES),
    pytest.mark.timeout(600),
]
RUN_AT_ONCE = amount(12, 50)  # fifty is what docs/how-to/run.md tells of
_TRIES = 3  # beside the first
FILES = 3000  # before the programs in the layer, and again behind them
FILE = 3000  # bytes
LARGE = 32 << 20
READ_AHEAD = 128 << 10  # the kernel's, of a disk
NAME = "test"


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ColdDisk]:
    """A disk with room for a store."""
    with cold_disk(tmp_path_factory.mktemp("disk"), 256) as made:
        yield made


@pytest.fixture(scope="module")
def line(disk: ColdDisk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The command line, with an image in a store on the disk.

    Its only layer has many files on both sides of the programs, and a large one.
    """
    made = Runner(tmp_path_factory.mktemp("reads"))
    made.store = disk.where / "store"
    made.environment["UNIONMOUNT_ROOT"] = str(made.store)
    layer = Layer().directory("many").directory("data")
    for number in range(FILES):
        layer.file(f"many/before-{number}", os.urandom(FILE))
    busybox_layer(layer)
    for number in range(FILES):
        layer.file(f"many/behind-{number}", os.urandom(FILE))
    for number in range(100):
        layer.file(f"data/{number}", os.urandom(FILE))
    layer.file("data/large", os.urandom(LARGE))
    archive = docker_archive(tmp_path_factory.mktemp("image") / "image.tar", [layer])
    with disk.mounted():
        made.run("load", "-i", archive)
        made.run("run", "--rm", NAME, "true")  # the directories of the store are there
    yield made
    with disk.mounted(), running(made):
        pass


class Memory(NamedTuple):
    """Memory of a process in KiB (proc_pid_smaps(5))."""

    proportional: int
    private: int

    @classmethod
    def of(cls, pid: int) -> Memory:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        found = {row.split(":")[0]: int(row.split()[1]) for row in rows}
        return cls(found["Pss"], found["Private_Clean"] + found["Private_Dirty"])


class Measured(NamedTuple):
    """What containers needed until all of them had read what they wanted."""

    read: int  # bytes from the disk
    daemon: Memory  # the mean of a process
    monitor: Memory
    cached: dict[str, list[int]]  # pages of the store's files, by name


@contextmanager
def at_once(line: Runner, count: int, *words: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run a script in containers that are all ready, and end with the block."""
    clients = [
        line.start("run", "--rm", "-i", *words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    for one in clients:
        assert one.stdout is not None
        assert one.stdout.readline() == b"ready\n"
    yield clients
    for one in clients:
        one.communicate(timeout=60)
        assert one.returncode == 0


def measured(line: Runner, disk: ColdDisk, runtime: str, script: str, count: int) -> Measured:
    """Run containers on a cold disk; nothing is left of them."""
    with disk.mounted():
        # A store on an earlier disk may have had the same word: it is made from the numbers of the
        # device and of the directory, which disks of other runs share.
        earlier = control_groups(line)
        before = disk.bytes_read()
        words = ("--runtime", runtime, NAME, "sh", "-c", f"{script}; echo ready; cat")
        with at_once(line, count, *words):
            read = disk.bytes_read() - before
            daemons = [Memory.of(record["pid"]) for record in line.records()]
            monitors = [Memory.of(state["monitor"]) for state in states(line)]
            assert (len(daemons), len(monitors)) == (count, count)
        cached = {
            path.name: pages_in_memory(path) for path in line.store.glob("layers/sha256/*/layer.*")
        }
        assert left(line) == []
        assert control_groups(line) <= earlier
    return Measured(read, mean(daemons), mean(monitors), cached)


def states(line: Runner) -> list[dict[str, Any]]:
    return [
        json.loads((path / "state.json").read_text())
        for path in (line.runtime_directory / "run").iterdir()
    ]


def mean(all_of_them: list[Memory]) -> Memory:
    return Memory(*(sum(column) // len(all_of_them) for column in zip(*all_of_them, strict=True)))


def left(line: Runner) -> list[str]:
    """Return what containers have left: in the runtime directory, the store and /proc."""
    mine = os.fsencode(line.runtime_directory)
    processes = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/environ")
        if mine in contents(path) and path.parent.name != str(os.getpid())
    ]
    return [
        *line.left(),
        *line.run("ps", "-aq").stdout.split(),
        *(str(path) for path in (line.store / "containers").iterdir()),
        *(str(path) for path in (line.store / "tmp").iterdir()),
        *(row for row in Path("/proc/self/mounts").read_text().splitlines() if word(line) in row),
        *processes,
    ]


def control_groups(line: Runner) -> set[Path]:
    """Return the control groups of containers of a store."""
    return set(Path("/sys/fs/cgroup").glob(f"**/unionmount-*+{word(line)}"))


def word(line: Runner) -> str:
    """Return the word that stands for a store in the IDs of its containers."""
    return line.live("any").name.partition("+")[2]


def contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "script", ["true", "cat /data/* | wc -c >/dev/null"], ids=["start", "data"]
)
def test_many_at_once_read_as_much_as_one(
    line: Runner,
    disk: ColdDisk,
    runtime: str,
    script: str,
) -> None:
    one = measured(line, disk, runtime, script, 1)
    many = measured(line, disk, runtime, script, RUN_AT_ONCE)
    for value in one, many:  # --log-cli-level=INFO shows it
        logging.getLogger(__name__).info("%s, %s: %s", runtime, script, value[:3])
    assert one.read > Path("/bin/busybox").stat().st_size // 2 + LARGE * ("data" in script)
    # What is dropped from the page cache meanwhile is read again, so the least of some counts.
    least = many.read
    for _ in range(_TRIES):
        if least <= 1.1 * one.read:
            break
        least = min(least, measured(line, disk, runtime, script, RUN_AT_ONCE).read)
    assert least <= 1.1 * one.read
    # in KiB: docs/how-to/run.md has what was measured
    assert many.daemon.proportional + many.monitor.proportional < 32 << 10


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_cold_start_reads_what_it_needs(line: Runner, disk: ColdDisk, runtime: str) -> None:
    """No page of the layer is read but those of programs and users, and read-ahead behind them."""
    with disk.mounted():
        before = disk.bytes_read()
        line.run("run", "--rm", "--runtime", runtime, NAME, "true")
        read = disk.bytes_read() - before
        (layer,) = line.store.glob("layers/sha256/*/layer.tar")
        (index,) = line.store.glob("layers/sha256/*/layer.idx")
        tar_pages, index_pages = pages_in_memory(layer), pages_in_memory(index)
        with tarfile.open(layer) as tar:
            members = [tar.getmember(name) for name in ("bin/busybox", "etc/passwd", "etc/group")]
        sizes = {"layer": layer.stat().st_size, "index": index.stat().st_size}
    needed: set[int] = set()
    for one in members:
        end = one.offset_data + one.size + READ_AHEAD
        needed |= set(range(one.offset_data // PAGESIZE, -(-end // PAGESIZE)))
    assert tar_pages
    assert set(tar_pages) <= needed
    assert sizes["layer"] > 2 * FILES * FILE + LARGE
    others = read - (len(tar_pages) + len(index_pages)) * PAGESIZE
    assert others < 256 << 10  # of ext4 itself, and the files of the store
    assert read < members[0].size + sizes["index"] + (512 << 10)


def test_a_cold_start_in_requests(line: Runner, disk: ColdDisk) -> None:
    """What the kernel asks of the mount until the program runs: one file is opened, and read."""
    with disk.mounted():
        name = line.output("run", "-d", "--rm", NAME, "sleep", "1000").strip()
        (told,) = json.loads(line.output("stats", "--format", "json", name))
        line.run("kill", name)
        line.call("wait", name)
    asked = {
        kind: one["fast"] + one["forwarded"]
        for kind, one in told["messages"].items()
        if one["fast"] + one["forwarded"]
    }
    assert asked["OPEN"] == 1
    assert 0 < told["bytes_read"] <= Path("/bin/busybox").stat().st_size
    assert asked["READ"] <= 32
    assert asked.get("READDIR", 0) + asked.get("READDIRPLUS", 0) == 0
    assert asked["LOOKUP"] <= 24
    assert sum(asked.values()) <= 64
    assert not any(one["forwarded"] for one in told["messages"].values())
