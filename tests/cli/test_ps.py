"""The list of mounts, and the records behind it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.mounting import CommandLine, Process, is_mounted

from unionmount.mounting.records import (
    DETACHED,
    GONE,
    STARTING,
    MountTable,
    Record,
    process_start,
    runtime_directory,
    wait_until_gone,
)

Mount = Callable[..., Path]
needs_fuse = pytest.mark.needs("fuse")


def new_record(mountpoint: Path | None) -> Record:
    return Record.new(image="test:1", source="test.tar", mountpoint=mountpoint, root="/nowhere")


# ---- the command -------------------------------------------------------------------------------


def test_an_empty_list(cli: CommandLine) -> None:
    assert cli.run("ps").stdout.split() == [
        *("ID", "CONTAINER", "IMAGE", "MODE", "MOUNTPOINT", "PID", "CREATED", "STATUS")
    ]
    assert cli.run("ps", "-q").stdout == ""
    assert cli.records() == []


@needs_fuse
def test_one_line_for_each_mount(cli: CommandLine, archive: Path, mount: Mount) -> None:
    where = mount(archive)
    _, line = cli.run("ps").stdout.splitlines()
    mount_id, container, image, mode, mountpoint, pid, *_, status = line.split()
    assert re.fullmatch("[0-9a-f]{12}", mount_id)
    assert (container, image, mode) == ("-", str(archive), "ro")
    assert (mountpoint, status) == (str(where), "live")
    assert b"unionmount" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert cli.run("ps", "-q").stdout == f"{mount_id}\n"


@needs_fuse
def test_json(cli: CommandLine, archive: Path, mount: Mount) -> None:
    where = mount(archive)
    (one,) = json.loads(cli.run("ps", "--format", "json").stdout)
    assert one["mountpoint"] == str(where)
    assert one["source"] == str(archive)
    assert one["root"] == os.environ["UNIONMOUNT_ROOT"]
    assert one["started"] == process_start(one["pid"])
    assert one["status"] == "live"


@needs_fuse
def test_the_order_is_that_of_mounting(cli: CommandLine, archive: Path, mount: Mount) -> None:
    places = [str(mount(archive, at=archive.parent / name)) for name in ("c", "a", "b")]
    # An earlier mount may live on in another mount namespace.
    found = [one["mountpoint"] for one in cli.records() if one["mountpoint"] in places]
    assert found == places


@needs_fuse
def test_stale_mounts_are_told_apart(cli: CommandLine, archive: Path, mount: Mount) -> None:
    dead, live = mount(archive, at=archive.parent / "dead"), mount(archive)
    daemon = Process(cli.record(dead)["pid"])
    os.kill(cli.record(dead)["pid"], signal.SIGKILL)
    daemon.wait()
    assert cli.record(dead)["status"] == "stale: Transport endpoint is not connected"
    assert "not connected" in cli.run("ps").stdout
    _, line = cli.run("ps", "--clean").stdout.splitlines()
    assert str(live) in line
    assert not is_mounted(dead)


@needs_fuse
def test_a_killed_daemon_leaves_no_files(cli: CommandLine, archive: Path, mount: Mount) -> None:
    where = mount(archive)
    daemon = Process(cli.record(where)["pid"])
    os.kill(cli.record(where)["pid"], signal.SIGKILL)
    daemon.wait()
    cli.run("ps", "--clean")
    assert list(Path(os.environ["UNIONMOUNT_RUNTIME_DIR"], "mounts").iterdir()) == []


# ---- records -----------------------------------------------------------------------------------


def test_a_record_lives_as_long_as_it_is_held(tmp_path: Path) -> None:
    table = MountTable(tmp_path)
    record = new_record(Path("/somewhere"))
    with table.held(record):
        (found,) = table.all()
        assert (found.record, found.status, found.alive) == (record, STARTING, True)
        (path,) = (tmp_path / "mounts").iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert table.all() == []


def test_an_update_is_seen_and_stays_locked(tmp_path: Path) -> None:
    table = MountTable(tmp_path)
    with table.held(new_record(None)) as held:
        held.update(mountpoint="/other", device="0:99")
        (found,) = table.all()
        assert found.record == held.record
        assert (found.record.mountpoint, found.record.device) == ("/other", "0:99")
        assert (found.status, found.alive) == (DETACHED, True)
        assert len(list((tmp_path / "mounts").iterdir())) == 1


def test_readers_do_not_disturb_each_other(tmp_path: Path) -> None:
    table = MountTable(tmp_path)
    (tmp_path / "mounts").mkdir()
    record = new_record(Path("/somewhere"))
    with table.held(record):
        (path,) = (tmp_path / "mounts").iterdir()
        text = path.read_bytes()
    path.write_bytes(text)  # the record of a daemon that was killed
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert [one.status for one in table.all()] == [GONE]
        table.forget(record)
    assert table.all() == []


def test_files_that_are_no_records_are_passed_over(tmp_path: Path) -> None:
    table = MountTable(tmp_path)
    (tmp_path / "mounts").mkdir()
    for name, text in (("a", "{"), ("b", "{}"), ("c", "[1]"), ("d", "")):
        (tmp_path / "mounts" / f"{name}.json").write_text(text, encoding="ascii")
    assert table.all() == []


def test_a_process_number_that_is_used_again() -> None:
    mine = new_record(Path("/somewhere"))
    assert not wait_until_gone(mine, 0)
    other = replace(mine, started=mine.started - 1)
    assert wait_until_gone(other, 0)


# ---- the runtime directory -----------------------------------------------------------------------


def test_a_runtime_directory_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIONMOUNT_RUNTIME_DIR", str(tmp_path / "a" / "b"))
    assert runtime_directory() == tmp_path / "a" / "b"
    assert runtime_directory().is_dir()


def test_a_runtime_directory_that_is_a_link_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setenv("UNIONMOUNT_RUNTIME_DIR", str(tmp_path / "link"))
    with pytest.raises(Exception, match="does not belong to this user alone"):
        runtime_directory()


def test_names_of_automatic_mount_points(tmp_path: Path) -> None:
    table = MountTable(tmp_path)
    for image, expected in (
        ("docker.io/library/nginx:1.25", "docker.io-library-nginx-1.25"),
        ("../../etc", "etc"),
        ("\x1b[0m", "0m"),
        ("", "image"),
        ("x" * 300, "x" * 60),
    ):
        record = replace(new_record(None), image=image)
        made = table.make_mountpoint(record)
        assert made == tmp_path / "mnt" / f"{expected}-{record.id}"
        assert made.is_dir()
