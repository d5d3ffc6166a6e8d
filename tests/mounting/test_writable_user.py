"""A writable mount of an ordinary user, who may set neither owners nor devices on disk."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.archives import MTIME_NS, Layer, docker_archive, posix_acl
from support.compare import shown
from support.errnos import failing
from support.mounting import CommandLine, is_mounted
from support.users import NOBODY, call_as

pytestmark = pytest.mark.needs("ordinary-user")

OVERRIDE = "user.containers.override_stat"


@pytest.fixture
def archive(home: Path) -> Path:
    layer = Layer().directory("./", 0o755).file("file", b"lower\n")
    layer.file("secret", b"root's", mode=0o600).directory("closed", 0o500).file("closed/file")
    layer.file("theirs", b"theirs", owner=(7, 8), mode=0o4750)
    layer.file("links-a", b"linked").hard_link("links-b", "links-a")
    layer.directory("tree").directory("tree/sub", owner=(7, 8)).file("tree/sub/deep", b"deep")
    layer.symlink("link", "file", owner=(7, 8)).add("null", tarfile.CHRTYPE, device=(1, 3))
    layer.add("fifo", tarfile.FIFOTYPE)
    return docker_archive(home / "image.tar", [layer])


class Private:
    """The user's mount, and the user."""

    def __init__(self, user: CommandLine, archive: Path, home: Path) -> None:
        self.user, self.archive, self.home = user, archive, home
        self.root = home / "mnt"
        call_as(NOBODY, self.root.mkdir)

    def mount(self, *options: str) -> None:
        where = ("--upper", self.home / "upper", "--work", self.home / "work")
        self.user.run("mount", *where, *options, self.archive, self.root)

    def unmount(self) -> None:
        if is_mounted(self.root):
            self.user.run("umount", self.root)

    def remount(self, *options: str) -> None:
        self.unmount()
        self.mount(*options)

    def do(self, function: Callable[[Path], Any]) -> Any:
        """Call a function with the mount's root, as the user."""
        return call_as(NOBODY, lambda: function(self.root))


@pytest.fixture
def private(user: CommandLine, archive: Path, home: Path) -> Iterator[Private]:
    made = Private(user, archive, home)
    made.mount()
    yield made
    made.unmount()


def test_owners_modes_and_devices_are_shown_and_kept(private: Private) -> None:
    def change(root: Path) -> None:
        (root / "new").write_bytes(b"new")
        os.chown(root / "new", 5, 6)
        (root / "new").chmod(0o6711)
        os.chown(root / "tree/sub", 0, 0)
        (root / "tree/sub").chmod(0o1777)
        (root / "null").chmod(0o666)  # the kernel lets only root make one
        os.mkfifo(root / "pipe", 0o600)
        os.chown(root / "secret", 11, 12)
        (root / "fifo").chmod(0o600)

    def look(root: Path) -> None:
        assert shown(root / "new") == ("-rws--s--x", 5, 6, (0, 0))
        assert shown(root / "tree/sub") == ("drwxrwxrwt", 0, 0, (0, 0))
        assert shown(root / "pipe") == ("prw-------", uid, gid, (0, 0))
        assert shown(root / "secret") == ("-rw-------", 11, 12, (0, 0))
        assert shown(root / "fifo") == ("prw-------", 0, 0, (0, 0))
        assert shown(root / "null") == ("crw-rw-rw-", 0, 0, (1, 3))
        assert (root / "secret").read_bytes() == b"root's"
        assert OVERRIDE not in os.listxattr(root / "new")

    uid, gid = private.do(lambda _: (os.getuid(), os.getgid()))
    private.do(change)
    private.do(look)
    private.remount()
    private.do(look)
    on_disk = (private.home / "upper/new").stat()
    assert on_disk.st_uid == uid
    assert not on_disk.st_mode & 0o6000


def test_the_user_may_do_everything_like_root_in_a_container(private: Private) -> None:
    def change(root: Path) -> None:
        assert (root / "secret").read_bytes() == b"root's"
        (root / "secret").write_bytes(b"mine")
        (root / "closed/new").touch()
        shutil.rmtree(root / "closed")
        (root / "theirs").write_bytes(b"changed")
        os.rename(root / "tree", root / "moved")
        assert (root / "moved/sub/deep").read_bytes() == b"deep"
        (root / "moved/sub").chmod(0)
        (root / "moved/sub/inside").write_bytes(b"inside")
        os.utime(root / "link", ns=(1, 2), follow_symlinks=False)
        os.rename(root / "null", root / "moved/null")
        (root / "fifo").unlink()

    def look(root: Path) -> None:
        assert sorted(os.listdir(root)) == sorted(
            ["file", "links-a", "links-b", "link", "moved", "secret", "theirs"]
        )
        assert shown(root / "moved/sub")[0] == "d---------"
        assert (root / "moved/sub/inside").read_bytes() == b"inside"
        assert shown(root / "moved/null") == ("crw-r--r--", 0, 0, (1, 3))
        assert shown(root / "theirs")[1:3] == (7, 8)

    private.do(change)
    private.do(look)
    private.remount()
    private.do(look)


def test_modes_are_checked_when_asked_for(private: Private) -> None:
    private.remount("-o", "default_permissions")
    for change in (
        lambda root: (root / "secret").read_bytes(),
        lambda root: (root / "file").write_bytes(b"x"),
        lambda root: (root / "new").touch(),
    ):
        with failing(errno.EACCES):
            private.do(change)


def test_hard_links_of_the_image(private: Private) -> None:
    def change(root: Path) -> None:
        (root / "links-a").write_bytes(b"changed")
        os.chown(root / "links-b", 3, 4)

    def look(root: Path) -> None:
        assert (root / "links-b").read_bytes() == b"changed"
        assert shown(root / "links-a") == shown(root / "links-b") == ("-rw-r--r--", 3, 4, (0, 0))
        assert (root / "links-a").stat().st_ino == (root / "links-b").stat().st_ino
        assert (root / "links-a").stat().st_nlink == 2

    private.do(change)
    private.do(look)
    private.remount()
    private.do(look)


def test_copy_up_keeps_owner_and_times(private: Private) -> None:
    private.do(lambda root: os.setxattr(root / "theirs", "user.note", b"x"))
    private.remount()
    assert private.do(lambda root: shown(root / "theirs")) == ("-rwsr-x---", 7, 8, (0, 0))
    assert private.do(lambda root: (root / "theirs").stat().st_mtime_ns) == MTIME_NS


def test_privileges_are_lost_when_writing(private: Private) -> None:
    private.do(lambda root: (root / "theirs").write_bytes(b"x"))
    assert private.do(lambda root: shown(root / "theirs"))[0] == "-rwxr-x---"


def test_the_root_is_that_of_the_image(private: Private) -> None:
    assert private.do(shown) == ("drwxr-xr-x", 0, 0, (0, 0))
    private.remount()
    assert private.do(shown) == ("drwxr-xr-x", 0, 0, (0, 0))


def test_acls_can_not_be_set(private: Private) -> None:
    entries = [(0x01, 6, 0xFFFFFFFF), (0x04, 4, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF)]
    private.do(lambda root: (root / "new").touch())
    with failing(errno.EOPNOTSUPP):
        private.do(
            lambda root: os.setxattr(root / "new", "system.posix_acl_access", posix_acl(*entries))
        )


def test_an_upper_is_mounted_once(private: Private) -> None:
    with ExitStack() as stack:
        other = private.home / "other"
        call_as(NOBODY, other.mkdir)
        stack.callback(other.rmdir)
        where = ("--upper", private.home / "upper", "--work", private.home / "work")
        message = private.user.error("mount", *where, private.archive, other)
        assert "is in use by another mount" in message


def test_what_was_renamed_is_found_without_the_mount(private: Private, user: CommandLine) -> None:
    """``diff`` looks at the disk, and believes the marks of whose upper it is."""
    private.do(lambda root: (root / "tree").rename(root / "moved"))
    told = ["A /moved", "A /moved/sub", "A /moved/sub/deep", "D /tree"]
    assert user.run("diff", private.root).stdout.splitlines() == told
