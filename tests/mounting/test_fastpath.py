"""The router on a real mount: what only it offers, what is forwarded, and how a mount ends."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive, posix_acl
from support.mounting import COMMAND, CommandLine, Process, is_mounted, wait_for_mounts
from support.users import call_as

from unionmount.mounting.records import MountTable
from unionmount.mounting.statistics import ask_stats

pytestmark = pytest.mark.needs("fuse")

BIG = random.Random(5).randbytes(3_000_000)
USER = 4321
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    layer = Layer().directory("./", 0o777).file("big", BIG).directory("dir").file("dir/file", b"x")
    sparse = {
        "GNU.sparse.size": "10485760",
        "GNU.sparse.numblocks": "1",
        "GNU.sparse.map": "1048576,4096",
    }
    layer.file("sparse", b"D" * 4096, pax=sparse)
    layer.file("suid", b"x", mode=0o6777, owner=(USER, USER))
    path = docker_archive(tmp_path_factory.mktemp("image") / "image.tar", [layer])
    before = hashlib.sha256(path.read_bytes()).digest()
    yield path
    assert hashlib.sha256(path.read_bytes()).digest() == before, "a lower layer has changed"


class Mounted:
    def __init__(self, cli: CommandLine, root: Path) -> None:
        self.cli = cli
        self.root = root
        (status,) = [one for one in MountTable.of_user().all() if one.record.path == root]
        self.record = status.record

    def stats(self) -> dict[str, Any]:
        return ask_stats(MountTable.of_user().socket_path(self.record.id), "the mount")

    def forwarded(self, name: str) -> int:
        counted: int = self.stats()["messages"].get(name, {"forwarded": 0})["forwarded"]
        return counted


@pytest.fixture
def mount(cli: CommandLine, image: Path, public_tmp: Path) -> Iterator[Callable[..., Mounted]]:
    places: list[Path] = []

    def mount_it(*options: str) -> Mounted:
        where = public_tmp / f"mnt{len(places)}"
        where.mkdir()
        cli.run("mount", *options, image, where)
        places.append(where)
        return Mounted(cli, where)

    yield mount_it
    for where in places:
        if is_mounted(where):
            cli.run("umount", "--lazy", where)


# ---- what pyfuse3 does not offer -----------------------------------------------------------------


def test_holes_are_told(mount: Callable[..., Mounted]) -> None:
    root = mount("--ephemeral").root
    for _ in ("in the layer", "in the upper"):
        fd = os.open(root / "sparse", os.O_RDWR)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 1_048_576
        assert os.lseek(fd, 1_048_576, os.SEEK_HOLE) == 1_052_672
        assert os.lseek(fd, 5, os.SEEK_HOLE) == 5
        with pytest.raises(OSError, check=lambda error: error.errno == errno.ENXIO):
            os.lseek(fd, 1_052_672, os.SEEK_DATA)
        with pytest.raises(OSError, check=lambda error: error.errno == errno.ENXIO):
            os.lseek(fd, 10_485_760, os.SEEK_HOLE)
        os.pwrite(fd, b"D", 1_048_576)
        os.close(fd)
    assert os.stat(root / "sparse").st_blocks < 100


def test_space_is_allocated_and_freed(mount: Callable[..., Mounted]) -> None:
    root = mount("--ephemeral").root
    fd = os.open(root / "big", os.O_RDWR)
    os.posix_fallocate(fd, len(BIG), 1000)
    assert os.fstat(fd).st_size == len(BIG) + 1000
    punch = (fd, _PUNCH_HOLE | _KEEP_SIZE, ctypes.c_long(4096), ctypes.c_long(8192))
    assert libc.fallocate(*punch) == 0, os.strerror(ctypes.get_errno())
    assert os.pread(fd, 20_000, 0) == BIG[:4096] + bytes(8192) + BIG[12_288:20_000]
    os.close(fd)


@pytest.mark.parametrize("source", ["big", "copied"])
def test_ranges_are_copied_in_the_server(mount: Callable[..., Mounted], source: str) -> None:
    mounted = mount("--ephemeral")
    shutil.copyfile(mounted.root / "big", mounted.root / "copied")
    before = mounted.stats()["bytes_read"]
    fd = os.open(mounted.root / source, os.O_RDONLY)
    out = os.open(mounted.root / "target", os.O_CREAT | os.O_RDWR)
    done = 0
    while done < len(BIG):
        done += os.copy_file_range(fd, out, len(BIG) - done)
    assert os.copy_file_range(fd, out, 1) == 0
    os.close(fd)
    assert mounted.stats()["bytes_read"] == before
    assert os.pread(out, len(BIG) + 1, 0) == BIG
    os.close(out)


@pytest.mark.needs("root")
@pytest.mark.parametrize("how", ["write", "fallocate", "copy_file_range", "truncate"])
def test_changes_by_others_take_privileges(mount: Callable[..., Mounted], how: str) -> None:
    root = mount("--ephemeral", "-o", "suid").root
    path = root / "suid"

    def change() -> None:
        fd = os.open(path, os.O_RDWR)
        if how == "write":
            os.write(fd, b"y")
        elif how == "fallocate":
            os.posix_fallocate(fd, 0, 100)
        elif how == "truncate":
            os.ftruncate(fd, 0)
        else:
            source = os.open(root / "big", os.O_RDONLY)
            os.copy_file_range(source, fd, 10, offset_dst=0)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o777
        os.chmod(path, 0o6777)
        if how == "write":
            os.write(fd, b"y")
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o777

    call_as(USER, change)


# Without the router the kernel takes the bits away, unless a file is truncated as it is opened; and
# it keeps this one in every FUSE.
@pytest.mark.parametrize(
    ("how", "options"),
    [
        ("write", ()),
        ("truncate", ()),
        ("fallocate", ()),
        ("open", ()),
        ("open", ("--no-fastpath",)),
    ],
)
@pytest.mark.needs("root")
def test_setgid_without_group_execution_stays_for_members(
    mount: Callable[..., Mounted], how: str, options: tuple[str, ...]
) -> None:
    path = mount("--ephemeral", "-o", "suid", *options).root / "suid"
    os.chown(path, USER, USER + 1)

    def change() -> None:
        fd = os.open(path, os.O_RDWR | (os.O_TRUNC if how == "open" else 0))
        if how == "write":
            os.write(fd, b"y")
        elif how == "truncate":
            os.ftruncate(fd, 0)
        elif how == "fallocate":
            os.posix_fallocate(fd, 0, 100)

    for groups, left in (([USER + 1], 0o2644), ([], 0o644), ([USER, USER + 1], 0o2644)):
        path.chmod(0o6644)
        call_as(USER, change, groups=groups)
        assert stat.S_IMODE(path.stat().st_mode) == left


# ---- who answers ---------------------------------------------------------------------------------


@pytest.mark.needs("root")  # whose uppers have ACLs
def test_what_needs_python_is_forwarded(mount: Callable[..., Mounted]) -> None:
    mounted = mount("--ephemeral", "-o", "suid")
    access, other = "system.posix_acl_access", mounted.root / "suid"
    acl = posix_acl((0x01, 6, 0xFFFFFFFF), (0x04, 4, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF))
    os.setxattr(mounted.root / "dir/file", access, acl)
    assert stat.S_IMODE((mounted.root / "dir/file").stat().st_mode) == 0o640
    os.removexattr(mounted.root / "dir/file", access)
    os.chown(other, USER, USER + 1)
    other.chmod(0o2644)
    assert mounted.forwarded("SETXATTR") == 0
    call_as(USER, lambda: os.setxattr(other, access, acl))  # who is not of its group
    assert mounted.forwarded("SETXATTR") == 1
    assert stat.S_IMODE(other.stat().st_mode) == 0o640
    other.chmod(0o2644)
    call_as(USER, lambda: os.setxattr(other, access, acl), groups=[USER + 1])
    assert mounted.forwarded("SETXATTR") == 2
    assert stat.S_IMODE(other.stat().st_mode) == 0o2640
    # a change of a large file's name needs none of its data; a link by Python where it does
    os.link(mounted.root / "big", mounted.root / "linked")
    assert (mounted.root / "linked").stat().st_nlink == 2
    assert (mounted.root / "linked").read_bytes() == BIG


@pytest.mark.parametrize("options", [("-o", "threads=1"), ("-o", "threads=7"), ("--no-fastpath",)])
def test_all_ways_give_the_same(mount: Callable[..., Mounted], options: tuple[str, ...]) -> None:
    mounted = mount("--ephemeral", *options)
    root = mounted.root
    (root / "dir/new").write_bytes(BIG)
    (root / "big").rename(root / "dir/renamed")
    shutil.rmtree(root / "dir")
    (root / "dir").mkdir()
    (root / "dir/last").write_bytes(b"last")
    os.truncate(root / "sparse", 1_048_580)
    assert sorted(os.listdir(root)) == ["dir", "sparse", "suid"]
    assert (root / "sparse").read_bytes() == bytes(1_048_576) + b"DDDD"
    assert (root / "dir/last").read_bytes() == b"last"
    if "--no-fastpath" in options:
        message = mounted.cli.error("stats", root)
        assert message.startswith(f"{root}: no counters")
    else:
        assert mounted.stats()["messages"]["MKDIR"]["fast"] == 1


def test_the_environment_turns_it_off(
    mount: Callable[..., Mounted], cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cli.environment, "UNIONMOUNT_FASTPATH", "0")
    mounted = mount("--ro")
    assert (mounted.root / "dir/file").read_bytes() == b"x"
    assert not MountTable.of_user().socket_path(mounted.record.id).exists()


# ---- statistics ----------------------------------------------------------------------------------


def test_statistics(mount: Callable[..., Mounted], cli: CommandLine) -> None:
    mounted = mount("--ephemeral")
    assert (mounted.root / "big").read_bytes() == BIG
    with open(mounted.root / "big", "ab") as file:
        file.write(b"more")
    (told,) = json.loads(cli.run("stats", mounted.root, "--format", "json").stdout)
    assert told["bytes_read"] == len(BIG)
    assert told["bytes_written"] == 4
    assert told["copy_ups"] == 1
    assert told["held"] == 1
    assert told["in_flight"] == told["failed"] == 0
    one = told["messages"]["READ"]
    assert 0 < one["p50_us"] <= one["p90_us"] <= one["p99_us"]
    lines = cli.run("stats", mounted.root, "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["bytes_read"] for line in lines] == [len(BIG)]
    table = cli.run("stats", mounted.root).stdout.splitlines()
    assert table[0].split()[:3] == ["MESSAGE", "FAST", "FORWARDED"]
    assert any(line.split()[:3] == ["WRITE", "1", "0"] for line in table)
    assert any(line.split() == ["bytes", "written:", "4"] for line in table)


def test_statistics_are_watched(mount: Callable[..., Mounted]) -> None:
    mounted = mount("--ro")
    command = [*COMMAND, "stats", str(mounted.root), "--watch", "--format", "jsonl"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=mounted.cli.environment) as watching:
        assert watching.stdout is not None
        told = [json.loads(watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
    assert [one["failed"] for one in told] == [0, 0]


@pytest.mark.needs("root")
def test_statistics_are_for_their_user(mount: Callable[..., Mounted]) -> None:
    mounted = mount("--ro")
    path = MountTable.of_user().socket_path(mounted.record.id)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    mounted.cli.run("umount", mounted.root)
    assert not path.exists()


def test_an_idle_mount_sleeps(mount: Callable[..., Mounted]) -> None:
    mounted = mount("--ro")
    assert (mounted.root / "big").read_bytes() == BIG
    states = [
        (path / "stat").read_text().rpartition(") ")[2].split()
        for path in Path(f"/proc/{mounted.record.pid}/task").iterdir()
    ]
    before = mounted.stats()["sleeps"]
    assert mounted.stats()["sleeps"] == before  # nobody woke up in between
    assert len(states) >= 3


# ---- ends ----------------------------------------------------------------------------------------

LOAD = """
import os, sys
root, number = sys.argv[1], sys.argv[2]
os.write(1, b"x")
while True:
    try:
        with open(f"{root}/load-{number}", "wb") as file:
            file.write(b"x" * 100000)
        os.stat(f"{root}/none-{number}-{os.urandom(4).hex()}")
        with open(f"{root}/big", "rb") as file:
            file.read()
        os.unlink(f"{root}/load-{number}")
    except OSError:
        sys.exit(3)
"""


@pytest.fixture
def load() -> Iterator[Callable[[Path], list[subprocess.Popen[bytes]]]]:
    """A function that has four processes work on a mount until it fails them."""
    workers: list[subprocess.Popen[bytes]] = []

    def begin(root: Path) -> list[subprocess.Popen[bytes]]:
        for number in range(4):
            command = [sys.executable, "-c", LOAD, str(root), str(number)]
            workers.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.read(1) == b"x"
        return workers

    yield begin
    for worker in workers:
        worker.kill()
        worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()


def ended(mounted: Mounted) -> None:
    """The daemon has ended without a word, and has left nothing."""
    table = MountTable.of_user()
    assert not is_mounted(mounted.root)
    log = table.log_path(mounted.record.id)
    assert not log.exists(), log.read_text()
    assert not table.socket_path(mounted.record.id).exists()


def test_lazy_unmount_under_load(mount: Callable[..., Mounted], load: Any) -> None:
    mounted = mount("--ephemeral")
    daemon = Process(mounted.record.pid)
    workers = load(mounted.root)
    mounted.cli.run("umount", "--lazy", mounted.root)
    assert [worker.wait(30) for worker in workers] == [3] * 4  # they find nothing there any more
    daemon.wait()
    ended(mounted)


@pytest.mark.needs("root")
def test_abort_under_load(mount: Callable[..., Mounted], load: Any, tmp_path: Path) -> None:
    mounted = mount("--ephemeral")
    daemon = Process(mounted.record.pid)
    workers = load(mounted.root)
    connections = tmp_path / "connections"
    connections.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "none", connections], check=True)
    try:
        minor = mounted.record.device.partition(":")[2]
        (connections / minor / "abort").write_text("1")
    finally:
        subprocess.run(["umount", connections], check=True)
    assert [worker.wait(30) for worker in workers] == [3] * 4
    daemon.wait()
    ended(mounted)


def test_a_second_signal_ends_it_under_load(
    mount: Callable[..., Mounted], load: Any, descriptors: list[int]
) -> None:
    """Until then, what is open goes on; closing it afterwards may fail, as the server is gone."""
    mounted = mount("--ephemeral")
    daemon = Process(mounted.record.pid)
    workers = load(mounted.root)
    held = os.open(mounted.root / "big", os.O_RDONLY)
    descriptors.append(held)
    os.kill(mounted.record.pid, signal.SIGTERM)
    wait_for_mounts(lambda: not is_mounted(mounted.root))
    assert os.pread(held, 10, 1_500_000) == BIG[1_500_000:1_500_010]
    os.kill(mounted.record.pid, signal.SIGTERM)
    daemon.wait()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTCONN):
        os.pread(held, 10, 2_900_000)
    assert [worker.wait(30) for worker in workers] == [3] * 4
    ended(mounted)


def test_fusermount_unmounts(mount: Callable[..., Mounted]) -> None:
    mounted = mount("--ephemeral")
    daemon = Process(mounted.record.pid)
    (mounted.root / "new").write_bytes(b"x")
    subprocess.run(["fusermount3", "-u", mounted.root], check=True)
    daemon.wait()
    ended(mounted)


def test_who_asks_may_be_killed(mount: Callable[..., Mounted]) -> None:
    """The kernel takes back a request that nobody has read, and interrupts one that was."""
    mounted = mount("--ephemeral")
    os.kill(mounted.record.pid, signal.SIGSTOP)
    command = [sys.executable, "-c", "import os,sys; os.stat(sys.argv[1])"]
    asking = [subprocess.Popen([*command, mounted.root / f"none-{n}"]) for n in range(3)]
    asking[0].kill()
    asking[0].wait()
    os.kill(mounted.record.pid, signal.SIGCONT)
    assert [one.wait(30) for one in asking[1:]] == [1, 1]
    assert (mounted.root / "dir/file").read_bytes() == b"x"
