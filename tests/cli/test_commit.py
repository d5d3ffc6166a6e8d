"""Containers as their users change them: ``diff``, ``commit``, ``save``, and what comes of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.compare import Snapshot, differences, snapshot
from support.mounting import CommandLine, is_mounted

pytestmark = pytest.mark.needs("fuse")

NAME = "example.org/base:1"


def base() -> list[Layer]:
    lower = Layer().directory("./").directory("etc").file("etc/motd", b"hello\n")
    lower.file("etc/old", b"old\n").directory("dir").file("dir/a", b"a" * 5000)
    lower.directory("dir/sub").file("dir/sub/x", b"x", xattrs={"user.x": b"y"})
    lower.hard_link("link", "dir/a").symlink("to-dir", "dir").directory("gone")
    lower.file("gone/one", b"1").file("gone/two", b"2").directory("becomes-file")
    lower.file("becomes-file/x", b"x").file("becomes-dir", b"x", mode=0o600)
    return [lower, Layer().directory("etc").file("etc/new", b"new\n")]


@pytest.fixture
def own(tmp_path: Path) -> CommandLine:
    """A command line with a store of its own, which has an image."""
    cli = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})
    cli.run("load", "-i", docker_archive(tmp_path / "image.tar", base(), NAME))
    return cli


@contextmanager
def mounted(
    cli: CommandLine,
    *arguments: str | Path,
    where: Path,
    command: tuple[str, ...] = ("mount",),
) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    cli.run(*command, *arguments, where)
    try:
        yield where
    finally:
        if is_mounted(where):
            cli.run("umount", where)


def change(top: Path) -> None:
    """All kinds of changes that an ordinary user can make, too."""
    (top / "etc/motd").write_bytes(b"changed\n")
    (top / "etc/old").unlink()
    (top / "etc/fresh").write_bytes(b"fresh\n")
    (top / "dir").rename(top / "moved")
    shutil.rmtree(top / "gone")
    (top / "gone").mkdir()
    (top / "gone/two").write_bytes(b"2")
    shutil.rmtree(top / "becomes-file")
    (top / "becomes-file").write_bytes(b"x")
    (top / "becomes-dir").unlink()
    (top / "becomes-dir").mkdir()
    (top / "becomes-dir/x").write_bytes(b"x")
    os.mkfifo(top / "fifo")
    (top / ("n" * 255)).write_bytes(b"long")
    Path(os.fsdecode(os.fsencode(top) + b"/\xff")).write_bytes(b"not UTF-8")
    os.setxattr(top / "etc/fresh", "user.bytes", b"a\0\xff")
    os.utime(top / "etc/fresh", ns=(1, 1_600_000_000_123_456_789))


TOLD = [
    "C /becomes-dir",
    "A /becomes-dir/x",
    "C /becomes-file",
    "D /dir",
    "C /etc",
    "A /etc/fresh",
    "C /etc/motd",
    "D /etc/old",
    "A /fifo",
    "C /gone",
    "D /gone/one",
    "C /gone/two",
    "C /link",
    "A /moved",
    "A /moved/a",
    "A /moved/sub",
    "A /moved/sub/x",
    "A /" + "n" * 255,
    "A /\\xff",
]


def test_diff_knows_a_container_by_all_its_names(own: CommandLine, tmp_path: Path) -> None:
    with mounted(own, "--name", "box", NAME, where=tmp_path / "mnt") as top:
        assert own.run("diff", top).stdout == ""
        change(top)
        mount_id = own.record(top)["id"]
        for target in (str(top), mount_id, "box", "container:box"):
            assert own.run("diff", target).stdout.splitlines() == sorted(TOLD, key=_by_component)
    assert own.run("diff", "box").stdout.splitlines() == sorted(TOLD, key=_by_component)


def _by_component(line: str) -> list[bytes]:
    return line[3:].encode().replace(b"\\xff", b"\xff").split(b"/")


def test_diff_says_in_json_what_changed(own: CommandLine, tmp_path: Path) -> None:
    with mounted(own, "--name", "box", NAME, where=tmp_path / "mnt") as top:
        assert json.loads(own.run("diff", "box", "--format", "json").stdout) == []
        change(top)
        found = json.loads(own.run("diff", "box", "--format", "json").stdout)
    assert [f"{one['kind']} {one['path']}" for one in found][:5] == TOLD[:5]
    by_path = {one["path"]: one for one in found}
    assert by_path["/link"] == {
        "kind": "C",
        "path": "/link",
        "type": "file",
        "changes": ["links"],
        "size": 5000,
    }
    assert by_path["/etc"]["changes"] == ["times"]
    assert by_path["/becomes-dir"]["changes"][0] == "type"
    assert by_path["/etc/motd"]["changes"] == ["content", "times"]
    assert by_path["/\udcff"]["size"] == 9


def test_what_is_only_looked_at_is_no_change(own: CommandLine, tmp_path: Path) -> None:
    with mounted(own, "--name", "box", NAME, where=tmp_path / "mnt") as top:
        (top / "etc/motd").open("r+b").close()
        (top / "dir/a").chmod(0o644)
        before = (top / "etc/new").stat()
        (top / "etc/new").write_bytes(b"new\n")
        os.utime(top / "etc/new", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert own.run("diff", top).stdout == ""
        os.utime(top / "etc/new")
        assert own.run("diff", top).stdout == "C /etc\nC /etc/new\n"
        own.run("commit", top, "made")
        assert own.run("layers", "made", "2").stdout == "C /etc\nC /etc/new\n"


@pytest.mark.parametrize("live", [True, False], ids=["mounted", "unmounted"])
def test_an_image_shows_what_the_container_showed(
    live: bool, own: CommandLine, tmp_path: Path
) -> None:
    with mounted(own, "--name", "box", NAME, where=tmp_path / "mnt") as top:
        change(top)
        if live:
            made = own.run("commit", top, "made:1", "-m", "why").stdout.strip()
        wanted = snapshot(top)
    if not live:
        made = own.run("commit", "box", "made:1").stdout.strip()
    assert made in own.run("images", "-q", "--no-trunc").stdout.split()
    with mounted(own, "--ro", "made:1", where=tmp_path / "mnt") as top:
        assert differences(wanted, snapshot(top)) == []
    check_with_umoci(own, wanted, tmp_path)
    with mounted(own, "--name", "next", "made:1", where=tmp_path / "mnt"):
        assert own.run("diff", "next").stdout == ""


def check_with_umoci(own: CommandLine, wanted: Snapshot, tmp_path: Path) -> None:
    """What umoci unpacks of the saved image is what the mount showed."""
    if os.geteuid() or not shutil.which("umoci"):
        return
    own.run("save", "--format", "oci", "-o", tmp_path / "layout", "made:1")
    command = ["umoci", "unpack", "--image", f"{tmp_path}/layout:1", str(tmp_path / "bundle")]
    subprocess.run(command, check=True, capture_output=True)
    assert differences(wanted, snapshot(tmp_path / "bundle/rootfs")) == []


def test_the_same_changes_are_the_same_image(own: CommandLine, tmp_path: Path) -> None:
    own.environment["SOURCE_DATE_EPOCH"] = "1700000000"
    found = set()
    for name in ("one", "two"):
        with mounted(own, "--name", name, NAME, where=tmp_path / "mnt") as top:
            change(top)
            found.add(own.run("commit", name, name).stdout)
    assert len(found) == 1
    own.environment["SOURCE_DATE_EPOCH"] = "tomorrow"
    assert "SOURCE_DATE_EPOCH" in own.error("commit", "one", "x", status=2)


def test_a_socket_is_named_and_left_out(own: CommandLine, tmp_path: Path) -> None:
    with (
        mounted(own, "--name", "box", NAME, where=tmp_path / "mnt") as top,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(str(top / "socket"))
        assert own.run("diff", top).stdout == "A /socket\n"
        said = own.run("commit", top, "made").stderr
    assert said == "unionmount: /socket: left out, since a layer cannot hold a socket\n"


def test_scratch_becomes_an_image(own: CommandLine, tmp_path: Path) -> None:
    with mounted(own, "--name", "box", "scratch", where=tmp_path / "mnt") as top:
        (top / "hello").write_bytes(b"hello\n")
        own.run("commit", top, "hello", "-c", 'CMD ["/hello"]')
        wanted = snapshot(top)
    with mounted(own, "--ro", "hello", where=tmp_path / "mnt") as top:
        assert differences(wanted, snapshot(top)) == []
    assert len(own.run("layers", "hello", "--format", "jsonl").stdout.splitlines()) == 1


def test_an_archive_in_place_becomes_an_image(own: CommandLine, tmp_path: Path) -> None:
    own.environment["UNIONMOUNT_ROOT"] = str(tmp_path / "empty")
    source = tmp_path / "image.tar"
    with mounted(own, "--ephemeral", source, where=tmp_path / "mnt") as top:
        change(top)
        own.run("commit", top, "made:1")
        wanted = snapshot(top)
    with mounted(own, "--ro", "made:1", where=tmp_path / "mnt") as top:
        assert differences(wanted, snapshot(top)) == []


def test_a_directory_of_the_users_becomes_an_image(own: CommandLine, tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    with mounted(own, "--upper", upper, NAME, where=tmp_path / "mnt") as top:
        change(top)
        assert own.run("diff", top).stdout.splitlines() == sorted(TOLD, key=_by_component)
        own.run("commit", top, "made:1")
        # the name means another image now
        own.run("load", "-i", docker_archive(tmp_path / "other.tar", base()[:1], NAME))
        assert "no longer the image" in own.error("diff", top)


def test_what_has_no_changes_is_told(own: CommandLine, tmp_path: Path) -> None:
    with mounted(own, "--ro", NAME, where=tmp_path / "mnt") as top:
        assert "read-only" in own.error("diff", top)
        assert "read-only" in own.error("commit", top, "made")
    lower = tmp_path / "lower:dir"
    lower.mkdir()
    options = f"lowerdir={lower}".replace(":", "\\:")
    with mounted(own, options, where=tmp_path / "mnt", command=("overlay", "-o")) as top:
        assert own.record(top)["source"] == options
        assert "a mount of directories" in own.error("diff", top)
    assert "no such container or mount" in own.error("diff", "nothing")
    assert "not an image name" in own.error("commit", "nothing", "A B")


def test_the_parts_of_a_command_line_are_checked_first(own: CommandLine, tmp_path: Path) -> None:
    with mounted(own, "--name", "box", NAME, where=tmp_path / "mnt") as top:
        change(top)
        assert "not an instruction" in own.error("commit", top, "made", "-c", "RUN x", status=2)
    assert [one["tag"] for one in json.loads(own.run("images", "--format", "json").stdout)] == ["1"]
