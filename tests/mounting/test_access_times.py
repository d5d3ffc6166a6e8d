"""Access times: of everything on disk, before and after it was read through the mount.

The kernel's overlayfs is mounted beside, with the same options, on copies of the same directories.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.commands import Commands, ForkedCommandLine
from support.mounting import CommandLine, mount_line, own_places, unmounting
from support.users import NOBODY, become_nobody, call_as, fuse_for_all

pytestmark = pytest.mark.needs("fuse")

_NAMES = ("dir", "dir/in", "file", "link")
OLD = 1_000_000_000 * 10**9  # long ago, and before mtime: relatime counts the next access
DATA = "data" * 5000


def make(top: Path) -> None:
    """Lower and upper directories with a file, a symlink and a directory each; all times old."""
    for name in ("lower", "upper"):
        (top / name / f"{name}-dir").mkdir(parents=True)
        (top / name / "both").mkdir()
        (top / name / f"{name}-dir/in").write_text(DATA)
        (top / name / f"both/{name}").write_text(DATA)
        (top / name / f"{name}-file").write_text(DATA)
        (top / name / f"{name}-link").symlink_to("nowhere")
    for name in ("work", "mnt"):
        (top / name).mkdir()
    for path in everything(top):
        os.utime(path, ns=(OLD, OLD + 1), follow_symlinks=False)


def everything(top: Path) -> list[Path]:
    """Every directory, file and symlink on disk; they are not listed, which would count."""
    names = [
        *(side + name for side in ("lower", "upper") for name in ("", "/both", f"/both/{side}")),
        *(f"{side}/{side}-{name}" for side in ("lower", "upper") for name in _NAMES),
    ]
    return [top / name for name in names]


def accessed(top: Path) -> set[str]:
    """What was accessed since it was made."""
    return {
        str(path.relative_to(top))
        for path in everything(top)
        if os.path.lexists(path) and path.lstat().st_atime_ns != OLD
    }


def read_all(root: Path) -> None:
    """List every directory, read every file and symlink, some by mmap."""
    for path in [root, *(Path(at) / name for at, ds, fs in os.walk(root) for name in (*ds, *fs))]:
        if path.is_symlink():
            path.readlink()
        elif path.is_dir():
            os.listdir(path)
        else:
            assert path.read_text() == DATA


FILES = {"upper/upper-dir/in", "upper/both/upper", "upper/upper-file"}
LINKS = {"upper/upper-link"}
DIRECTORIES = {"upper", "upper/upper-dir", "upper/both"}
COUNTED = {
    "": set(),
    "noatime": set(),
    "relatime": FILES | LINKS | DIRECTORIES,
    "relatime,nodiratime": FILES | LINKS,
    "relatime,ro": set(),
}


@pytest.fixture
def cli(tmp_path: Path, server: Commands) -> Iterator[CommandLine]:
    with unmounting(ForkedCommandLine(server, own_places(tmp_path))) as line:
        yield line


def layout(top: Path) -> str:
    return f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work"


@contextmanager
def by_kernel(top: Path, options: str) -> Iterator[None]:
    words = ",".join(filter(None, (layout(top), options or "noatime")))
    subprocess.run(["mount", "-t", "overlay", "-o", words, "overlay", top / "mnt"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", top / "mnt"], check=True)


def in_force(mountpoint: Path) -> set[str]:
    """What the table of mounts says of access times."""
    line = mount_line(mountpoint) or ""
    return {"noatime", "relatime", "nodiratime"} & set(line.split()[5].split(","))


@pytest.mark.needs("root", "overlayfs")
@pytest.mark.parametrize("path", ["fastpath", "nofastpath"])
@pytest.mark.parametrize("options", COUNTED)
def test_root(cli: CommandLine, tmp_path: Path, options: str, path: str) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    make(ours)
    make(theirs)
    words = ",".join(filter(None, (layout(ours), options, path)))
    cli.run("overlay", "-o", words, ours / "mnt")
    with by_kernel(theirs, options):
        shown = in_force(ours / "mnt")
        assert shown == in_force(theirs / "mnt")
        read_all(ours / "mnt")
        read_all(theirs / "mnt")
    cli.run("umount", ours / "mnt")
    assert accessed(ours) == COUNTED[options]
    assert accessed(theirs) == COUNTED[options]


@pytest.mark.needs("root")
def test_changes_count_as_little(cli: CommandLine, tmp_path: Path) -> None:
    """What the daemon reads for itself: copies, link counts, what is left in a directory."""
    make(tmp_path)
    cli.run("overlay", "-o", f"{layout(tmp_path)},relatime", tmp_path / "mnt")
    mnt = tmp_path / "mnt"
    with (mnt / "lower-file").open("a") as file:
        file.write("more")
    (mnt / "lower-dir").rename(mnt / "moved")
    (mnt / "both/lower").unlink()
    (mnt / "both").stat()
    (mnt / "upper-dir/in").rename(mnt / "in")
    (mnt / "upper-dir").rmdir()
    cli.run("umount", mnt)
    lowers = {name for name in accessed(tmp_path) if name.startswith("lower")}
    assert lowers == set()
    assert not accessed(tmp_path) & {"upper/upper-file", "upper/upper-link", "upper/in"}


@pytest.mark.needs("ordinary-user")
@pytest.mark.parametrize("path", ["fastpath", "nofastpath"])
@pytest.mark.parametrize("options", ["", "relatime"])
def test_user(public_tmp: Path, options: str, path: str) -> None:
    top = public_tmp
    if os.geteuid() == 0:
        os.chown(top, NOBODY, NOBODY)
    call_as(NOBODY, lambda: make(top))
    environment = {
        "UNIONMOUNT_RUNTIME_DIR": str(top / "run"),
        "UNIONMOUNT_ROOT": str(top / "store"),
    }
    with fuse_for_all():
        user = CommandLine(become_nobody(), environment)
        words = ",".join(filter(None, (layout(top), options, path)))
        user.run("overlay", "-o", words, top / "mnt")
        try:
            shown = in_force(top / "mnt")
            call_as(NOBODY, lambda: read_all(top / "mnt"))
        finally:
            user.run("umount", top / "mnt")
    assert shown == {options or "noatime"}
    # only root can keep readlink(2) from counting
    links = LINKS | {"lower/lower-link"}
    assert accessed(top) - links == COUNTED[options] - LINKS


def test_what_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    make(tmp_path)
    message = cli.error("overlay", "-o", f"{layout(tmp_path)},strictatime", tmp_path / "mnt")
    assert message == (
        "mount option strictatime is refused: reads that the kernel answers from its cache cannot "
        "be counted; use relatime"
    )
    assert mount_line(tmp_path / "mnt") is None
