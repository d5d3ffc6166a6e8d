"""What is mounted, or put in the place of something, below the directories of a live mount.

The kernel's overlayfs is the oracle: it shows what a mount point covers. An ordinary user can't
have that; there a mount point is seen, and what is in it is not. Above all nothing may lead a
daemon into the file system that it serves itself: it would wait for itself for ever.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.mounting import CommandLine
from support.users import NOBODY, become_nobody, call_as, fuse_conf, fuse_for_all

pytestmark = [pytest.mark.needs("fuse", "root", "overlayfs"), pytest.mark.quick]

_PATIENCE = 20  # seconds after which who looks into a mount is taken to wait for ever


@pytest.fixture
def top(public_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories that the ordinary user owns; the working directory."""
    for name in ("low/covered/deep", "low/plain", "low/own", "up/there", "work", "m", "oracle"):
        (public_tmp / name).mkdir(parents=True)
    (public_tmp / "low/covered/deep/file").write_text("covered")
    (public_tmp / "low/plain/file").write_text("plain")
    (public_tmp / "low/one").write_text("one")
    (public_tmp / "low/two").write_text("two, covered")
    for path in (public_tmp, *public_tmp.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    monkeypatch.chdir(public_tmp)
    return public_tmp


@pytest.fixture
def mount_kernel(top: Path) -> Iterator[Callable[..., None]]:
    """A function that mounts as mount(8) does; all is unmounted when the test ends."""
    made: list[str] = []

    def mount(*arguments: str) -> None:
        subprocess.run(["mount", *arguments], check=True)
        made.append(arguments[-1])

    yield mount
    for where in reversed(made):
        subprocess.run(["umount", "-l", where], check=True)


def command_line(top: Path, prefix: tuple[str, ...], name: str) -> Iterator[CommandLine]:
    places = {"UNIONMOUNT_ROOT": f"{name}-store", "UNIONMOUNT_RUNTIME_DIR": f"{name}-run"}
    for place in places.values():
        (top / place).mkdir(mode=0o700)
        os.chown(top / place, *((NOBODY, NOBODY) if prefix else (0, 0)))
    line = CommandLine(prefix, {key: str(top / place) for key, place in places.items()})
    yield line
    for record in line.records():
        line.run("umount", "--lazy", record["id"])


@pytest.fixture
def root(top: Path) -> Iterator[CommandLine]:
    yield from command_line(top, (), "root")


@pytest.fixture
def nobody(top: Path) -> Iterator[CommandLine]:
    with fuse_for_all():
        yield from command_line(top, become_nobody(), "nobody")


def look(where: Path) -> str:
    """All that find(1) can tell of a tree, by another process, which must come to its end."""
    shown = ["find", str(where), "-printf", "%P %y %m %U:%G %s %l\\n"]
    done = subprocess.run(shown, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    return "\n".join(sorted(done.stdout.splitlines()))


@pytest.mark.parametrize("threads", [1, 4])
def test_a_mount_point_shows_what_it_covers(
    root: CommandLine, top: Path, mount_kernel: Callable[..., None], threads: int
) -> None:
    mount_kernel("-t", "tmpfs", "tmpfs", "low/covered")
    mount_kernel("--bind", "low/one", "low/two")
    mount_kernel("-t", "overlay", "-o", "lowerdir=low:up", "overlay", "oracle")
    root.run("overlay", "-o", f"threads={threads},lowerdir=low:up", "m")
    (top / "low/covered/over").write_text("of the tmpfs")
    expected = look(top / "oracle")
    assert "covered/deep/file f" in expected
    assert look(top / "m") == expected
    assert (top / "m/two").read_text() == (top / "oracle/two").read_text() == "two, covered"
    # what is mounted later, too, and what is mounted on what was seen
    mount_kernel("-t", "tmpfs", "tmpfs", "low/plain")
    assert look(top / "m") == look(top / "oracle") == expected
    assert (top / "m/plain/file").read_text() == "plain"


def test_the_upper_is_what_the_mount_points_cover(
    root: CommandLine, top: Path, mount_kernel: Callable[..., None]
) -> None:
    root.run("overlay", "-o", "suid,dev,lowerdir=low,upperdir=up,workdir=work", "m")
    mount_kernel("-t", "tmpfs", "tmpfs", "up/there")
    (top / "m/there/new").write_text("through the mount")
    (top / "m/plain/file").write_text("copied up")
    assert not list((top / "up/there").iterdir())
    mount_kernel("--bind", "low", "up/plain")
    (top / "m/plain/file").write_text("written again")
    (top / "m/plain/other").write_text("new")
    assert (top / "low/plain/file").read_text() == "plain"
    assert not (top / "low/other").exists()
    assert (top / "m/plain/file").read_text() == "written again"


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_no_daemon_waits_for_itself(
    root: CommandLine, top: Path, mount_kernel: Callable[..., None], threads: int
) -> None:
    how = f"threads={threads}" if threads else "nofastpath"
    options = f"{how},suid,dev,lowerdir=low,upperdir=up,workdir=work"
    root.run("overlay", "-o", options, "m")
    mount_kernel("--bind", "m", "low/own")
    mount_kernel("--bind", "m", "up/there")
    mount_kernel("--bind", "m/plain", "work")
    before = look(top / "m")
    assert "own d" in before
    assert "own/own" not in before
    (top / "m/plain/file").write_text("copied up meanwhile")
    (top / "m/own/new").write_text("in a directory that is covered by the mount itself")
    with pytest.raises(OSError, match="busy"):  # as the kernel has it for mount points
        (top / "m/there").rename(top / "m/moved")
    (top / "m/plain").rename(top / "m/moved")
    assert "moved/file f" in look(top / "m")


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_an_ordinary_users_daemon_does_not_wait_for_itself(
    nobody: CommandLine, top: Path, mount_kernel: Callable[..., None], threads: int
) -> None:
    how = f"threads={threads}" if threads else "nofastpath"
    options = f"{how},allow_other,lowerdir=low,upperdir=up,workdir=work"
    os.link("low/one", "low/again")
    with fuse_conf(allows_others=True):
        nobody.run("overlay", "-o", options, "low/own")  # mounted in its own lower directory
    mount_kernel("--bind", "low/own", "up/there")
    mount_kernel("-t", "tmpfs", "tmpfs", "low/covered")
    mounted = top / "low/own"
    shown = look(mounted)
    assert "own d" in shown
    assert "covered d" in shown
    assert "plain/file f" in shown
    for inside in ("own", "covered"):
        with pytest.raises(OSError, match="cross-device") as refused:
            list((mounted / inside).iterdir())
        assert refused.value.errno == errno.EXDEV
    call_as(NOBODY, lambda: (mounted / "plain/file").write_text("changed"))
    assert (top / "up/plain/file").read_text() == "changed"
    # all names of a file are looked for in the upper, past what is mounted there
    call_as(NOBODY, lambda: (mounted / "again").chmod(0o640))
    assert (mounted / "one").stat().st_mode == (mounted / "again").stat().st_mode
    assert (mounted / "one").stat().st_nlink == 2
