"""Mounts that end with something else: a command, a process, a mount namespace; and by force."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounting import (
    COMMAND,
    CommandLine,
    Process,
    has_python,
    is_mounted,
    make_with_python,
    wait_for_mounts,
)

pytestmark = pytest.mark.needs("fuse")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line with a store and mounts of the test's own."""
    places = {"UNIONMOUNT_ROOT": tmp_path / "store", "UNIONMOUNT_RUNTIME_DIR": tmp_path / "run"}
    line = CommandLine(environment={name: str(path) for name, path in places.items()})
    yield line
    line.run("umount", "--all", "--kill")
    assert line.records() == []


@pytest.fixture
def where(tmp_path: Path) -> Path:
    (tmp_path / "mnt").mkdir()
    return tmp_path / "mnt"


# ---- with a command ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("cat etc/motd; exit 7", 7),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("echo made >etc/made", 0),
    ],
)
def test_a_command_has_the_mount_and_gives_its_status(
    cli: CommandLine, archive: Path, where: Path, script: str, status: int
) -> None:
    command = f'cd "$UNIONMOUNT_MOUNTPOINT"; {script}'
    options = ("--ephemeral", archive, where)
    done = cli.run("mount", *options, "--", "sh", "-c", command, status=status)
    assert done.stdout == ("hello\n" if "motd" in script else "")
    assert done.stderr == ""
    assert not is_mounted(where)
    assert cli.records() == []


def test_what_a_command_changed_is_on_disk_when_it_returns(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path
) -> None:
    script = 'echo made >"$UNIONMOUNT_MOUNTPOINT/made"'
    cli.run("mount", "--upper", tmp_path / "up", archive, where, "--", "sh", "-c", script)
    assert (tmp_path / "up/made").read_text() == "made\n"
    assert cli.records() == []


def test_without_a_directory_one_is_made_and_removed(cli: CommandLine, archive: Path) -> None:
    script = 'echo "$UNIONMOUNT_MOUNTPOINT"; cat "$UNIONMOUNT_MOUNTPOINT/etc/motd"; cat'
    done = subprocess.run(
        [*COMMAND, "mount", "--ro", archive, "--", "sh", "-c", script],
        input="typed\n",
        capture_output=True,
        text=True,
        env=cli.environment,
        check=True,
    )
    path, *rest = done.stdout.splitlines()
    assert rest == ["hello", "typed"]
    assert not Path(path).exists()


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (("no-such-program",), 127, "no-such-program: command not found"),
        (("/etc/passwd",), 126, "/etc/passwd: Permission denied"),
        (("",), 127, "the name of the command is empty"),
    ],
)
def test_a_command_that_can_not_run(
    cli: CommandLine, archive: Path, where: Path, words: tuple[str, ...], status: int, told: str
) -> None:
    assert cli.error("mount", "--ro", archive, where, "--", *words, status=status) == told
    assert not is_mounted(where)


def test_a_command_may_unmount(cli: CommandLine, archive: Path, where: Path) -> None:
    command = f'{" ".join(COMMAND)} umount "$UNIONMOUNT_MOUNTPOINT"; exit 3'
    done = cli.run("mount", "--ephemeral", archive, where, "--", "sh", "-c", command, status=3)
    assert (done.stdout, done.stderr) == ("", "")
    lazily = 'fusermount3 -uz "$UNIONMOUNT_MOUNTPOINT" || umount -l "$UNIONMOUNT_MOUNTPOINT"'
    done = cli.run("mount", "--ephemeral", archive, where, "--", "sh", "-c", lazily)
    assert (done.stdout, done.stderr) == ("", "")
    assert cli.records() == []


def test_a_command_does_not_run_without_the_mount(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path
) -> None:
    run = ("--", "touch", tmp_path / "ran")
    cli.error("mount", tmp_path / "no.tar", where, *run)
    cli.error("mount", "--foreground", archive, where, *run, status=2)
    cli.error("mount", archive, where, "--", status=2)
    assert not (tmp_path / "ran").exists()


def test_two_dashes_without_an_image_before_them_end_the_options(
    cli: CommandLine, archive: Path, where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(archive.parent)
    archive.rename(archive.parent / "-image.tar")
    assert cli.run("mount", "--ro", "--", "-image.tar", where).stdout == f"{where}\n"
    cli.run("umount", where)
    words = ("--", "-image.tar", where, "--", "test", "-e", where / "etc/motd")
    assert cli.run("mount", "--ro", *words).stdout == ""
    cli.run("mount", "--ro", archive.parent / "-image.tar", "--", "printf", "--", "x")


def test_what_a_command_leaves_behind_keeps_the_mount_detached(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    script = 'exec 8<&0 9<"$0"; cat <&8 >/dev/null 2>&1 & echo $!'
    words = ("--", "sh", "-c", script, str(where / "etc/motd"))
    with subprocess.Popen(
        [*COMMAND, "mount", "--ro", str(archive), str(where), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=cli.environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        pid = process.stdout.readline().strip()
        assert process.wait() == 0
        told = process.stderr.read()
        assert f"in use by cat (process {pid}) at {where}/etc/motd: it is detached" in told
        assert not is_mounted(where)
        (one,) = cli.records()
        daemon = Process(one["pid"])
        process.stdin.close()
        daemon.wait()


CATCH = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda *_: (print("interrupted", flush=True), os._exit(5)))
signal.signal(signal.SIGTERM, lambda *_: (print("terminated", flush=True), os._exit(6)))
print("tty" if os.isatty(0) else "no tty", flush=True)
signal.pause()
"""


def test_ctrl_c_goes_to_the_command(cli: CommandLine, archive: Path, where: Path) -> None:
    command = [*COMMAND, "mount", "--ro", str(archive), str(where), "--", sys.executable, "-c"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, [*command, CATCH], cli.environment)
    output = b""
    while b"tty" not in output:
        output += os.read(terminal, 1000)
    assert b"no tty" not in output
    os.write(terminal, b"\x03")
    while b"interrupted" not in output:
        output += os.read(terminal, 1000)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 5
    assert not is_mounted(where)


def test_a_signal_is_handed_on(cli: CommandLine, archive: Path, where: Path) -> None:
    command = [
        *COMMAND,
        "mount",
        "--ro",
        str(archive),
        str(where),
        "--",
        sys.executable,
        "-c",
        CATCH,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=cli.environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"no tty\n"
        process.terminate()
        assert process.stdout.read() == b"terminated\n"
    assert process.returncode == 6
    assert not is_mounted(where)


def test_the_mount_ends_when_its_command_line_is_killed(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    command = [
        *COMMAND,
        "mount",
        "--ro",
        str(archive),
        str(where),
        "--",
        "sh",
        "-c",
        "echo; exec cat",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=cli.environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        daemon = Process(cli.record(where)["pid"])
        process.kill()
        daemon.wait()
    assert not is_mounted(where)


# ---- with a process ------------------------------------------------------------------------------


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("ignored", [(), (signal.SIGTERM,)])
def test_a_mount_ends_with_a_process(
    cli: CommandLine,
    archive: Path,
    where: Path,
    ignored: tuple[signal.Signals, ...],
    *,
    python: bool,
) -> None:
    before = {one: signal.signal(one, signal.SIG_IGN) for one in ignored}
    try:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
            cli.run("mount", "--ephemeral", "--with", str(process.pid), archive, where)
            pid = cli.record(where)["pid"]
            daemon = Process(pid)
            if python:
                make_with_python(where / "made")
            assert has_python(pid) is python
            assert (where / "etc/motd").read_text() == "hello\n"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    daemon.wait()
    assert not is_mounted(where)


def test_a_process_that_there_is_not(cli: CommandLine, archive: Path, where: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    told = cli.error("mount", "--ro", "--with", str(process.pid), archive, where, status=2)
    assert "No such process" in told
    assert not is_mounted(where)


# ---- with a mount namespace ----------------------------------------------------------------------

ROOT = pytest.param(("unshare", "-m"), marks=pytest.mark.needs("root", "unshare"), id="root")
USER = pytest.param(("unshare", "-Urm"), marks=pytest.mark.needs("unshare"), id="user")


MAKE = """
import os, sys
os.close(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o2644))
assert os.stat(sys.argv[1]).st_mode & 0o7777 == 0o2644
"""


class Inside:
    """A mount namespace with a shell in it."""

    def __init__(self, cli: CommandLine, command: tuple[str, ...]) -> None:
        self.process = subprocess.Popen(
            [*command, "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=cli.environment,
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()
        enter = ["nsenter", "-t", str(self.process.pid), "-m"]
        enter += ["-U", "--preserve-credentials"] if "-Urm" in command else []
        self.cli = CommandLine((*enter, "--"), dict(cli.environment))

    def make_with_python(self, path: Path) -> None:
        """Have a file made by Python's part of the server, as it serves the namespace."""
        subprocess.run([*self.cli.prefix, sys.executable, "-c", MAKE, path], check=True)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=[ROOT, USER])
def inside(request: pytest.FixtureRequest, cli: CommandLine) -> Iterator[Inside]:
    made = Inside(cli, request.param)
    yield made
    made.end()


@pytest.mark.parametrize("python", [False, True])
def test_a_mount_ends_with_its_namespace(
    cli: CommandLine, inside: Inside, archive: Path, where: Path, tmp_path: Path, *, python: bool
) -> None:
    second = tmp_path / "second"
    inside.cli.run("mount", "--name", "web", archive, where)
    inside.cli.run("mount", "--mkdir", "--ro", archive, second)
    # later mounts do not keep earlier ones, or the other way round
    pids = [inside.cli.record(path)["pid"] for path in (where, second)]
    daemons = [Process(pid) for pid in pids]
    if python:
        inside.make_with_python(where / "made")
    assert [has_python(pid) for pid in pids] == [python, False]
    written = subprocess.run(
        [*inside.cli.prefix, "sh", "-c", f"echo kept >{where}/kept; cat {second}/etc/motd"],
        capture_output=True,
        check=True,
    )
    assert written.stdout == b"hello\n"
    assert not is_mounted(where)
    inside.end()
    for daemon in daemons:
        daemon.wait()
    assert cli.records() == []
    assert (tmp_path / "store/containers/web/upper/kept").read_text() == "kept\n"


def test_a_mount_lives_as_long_as_anybody_is_in_its_namespace(
    inside: Inside, archive: Path, where: Path
) -> None:
    inside.cli.run("mount", "--ro", archive, where)
    with subprocess.Popen(
        [*inside.cli.prefix, "sh", "-c", f"echo; read x; cat {where}/etc/motd"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        inside.end()
        output, _ = other.communicate(b"\n")
    assert output == b"hello\n"


@pytest.mark.parametrize("python", [False, True])
@pytest.mark.parametrize("how", ["umount", "signal", "kill"])
def test_a_mount_in_a_namespace_is_taken_away(
    cli: CommandLine, inside: Inside, archive: Path, where: Path, how: str, *, python: bool
) -> None:
    inside.cli.run("mount", "--ephemeral", archive, where)
    record = inside.cli.record(where)
    daemon = Process(record["pid"])
    if python:
        inside.make_with_python(where / "made")
    assert has_python(record["pid"]) is python
    if how == "umount":
        inside.cli.run("umount", where)
    elif how == "kill":  # from outside, where it does not show
        cli.run("umount", "--kill", record["id"])
    else:
        os.kill(record["pid"], signal.SIGTERM)
    daemon.wait()
    left = [*inside.cli.prefix, "mountpoint", "-q", str(where)]
    assert subprocess.run(left, check=False).returncode != 0
    assert inside.cli.records() == []


@pytest.mark.needs("root", "unshare", "losetup", "mkfs.ext4")
def test_a_mount_keeps_no_other_file_system_in_use(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path
) -> None:
    disk, beside = tmp_path / "disk", tmp_path / "beside"
    beside.mkdir()
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    inside = Inside(cli, ("unshare", "-m"))
    try:
        subprocess.run([*inside.cli.prefix, "mount", "-o", "loop", disk, beside], check=True)
        inside.cli.run("mount", "--name", "web", archive, where)
        pid = inside.cli.record(where)["pid"]
        daemon = Process(pid)
        subprocess.run([*inside.cli.prefix, "umount", beside], check=True)
        # The device is free once no mount of it is left in any namespace.
        attached = subprocess.run(
            ["losetup", "-j", disk], capture_output=True, text=True, check=True
        )
        assert attached.stdout == ""
        table = Path(f"/proc/{pid}/mountinfo").read_text()
        assert str(beside) not in table
    finally:
        inside.end()
    daemon.wait()


IN_CONTAINER = """
"$@" >/dev/null
for pid in $(ls /proc | grep "^[0-9]*$"); do
    readlink "/proc/$pid/ns/mnt" || true
done | sort -u | wc -l
"""


@pytest.mark.needs("root", "unshare")
def test_nobody_leaves_the_namespace_of_process_1(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    container = ["unshare", "-mpf", "--mount-proc", "--kill-child"]
    mount = [*COMMAND, "mount", "--ro", str(archive), str(where)]
    done = subprocess.run(
        [*container, "sh", "-c", IN_CONTAINER, "sh", *mount],
        capture_output=True,
        text=True,
        env=cli.environment,
        check=True,
    )
    assert done.stdout == "1\n"  # which ends with process 1


# ---- by force ------------------------------------------------------------------------------------


def test_used_and_stopped_mounts_are_ended(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"
    cli.run("mount", "--upper", tmp_path / "up", archive, where)
    cli.run("mount", "--mkdir", "--ro", archive, stopped)
    (where / "made").write_text("made")
    with (where / "etc/motd").open() as used:
        pids = [cli.record(path)["pid"] for path in (where, stopped)]
        daemons = [Process(pid) for pid in pids]
        os.kill(pids[1], signal.SIGSTOP)
        told = cli.run("umount", "--all", "--kill").stderr
        assert f"(process {os.getpid()}) at {where}/etc/motd: ending it" in told
        for daemon in daemons:
            daemon.wait()
        with pytest.raises(OSError, match=r"not connected|abort"):
            os.fstatvfs(used.fileno())
    assert not is_mounted(where)
    assert not is_mounted(stopped)
    assert (tmp_path / "up/made").read_text() == "made"
    wait_for_mounts(lambda: cli.records() == [])
