"""Containers from the shell: made by a mount, kept, mounted again, listed and removed."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.mounting import (
    COMMAND,
    CommandLine,
    Process,
    is_mounted,
    mount_line,
    own_places,
    unmounting,
)

pytestmark = pytest.mark.needs("fuse")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    """The command line with a store and mounts of the test's own."""
    with unmounting(CommandLine(environment=own_places(tmp_path))) as line:
        yield line


@pytest.fixture
def where(tmp_path: Path) -> Path:
    directory = tmp_path / "mnt"
    directory.mkdir()
    return directory


def root_of(cli: CommandLine) -> Path:
    return Path(cli.environment["UNIONMOUNT_ROOT"])


def all_of(cli: CommandLine) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cli.run("ps", "-a", "--format", "json").stdout)
    return found


def kill(cli: CommandLine, where: Path, number: signal.Signals = signal.SIGKILL) -> None:
    pid = cli.record(where)["pid"]
    daemon = Process(pid)
    os.kill(pid, number)
    daemon.wait()


def files_of(cli: CommandLine) -> set[str]:
    """What is in the store beside layers and documents of images."""
    parts = ("containers", "tmp")
    return {path.name for part in parts for path in (root_of(cli) / part).iterdir()}


# ---- a container's life --------------------------------------------------------------------------


def test_changes_stay(cli: CommandLine, archive: Path, where: Path) -> None:
    done = cli.run("mount", archive, where)
    assert done.stdout == f"{where}\n"
    label, name = done.stderr.split()
    assert label == "container:"
    (where / "etc/motd").write_text("changed\n")
    (where / "etc/new").unlink()
    (where / "made").mkdir()
    cli.run("umount", where)
    assert list(where.iterdir()) == []
    archive.unlink()
    again = cli.run("mount", name, where)
    assert (again.stdout, again.stderr) == (f"{where}\n", "")
    assert (where / "etc/motd").read_text() == "changed\n"
    assert sorted(path.name for path in where.iterdir()) == ["etc", "made"]
    assert [path.name for path in (where / "etc").iterdir()] == ["motd"]
    cli.run("umount", name)
    cli.run("rm", name)
    assert files_of(cli) == set()


def test_each_container_has_its_own_changes(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    cli.run("mount", "--name", "one", archive, where)
    cli.run("mount", "--name", "two", archive, tmp_path / "second")
    (where / "etc/motd").write_text("one\n")
    assert (tmp_path / "second/etc/motd").read_text() == "hello\n"


def test_a_name_is_not_told_who_gave_it(cli: CommandLine, archive: Path, where: Path) -> None:
    assert cli.run("mount", "--name", "web.1", archive, where).stderr == ""
    assert cli.record(where)["container"] == "web.1"
    cli.run("umount", "container:web.1")
    assert "container 'web.1' already exists" in cli.error(
        "mount", "--name", "web.1", archive, where
    )
    assert [one["container"] for one in all_of(cli)] == ["web.1"]


@pytest.mark.needs("root")
def test_it_is_mounted_for_writing(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", archive, where)
    fields = (mount_line(where) or "").split()
    assert {"rw", "nosuid", "nodev"} <= set(fields[5].split(","))


def test_a_mounted_container_is_not_mounted_again(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path
) -> None:
    (tmp_path / "second").mkdir()
    cli.run("mount", "--name", "web", archive, where)
    message = cli.error("mount", "web", tmp_path / "second")
    assert message == f"container 'web' is in use: mounted at {where} (live)"
    cli.run("umount", "web")
    cli.run("mount", "web", tmp_path / "second")


def test_options_of_new_containers(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", "--name", "web", archive, where)
    cli.run("umount", "web")
    for option in (["--name", "x"], ["--upper", "x"], ["--ephemeral"], ["--platform", "linux/arm"]):
        message = cli.error("mount", *option, "web", where, status=2)
        assert f"'web' is an existing container; {option[0]} is for new ones only" in message


def test_a_container_is_read_without_changing_it(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    cli.run("mount", "--name", "web", archive, where)
    (where / "made").write_text("x")
    cli.run("umount", "web")
    cli.run("mount", "--ro", "web", where)
    assert cli.record(where)["mode"] == "ro"
    assert (where / "made").read_text() == "x"
    with pytest.raises(OSError, match="Read-only file system"):
        (where / "made").write_text("y")
    cli.run("umount", "web")
    cli.run("mount", "-o", "ro", "web", where)
    assert cli.record(where)["container"] == "web"


def test_a_volatile_mount(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", "--volatile", "--name", "web", archive, where)
    (where / "made").write_text("x")
    cli.run("umount", "web")
    cli.run("mount", "web", where)
    assert (where / "made").read_text() == "x"


def test_the_root_is_that_of_the_image(cli: CommandLine, tmp_path: Path, where: Path) -> None:
    layer = Layer().directory("./", 0o751).file("file")
    image = docker_archive(tmp_path / "rooted.tar", [layer])
    cli.run("mount", "--ro", image, where)
    before = where.stat()
    cli.run("umount", where)
    cli.run("mount", image, where)
    after = where.stat()
    assert stat.S_IMODE(after.st_mode) == 0o751
    assert (after.st_uid, after.st_gid, after.st_mtime_ns, after.st_ino) == (
        before.st_uid,
        before.st_gid,
        before.st_mtime_ns,
        before.st_ino,
    )


def test_in_the_foreground(cli: CommandLine, archive: Path, where: Path) -> None:
    command = [*COMMAND, "mount", "--foreground", str(archive), str(where)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=cli.environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{where}\n"
        (where / "made").write_text("x")
        name = cli.record(where)["container"]
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0
    assert told == f"container: {name}\n"
    cli.run("mount", name, where)
    assert (where / "made").read_text() == "x"


# ---- the image of a container --------------------------------------------------------------------


def test_the_image_is_kept(cli: CommandLine, archive: Path, where: Path, tmp_path: Path) -> None:
    cli.run("mount", "--name", "web", archive, where)
    cli.run("umount", "web")
    (one,) = json.loads(cli.run("images", "--format", "json").stdout)
    assert (one["repository"], one["tag"]) == ("test", "latest")
    other = docker_archive(tmp_path / "other.tar", [Layer().file("other")])
    cli.run("load", "-i", other)  # takes the name over
    cli.run("mount", "web", where)
    assert (where / "etc/motd").read_text() == "hello\n"
    assert cli.record(where)["image"] == "test:latest"


def test_a_mount_takes_no_name_over(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path
) -> None:
    cli.run("load", "-i", archive)
    other = docker_archive(tmp_path / "other.tar", [Layer().file("other")])
    cli.run("mount", "--name", "web", other, where)
    assert cli.record(where)["image"] == str(other)
    cli.run("umount", "web")
    cli.run("mount", "--ro", "test", where)
    assert (where / "etc/motd").read_text() == "hello\n"


def test_a_damaged_archive_makes_no_container(cli: CommandLine, archive: Path, where: Path) -> None:
    archive.write_bytes(archive.read_bytes().replace(b"hello\n", b"HELLO\n"))
    assert "sha256:" in cli.error("mount", archive, where)
    assert files_of(cli) == set()


def test_a_mount_that_fails_leaves_no_container(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    script = f"""
import os, sys, unionmount.mounting.serve as module
from unionmount.cli import main
module.mounted_at = lambda _: os.stat("/no/such/table")
sys.exit(main(["mount", {str(archive)!r}, {str(where)!r}]))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=cli.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "unionmount: /no/such/table: No such file or directory\n"
    assert files_of(cli) == set()
    with open("/dev/full", "wb") as full:
        command = [*COMMAND, "mount", str(archive), str(where)]
        done = subprocess.run(
            command, env=cli.environment, stdout=full, stderr=-1, text=True, check=False
        )
    assert done.stderr == "unionmount: standard output: No space left on device\n"
    assert files_of(cli) == set()
    assert not is_mounted(where)


# ---- what a word stands for ----------------------------------------------------------------------


def test_a_word_that_stands_for_two(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli.run("load", "-i", archive)
    for name in ("test", "file"):
        cli.run("mount", "--name", name, archive, where)
        (where / "mine").write_text("")
        cli.run("umount", where)
    monkeypatch.chdir(tmp_path)
    archive.rename("file")
    message = cli.error("mount", "test", where)
    assert message == "'test' is ambiguous: container:test is a container, test:TAG an image"
    assert "container:file is a container, ./file a file" in cli.error("mount", "file", where)
    for word, mine in (
        ("container:test", True),
        ("test:latest", False),
        ("container:file", True),
        ("./file", False),
    ):
        cli.run("mount", word, where)
        assert (where / "mine").exists() == mine, word
        cli.run("umount", where)


def test_a_container_that_is_not_there(cli: CommandLine, where: Path) -> None:
    assert cli.error("mount", "container:none", where) == "no container 'none'"
    assert cli.error("mount", "container:../x", where) == "no container '../x'"
    assert cli.error("mount", "--pull", "never", "none", where) == "no image 'none' in the store"


# ---- ephemeral -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["umount", "lazy", "signal", "fusermount3"])
def test_an_ephemeral_container_goes_with_its_mount(
    cli: CommandLine, archive: Path, where: Path, way: str, require: Any
) -> None:
    assert cli.run("mount", "--ephemeral", archive, where).stderr == ""
    (where / "made").write_text("x")
    (where / "closed").mkdir(0)
    assert len(files_of(cli)) == 1
    daemon = Process(cli.record(where)["pid"])
    if way == "signal":
        os.kill(cli.record(where)["pid"], signal.SIGTERM)
    elif way == "fusermount3":
        require("fusermount3")
        subprocess.run(["fusermount3", "-u", where], check=True)
    else:
        cli.run("umount", *(["--lazy"] if way == "lazy" else []), where)
    daemon.wait()
    assert files_of(cli) == set()
    assert not (root_of(cli) / "images.json").exists()


def test_an_ephemeral_container_may_have_a_name(
    cli: CommandLine, archive: Path, where: Path
) -> None:
    cli.run("mount", "--ephemeral", "--name", "web", archive, where)
    assert cli.record(where)["container"] == "web"
    cli.run("umount", "web")
    assert all_of(cli) == []


@pytest.mark.parametrize("next_command", ["ps", "mount", "rm"])
def test_what_a_killed_daemon_left_is_removed(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path, next_command: str
) -> None:
    cli.run("mount", "--ephemeral", "--name", "dead", archive, where)
    cli.run("mount", "--name", "other", archive, make(tmp_path / "second"))
    cli.run("umount", "other")
    (where / "made").write_text("x")
    kill(cli, where)
    assert files_of(cli) == {"dead", "other"}
    cli.run("umount", where)
    if next_command == "ps":
        assert [one["container"] for one in all_of(cli)] == ["other"]
    elif next_command == "mount":
        cli.run("mount", "other", where)
    else:
        cli.run("rm", "other")
    assert files_of(cli) <= {"other"}


def make(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_killed_daemon_loses_nothing(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", "--name", "web", archive, where)
    (where / "made").write_text("x")
    kill(cli, where)
    assert [(one["container"], one["status"][:5]) for one in all_of(cli)] == [("web", "stale")]
    cli.run("umount", where)
    cli.run("mount", "web", where)
    assert (where / "made").read_text() == "x"


# ---- an upper of the user's ----------------------------------------------------------------------


def test_an_upper_of_ones_own(cli: CommandLine, archive: Path, where: Path, tmp_path: Path) -> None:
    upper = tmp_path / "changes"
    assert cli.run("mount", "--upper", upper, archive, where).stderr == ""
    record = cli.record(where)
    assert (record["upper"], record["container"]) == (str(upper), "")
    (where / "etc/motd").write_text("changed\n")
    cli.run("umount", where)
    assert (upper / "etc/motd").read_text() == "changed\n"
    assert (tmp_path / "changes.work").is_dir()
    assert files_of(cli) == set()
    assert not (root_of(cli) / "images.json").exists()
    cli.run("mount", "--upper", upper, "--work", make(tmp_path / "w"), archive, where)
    assert (where / "etc/motd").read_text() == "changed\n"
    cli.run("umount", where)
    cli.run("mount", "--ro", "--upper", upper, archive, where)
    assert (where / "etc/motd").read_text() == "changed\n"
    with pytest.raises(OSError, match="Read-only file system"):
        (where / "made").touch()


def test_an_upper_is_used_once(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path
) -> None:
    upper, second = tmp_path / "changes", make(tmp_path / "second")
    cli.run("mount", "--upper", upper, archive, where)
    for work in ([], ["--work", str(tmp_path / "work")]):
        message = cli.error("mount", "--upper", upper, *work, archive, second)
        assert message == f"upper directory {upper} is in use by another mount"
    assert not (tmp_path / "work").exists()
    (where / "made").write_text("still there")


def test_an_upper_that_can_not_be(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path
) -> None:
    no = "No such file or directory"
    assert cli.error("mount", "--upper", tmp_path / "no/dir", archive, where).endswith(no)
    (tmp_path / "file").write_text("")
    assert "Not a directory" in cli.error("mount", "--upper", tmp_path / "file", archive, where)
    assert not (tmp_path / "file.work").exists()
    inside = cli.error(
        "mount", "--upper", tmp_path / "u", "--work", tmp_path / "u/w", archive, where
    )
    assert "one contains the other" in inside
    assert not (tmp_path / "u").exists()
    work = ("--upper", tmp_path / "u", "--work", tmp_path / "no/work")
    assert cli.error("mount", *work, archive, where).endswith(no)
    assert not (tmp_path / "u").exists()
    assert "--upper is empty" in cli.error("mount", "--upper", "", archive, where, status=2)
    empty = ("--upper", tmp_path / "u", "--work", "")
    assert "--work is empty" in cli.error("mount", *empty, archive, where, status=2)


def test_a_relative_upper(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.run("mount", "--upper", "changes", archive.name, "mnt")
    (where / "made").write_text("x")
    assert (tmp_path / "changes/made").read_text() == "x"
    assert cli.record(where)["source"] == str(archive)


# ---- scratch -------------------------------------------------------------------------------------


def test_scratch_is_an_empty_writable_image(cli: CommandLine, where: Path) -> None:
    cli.run("mount", "--name", "new", "scratch", where)
    assert list(where.iterdir()) == []
    assert stat.S_IMODE(where.stat().st_mode) == 0o755
    assert where.stat().st_uid == os.geteuid()
    (where / "bin").mkdir()
    cli.run("umount", "new")
    cli.run("mount", "new", where)
    assert [path.name for path in where.iterdir()] == ["bin"]
    assert cli.record(where)["image"] == "scratch"
    assert cli.run("images", "-q").stdout == ""


def test_scratch_can_be_mounted_in_other_ways(
    cli: CommandLine, where: Path, tmp_path: Path
) -> None:
    for options in (["--ro"], ["--ephemeral"], ["--upper", tmp_path / "upper"]):
        cli.run("mount", *options, "scratch", where)
        assert list(where.iterdir()) == []
        cli.run("umount", where)
    assert files_of(cli) == set()


# ---- listing -------------------------------------------------------------------------------------


def test_ps_lists_containers(cli: CommandLine, archive: Path, where: Path, tmp_path: Path) -> None:
    cli.run("mount", "--name", "up", archive, where)
    cli.run("mount", "--name", "down", archive, make(tmp_path / "second"))
    cli.run("umount", "down")
    _, line = cli.run("ps").stdout.splitlines()
    assert line.split()[1:5] == ["up", "test:latest", "rw", str(where)]
    _, up, down = cli.run("ps", "-a").stdout.splitlines()
    assert up.split()[:6] == line.split()[:6]  # the age may be another one by now
    assert down.split()[:6] == ["-", "down", "test:latest", "-", "-", "-"]
    assert down.split()[-1] == "stopped"
    mount_id = cli.record(where)["id"]
    assert cli.run("ps", "-q", "-a").stdout == f"{mount_id}\ndown\n"
    (first, second) = all_of(cli)
    assert (first["container"], first["mode"], first["status"]) == ("up", "rw", "live")
    assert first["upper"] == str(root_of(cli) / "containers/up/upper")
    assert (second["container"], second["id"], second["status"]) == ("down", None, "stopped")
    assert second["source"] == str(archive)
    assert second["root"] == str(root_of(cli))
    assert second["upper"] == str(root_of(cli) / "containers/down/upper")


# ---- removing ------------------------------------------------------------------------------------


def test_a_mounted_container_is_not_removed(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", "--name", "web", archive, where)
    message = cli.error("rm", "web")
    assert message.startswith(f"container 'web' is in use: mounted at {where} (live)")
    assert "rm -f" in message
    (where / "made").write_text("x")
    cli.run("rm", "-f", "web")
    assert not is_mounted(where)
    assert files_of(cli) == set()


def test_a_container_in_use_is_not_removed_by_force(
    cli: CommandLine, archive: Path, where: Path, descriptors: list[int]
) -> None:
    cli.run("mount", "--name", "web", archive, where)
    descriptors.append(os.open(where / "etc/motd", os.O_RDONLY))
    assert "is in use" in cli.error("rm", "-f", "web")
    assert is_mounted(where)
    cli.run("umount", "--lazy", "web")
    message = cli.error("rm", "web")
    assert "detached: still in use" in message
    assert os.read(descriptors[0], 100) == b"hello\n"


def test_one_failure_does_not_stop_the_others(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", "--name", "web", archive, where)
    cli.run("umount", where)
    done = cli.run("rm", "none", "container:web", "../web", status=1)
    assert done.stderr == "unionmount: no container 'none'\nunionmount: no container '../web'\n"
    assert files_of(cli) == set()


def test_a_dead_container_is_removed(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", "--name", "web", archive, where)
    kill(cli, where)
    cli.run("rm", "-f", "web")
    assert not is_mounted(where)
    assert cli.records() == []
    assert files_of(cli) == set()


def test_a_damaged_container_is_removed(cli: CommandLine, archive: Path, where: Path) -> None:
    cli.run("mount", "--name", "web", archive, where)
    cli.run("umount", "web")
    (root_of(cli) / "containers/web/container.json").write_text("{")
    cli.run("mount", "--name", "whole", archive, where)
    cli.run("umount", "whole")
    listed = cli.run("ps", "-a", "-q", status=1)
    assert listed.stdout == "whole\n"
    assert "web/container.json: damaged" in listed.stderr
    cli.run("rm", "web", "whole")
    assert all_of(cli) == []


def test_a_container_of_another_store(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path
) -> None:
    cli.run("mount", "--name", "web", archive, where)
    other = tmp_path / "other"
    assert "no image is mounted there" in cli.error("umount", "--root", other, "web")
    assert cli.error("rm", "--root", other, "web") == "no container 'web'"
    assert cli.run("ps", "-a", "-q", "--root", other).stdout == f"{cli.record(where)['id']}\n"
    cli.run("umount", "web")


def test_a_directory_goes_before_a_container(
    cli: CommandLine, archive: Path, where: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cli.run("mount", "--name", "mnt", archive, make(tmp_path / "second"))
    cli.run("mount", "--name", "other", archive, where)
    cli.run("umount", "mnt")
    assert not is_mounted(where)
    cli.run("umount", "container:mnt")
    assert cli.records() == []
