"""Mounting as an ordinary user, through fusermount3.

Where root runs the tests, they become such a user, and /dev/fuse is opened to all for the time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import CommandLine, Process, is_mounted, mount_line
from support.users import BECOME, NOBODY, fuse_conf

pytestmark = pytest.mark.needs("ordinary-user")


@pytest.fixture
def archive(home: Path) -> Path:
    layer = Layer().file("motd", b"hello\n").file("secret", b"x", mode=0o600)
    layer.file("suid", b"", mode=0o4755).directory("closed", 0o700)
    return docker_archive(home / "image, with\\odd name.tar", [layer])


@pytest.fixture
def where(home: Path) -> Path:
    directory = home / "mnt"
    directory.mkdir()
    if os.geteuid() == 0:
        os.chown(directory, NOBODY, NOBODY)
    return directory


def as_user(*command: str | Path) -> subprocess.CompletedProcess[bytes]:
    prefix = BECOME if os.geteuid() == 0 else ()
    return subprocess.run([*prefix, *command], capture_output=True, check=False)


def test_without_a_path(user: CommandLine, archive: Path, where: Path) -> None:
    prefix = tuple(shutil.which(word) or word for word in user.prefix[:1]) + user.prefix[1:]
    line = CommandLine(prefix, {**user.environment, "PATH": ""})
    line.run("mount", "--ro", archive, where)
    line.run("umount", where)
    assert not is_mounted(where)


def test_mount_and_umount(user: CommandLine, archive: Path, where: Path) -> None:
    assert user.run("mount", "--ro", archive, where).stdout == f"{where}\n"
    assert as_user("cat", where / "motd").stdout == b"hello\n"
    line = (mount_line(where) or "").split()
    assert {"ro", "nosuid", "nodev"} <= set(line[5].split(","))
    kind, source, options = line[line.index("-") + 1 :]
    assert kind == "fuse.unionmount"
    assert source.endswith("/image,\\040with\\134odd\\040name.tar")
    uid = os.geteuid() or NOBODY
    assert {f"user_id={uid}", "default_permissions"} <= set(options.split(","))
    daemon = Process(user.record(where)["pid"])
    user.run("umount", where)
    daemon.wait()
    assert not is_mounted(where)
    assert user.records() == []


def test_the_modes_of_the_image_count(user: CommandLine, archive: Path, where: Path) -> None:
    user.run("mount", "--ro", archive, where)
    assert b"Permission denied" in as_user("cat", where / "secret").stderr
    assert b"Permission denied" in as_user("ls", where / "closed").stderr
    user.run("umount", where)


@pytest.mark.needs("root")
def test_others_are_kept_out(user: CommandLine, archive: Path, where: Path) -> None:
    user.run("mount", "--ro", archive, where)
    with pytest.raises(PermissionError):
        (where / "motd").read_bytes()
    user.run("umount", where)


@pytest.mark.needs("root")
def test_others_are_let_in_where_the_machine_allows_it(
    user: CommandLine, archive: Path, where: Path
) -> None:
    words = ("mount", "--ro", "-o", "allow_other", archive, where)
    with fuse_conf(allows_others=False):
        assert "user_allow_other" in user.error(*words)
    assert not is_mounted(where)
    with fuse_conf(allows_others=True):
        user.run(*words)
    assert (where / "motd").read_bytes() == b"hello\n"
    user.run("umount", where)


def test_a_mount_point_is_made(user: CommandLine, archive: Path) -> None:
    where = Path(user.run("mount", "--ro", archive).stdout.rstrip("\n"))
    assert as_user("cat", where / "motd").stdout == b"hello\n"
    user.run("umount", where)
    assert not where.exists()


def test_a_busy_mount_stays(user: CommandLine, archive: Path, where: Path) -> None:
    user.run("mount", "--ro", archive, where)
    prefix = BECOME if os.geteuid() == 0 else ()
    holder = [*prefix, "sh", "-c", 'cd "$0" && echo there && head -n 1 >&2', str(where)]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        assert "is in use" in user.error("umount", where)
        user.run("umount", "--lazy", where)
        assert not is_mounted(where)
        daemon = Process(user.records()[0]["pid"])
        process.communicate()
    daemon.wait()
    assert user.records() == []


def test_the_daemon_unmounts_at_a_signal(user: CommandLine, archive: Path, where: Path) -> None:
    user.run("mount", "--ro", archive, where)
    pid = user.record(where)["pid"]
    daemon = Process(pid)
    assert as_user("kill", "-TERM", str(pid)).returncode == 0
    daemon.wait()
    assert not is_mounted(where)
    assert user.records() == []


def test_a_dead_mount_is_cleaned_up(user: CommandLine, archive: Path, where: Path) -> None:
    user.run("mount", "--ro", archive, where)
    pid = user.record(where)["pid"]
    daemon = Process(pid)
    assert as_user("kill", "-KILL", str(pid)).returncode == 0
    daemon.wait()
    assert user.record(where)["status"].startswith("stale")
    user.run("umount", where)
    assert not is_mounted(where)


def test_a_container_is_made_changed_and_removed(
    user: CommandLine, archive: Path, where: Path
) -> None:
    user.run("mount", "--name", "web", archive, where)
    commands: tuple[list[str | Path], ...] = (
        ["sh", "-c", 'echo changed > "$0"', where / "motd"],
        ["mkdir", "-m", "000", where / "closed/inner"],
        ["chmod", "000", where / "closed"],
        ["rm", where / "suid"],
    )
    for command in commands:
        done = as_user(*command)
        assert done.returncode == 0, done.stderr
    user.run("umount", "web")
    user.run("mount", "web", where)
    assert as_user("cat", where / "motd").stdout == b"changed\n"
    assert as_user("stat", "-c", "%a %u", where / "closed").stdout == b"0 0\n"
    user.run("rm", "-f", "web")
    assert user.run("ps", "-a", "-q").stdout == ""


def test_directories_on_top_of_each_other(
    user: CommandLine, archive: Path, home: Path, where: Path
) -> None:
    places = [home / name for name in ("a", "b", "u", "w")]
    assert as_user("mkdir", *places).returncode == 0
    assert as_user("touch", home / "a/one", home / "b/two").returncode == 0
    options = f"lowerdir={home}/a:{home}/b,upperdir={home}/u,workdir={home}/w"
    user.run("overlay", "-o", options, where)
    assert as_user("ls", where).stdout == b"one\ntwo\n"
    assert as_user("rm", where / "two").returncode == 0
    assert as_user("chown", "0:0", where / "one").returncode == 0
    user.run("umount", where)
    user.run("overlay", "-o", options, where)
    assert as_user("stat", "-c", "%n %u", where / "one").stdout == b"%s 0\n" % bytes(where / "one")
    assert as_user("ls", where).stdout == b"one\n"


def test_what_fusermount_refuses_is_told(user: CommandLine, archive: Path, home: Path) -> None:
    message = user.error("mount", archive, "/usr")
    assert message.startswith("mounting at /usr: ")
    assert "fusermount3" not in message
    assert user.records() == []


@pytest.mark.parametrize("option", ["dev", "suid"])
def test_options_that_are_roots(user: CommandLine, archive: Path, where: Path, option: str) -> None:
    assert f"-o {option}: only root" in user.error("mount", "-o", option, archive, where)
    assert not is_mounted(where)


def test_without_fusermount(user: CommandLine, archive: Path, where: Path) -> None:
    tools = {name: shutil.which(name) for name in ("setpriv", "env")}
    prefix = [tools["setpriv"] or "", *user.prefix[1:]] if user.prefix else []
    environment = {key: value for key, value in user.environment.items() if key != "PATH"}
    cli = CommandLine(tuple(prefix), environment | {"PATH": "/nonexistent"})
    assert "fusermount3 is not installed" in cli.error("mount", archive, where)
