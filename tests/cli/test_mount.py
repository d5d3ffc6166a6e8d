"""Mounting and unmounting from the shell: every way in, every way out, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine, Process, is_mounted, mount_line, wait_for_mounts
from support.users import NOBODY

pytestmark = pytest.mark.needs("fuse")

Mount = Callable[..., Path]


@pytest.fixture
def where(tmp_path: Path) -> Iterator[Path]:
    """An empty directory to mount on."""
    directory = tmp_path / "mnt"
    directory.mkdir()
    yield directory
    assert not is_mounted(directory)


def daemon_of(cli: CommandLine, mountpoint: Path) -> Process:
    return Process(cli.record(mountpoint)["pid"])


def read_motd(where: Path) -> str:
    return (where / "etc/motd").read_text(encoding="ascii")


# ---- mounting ------------------------------------------------------------------------------------


def test_mount_and_umount(cli: CommandLine, archive: Path, where: Path) -> None:
    assert cli.run("mount", archive, where).stdout == f"{where}\n"
    assert read_motd(where) == "hello\n"
    daemon = daemon_of(cli, where)
    done = cli.run("umount", where)
    assert (done.stdout, done.stderr) == ("", "")
    assert not is_mounted(where)
    daemon.wait()
    assert cli.records() == []


@pytest.mark.needs("root")
def test_the_mount_table_tells_what_it_is(archive: Path, mount: Mount) -> None:
    fields = (mount_line(mount(archive)) or "").split()
    options = set(fields[5].split(","))
    assert {"ro", "nosuid", "nodev"} <= options
    kind, source, special = fields[fields.index("-") + 1 :]
    assert (kind, source) == ("fuse.unionmount", str(archive))
    assert {"default_permissions", "allow_other", "user_id=0"} <= set(special.split(","))


@pytest.mark.needs("root")
def test_mount_options(archive: Path, mount: Mount, tmp_path: Path) -> None:
    options = ("-o", "dev,suid", "-o", "noexec,atime,noallow_other")
    line = mount_line(mount(archive, *options)) or ""
    shown = set(line.split()[5].split(","))
    assert "noexec" in shown
    assert not shown & {"nosuid", "nodev", "noatime"}
    assert "allow_other" not in line


def test_without_a_mount_point_one_is_made(cli: CommandLine, tmp_path: Path) -> None:
    layer = Layer().directory("etc").file("etc/motd", b"hello\n")
    archive = docker_archive(tmp_path / "image.tar", [layer], name="without-place:1")
    where = Path(cli.run("mount", archive).stdout.rstrip("\n"))
    assert where.parent == Path(os.environ["UNIONMOUNT_RUNTIME_DIR"], "mnt")
    assert where.name.startswith("without-place-1-")
    assert read_motd(where) == "hello\n"
    cli.run("umount", where)
    assert not where.exists()


def test_the_path_of_a_mount_point_is_resolved(
    cli: CommandLine, archive: Path, where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (where.parent / "link").symlink_to(where)
    monkeypatch.chdir(where.parent)
    assert cli.run("mount", archive.name, "./link").stdout == f"{where}\n"
    assert read_motd(where) == "hello\n"
    cli.run("umount", "link")


@pytest.mark.parametrize(
    "name", ["with space", "comma,and\\backslash", "new\nline\t#", "caf\udce9"]
)
def test_odd_names_of_mount_points(
    cli: CommandLine, archive: Path, tmp_path: Path, name: str
) -> None:
    where = tmp_path / name
    where.mkdir()
    done = subprocess.run(
        [*COMMAND, "mount", str(archive), str(where)], check=True, capture_output=True
    )
    assert done.stdout == os.fsencode(where) + b"\n"
    assert read_motd(where) == "hello\n"
    assert "\n" not in cli.run("ps").stdout.splitlines()[1]
    cli.run("umount", where)
    assert list(where.iterdir()) == []


def test_a_stored_image_is_mounted_by_name(cli: CommandLine, archive: Path, where: Path) -> None:
    assert cli.run("load", "-i", archive).stdout == "Loaded image: docker.io/library/test:latest\n"
    cli.run("mount", "test", where)
    assert read_motd(where) == "hello\n"
    assert cli.record(where)["image"] == "test:latest"
    cli.run("umount", where)


def test_relative_directories_of_the_environment(
    archive: Path, where: Path, tmp_path: Path
) -> None:
    environment = {"UNIONMOUNT_ROOT": "store", "UNIONMOUNT_RUNTIME_DIR": "run"}
    cli = CommandLine(("env", "-C", str(tmp_path)), environment)
    cli.run("mount", archive, where)
    assert cli.record(where)["root"] == str(tmp_path / "store")
    cli.run("umount", where)
    made = Path(cli.run("mount", archive).stdout.rstrip("\n"))
    assert made.parent == tmp_path / "run/mnt"
    cli.run("umount", made)


def test_one_image_is_mounted_twice(cli: CommandLine, archive: Path, mount: Mount) -> None:
    one, two = mount(archive), mount(archive, at=archive.parent / "second")
    assert read_motd(one) == read_motd(two)
    cli.run("umount", one)
    assert read_motd(two) == "hello\n"


def test_a_mount_may_cover_its_own_archive(cli: CommandLine, archive: Path) -> None:
    directory = archive.parent
    cli.run("mount", archive, directory)
    assert read_motd(directory) == "hello\n"
    assert not archive.exists()
    cli.run("umount", directory)
    assert archive.exists()


def test_a_mount_does_not_hide_its_own_record(archive: Path, where: Path) -> None:
    for runtime in (where, where / "deep/run"):  # the daemon would wait for itself for ever
        cli = CommandLine(environment={"UNIONMOUNT_RUNTIME_DIR": str(runtime)})
        for option in ("--ro", "--foreground"):
            message = cli.error("mount", option, archive, where)
            assert f"{where} holds the runtime directory {runtime}" in message
        assert cli.records() == []


def test_a_missing_mount_point_is_to_be_created(
    cli: CommandLine, archive: Path, tmp_path: Path
) -> None:
    missing = cli.error("mount", archive, tmp_path / "no")
    assert f"mount point {tmp_path}/no does not exist; create the directory first" in missing


def test_an_empty_word_is_not_the_working_directory(
    cli: CommandLine, archive: Path, where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "the mount point is empty" in cli.error("mount", archive, "", status=2)
    assert "the mount point is empty" in cli.error("overlay", "-o", "lowerdir=/", "", status=2)
    cli.run("mount", "--ephemeral", archive, where)
    monkeypatch.chdir(where)
    assert "no mount has an empty name" in cli.error("umount", "")
    assert "the name of the container or mount is empty" in cli.error("diff", "", status=2)
    cli.error("commit", "", "new", status=2)
    monkeypatch.undo()
    assert is_mounted(where)
    cli.run("umount", where)


@pytest.mark.parametrize(
    "words", [("",), ("container:",), ("--kill", ""), ("--kill", "container:")], ids=" ".join
)
def test_an_empty_word_is_no_mount_without_a_container(
    cli: CommandLine, archive: Path, where: Path, words: tuple[str, ...]
) -> None:
    cli.run("mount", "--ro", archive, where)
    cli.error("umount", *words)
    assert is_mounted(where)
    daemon = daemon_of(cli, where)
    os.kill(cli.record(where)["pid"], signal.SIGKILL)
    daemon.wait()
    cli.error("umount", *words)  # it cleans up after dead mounts all the same


def test_verify_finds_a_changed_layer(cli: CommandLine, archive: Path, where: Path) -> None:
    archive.write_bytes(archive.read_bytes().replace(b"hello\n", b"HELLO\n"))
    message = cli.error("mount", "--ro", "--verify", archive, where)
    assert "sha256:" in message
    assert archive.name in message
    assert not is_mounted(where)


# ---- the background process ----------------------------------------------------------------------


def test_the_daemon_lets_go_of_its_callers_descriptors(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    reader, writer = os.pipe()
    try:
        # capture_output makes pipes of standard output and error, which have to end, too
        command = [*COMMAND, "mount", str(archive), str(where)]
        subprocess.run(command, pass_fds=[writer], capture_output=True, check=True, timeout=30)
        os.close(writer)
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)
    assert is_mounted(where)
    cli.run("umount", where)


def test_a_mount_of_which_nobody_can_be_told_is_undone(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "mount", archive, where],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=cli.environment,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "unionmount: standard output: No space left on device\n"
    assert not is_mounted(where)


def test_closed_standard_descriptors(cli: CommandLine, archive: Path, where: Path) -> None:
    script = '"$@" <&- >&- 2>&-'
    subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, "mount", str(archive), str(where)], check=True
    )
    assert read_motd(where) == "hello\n"
    cli.run("umount", where)


def test_a_mount_that_cannot_be_told_is_undone(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    words = [*COMMAND, "mount", str(archive), str(where)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            words, check=False, stdout=full, stderr=subprocess.PIPE, env=cli.environment
        )
    assert (done.returncode, is_mounted(where)) == (1, False)
    assert done.stderr == b"unionmount: standard output: No space left on device\n"


def test_a_command_substitution_ends(cli: CommandLine, archive: Path, where: Path) -> None:
    script = 'found=$("$@" 2>&1 | cat) && cat "$found/etc/motd"'
    command = [*COMMAND, "mount", "--ephemeral", str(archive), str(where)]
    shell = ["sh", "-c", script, "sh", *command]
    done = subprocess.run(shell, check=True, capture_output=True, timeout=30)
    assert done.stdout == b"hello\n"
    cli.run("umount", where)


def test_the_daemon_is_on_its_own(cli: CommandLine, archive: Path, mount: Mount) -> None:
    pid = cli.record(mount(archive))["pid"]
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.readlink(f"/proc/{pid}/fd/0") == os.devnull
    assert os.readlink(f"/proc/{pid}/fd/1") == os.devnull


# ---- unmounting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["umount", "unmount"])
def test_unmount_by_id(cli: CommandLine, archive: Path, where: Path, command: str) -> None:
    cli.run("mount", archive, where)
    cli.run(command, cli.record(where)["id"])
    assert not is_mounted(where)


def test_unmount_waits_for_the_daemon(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", archive, where)
    pid = cli.record(where)["pid"]
    cli.run("umount", where)
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or b") Z " in state.read_bytes()  # nobody may have reaped it yet


def test_unmount_everything(cli: CommandLine, archive: Path, mount: Mount) -> None:
    places = [mount(archive, at=archive.parent / name) for name in ("one", "two", "three")]
    cli.run("umount", "-a")
    assert not any(map(is_mounted, places))
    assert cli.records() == []
    cli.run("umount", "-a")


def test_a_busy_mount_stays(
    cli: CommandLine, archive: Path, where: Path, descriptors: list[int]
) -> None:
    cli.run("mount", archive, where)
    descriptors.append(os.open(where / "etc/motd", os.O_RDONLY))
    message = cli.error("umount", where)
    assert "is in use" in message
    assert "--lazy" in message
    assert read_motd(where) == "hello\n"
    daemon = daemon_of(cli, where)
    cli.run("umount", "--lazy", where)
    assert not is_mounted(where)
    assert cli.record(where)["status"] == "detached: still in use"
    assert os.read(descriptors[0], 100) == b"hello\n"
    os.close(descriptors.pop())
    daemon.wait()
    assert cli.records() == []


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["umount"], marks=pytest.mark.needs("root")),
        pytest.param(["umount", "-l"], marks=pytest.mark.needs("root")),
        pytest.param(["fusermount3", "-u"], marks=pytest.mark.needs("fusermount3")),
    ],
    ids=" ".join,
)
def test_others_may_unmount(
    cli: CommandLine, archive: Path, where: Path, command: list[str]
) -> None:
    cli.run("mount", archive, where)
    daemon = daemon_of(cli, where)
    subprocess.run([*command, where], check=True)
    daemon.wait()
    assert cli.records() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_unmount(
    cli: CommandLine, archive: Path, where: Path, number: signal.Signals
) -> None:
    cli.run("mount", archive, where)
    daemon = daemon_of(cli, where)
    os.kill(cli.record(where)["pid"], number)
    daemon.wait()
    assert not is_mounted(where)
    assert cli.records() == []


def test_the_second_signal_ends_a_daemon_in_use(
    cli: CommandLine, archive: Path, where: Path, descriptors: list[int]
) -> None:
    cli.run("mount", archive, where)
    descriptors.append(os.open(where, os.O_RDONLY))
    daemon, pid = daemon_of(cli, where), cli.record(where)["pid"]
    os.kill(pid, signal.SIGTERM)
    wait_for_mounts(lambda: not is_mounted(where))
    descriptors.append(os.open("etc/motd", os.O_RDONLY, dir_fd=descriptors[0]))
    assert os.read(descriptors[1], 100) == b"hello\n"
    os.kill(pid, signal.SIGTERM)
    daemon.wait()
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTCONN):
        os.stat("etc/new", dir_fd=descriptors[0])  # what the kernel has not asked for yet
    assert cli.records() == []


@pytest.mark.needs("root")
def test_a_signal_unmounts_every_place(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", archive, where)
    other = where.parent / "other"
    other.mkdir()
    subprocess.run(["mount", "--bind", where, other], check=True)
    daemon = daemon_of(cli, where)
    os.kill(cli.record(where)["pid"], signal.SIGTERM)
    daemon.wait()
    assert not is_mounted(where)
    assert not is_mounted(other)


@pytest.mark.needs("root")
def test_stacked_mounts_are_told_apart(cli: CommandLine, archive: Path, where: Path) -> None:
    second = docker_archive(where.parent / "second.tar", [Layer().file("second")])
    cli.run("mount", archive, where)
    first_id = cli.record(where)["id"]
    told = cli.error("mount", second, where)
    assert told.endswith("unmount it, or cover it with --over")
    cli.run("mount", "--over", second, where)
    assert (where / "second").exists()
    assert "mounted over it" in cli.error("umount", first_id)
    assert (where / "second").exists()
    cli.run("umount", where)
    assert read_motd(where) == "hello\n"
    cli.run("umount", first_id)


def test_nothing_but_images_is_unmounted(cli: CommandLine, where: Path) -> None:
    assert "no image is mounted there" in cli.error("umount", where)
    assert "no image is mounted there" in cli.error("umount", "/proc")
    cli.error("umount", "0123456789ab")
    assert Path("/proc/self").exists()


def test_one_failure_does_not_stop_the_others(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", archive, where)
    done = cli.run("umount", where.parent / "nothing", where, status=1)
    assert done.stderr.count("\n") == 1
    assert not is_mounted(where)


# ---- in the foreground ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground(cli: CommandLine, archive: Path, where: Path, number: signal.Signals) -> None:
    command = [*COMMAND, "mount", "--foreground", str(archive), str(where)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{where}\n"
        assert read_motd(where) == "hello\n"
        assert cli.record(where)["pid"] == process.pid
        process.send_signal(number)
        assert process.wait(timeout=30) == 0
    assert not is_mounted(where)
    assert cli.records() == []


# ---- after a crash -------------------------------------------------------------------------------


@pytest.fixture
def dead(cli: CommandLine, archive: Path, where: Path) -> Iterator[Path]:
    """A mount whose daemon was killed."""
    cli.run("mount", archive, where)
    daemon = daemon_of(cli, where)
    os.kill(cli.record(where)["pid"], signal.SIGKILL)
    daemon.wait()
    yield where
    if is_mounted(where):
        cli.run("umount", where)


def test_umount_cleans_up_after_a_dead_daemon(cli: CommandLine, dead: Path) -> None:
    assert cli.record(dead)["status"] == "stale: Transport endpoint is not connected"
    cli.run("umount", dead)
    assert not is_mounted(dead)
    assert cli.records() == []
    assert list(dead.iterdir()) == []


def test_ps_cleans_up_after_a_dead_daemon(cli: CommandLine, dead: Path) -> None:
    assert cli.run("ps", "--clean").stdout.count("\n") == 1
    assert not is_mounted(dead)


def test_mounting_on_a_dead_mount(cli: CommandLine, archive: Path, dead: Path) -> None:
    cli.run("mount", archive, dead)  # which cleans the dead one away
    assert [one["status"] for one in cli.records()] == ["live"]
    cli.run("umount", dead)
    assert not is_mounted(dead)


def test_what_others_leave_dead_is_cleaned_away_by_the_next_command(
    cli: CommandLine, archive: Path, dead: Path, tmp_path: Path
) -> None:
    log = Path(os.environ["UNIONMOUNT_RUNTIME_DIR"], "mounts", f"{cli.record(dead)['id']}.log")
    log.write_text("why it died\n", encoding="ascii")
    other = tmp_path / "other"
    cli.run("mount", "--mkdir", archive, other)
    assert not is_mounted(dead)
    assert [one["mountpoint"] for one in cli.records()] == [str(other)]
    assert log.exists()
    os.kill(cli.record(other)["pid"], signal.SIGKILL)
    assert cli.run("umount", other).stderr == ""
    cli.run("prune")
    assert not log.exists()


def test_a_mount_point_is_made(cli: CommandLine, archive: Path, tmp_path: Path) -> None:
    deep = tmp_path / "a/b/c"
    assert cli.run("mount", "--mkdir", "--ro", archive, deep).stdout == f"{deep}\n"
    cli.run("umount", deep)
    cli.run("mount", "--mkdir", "--ro", archive, deep)  # it may be there
    cli.run("umount", deep)
    assert deep.is_dir()
    cli.error("mount", "--mkdir", tmp_path / "no.tar", tmp_path / "d/e")
    assert not (tmp_path / "d").exists()
    (tmp_path / "file").touch()
    assert "Not a directory" in cli.error("mount", "--mkdir", archive, tmp_path / "file/x")


def test_an_automatic_mount_point_is_cleaned_up(cli: CommandLine, archive: Path) -> None:
    where = Path(cli.run("mount", archive).stdout.rstrip("\n"))
    daemon = daemon_of(cli, where)
    os.kill(cli.record(where)["pid"], signal.SIGKILL)
    daemon.wait()
    cli.run("umount", "-a")
    assert not where.exists()


@pytest.mark.needs("root")
def test_a_dead_mount_that_somebody_unmounted(cli: CommandLine, dead: Path) -> None:
    subprocess.run(["umount", dead], check=True)
    assert cli.record(dead)["status"] == "gone"
    cli.run("umount", dead)
    assert cli.records() == []


@pytest.mark.needs("root")
def test_a_record_of_the_dead_does_not_harm_the_living(
    cli: CommandLine, archive: Path, dead: Path
) -> None:
    subprocess.run(["umount", dead], check=True)
    cli.run("mount", archive, dead)  # with luck it even gets the same device number
    assert [one["status"] for one in cli.records()] == ["live"]
    assert read_motd(dead) == "hello\n"
    cli.run("umount", dead)


# ---- what can't be mounted -----------------------------------------------------------------------


def test_failures_leave_nothing_behind(cli: CommandLine, archive: Path, where: Path) -> None:
    (where.parent / "file").touch()
    (where.parent / "not-an-image.tar").write_bytes(b"x" * 10000)
    top = where.parent
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((archive, top / "missing"), "does not exist"),
        ((archive, top / "file"), "is not a directory"),
        ((top / "no-such.tar", where), "no-such.tar"),
        ((top / "not-an-image.tar", where), "not-an-image.tar"),
        (("no-such-image", where), "no-such-image"),
        (("ostree:name", where), "transport"),
        (("docker://name", where), "no registry"),
        ((f"docker-archive:{archive}:other", where), "other"),
        (("--platform", "linux/s390x", f"{archive}", where), "s390x"),
    ]
    for arguments, expected in cases:
        status = 2 if expected == "transport" else 1
        assert expected in cli.error("mount", *arguments, status=status)
    assert not is_mounted(where)
    assert cli.records() == []


@pytest.mark.parametrize(
    ("option", "expected"),
    [("dev,colour=red", "colour=red"), ("xattrs=all", "xattrs=all")],
)
def test_unknown_options(
    cli: CommandLine, archive: Path, where: Path, option: str, expected: str
) -> None:
    assert expected in cli.error("mount", "-o", option, archive, where)


@pytest.mark.needs("root", "unshare")
def test_without_a_fuse_device(archive: Path, where: Path) -> None:
    script = 'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    message = CommandLine(prefix).error("mount", archive, where)
    assert message.startswith("/dev/fuse: No such file or directory (")


@pytest.mark.needs("root", "setpriv")
def test_without_the_capability(archive: Path, where: Path) -> None:
    message = CommandLine(("setpriv", "--bounding-set=-sys_admin")).error("mount", archive, where)
    assert "CAP_SYS_ADMIN" in message


@pytest.mark.needs("root", "unshare")
def test_a_device_that_is_not_fuse(cli: CommandLine, archive: Path, where: Path) -> None:
    script = 'mount --bind /dev/null /dev/fuse && exec "$@"'
    message = CommandLine(("unshare", "--mount", "sh", "-c", script, "sh")).error(
        "mount", archive, where
    )
    assert str(where) in message
    assert cli.records() == []


def test_a_runtime_directory_of_somebody_else(archive: Path, tmp_path: Path, where: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    cli = CommandLine(environment={"UNIONMOUNT_RUNTIME_DIR": str(tmp_path / "open")})
    assert "does not belong to this user alone" in cli.error("mount", archive, where)


# ---- images --------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path: Path) -> CommandLine:
    """A command line whose store is empty."""
    return CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})


def test_load_reads_a_pipe(fresh: CommandLine, archive: Path) -> None:
    with subprocess.Popen(["cat", archive], stdout=subprocess.PIPE) as cat:
        loaded = fresh.run("load", "-q", stdin=cat.stdout).stdout.strip()
    assert loaded.startswith("sha256:")
    assert fresh.run("images", "-q", "--no-trunc").stdout.strip() == loaded


def test_load_refuses_a_terminal(fresh: CommandLine) -> None:
    controller, terminal = os.openpty()
    try:
        done = fresh.run("load", stdin=terminal, status=2)
    finally:
        os.close(controller)
        os.close(terminal)
    assert "terminal" in done.stderr


def test_load_says_what_is_no_archive(fresh: CommandLine, tmp_path: Path) -> None:
    assert "standard input: not an image archive" in fresh.error("load")
    assert "is empty" in fresh.error("load", "-i", "", status=2)
    (tmp_path / "empty").mkdir()
    cli = CommandLine(("env", "-C", str(tmp_path)), {"UNIONMOUNT_ROOT": str(tmp_path / "root")})
    assert "not an OCI image layout" in cli.error("load", "-i", "empty")
    assert "no-such: no such file" in cli.error("load", "-i", "no-such")


def test_what_can_not_be_read_is_named(fresh: CommandLine, where: Path) -> None:
    error = fresh.error("load", "-i", "/dev/fuse", status=2)
    assert error.startswith("/dev/fuse: is a character device, not an archive")
    assert fresh.error("mount", "/proc/self/mem", where) == "/proc/self/mem: Input/output error"


def test_the_limit_of_a_stream_is_named(tmp_path: Path, archive: Path) -> None:
    environment = {"UNIONMOUNT_ROOT": str(tmp_path / "r"), "UNIONMOUNT_MAX_LAYER_SIZE": "1K"}
    with archive.open("rb") as file:
        done = CommandLine(environment=environment).run("load", stdin=file, status=1)
    assert "more than 1024 bytes (the limit; UNIONMOUNT_MAX_LAYER_SIZE changes it)" in done.stderr


def test_the_limit_of_memory_for_an_index_is_named(tmp_path: Path, where: Path) -> None:
    layer = Layer()
    for number in range(3000):
        layer.file(f"{number:05}")
    archive = docker_archive(tmp_path / "many.tar", [layer])
    environment = {"UNIONMOUNT_ROOT": str(tmp_path / "r"), "UNIONMOUNT_MAX_INDEX_MEMORY": "256K"}
    small = CommandLine(environment=environment)
    for words in (("load", "-i", archive), ("mount", "--ro", archive, where)):
        text = small.error(*words)
        assert "sha256:" in text
        assert "more than 262144 bytes of memory" in text
        assert "(the limit; UNIONMOUNT_MAX_INDEX_MEMORY changes it)" in text
    enough = CommandLine(environment=environment | {"UNIONMOUNT_MAX_INDEX_MEMORY": "4M"})
    enough.run("load", "-i", archive)


def test_images(fresh: CommandLine, archive: Path) -> None:
    assert fresh.run("images").stdout.split() == [
        "REPOSITORY",
        "TAG",
        "IMAGE",
        "ID",
        "CREATED",
        "SIZE",
    ]
    image_id = fresh.run("load", "-q", "-i", archive).stdout.strip()
    header, line = fresh.run("images").stdout.splitlines()
    assert line.split()[:3] == ["test", "latest", image_id.removeprefix("sha256:")[:12]]
    assert "years ago" in line
    assert line.endswith("   14B")  # of the files, not of the tars
    (one,) = json.loads(fresh.run("images", "--format", "json").stdout)
    assert (one["repository"], one["tag"], one["id"]) == ("test", "latest", image_id)
    assert one["created"] == "2020-09-13T12:26:40Z"
    assert image_id in fresh.run("images", "--no-trunc").stdout
    assert header.startswith("REPOSITORY   TAG")


def test_layers(fresh: CommandLine, archive: Path) -> None:
    _, first, second, blank, last = fresh.run("layers", archive).stdout.splitlines()
    assert first.split()[0] == "0"
    assert first.endswith("ADD base")
    assert second.endswith("RUN change")
    assert second.split()[-6:-2] == ["1", "0", "1", "0B"]
    assert blank == ""
    assert last == "Efficiency 71.4 %: 4B of 14B in files are wasted"
    changes = fresh.run("layers", archive, "1").stdout.splitlines()
    assert {"A /etc/new", "D /etc/old"} <= set(changes)
    assert "no layer 2" in fresh.error("layers", archive, "2")


def test_check_names_broken_links(fresh: CommandLine, archive: Path, tmp_path: Path) -> None:
    assert fresh.run("check", archive).stdout == ""
    layer = Layer().file("there").hard_link("broken", "not-there")
    found = fresh.run("check", docker_archive(tmp_path / "broken.tar", [layer]), status=1).stdout
    assert "broken" in found
    assert "not-there" in found
    assert found.count("\n") == 1


def test_check_names_a_wrong_digest(fresh: CommandLine, archive: Path) -> None:
    archive.write_bytes(archive.read_bytes().replace(b"hello\n", b"HELLO\n"))
    found = fresh.run("check", archive, status=1).stdout
    assert "sha256:" in found


def test_names_from_outside_do_not_reach_the_terminal(
    fresh: CommandLine, tmp_path: Path, where: Path
) -> None:
    layer = Layer().file("evil\x1b[31m\nname")
    image = docker_archive(tmp_path / "evil\x1b[2J.tar", [layer], history=["RUN \x1b]0;title\x07"])
    fresh.run("mount", image, where)
    shown = [
        fresh.run("ps").stdout,
        fresh.run("layers", image).stdout,
        fresh.run("layers", image, "0").stdout,
        fresh.run("mount", tmp_path / "none\x1b[0m", where, status=1).stderr,
    ]
    fresh.run("umount", where)
    assert not any(c in text for text in shown for c in "\x1b\x07")
    assert shown[2] == "A /evil\\x1b[31m\\nname\n"


def test_a_reader_that_has_seen_enough(archive: Path) -> None:
    script = '"$@" | head -n 1'
    shell = ["sh", "-c", script, "sh", *COMMAND, "layers", str(archive), "0"]
    done = subprocess.run(shell, capture_output=True, check=True)
    assert done.stderr == b""


@pytest.mark.parametrize("unread", ["layers", "version"])
def test_a_reader_that_reads_nothing(archive: Path, unread: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [unread, str(archive)] if unread == "layers" else [unread]
    try:
        done = subprocess.run([*COMMAND, *arguments], stdout=writer, stderr=-1, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_that_knows_ascii_only(tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "image.tar", [Layer()], history=["caf\xe9 " + "x" * 80])
    cli = CommandLine(environment={"PYTHONIOENCODING": "ascii"})
    assert "caf\\xe9 xxx" in cli.run("layers", archive).stdout


def test_a_mount_without_a_record_is_unmounted_lazily(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    cli.run("mount", archive, where)
    stranger = CommandLine(environment={"UNIONMOUNT_RUNTIME_DIR": str(where.parent / "run")})
    with (where / "etc/motd").open("rb"):
        daemon = daemon_of(cli, where)
        assert "in use" in stranger.error("umount", where)
        stranger.run("umount", "--lazy", where)
        assert not is_mounted(where)
    daemon.wait()


# ---- programs on the mount -----------------------------------------------------------------------


@pytest.mark.needs("root", "busybox")
def test_a_shell_in_a_chroot(tmp_path: Path, mount: Mount) -> None:
    busybox = Path(shutil.which("busybox") or "").resolve().read_bytes()
    layer = Layer().directory("bin").file("bin/busybox", busybox, mode=0o755)
    layer.symlink("bin/sh", "busybox").hard_link("bin/ls", "bin/busybox")
    layer.add("dev", tarfile.DIRTYPE, mode=0o755)
    root = mount(docker_archive(tmp_path / "busybox.tar", [layer]))
    script = "ls /bin && test -d /dev && ! touch /new 2>/dev/null && echo done"
    done = subprocess.run(
        ["chroot", root, "/bin/sh", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["busybox", "ls", "sh", "done"]


def test_python_version_is_the_installed_one(cli: CommandLine) -> None:
    assert cli.run("version").stdout.startswith("unionmount 0.")
    assert sys.executable in COMMAND


# ---- limits of the caller ------------------------------------------------------------------------


@pytest.fixture
def many_layers(tmp_path: Path) -> Path:
    layers = [Layer().file(f"f{number}", b"hello\n") for number in range(128)]
    return docker_archive(tmp_path / "many.tar", layers)


def test_more_layers_than_open_files(many_layers: Path, where: Path) -> None:
    cli = CommandLine(("prlimit", "--nofile=64:1024"))
    cli.run("mount", many_layers, where)
    assert len(list(where.iterdir())) == 128
    open_files = Path(f"/proc/{cli.record(where)['pid']}/fd").iterdir()
    others = [fd for fd in open_files if fd.readlink().suffix not in (".py", ".pyc", ".so")]
    assert len(others) < 128 + 32, "the descriptors of the indexes are closed"
    cli.run("umount", where)
    assert "Too many open files" not in cli.run("check", many_layers).stdout


def test_more_layers_than_open_files_may_be(many_layers: Path, where: Path) -> None:
    cli = CommandLine(("prlimit", "--nofile=64:64"))
    message = cli.error("mount", many_layers, where)
    assert message.endswith("Too many open files (the limit is 64, see ulimit -n)")
    assert not is_mounted(where)


def test_an_image_without_layers(cli: CommandLine, tmp_path: Path, where: Path) -> None:
    cli.run("mount", "--ro", docker_archive(tmp_path / "empty.tar", []), where)
    assert list(where.iterdir()) == []
    for name in ("user.unionmount.layer", "user.unionmount.layer_index"):
        with pytest.raises(OSError, match="No data") as failure:
            os.getxattr(where, name)
        assert failure.value.errno == errno.ENODATA
    cli.run("umount", where)


# ---- while a mount starts ------------------------------------------------------------------------


def held_up(archive: Path, where: Path, code: str) -> subprocess.Popen[str]:
    """``mount`` in a process where ``code`` stands before the file system is mounted."""
    script = f"""
import os, sys, unionmount.mounting.serve as module
from unionmount.cli import main
mount_fuse = module.mount_fuse
def held_up(*arguments, **named):
    {code}
    return mount_fuse(*arguments, **named)
module.mount_fuse = held_up
sys.exit(main(["mount", {str(archive)!r}, {str(where)!r}]))
"""
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, stdout=-1, stderr=-1, text=True)


def test_a_mount_nobody_waits_for_does_not_stay(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    fifo = where.parent / "fifo"
    os.mkfifo(fifo)
    with held_up(archive, where, f"open({str(fifo)!r}).read()") as caller:
        with fifo.open("w"):  # opens when the daemon is there
            daemon = daemon_of(cli, where)
            caller.kill()
            caller.wait()
        daemon.wait()
    assert not is_mounted(where)
    assert cli.records() == []


def test_a_starting_mount_is_unmounted(cli: CommandLine, archive: Path, where: Path) -> None:
    fifo = where.parent / "fifo"
    os.mkfifo(fifo)
    with held_up(archive, where, f"open({str(fifo)!r}).read()") as caller:
        with fifo.open("w"):
            assert cli.record(where)["status"] == "starting"
            cli.run("umount", "--lazy", where)
        caller.communicate(timeout=30)
    daemons = [Process(one["pid"]) for one in cli.records()]
    for daemon in daemons:
        daemon.wait()
    assert not is_mounted(where)
    assert cli.records() == []


def test_a_failure_right_after_mounting_leaves_nothing(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    code = "module.mounted_at = lambda _: os.stat('/no/such/table')"
    with held_up(archive, where, code) as caller:
        _, message = caller.communicate(timeout=30)
    assert caller.returncode == 1
    assert message == "unionmount: /no/such/table: No such file or directory\n"
    assert not is_mounted(where)
    assert cli.records() == []


@pytest.mark.needs("root")
def test_no_room_for_the_record(archive: Path, where: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=4", "none", full], check=True)
    try:
        cli = CommandLine(environment={"UNIONMOUNT_RUNTIME_DIR": str(full / "run")})
        (full / "file").touch()
        message = cli.error("mount", archive, where)
        assert message.startswith(f"record {full}/run/mounts/")
        assert message.endswith("No space left on device")
        assert not is_mounted(where)
    finally:
        subprocess.run(["umount", full], check=True)


def test_umount_needs_no_place_for_the_store(
    user: CommandLine, home: Path, public_tmp: Path
) -> None:
    image = docker_archive(public_tmp / "image.tar", [Layer().file("file", b"1")])
    where = public_tmp / "mnt"
    where.mkdir()
    if os.geteuid() == 0:
        shutil.chown(where, user=NOBODY)
    homeless = CommandLine(user.prefix, user.environment | {"HOME": "/nonexistent"})
    homeless.environment |= {"UNIONMOUNT_ROOT": "", "XDG_DATA_HOME": ""}
    assert "no place for the store" in homeless.error("mount", image, where)
    homeless.run("--root", home / "store", "mount", image, where)
    homeless.run("umount", where)
    assert not is_mounted(where)
