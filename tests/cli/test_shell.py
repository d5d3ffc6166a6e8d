"""``shell``: in images, containers and mounts; and limits and names of containers."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import COMMAND
from support.running import RUNTIMES, Runner, program_image, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("fuse", "root", "busybox", *RUNTIMES),
]
runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The command line, with a store of this file."""
    with running(Runner(tmp_path_factory.mktemp("shell"))) as made:
        yield made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image whose entrypoint is no shell."""
    return program_image(
        tmp_path_factory.mktemp("image") / "image.tar", Entrypoint=["/bin/false"], WorkingDir="/srv"
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image without any program."""
    layer = Layer().directory("etc").file("etc/motd", b"hello\n")
    return docker_archive(tmp_path_factory.mktemp("bare") / "bare.tar", [layer])


# ---- shell ---------------------------------------------------------------------------------------


@runtimes
def test_a_shell_in_an_image(line: Runner, image: Path, runtime: str) -> None:
    done = line.call(
        "shell", "--rm", "--runtime", runtime, "-e", "A=b", image, data=b"echo $0 $A; pwd; exit 5\n"
    )
    assert (done.stdout, done.returncode) == (b"/bin/sh b\n/srv\n", 5)
    assert line.output("ps", "-aq") == ""
    assert not line.left()


def test_a_shell_on_a_terminal(line: Runner, image: Path) -> None:
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        [*COMMAND, "shell", "--rm", str(image)],
        env=line.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, b"test -t 0 && echo is a $((40 + 2)) terminal; exit 3\n")
    seen = b""
    while b"is a 42 terminal" not in seen:
        seen += os.read(ours, 4096)
    assert shell.wait() == 3
    os.close(ours)


@runtimes
def test_an_image_without_a_shell(line: Runner, bare: Path, runtime: str) -> None:
    assert "no shell; --with-tools" in line.error("shell", "--rm", bare, status=125)
    words = ("shell", "--rm", "--with-tools", "--runtime", runtime, bare)
    done = line.call(*words, data=b"cat /etc/motd; ls /; exit 4\n")
    assert done.returncode == 4
    names = done.stdout.split()
    assert names[0] == b"hello"
    assert {b"etc", b"proc", b"dev"} <= set(names)


def test_tools_are_no_change(line: Runner, bare: Path) -> None:
    line.call("shell", "--name", "tools", "--with-tools", bare, data=b"echo x >/new\n")
    assert line.output("diff", "tools") == "A /new\n"
    line.run("rm", "tools")


@runtimes
def test_a_shell_in_a_container_that_runs(line: Runner, image: Path, runtime: str) -> None:
    options = ["-d", "--name", "served", "--runtime", runtime, "--entrypoint", "/bin/sleep"]
    line.run("run", *options, image, "1000")
    try:
        done = line.call("shell", "served", data=b"read -r first </proc/1/cmdline; exit 6\n")
        assert done.returncode == 6
        done = line.call(
            "shell", "-u", "app", "served", data=b"tr '\\0' ' ' </proc/1/cmdline; id -u\n"
        )
        assert done.stdout == b"/bin/sleep 1000 1000\n"
    finally:
        line.run("rm", "-f", "served")


@runtimes
def test_a_shell_in_a_mount(line: Runner, image: Path, tmp_path: Path, runtime: str) -> None:
    where = tmp_path / "mounted"
    line.run("mount", "--mkdir", "--name", "mounted", image, where)
    told = line.error("shell", "--runtime", runtime, where, status=125)
    assert f"{where} has no /proc to mount on; make it there" in told
    assert line.output("diff", "mounted") == ""
    for name in ("proc", "dev", "sys"):
        (where / name).mkdir()
    script = b"id -u; pwd; ls /etc; echo x >/made; exit 7\n"
    done = line.call("shell", "--runtime", runtime, where, data=script)
    assert (done.stdout, done.returncode) == (b"0\n/\ngroup\npasswd\n", 7)
    assert (where / "made").read_text() == "x\n"
    assert line.output("diff", "mounted") == "A /dev\nA /made\nA /proc\nA /sys\n"
    line.run("umount", where)
    line.run("rm", "mounted")


@pytest.mark.needs("root")
@runtimes
def test_files_given_to_a_shell_in_a_mount_keep_their_owner(
    line: Runner, image: Path, tmp_path: Path, runtime: str
) -> None:
    where, given, printed = (tmp_path / name for name in ("mounted", "given", "printed"))
    line.run("mount", "--mkdir", "--ephemeral", image, where)
    for name in ("proc", "dev", "sys"):
        (where / name).mkdir()
    given.write_text("id -u; exit 7\n")
    with given.open("rb") as stdin, printed.open("wb") as out:
        words = ("shell", "--runtime", runtime, "-u", "app", where)
        assert line.start(*words, stdin=stdin, stdout=out).wait() == 7
    assert printed.read_text() == "1000\n"
    assert (given.stat().st_uid, printed.stat().st_uid) == (0, 0)
    line.run("umount", where)


@pytest.mark.parametrize(
    "option",
    [
        *(["-v", "/tmp:/mnt"], ["--read-only"], ["--with-tools"], ["--name", "x"], ["--rm"]),
        *(["--hostname", "host"], ["--name", "missing"], ["--pids-limit", "0"]),
        *(["--entrypoint", ""], ["--memory", ""]),
    ],
)
def test_what_a_running_container_cannot_have(line: Runner, image: Path, option: list[str]) -> None:
    line.run("run", "-d", "--name", "fixed", "--entrypoint", "/bin/sleep", image, "1000")
    try:
        told = line.error("shell", *option, "fixed", status=125)
        assert "cannot be changed in a container that runs" in told
    finally:
        line.run("rm", "-f", "fixed")


@pytest.mark.parametrize("option", [["--rm"], ["--name", "x"], ["--pull", "always"]])
def test_what_is_for_new_containers(
    line: Runner, image: Path, tmp_path: Path, option: list[str]
) -> None:
    where = tmp_path / "mounted"
    line.run("mount", "--mkdir", "--ephemeral", image, where)
    try:
        told = line.error("shell", *option, where, status=125)
        assert f"{option[0]} is for a new container" in told
    finally:
        line.run("umount", where)


def test_a_shell_in_a_mount_is_not_cleaned_away(line: Runner, image: Path, tmp_path: Path) -> None:
    where = tmp_path / "mounted"
    line.run("mount", "--mkdir", "--ephemeral", image, where)
    for name in ("proc", "dev", "sys"):
        (where / name).mkdir()
    shell = line.start("shell", where, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(b"echo started\n")
    shell.stdin.flush()
    assert shell.stdout.readline() == b"started\n"
    live = [name for name in line.left() if name.startswith("run/")]
    line.run("ps")  # cleans away what dead processes have left
    assert live
    assert [name for name in line.left() if name.startswith("run/")] == live
    shell.communicate(b"exit\n")
    assert shell.returncode == 0
    line.run("umount", where)


# ---- limits and init -----------------------------------------------------------------------------

_LIMITS = """
cd /sys/fs/cgroup
if [ -e cgroup.controllers ]; then cat memory.max cpu.max pids.max
else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max; fi
"""


@runtimes
def test_limits(line: Runner, image: Path, runtime: str) -> None:
    options = ["--rm", "--runtime", runtime, "-m", "64m", "--cpus", "0.5", "--pids-limit", "20"]
    printed = line.output("run", *options, "--entrypoint", "/bin/sh", image, "-c", _LIMITS).split()
    assert printed[0] == str(64 << 20)
    assert printed[1] == "50000"
    assert printed[-1] == "20"
    store = line.live("any").name.partition("+")[2]
    assert not list(Path("/sys/fs/cgroup").glob(f"**/unionmount-*+{store}"))


@pytest.mark.parametrize(
    ("option", "why"),
    [
        (["-m", "1k"], "at least 6m"),
        (["-m", "much"], "write a size such as 512m"),
        (["--cpus", "0"], "write a number such as 0.5"),
        (["--pids-limit", "x"], "x"),
    ],
)
def test_a_wrong_limit(line: Runner, image: Path, option: list[str], why: str) -> None:
    assert why in line.error("run", "--rm", *option, image, status=125)


@pytest.mark.needs("catatonit")
def test_an_init_program(line: Runner, image: Path) -> None:
    options = ["--rm", "--init", "--entrypoint", "/bin/sh"]
    script = "tr '\\0' '\\n' </proc/1/cmdline | head -n 2; echo $$"
    printed = line.output("run", *options, image, "-c", script).split()
    assert printed[:2] == ["/run/unionmount/init", "--"]
    assert int(printed[2]) > 1


# ---- names, and what a commit leaves out ---------------------------------------------------------


def test_rename(line: Runner, image: Path) -> None:
    for name in ("first", "second"):
        line.run("run", "--name", name, "--entrypoint", "/bin/touch", image, f"/{name}")
    assert "'second' already exists" in line.error("rename", "first", "second")
    assert "not a valid container name" in line.error("rename", "first", "a/b", status=2)
    assert "no container 'none'" in line.error("rename", "none", "other")
    assert line.output("rename", "first", "third") == ""
    assert line.output("diff", "third") == "A /first\n"
    assert line.output("start", "-a", "third") == ""
    inspected = line.output("inspect", "--format", "{{.Name}}", "third")
    assert inspected == "third\n"
    line.run("run", "-d", "--name", "busy", "--entrypoint", "/bin/sleep", image, "1000")
    assert "'busy' is running" in line.error("rename", "busy", "idle")
    line.run("rm", "-f", "busy", "second", "third")


def test_a_damaged_record_of_a_run(line: Runner, image: Path) -> None:
    for name in ("whole", "damaged"):
        line.run("run", "--name", name, "--entrypoint", "/bin/true", image)
    (line.store / "containers/damaged/run.json").write_text("{")
    done = line.run("ps", "-a", "--format", "{{.Container}} {{.Status}}", status=1)
    assert set(done.stdout.splitlines()) == {"whole exited (0)", "damaged stopped"}
    assert "run.json: damaged" in done.stderr
    line.run("rm", "whole", "damaged")


def test_a_file_beside_an_upper_is_no_record(line: Runner, image: Path, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("of somebody else")
    line.run("mount", "--mkdir", "--upper", tmp_path / "upper", image, tmp_path / "mounted")
    (tmp_path / "mounted/new").touch()
    line.run("commit", tmp_path / "mounted", "beside")
    line.run("umount", tmp_path / "mounted")
    line.run("rmi", "beside")


@runtimes
@pytest.mark.parametrize("option", ["-e", "-w", "-v"])
def test_words_that_are_not_utf8(
    line: Runner, image: Path, tmp_path: Path, runtime: str, option: str
) -> None:
    odd = os.fsdecode(b"\xff")
    (tmp_path / odd).touch()
    value = {"-e": f"ODD={odd}", "-w": f"/{odd}", "-v": f"{tmp_path / odd}:/odd"}[option]
    told = line.error("run", "--rm", "--runtime", runtime, option, value, image, status=125)
    assert "\\xff" in told
    assert "is not UTF-8, as words for a runtime have to be" in told
    assert not line.left()


def test_a_commit_leaves_out(line: Runner, image: Path) -> None:
    script = "mkdir /tmp /keep /tmp/deep; touch /tmp/a /tmp/deep/b /keep/c /keep/d.o; rm /etc/group"
    line.run("run", "--name", "work", "--entrypoint", "/bin/sh", image, "-c", script)
    line.run(
        "commit", "--exclude", "/tmp/*", "--exclude", "*.o", "--exclude", "etc/group", "work", "x"
    )
    changes = line.output("layers", "x", "1")
    found = sorted(text.split()[-1] for text in changes.splitlines() if "/" in text)
    assert [path for path in found if not path.startswith("/etc")] == ["/keep", "/keep/c", "/tmp"]
    assert "group" in line.output("ls", "x:/etc")
    line.run("rmi", "x")
    line.run("rm", "work")
