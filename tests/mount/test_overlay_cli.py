"""``unionmount overlay``: directories on top of each other, by the command line of overlayfs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounting import COMMAND, CommandLine, Process, is_mounted, mount_line, wait_for_mounts

pytestmark = pytest.mark.needs("fuse")


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: two lower directories, an empty upper, a work and a mount point."""
    for name, files in (("a", {"both": "a", "in-a": "a"}), ("b", {"both": "b", "in-b": "b"})):
        (tmp_path / name / "dir").mkdir(parents=True)
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
            (tmp_path / name / "dir" / file).write_text(text)
    for name in ("u", "w", "m"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[CommandLine]:
    places = {"UNIONMOUNT_ROOT": tmp_path / "store", "UNIONMOUNT_RUNTIME_DIR": tmp_path / "run"}
    line = CommandLine(environment={name: str(path) for name, path in places.items()})
    yield line
    for record in line.records():
        line.run("umount", "--lazy", record["id"])


def shown(top: Path) -> dict[str, str]:
    """The files of the mount, with what they say."""
    return {
        str(path.relative_to(top / "m")): path.read_text()
        for path in sorted((top / "m").rglob("*"))
        if path.is_file()
    }


BOTH = {
    "both": "a",
    "in-a": "a",
    "in-b": "b",
    "dir/both": "a",
    "dir/in-a": "a",
    "dir/in-b": "b",
}
WRITABLE = "lowerdir=a:b,upperdir=u,workdir=w"


# ---- mounting ------------------------------------------------------------------------------------


def test_the_first_lower_is_on_top(cli: CommandLine, top: Path) -> None:
    done = cli.run("overlay", "-o", "lowerdir=a:b", "m")
    assert (done.stdout, done.stderr) == ("", "")
    assert shown(top) == BOTH
    cli.run("umount", "m")
    cli.run("overlay", "-o", "lowerdir=b:a", "m")
    assert shown(top)["both"] == "b"


def test_one_lower(cli: CommandLine, top: Path) -> None:
    cli.run("overlay", "-o", f"lowerdir={top}/a", top / "m")
    assert shown(top) == {"both": "a", "in-a": "a", "dir/both": "a", "dir/in-a": "a"}


def test_without_an_upper_nothing_changes(cli: CommandLine, top: Path) -> None:
    cli.run("overlay", "-o", "lowerdir=a:b", "m")
    assert cli.record(top / "m")["mode"] == "ro"
    with pytest.raises(OSError, match="Read-only file system"):
        (top / "m/new").write_text("")


def test_changes_go_to_the_upper(cli: CommandLine, top: Path) -> None:
    cli.run("overlay", "-o", WRITABLE, "m")
    (top / "m/in-b").write_text("changed")
    (top / "m/in-a").unlink()
    (top / "m/dir").rename(top / "m/moved")
    (top / "m/new").write_text("new")
    expected = {
        "both": "a",
        "in-b": "changed",
        "new": "new",
        "moved/both": "a",
        "moved/in-a": "a",
        "moved/in-b": "b",
    }
    assert shown(top) == expected
    record = cli.record(top / "m")
    assert record["source"] == f"lowerdir={top / 'a'}:{top / 'b'}"
    assert (record["image"], record["mode"]) == ("overlay", "rw")
    assert (record["upper"], record["container"]) == (str(top / "u"), "")
    cli.run("umount", "m")
    assert (top / "u/in-b").read_text() == "changed"
    assert [(top / name / "both").read_text() for name in "ab"] == ["a", "b"]
    cli.run("overlay", "-o", WRITABLE, "m")
    assert shown(top) == expected


def test_a_read_only_mount_shows_the_upper(cli: CommandLine, top: Path) -> None:
    (top / "u/in-a").write_text("from the upper")
    cli.run("overlay", "-o", f"{WRITABLE},ro", "m")
    assert shown(top)["in-a"] == "from the upper"
    with pytest.raises(OSError, match="Read-only file system"):
        (top / "m/new").write_text("")


def test_odd_names(cli: CommandLine, top: Path) -> None:
    names = ["a:b", "a,b", "a\\b", "with space", "new\nline", "lowerdir=x"]
    for name in names:
        (top / name).mkdir()
        (top / name / name).write_text(name)
    escaped = [name.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,") for name in names]
    cli.run("overlay", "-o", f"lowerdir={':'.join(escaped)}", "m")
    assert shown(top) == {name: name for name in names}
    cli.run("umount", "m")
    cli.run("overlay", "-o", "lowerdir+=a:b,lowerdir+=b", "-o", "lowerdir+=a", "m")
    assert shown(top)["both"] == "b"
    assert shown(top)["a:b"] == "a:b"


@pytest.mark.parametrize(
    ("words", "shown_source"),
    [
        (["m"], "overlay"),
        (["none", "m"], "none"),
        (["a name", "m"], "a\\040name"),
        (["none", "-o", "fsname=other", "m"], "other"),
    ],
)
def test_the_source_is_shown(
    cli: CommandLine, top: Path, words: list[str], shown_source: str
) -> None:
    cli.run("overlay", *words, "-o", "lowerdir=a:b")
    assert (mount_line(top / "m") or "").split(" - ")[1].split()[1] == shown_source
    assert cli.record(top / "m")["image"] == "overlay"


def test_what_is_not_known_or_not_to_be_had_is_refused(cli: CommandLine, top: Path) -> None:
    message = cli.error("overlay", "-o", f"{WRITABLE},index=off,nodev,no-such,two=2", "m")
    assert message.startswith("unknown mount option no-such, two=2 (known: ")
    message = cli.error("overlay", "-o", WRITABLE, "-o", "squash_to_root", "m")
    assert message == "mount option squash_to_root is refused: owners are shown as they are on disk"
    assert not is_mounted(top / "m")


@pytest.mark.needs("root")
def test_mount_options_have_their_effect(cli: CommandLine, top: Path) -> None:
    cli.run("overlay", "-o", f"{WRITABLE},noexec,suid,dev,noallow_other", "m")
    line = mount_line(top / "m") or ""
    shown_options = set(line.split()[5].split(","))
    assert "noexec" in shown_options
    assert not shown_options & {"nosuid", "nodev"}
    assert "allow_other" not in line


@pytest.mark.needs("root")
@pytest.mark.parametrize("option", ["", ",userxattr"])
def test_marks_are_the_users_where_asked_for(cli: CommandLine, top: Path, option: str) -> None:
    cli.run("overlay", "-o", WRITABLE + option, "m")
    shutil.rmtree(top / "m/dir")
    (top / "m/dir").mkdir()
    cli.run("umount", "m")
    prefix = "user." if option else "trusted."
    assert os.getxattr(top / "u/dir", f"{prefix}overlay.opaque") == b"y"
    other = "trusted." if option else "user."
    assert f"{other}overlay.opaque" not in os.listxattr(top / "u/dir")
    cli.run("overlay", "-o", WRITABLE + option, "m")
    assert list((top / "m/dir").iterdir()) == []


@pytest.mark.needs("root")
def test_a_volatile_upper(cli: CommandLine, top: Path) -> None:
    cli.run("overlay", "-o", f"{WRITABLE},volatile", "m")
    (top / "m/new").write_text("x")
    cli.run("umount", "m")
    assert (top / "u/new").read_text() == "x"


# ---- in the foreground ---------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["-f", "-d"])
def test_foreground(cli: CommandLine, top: Path, option: str) -> None:
    command = [*COMMAND, "overlay", option, "-o", WRITABLE, "m"]
    with subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE) as process:
        wait_for_mounts(lambda: is_mounted(top / "m"))
        assert shown(top) == BOTH
        assert cli.record(top / "m")["pid"] == process.pid
        process.send_signal(signal.SIGINT)
        told, _ = process.communicate(timeout=30)
        assert (process.returncode, told) == (0, b"")
    assert not is_mounted(top / "m")


def test_a_killed_daemon_leaves_a_usable_upper(cli: CommandLine, top: Path) -> None:
    cli.run("overlay", "-o", WRITABLE, "m")
    (top / "m/new").write_text("x")
    pid = cli.record(top / "m")["pid"]
    daemon = Process(pid)
    os.kill(pid, signal.SIGKILL)
    daemon.wait()
    cli.run("umount", "m")
    cli.run("overlay", "-o", WRITABLE, "m")
    assert (top / "m/new").read_text() == "x"


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("lowerdir=a:none", "lower directory none does not exist"),
        ("lowerdir=a/both:b", "lower directory a/both is not a directory"),
        ("lowerdir=a,upperdir=none,workdir=w", "upper directory none does not exist"),
        ("lowerdir=a,upperdir=u,workdir=none", "work directory none does not exist"),
        ("lowerdir=none\x1b", "lower directory none\\x1b does not exist"),
    ],
)
def test_a_directory_that_is_not_there(
    cli: CommandLine, top: Path, options: str, message: str
) -> None:
    assert cli.error("overlay", "-o", options, "m") == message
    assert not is_mounted(top / "m")


@pytest.mark.parametrize(
    "options",
    [
        "lowerdir=a/dir:b,upperdir=a,workdir=w",
        "lowerdir=a:b,upperdir=a,workdir=w",
        "lowerdir=a,upperdir=u,workdir=u",
        "lowerdir=a,upperdir=u,workdir=u/w",
        "lowerdir=a:w,upperdir=u,workdir=w",
        "lowerdir=u/w:b,upperdir=u,workdir=w",
    ],
)
def test_directories_in_each_other(cli: CommandLine, top: Path, options: str) -> None:
    (top / "u/w").mkdir()
    assert "inside of the other" in cli.error("overlay", "-o", options, "m")
    assert not is_mounted(top / "m")


def test_an_upper_in_use(cli: CommandLine, top: Path) -> None:
    for name in ("second", "w2"):
        (top / name).mkdir()
    cli.run("overlay", "-o", WRITABLE, "m")
    message = cli.error("overlay", "-o", "lowerdir=b,upperdir=u,workdir=w2", "second")
    assert message == f"upper directory {top}/u is in use by another mount"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "lowerdir=a,upperdir=u", "m"],
        ["-o", "upperdir=u,workdir=w", "m"],
        ["m"],
        ["-o", "lowerdir=a", "one", "two", "m"],
        ["-o", "lowerdir=a"],
    ],
    ids=" ".join,
)
def test_wrong_usage(cli: CommandLine, top: Path, arguments: list[str]) -> None:
    cli.error("overlay", *arguments, status=2)


def test_a_mount_point_that_is_not_there(cli: CommandLine, top: Path) -> None:
    assert "does not exist" in cli.error("overlay", "-o", "lowerdir=a", "none")
    assert cli.records() == []
