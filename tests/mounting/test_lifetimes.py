"""How mounts end: by each of their IDs, in use, detached, stopped, moved, without fusermount3."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.commands import Commands, ForkedCommandLine
from support.mounting import (
    COMMAND,
    CommandLine,
    Process,
    is_mounted,
    own_places,
    unmounting,
    wait_for_mounts,
)
from support.users import NOBODY, become_nobody

from unionmount.errors import InvalidReference, MountError
from unionmount.mounting.records import LIVE, MountTable, Record
from unionmount.system.mountinfo import unique_id

pytestmark = pytest.mark.needs("fuse")

HOLD = """
import mmap, sys
file = open(sys.argv[1], "r+b" if len(sys.argv) > 2 else "rb")
if len(sys.argv) > 2:
    mapped = mmap.mmap(file.fileno(), 4)
    file.close()
print(flush=True)
for line in sys.stdin:
    mapped[:4] = line[:4].encode()
    print(flush=True)
"""


@pytest.fixture
def cli(tmp_path: Path, server: Commands) -> Iterator[CommandLine]:
    """The command line with a store and mounts of the test's own."""
    with unmounting(ForkedCommandLine(server, own_places(tmp_path))) as line:
        yield line


@pytest.fixture
def table(cli: CommandLine) -> MountTable:
    return MountTable(Path(cli.environment["UNIONMOUNT_RUNTIME_DIR"]))


def make(path: Path) -> Path:
    path.mkdir()
    return path


def all_of(cli: CommandLine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cli.run("ps", "-a", "--format", "json").stdout)
    return found


@contextmanager
def holding(path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has a file open, or mapped for writing."""
    command = [sys.executable, "-c", HOLD, str(path), *words]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


# ---- IDs -----------------------------------------------------------------------------------------


@pytest.fixture
def four(cli: CommandLine, archive: Path, tmp_path: Path) -> dict[str, str]:
    """The IDs of mounts of all kinds."""
    places = {kind: make(tmp_path / kind) for kind in ("container", "ro", "upper", "overlay")}
    cli.run("mount", "--name", "web", archive, places["container"])
    cli.run("mount", "--ro", archive, places["ro"])
    cli.run("mount", "--upper", tmp_path / "changes", archive, places["upper"])
    lower = make(tmp_path / "lower")
    cli.run("overlay", "-o", f"lowerdir={lower}", places["overlay"])
    return {kind: cli.record(place)["id"] for kind, place in places.items()}


def test_every_command_takes_every_id(cli: CommandLine, four: dict[str, str]) -> None:
    assert set(cli.run("ps", "-q").stdout.split()) == set(four.values())
    for kind, mount_id in four.items():
        for word in (mount_id, mount_id[:11]):
            (told,) = json.loads(cli.run("inspect", word).stdout)
            assert told["State"]["Mountpoint"].endswith(f"/{kind}")
            cli.run("stats", word)
            if kind == "overlay":
                assert "mount of directories" in cli.error("cat", f"{word}:/etc/motd")
                continue
            assert cli.run("cat", f"{word}:/etc/motd").stdout == "hello\n"
            assert "motd" in cli.run("ls", f"{word}:/etc").stdout
            assert "added" in cli.run("which", word, "/etc/motd").stdout
            assert cli.run("layers", word).stdout.splitlines()[2].startswith("1 ")
            if kind == "ro":
                assert "read-only" in cli.error("diff", word)
            else:
                assert cli.run("diff", word).stdout == ""
                assert cli.run("commit", word, f"made-{kind}").stdout.startswith("sha256:")


def test_a_mount_of_some_layers_is_looked_into_as_it_is(
    cli: CommandLine, archive: Path, tmp_path: Path
) -> None:
    where = make(tmp_path / "mnt")
    cli.run("mount", "--layer", "0", archive, where)
    mount_id = cli.record(where)["id"]
    assert cli.run("cat", f"{mount_id}:/etc/old").stdout == (where / "etc/old").read_text()


def test_rm_takes_every_id(cli: CommandLine, four: dict[str, str]) -> None:
    for mount_id in four.values():
        assert "rm -f" in cli.error("rm", mount_id)
    assert len(cli.records()) == 4
    cli.run("rm", "-f", *four.values())
    assert all_of(cli) == []


def test_umount_takes_the_beginning_of_every_id(cli: CommandLine, four: dict[str, str]) -> None:
    cli.run("umount", *(mount_id[:11] for mount_id in four.values()))
    assert cli.records() == []
    assert cli.run("ps", "-aq").stdout == "web\n"
    cli.run("rm", "web")


def test_rm_of_an_ephemeral_container(cli: CommandLine, archive: Path, tmp_path: Path) -> None:
    cli.run("mount", "--ephemeral", "--name", "brief", archive, make(tmp_path / "mnt"))
    cli.run("rm", "-f", "brief")
    assert all_of(cli) == []


def test_an_ambiguous_beginning_names_the_candidates(
    cli: CommandLine, table: MountTable, tmp_path: Path
) -> None:
    new = Record.new(image="i", source="i", mountpoint=tmp_path / "a", root="/nowhere")
    with ExitStack() as stack:
        for mount_id in ("abc000000001", "abc000000002"):
            stack.enter_context(table.held(replace(new, id=mount_id)))
        for command in ("umount", "inspect", "rm", "stats"):
            message = cli.run(command, "abc", status=1).stderr
            assert "abc000000001" in message
            assert "abc000000002" in message
        assert table.beginning_with("abc000000001").record.id == "abc000000001"
        with pytest.raises(InvalidReference):
            table.beginning_with("ab")


def test_a_beginning_is_no_other_thing(
    cli: CommandLine, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = make(tmp_path / "mnt")
    cli.run("mount", "--ro", archive, where)
    beginning = cli.record(where)["id"][:2]
    cli.run("mount", "--name", beginning, archive, make(tmp_path / "second"))
    cli.run("umount", beginning)  # the container
    cli.error("umount", f"container:{beginning}")
    cli.error("umount", beginning)
    cli.run("rm", beginning)
    monkeypatch.chdir(tmp_path)
    make(tmp_path / beginning)
    cli.error("umount", beginning)  # the directory
    assert is_mounted(where)


# ---- in use --------------------------------------------------------------------------------------


def test_a_detached_container_is_ended_by_force(
    cli: CommandLine, archive: Path, tmp_path: Path
) -> None:
    where = make(tmp_path / "mnt")
    cli.run("mount", "--name", "web", archive, where)
    with holding(where / "etc/motd") as process:
        holder = f"(process {process.pid})"
        assert holder in cli.error("umount", where)
        assert holder in cli.error("rm", "-f", "web")
        cli.run("umount", "--lazy", where)
        assert holder in cli.run("ps").stdout
        (one,) = all_of(cli)
        assert (one["status"], one["container"]) == ("detached: still in use", "web")
        assert [user["pid"] for user in one["holders"]] == [process.pid]
        assert holder in cli.error("rm", "web")
        daemon = Process(one["pid"])
        assert holder in cli.run("rm", "-f", "web").stderr
        daemon.wait()
        assert process.poll() is None
    assert all_of(cli) == []


def test_what_was_mapped_is_not_lost(cli: CommandLine, archive: Path, tmp_path: Path) -> None:
    where = make(tmp_path / "mnt")
    cli.run("mount", "--upper", tmp_path / "changes", archive, where)
    (where / "made").write_bytes(b"old\n")
    mount_id = cli.record(where)["id"]
    with holding(where / "made", "mapped") as process:
        cli.run("umount", "--lazy", where)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("new!\n")
        process.stdin.flush()
        process.stdout.readline()
        assert f"(process {process.pid})" in cli.run("ps").stdout
        cli.run("rm", "-f", mount_id)
    assert (tmp_path / "changes/made").read_bytes() == b"new!"
    cli.run("mount", "--upper", tmp_path / "changes", archive, where)
    assert (where / "made").read_bytes() == b"new!"


def test_one_busy_mount_of_three(cli: CommandLine, archive: Path, tmp_path: Path) -> None:
    places = [make(tmp_path / name) for name in ("a", "b", "c")]
    for place in places:
        cli.run("mount", "--ro", archive, place)
    with holding(places[1] / "etc/motd") as process:
        done = cli.run("umount", *places, status=1)
        assert done.stderr.count("\n") == 1
        assert f"{places[1]} is in use by" in done.stderr
        assert f"(process {process.pid})" in done.stderr
    assert [is_mounted(place) for place in places] == [False, True, False]
    cli.run("umount", places[1])


@pytest.mark.needs("root")
def test_several_are_waited_for_side_by_side(
    cli: CommandLine, archive: Path, tmp_path: Path
) -> None:
    places = [make(tmp_path / name) for name in ("a", "b")]
    others = [make(tmp_path / f"other-{place.name}") for place in places]
    for place, other in zip(places, others, strict=True):
        cli.run("mount", "--ro", archive, place)
        subprocess.run(["mount", "--bind", place, other], check=True)  # the daemon goes on
    command = [*COMMAND, "umount", *map(str, places)]
    with subprocess.Popen(
        command, env=cli.environment, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_mounts(lambda: not any(map(is_mounted, places)))
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
    assert process.returncode == 130
    named = [line.split()[1] for line in told.splitlines() if line]
    assert sorted(named) == sorted(map(str, places))
    assert {one["mountpoint"] for one in cli.records()} == set(map(str, others))
    cli.run("umount", *others)
    assert cli.records() == []


@pytest.mark.needs("root")
def test_what_is_on_top_goes_first(cli: CommandLine, archive: Path, tmp_path: Path) -> None:
    where = make(tmp_path / "mnt")
    for _ in range(2):
        cli.run("mount", "--ro", archive, where)
    cli.run("umount", *(one["id"] for one in cli.records()))
    assert not is_mounted(where)


def test_a_stopped_daemon_is_named(cli: CommandLine, archive: Path, tmp_path: Path) -> None:
    stopped, fine = make(tmp_path / "stopped"), make(tmp_path / "fine")
    for place in (stopped, fine):
        cli.run("mount", "--name", place.name, archive, place)
    pid = cli.record(stopped)["pid"]
    daemon = Process(pid)
    os.kill(pid, signal.SIGSTOP)
    try:
        done = cli.run("umount", stopped, fine, status=1)
        assert f"kill -CONT {pid}" in done.stderr
        assert [one["container"] for one in cli.records()] == ["stopped"]
        assert f"kill -CONT {pid}" in cli.run("rm", "-f", "stopped", status=1).stderr
    finally:
        os.kill(pid, signal.SIGCONT)
    daemon.wait()
    cli.run("rm", "stopped", "fine")


@pytest.mark.needs("root")
def test_a_mount_whose_path_was_renamed(cli: CommandLine, archive: Path, tmp_path: Path) -> None:
    where = make(make(tmp_path / "old") / "mnt")
    cli.run("mount", "--ro", archive, where)
    (one,) = cli.records()
    moved = (tmp_path / "old").rename(tmp_path / "new") / "mnt"
    (now,) = cli.records()
    assert (now["status"], now["mountpoint"]) == ("live", str(moved))
    cli.run("umount", one["id"])
    assert not is_mounted(moved)


def test_the_device_of_an_ended_mount_may_be_anothers(
    cli: CommandLine, archive: Path, tmp_path: Path
) -> None:
    """The daemon of the first one lives on, as while it syncs; its device number is reused."""
    where = make(tmp_path / "mnt")
    cli.run("mount", "--ro", archive, where)
    other = cli.record(where)
    assert other["mount"] == unique_id(where)
    record = Record.new(image="i", source="i", mountpoint=tmp_path / "gone", root="/nowhere")
    table = MountTable(tmp_path / "records")
    for mount, path in ((other["mount"] + 1, tmp_path / "gone"), (other["mount"], where)):
        with table.held(replace(record, device=other["device"], mount=mount)):
            (one,) = table.all()
            assert one.record.path == path
            assert (one.status == LIVE) == (path == where)


# ---- records -------------------------------------------------------------------------------------


def test_a_container_mounted_again_leaves_no_dead_mount(
    cli: CommandLine, archive: Path, tmp_path: Path
) -> None:
    first, second = make(tmp_path / "first"), make(tmp_path / "second")
    cli.run("mount", "--name", "web", archive, first)
    daemon = Process(cli.record(first)["pid"])
    os.kill(cli.record(first)["pid"], signal.SIGKILL)
    daemon.wait()
    assert [one["container"] for one in all_of(cli)] == ["web"]
    cli.run("mount", "web", second)
    assert [(one["container"], one["status"]) for one in all_of(cli)] == [("web", "live")]
    assert not is_mounted(first)
    cli.run("umount", "web")


def test_a_record_is_not_removed_while_its_daemon_lives(table: MountTable, tmp_path: Path) -> None:
    record = Record.new(image="i", source="i", mountpoint=tmp_path, root="/nowhere")
    with table.held(record):
        # the number of the process says nothing: the daemon may be in another PID namespace
        with pytest.raises(MountError, match="still served by"):
            table.forget(replace(record, pid=1, started=0))
        assert [one.record.id for one in table.all()] == [record.id]


SIGNALLED = """
import os, signal
from unionmount.mounting.serve import _signals_held
with _signals_held():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM, signal.SIGHUP])  # as serving does
    for number in (signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    print("synced", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("not reached")
"""


def test_a_signal_after_serving_does_not_interrupt_the_sync() -> None:
    done = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (b"synced\n", -signal.SIGTERM)


# ---- without fusermount3 -------------------------------------------------------------------------

UNBIND = """
import ctypes
for name in (b"fusermount3", b"umount"):
    ctypes.CDLL(None).umount2(b"/usr/bin/" + name, 0)
"""

# In a mount namespace of its own: /etc without mtab, and /dev/fuse for all.
PRIVATE = """
set -e
mount -t tmpfs none "$1"
cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache "$1"
mknod -m 666 "$1/fuse" c 10 229
mount --bind "$1/fuse" /dev/fuse
mount --bind "$1" /etc
echo
cat
"""


@pytest.fixture
def inside(public_tmp: Path) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """A function that runs a command in such a namespace."""
    command = ["unshare", "-m", "sh", "-c", PRIVATE, "sh", str(make(public_tmp / "etc"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"

        def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
            enter = ["nsenter", "-t", str(process.pid), "-m", "--"]
            return subprocess.run(
                [*enter, *map(str, words)], capture_output=True, text=True, check=False
            )

        run.prefix = ("nsenter", "-t", str(process.pid), "-m", "--")  # type: ignore[attr-defined]
        yield run
        process.kill()


@pytest.fixture
def image(public_tmp: Path) -> Path:
    return docker_archive(public_tmp / "image.tar", [Layer().file("etc/motd", b"hello\n")])


@pytest.fixture
def user(inside: Any, public_tmp: Path) -> Iterator[CommandLine]:
    """The command line of an ordinary user in there."""
    environment = {"UNIONMOUNT_RUNTIME_DIR": str(public_tmp / "run"), "HOME": str(public_tmp)}
    environment["UNIONMOUNT_ROOT"] = str(public_tmp / "root")
    os.chown(public_tmp, NOBODY, NOBODY)
    os.chown(make(public_tmp / "mnt"), NOBODY, NOBODY)
    with unmounting(CommandLine((*inside.prefix, *become_nobody()), environment)) as line:
        yield line


@pytest.mark.needs("root", "ordinary-user")
@pytest.mark.parametrize("options", [(), ("--lazy",)])
def test_without_mtab(
    user: CommandLine, image: Path, public_tmp: Path, options: tuple[str, ...]
) -> None:
    where = public_tmp / "mnt"
    user.run("mount", "--name", "web", image, where)
    told = user.run("umount", *options, where).stderr
    assert "failed to open /etc/mtab" in told
    assert "by umount(8) instead" in told
    assert user.records() == []


@pytest.mark.needs("root", "ordinary-user")
def test_a_busy_mount_without_mtab(user: CommandLine, image: Path, public_tmp: Path) -> None:
    where = public_tmp / "mnt"
    user.run("mount", "--name", "web", image, where)
    command = [*user.prefix, sys.executable, "-c", HOLD, str(where / "etc/motd")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "use --lazy to detach it" in user.error("umount", where)
        process.kill()
    user.run("umount", where)


@pytest.mark.needs("root", "ordinary-user")
def test_a_daemon_that_can_not_unmount_leaves_its_record(
    user: CommandLine, inside: Any, image: Path, public_tmp: Path
) -> None:
    where = public_tmp / "mnt"
    user.run("mount", "--name", "web", image, where)
    for name in ("fusermount3", "umount"):
        assert inside("mount", "--bind", "/bin/false", f"/usr/bin/{name}").returncode == 0
    message = user.error("umount", where)
    assert f"root can: umount {where}" in message
    (one,) = user.records()
    assert one["status"] == "live"
    daemon = Process(one["pid"])
    line = CommandLine(user.prefix, user.environment)
    assert "root can" in line.run("rm", "-f", "web", status=1).stderr
    table = MountTable(public_tmp / "run")
    assert table.is_served(Record(**{k: v for k, v in one.items() if k in Record.__slots__}))
    for number in (signal.SIGTERM, signal.SIGHUP):
        os.kill(one["pid"], number)
    daemon.wait()
    assert [record["status"][:5] for record in user.records()] == ["stale"]
    assert inside(sys.executable, "-c", UNBIND).returncode == 0
    user.run("umount", where)
    assert user.records() == []
