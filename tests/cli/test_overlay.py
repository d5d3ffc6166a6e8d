"""``unionmount overlay``: directories on top of each other, by the command line of overlayfs."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mounting import (
    COMMAND,
    CommandLine,
    Process,
    is_mounted,
    mount_line,
    own_places,
    unmounting,
    wait_for_mounts,
)

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
    with unmounting(CommandLine(environment=own_places(tmp_path))) as line:
        yield line


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
    message = cli.error("overlay", "-o", f"{WRITABLE},index=off,nodev,zzz,two=2", "m")
    assert message.startswith("unknown mount option zzz, two=2; use one of ")
    message = cli.error("overlay", "-o", WRITABLE, "-o", "plugins=x", "m")
    assert message == "mount option plugins=x is refused: there are no plugins"
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
    assert "contains the other" in cli.error("overlay", "-o", options, "m")
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


# ---- the user's directories ----------------------------------------------------------------------


def as_it_is(path: Path) -> tuple[object, ...]:
    """What a directory is on disk, but for its times and the marks of overlayfs."""
    status = path.stat()
    xattrs = {
        name: os.getxattr(path, name) for name in os.listxattr(path) if ".overlay." not in name
    }
    return status.st_mode, status.st_uid, status.st_gid, xattrs


@pytest.mark.needs("root", "overlayfs", "setfacl")
def test_a_mount_changes_nothing_of_the_upper_and_work_directories(
    cli: CommandLine, top: Path
) -> None:
    for name in ("u", "w"):
        subprocess.run(["setfacl", "-m", "u:1:rx,d:u:7:rwx,d:g:8:r", name], check=True)
        os.setxattr(name, "user.mine", b"x")
        Path(name).chmod(0o2750)
    before = [as_it_is(top / name) for name in "uw"]
    subprocess.run(["mount", "-t", "overlay", "-o", WRITABLE, "overlay", "m"], check=True)
    subprocess.run(["umount", "m"], check=True)
    assert [as_it_is(top / name) for name in "uw"] == before
    assert os.listdir("w") == ["work"]
    cli.run("overlay", "-o", f"{WRITABLE},suid,dev", "m")
    cli.run("umount", "m")
    assert [as_it_is(top / name) for name in "uw"] == before
    assert os.listdir("w") == []


@pytest.mark.needs("root", "overlayfs", "setfacl")
def test_what_is_made_in_the_work_directory_inherits_nothing(cli: CommandLine, top: Path) -> None:
    subprocess.run(["setfacl", "-m", "d:u:7:rwx", "w"], check=True)
    os.link("a/in-a", "a/linked")
    cli.run("overlay", "-o", f"{WRITABLE},suid,dev", "m")
    for name in ("both", "dir/in-a", "in-a"):
        with (top / "m" / name).open("a") as file:
            file.write("more")
    (top / "m/in-b").unlink()
    shutil.rmtree(top / "m/dir")
    (top / "m/dir").mkdir()
    cli.run("umount", "m")
    acls = {
        str(path.relative_to(top)): [name for name in os.listxattr(path, follow_symlinks=False)
                                     if "posix_acl" in name]
        for path in (top / "u").rglob("*")
    }  # fmt: skip
    assert {"u/both", "u/in-a", "u/linked", "u/in-b", "u/dir"} <= set(acls)
    assert {name: found for name, found in acls.items() if found} == {}


@pytest.mark.needs("root", "overlayfs")
@pytest.mark.parametrize("path", ["fastpath", "nofastpath"])
def test_an_upper_in_a_lower(cli: CommandLine, top: Path, path: str) -> None:
    options = f"lowerdir={top},upperdir={top}/u,workdir={top}/w"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", "m"], check=True)
    subprocess.run(["umount", "m"], check=True)
    shutil.rmtree(top / "w")
    (top / "w").mkdir()
    cli.run("overlay", "-o", f"{options},suid,dev,{path}", "m")
    assert sorted(os.listdir(top / "m")) == ["a", "b", "m", "run"]
    assert not (top / "m/u").exists()
    (top / "m/a/both").write_text("changed")
    (top / "m/u").mkdir()  # as any name that there is not
    (top / "m/u/new").write_text("x")
    assert sorted(os.listdir(top / "m")) == ["a", "b", "m", "run", "u"]
    assert os.listdir(top / "m/u") == ["new"]
    cli.run("umount", "m")
    assert (top / "u/a/both").read_text() == "changed"
    assert (top / "u/u/new").read_text() == "x"
    assert (top / "a/both").read_text() == "a"


# ---- redirects and metacopies --------------------------------------------------------------------


@pytest.mark.needs("root", "overlayfs")
@pytest.mark.parametrize("redirect", ["off", "follow", "nofollow", "on"])
def test_renaming_a_lower_directory(cli: CommandLine, top: Path, redirect: str) -> None:
    def renamed() -> str:
        try:
            (top / "m/dir").rename(top / "m/moved")
        except OSError as error:
            return os.strerror(error.errno or 0)
        return "renamed"

    options = f"{WRITABLE},redirect_dir={redirect}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", "m"], check=True)
    theirs = renamed()
    subprocess.run(["umount", "m"], check=True)
    for name in "uw":
        shutil.rmtree(top / name)
        (top / name).mkdir()
    cli.run("overlay", "-o", f"{options},suid,dev", "m")
    assert renamed() == theirs == ("renamed" if redirect == "on" else os.strerror(errno.EXDEV))


@pytest.mark.needs("root")
def test_redirects_are_followed_or_not(cli: CommandLine, top: Path) -> None:
    cli.run("overlay", "-o", WRITABLE, "m")
    (top / "m/dir").rename(top / "m/moved")
    cli.run("umount", "m")
    for redirect in ("off", "follow"):
        cli.run("overlay", "-o", f"{WRITABLE},redirect_dir={redirect}", "m")
        assert shown(top)["moved/in-b"] == "b"
        cli.run("umount", "m")
    cli.run("overlay", "-o", f"{WRITABLE},redirect_dir=nofollow", "m")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        os.listdir(top / "m/moved")


@pytest.mark.needs("root")
@pytest.mark.parametrize(("metacopy", "has_mark"), [("on", True), ("off", False)])
def test_metacopies_are_written_or_not(
    cli: CommandLine, top: Path, metacopy: str, has_mark: bool
) -> None:
    (top / "a/large").write_bytes(bytes(1 << 20))
    cli.run("overlay", "-o", f"{WRITABLE},metacopy={metacopy}", "m")
    (top / "m/large").chmod(0o600)
    cli.run("umount", "m")
    assert ("trusted.overlay.metacopy" in os.listxattr(top / "u/large")) == has_mark


@pytest.mark.needs("root")
def test_symlinks_are_not_followed(cli: CommandLine, top: Path) -> None:
    (top / "a/link").symlink_to("both")
    cli.run("overlay", "-o", "lowerdir=a:b,nosymfollow", "m")
    assert (top / "m/link").readlink() == Path("both")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        (top / "m/link").read_text()
