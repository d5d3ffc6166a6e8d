"""Maps of owners, beside the kernel's idmapped overlayfs and fuse-overlayfs.

The same commands run on each mount, by several users; what they say, what the mount shows and what
is stored have to be the same.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from differential.lowers import CAPABILITY, namespaced_capability
from support.backing import backing
from support.idmapped import idmapped
from support.mounting import CommandLine, is_mounted, wait_for_mounts
from support.users import fuse_for_all

from unionmount._core import lib
from unionmount.system.id_map import IdRange, parse_id_ranges

pytestmark = [pytest.mark.needs("fuse", "root", "overlayfs", "setfacl"), pytest.mark.slow]

USERS = "0:1000:1:1000:0:1:5:50:10"
GROUPS = "0:2000:1:2000:0:1:6:60:10"
MAPPED = f"uidmapping={USERS},gidmapping={GROUPS}"

# What is there, what users may do, and what becomes of it; everything that is named is in a range.
SCRIPT = r"""
as() { u=$1 g=$2; shift 2; setpriv --reuid="$u" --regid="$g" --clear-groups "$@"; }
say() { "$@" 2>&1; echo "= $?"; }
umask 022
find . -printf '%p %U:%G %m %y\n' | sort
find . -type f -printf '%p %n\n' | sort
find . ! -type l -print0 | sort -z | xargs -0 getfacl -n -p
say as 50 60 sh -c 'echo more >>file && cat file'
say as 50 60 chmod 640 file
say as 50 60 cat closed
say as 1000 2000 cat closed
say as 52 62 touch open/by-52
say as 52 62 mkdir open/directory-of-52
say as 52 62 ln -s nowhere open/link-of-52
say as 52 62 mkfifo open/fifo-of-52
say as 52 62 sh -c 'echo 1 >setgid/inherits'
say as 52 52 sh -c 'echo 1 >setgid/group-of-the-directory'
say mkdir setgid/directory
say touch new
say mkdir by-root
say chown 51:61 new
say chown -h 53:63 link
say chown 0:0 file
say chgrp 62 lower-directory
say setfacl -m u:51:rw,g:61:r new
say setfacl -m u:52:rwx acl
say setfacl -d -m u:53:rwx,g:63:rx open
say as 52 62 touch open/inherits
say as 0 0 touch by-0
say mv lower-directory moved
say mknod device c 1 3
say chown 51:61 device
say cp -a acl copied
find . -printf '%p %U:%G %m %y\n' | sort
find . -type f -printf '%p %n\n' | sort
find . ! -type l -print0 | sort -z | xargs -0 getfacl -n -p
"""

# The owners that do not fit; the kernel's own answers.
STRANGERS = r"""
as() { u=$1 g=$2; shift 2; setpriv --reuid="$u" --regid="$g" --clear-groups "$@"; }
say() { "$@" 2>&1; echo "= $?"; }
chmod 777 open
say as 77 77 touch open/new
say as 77 77 mkdir open/directory
say chown 77 file
say chown :77 file
say setfacl -m u:77:rw file
as 65534 65534 chmod 600 stranger 2>/dev/null; echo "= $?" # EPERM here, EOVERFLOW there
say as 65534 65534 touch stranger
say as 65534 65534 cat stranger
find . ! -name stranger -printf '%p %U:%G %m %y\n' | sort
"""


def make_lower(lower: Path) -> None:
    """Files of stored owners that the maps have, all but one."""
    for name in ("open", "setgid", "lower-directory"):
        (lower / name).mkdir(parents=True)
    (lower / "lower-directory/inside").write_text("x")
    for name in ("file", "closed", "acl", "stranger"):
        (lower / name).write_text(name)
    (lower / "link").symlink_to("file")
    os.link(lower / "file", lower / "second-name")
    os.chown(lower / "file", 5, 6)
    os.chown(lower / "closed", 0, 0)
    (lower / "closed").chmod(0o600)
    (lower / "open").chmod(0o777)
    os.chown(lower / "setgid", 1000, 7)
    (lower / "setgid").chmod(0o2777)
    os.chown(lower / "link", 6, 7, follow_symlinks=False)
    os.chown(lower / "stranger", 4242, 4242)
    (lower / "stranger").chmod(0o600)
    subprocess.run(["setfacl", "-m", "u:6:rw,g:7:r", lower / "acl"], check=True)


def play(mount: Path, script: str) -> str:
    done = subprocess.run(
        ["bash", "-c", script], cwd=mount, capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout


def stored(upper: Path) -> dict[str, tuple[int, int, int]]:
    """Owners and modes of what an upper holds."""
    return {
        str(path.relative_to(upper)): (status.st_uid, status.st_gid, status.st_mode)
        for path in upper.rglob("*")
        for status in (path.lstat(),)
        # whiteouts have any owner, and fuse-overlayfs spells some marks as names
        if not (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0)
        and not path.name.startswith(".wh.")
    }


def check_stored(disk: Path) -> None:
    """What both have copied up, which is not always the same, has the same owner and mode."""
    ours, theirs = stored(disk / "ours/upper"), stored(disk / "theirs/upper")
    both = ours.keys() & theirs.keys()
    assert both
    assert {name: ours[name] for name in both} == {name: theirs[name] for name in both}


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system of its own, with ACLs; others may pass through to a mount point on it."""
    with backing("ext4", 64) as top, fuse_for_all():
        for side in ("ours", "theirs"):
            for name in ("upper", "work", "mount"):
                (top / side / name).mkdir(parents=True)
        make_lower(top / "lower")
        yield top


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    places = {"UNIONMOUNT_ROOT": tmp_path / "store", "UNIONMOUNT_RUNTIME_DIR": tmp_path / "run"}
    return CommandLine(environment={name: str(path) for name, path in places.items()})


@contextmanager
def our_mount(cli: CommandLine, disk: Path, options: str) -> Iterator[Path]:
    side = disk / "ours"
    directories = f"lowerdir={disk}/lower,upperdir={side}/upper,workdir={side}/work"
    cli.run("overlay", "-o", f"{directories},suid,dev,{options}", side / "mount")
    try:
        yield side / "mount"
    finally:
        cli.run("umount", side / "mount")


@contextmanager
def kernel_mount(
    disk: Path, users: tuple[IdRange, ...], groups: tuple[IdRange, ...]
) -> Iterator[Path]:
    """The kernel's overlayfs on an idmapped mount of the whole disk."""
    shown = disk.parent / "shown"
    shown.mkdir()
    side = shown / "theirs"
    with ExitStack() as stack:
        stack.callback(shown.rmdir)
        stack.enter_context(idmapped(disk, shown, users, groups))
        directories = f"lowerdir={shown}/lower,upperdir={side}/upper,workdir={side}/work"
        where = disk / "theirs/mount"
        subprocess.run(
            [
                "mount",
                "-i",
                "-t",
                "overlay",
                "-o",
                f"{directories},index=on,redirect_dir=on",
                "overlay",
                where,
            ],
            check=True,
        )
        try:
            yield where
        finally:
            subprocess.run(["umount", where], check=True)


@contextmanager
def fuse_overlayfs(disk: Path, options: str) -> Iterator[Path]:
    side = disk / "theirs"
    directories = f"lowerdir={disk}/lower,upperdir={side}/upper,workdir={side}/work"
    command = ["fuse-overlayfs", "-f", "-o", f"{directories},{options}", str(side / "mount")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL):
        wait_for_mounts(lambda: is_mounted(side / "mount"))
        try:
            yield side / "mount"
        finally:
            subprocess.run(["umount", side / "mount"], check=True)


@pytest.mark.parametrize("fastpath", ["fastpath", "nofastpath"])
def test_mapped_owners_are_those_of_an_idmapped_overlayfs(
    cli: CommandLine, disk: Path, fastpath: str
) -> None:
    maps = parse_id_ranges(USERS), parse_id_ranges(GROUPS)
    # what nobody owns is another test's: stat tells it as another number
    (disk / "lower/stranger").unlink()
    with our_mount(cli, disk, f"{MAPPED},{fastpath}") as ours:
        said = play(ours, SCRIPT)
    with kernel_mount(disk, *maps) as theirs:
        expected = play(theirs, SCRIPT)
    assert said.splitlines() == expected.splitlines()
    check_stored(disk)


@pytest.mark.parametrize("fastpath", ["fastpath", "nofastpath"])
def test_owners_that_do_not_fit_are_refused_as_there(
    cli: CommandLine, disk: Path, fastpath: str
) -> None:
    maps = parse_id_ranges(USERS), parse_id_ranges(GROUPS)
    with our_mount(cli, disk, f"{MAPPED},{fastpath}") as ours:
        said = play(ours, STRANGERS)
        assert (ours / "stranger").stat().st_uid == lib.UM_ID_UNMAPPED
    with kernel_mount(disk, *maps) as theirs:
        expected = play(theirs, STRANGERS)
    assert said.splitlines() == expected.splitlines()
    check_stored(disk)


@pytest.mark.parametrize("fastpath", ["fastpath", "nofastpath"])
def test_root_outside_stands_for_root_inside(cli: CommandLine, disk: Path, fastpath: str) -> None:
    """Container engines make files, and own the root of a container; nobody else outside does."""
    maps = "uidmapping=0:1000:100,gidmapping=0:2000:100"
    (disk / "lower/open").chmod(0o1777)
    with our_mount(cli, disk, f"{maps},{fastpath}") as ours:
        (ours / "open/link").symlink_to("file")
        (ours / "open/directory").mkdir()
        said = play(ours, "setpriv --reuid=77 --regid=77 --clear-groups touch open/no 2>&1; true")
        assert "Value too large" in said
        assert (ours / "open/directory").stat().st_uid == 1000
        os.chown(ours / "open/directory", 1012, 2034)
        os.chown(ours / "open/directory", 0, 0)
        assert (ours / "open/directory").stat().st_uid == 1000
        os.chown(ours / "open/link", 1012, 0, follow_symlinks=False)
        with pytest.raises(OSError, match="Value too large"):
            os.chown(ours / "open/directory", 77, 0)
    made = stored(disk / "ours/upper")
    assert {name: owner[:2] for name, owner in made.items() if name.startswith("open/")} == {
        "open/link": (12, 0),
        "open/directory": (0, 0),
    }


@pytest.mark.parametrize("fastpath", ["fastpath", "nofastpath"])
def test_a_capability_counts_for_the_root_that_is_shown(
    cli: CommandLine, disk: Path, fastpath: str
) -> None:
    name = "security.capability"
    stored_roots, of_1000 = CAPABILITY, namespaced_capability(1000)
    os.setxattr(disk / "lower/closed", name, stored_roots)
    with our_mount(cli, disk, f"uidmapping=0:1000:1:7:0:1,{fastpath}") as ours:
        assert os.getxattr(ours / "closed", name) == of_1000
        os.setxattr(ours / "file", name, of_1000)
        os.setxattr(ours / "acl", name, stored_roots)  # that of the root who is shown, who is 7
        with pytest.raises(OSError, match="Invalid argument"):
            os.setxattr(ours / "acl", name, namespaced_capability(77))
        assert os.getxattr(ours / "acl", name) == stored_roots
        (ours / "closed").rename(ours / "moved")
    upper = disk / "ours/upper"
    assert os.getxattr(upper / "file", name) == stored_roots
    assert os.getxattr(upper / "acl", name) == namespaced_capability(7)
    assert os.getxattr(upper / "moved", name) == stored_roots


@pytest.mark.needs("fuse-overlayfs")
@pytest.mark.parametrize("fastpath", ["fastpath", "nofastpath"])
@pytest.mark.parametrize(
    "options",
    [
        "squash_to_root",
        "squash_to_uid=7",
        "squash_to_gid=8",
        "squash_to_uid=7,squash_to_gid=8",
        "squash_to_root,squash_to_uid=7",
        f"squash_to_gid=8,{MAPPED}",
        MAPPED,
    ],
)
def test_fuse_overlayfs_shows_the_same(
    cli: CommandLine, disk: Path, options: str, fastpath: str
) -> None:
    for name in ("stranger", "second-name"):  # of hard links it changes one alone
        (disk / "lower" / name).unlink()
    script = "\n".join(
        (
            "touch new; mkdir directory; ln -s to link-2; chown 1000:2000 file",
            "chown -h 1000:2000 link; chmod 640 closed",
            r"find . -printf '%p %U:%G %m %y\n' | sort",
        )
    )
    with our_mount(cli, disk, f"{options},{fastpath}") as ours:
        said = play(ours, script)
    with fuse_overlayfs(disk, options) as theirs:
        expected = play(theirs, script)
    assert said.splitlines() == expected.splitlines()
    assert stored(disk / "ours/upper") == stored(disk / "theirs/upper")
