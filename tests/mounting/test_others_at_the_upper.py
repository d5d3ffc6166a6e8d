"""What a mount keeps on disk gives no other user of the machine anything.

The user of the image's directory moves programs and devices of root's to new names, which copies
them up, and looks for them on the disk, past the mount and its ``nosuid,nodev``.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive, posix_acl
from support.commands import Commands, ForkedCommandLine
from support.compare import shown
from support.errnos import failing
from support.mounting import CommandLine, Process, is_mounted
from support.users import NOBODY, become_nobody, call_as, fuse_for_all

pytestmark = pytest.mark.needs("fuse", "root", "setpriv")

CAPABLE = "security.capability"
OVERRIDE = "user.containers.override_stat"
KEPT = "unionmount.capability"
NET_RAW = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep
ACCESS = "system.posix_acl_access"
NONE = 2**32 - 1
OWNER_OF_D = 65533
WHO_AM_I = Path(shutil.which("id") or "/usr/bin/id").read_bytes()
ZERO = (1, 5)  # a character device whose power is seen by reading from it
_XATTRS = {CAPABLE: NET_RAW}

LOOK = {
    "d/su2": ("-rwsr-xr-x", 0, 0, (0, 0)),
    "d/sg2": ("-rwxr-sr-x", 0, 0, (0, 0)),
    "d/zero2": ("crw-rw-rw-", 0, 0, ZERO),
    "d/disk2": ("brw-rw-rw-", 0, 0, (7, 300)),
    "d/cap2": ("-rwxr-xr-x", 0, 0, (0, 0)),
    "d/all2": ("-rw-rw-rw-", 4, 5, (0, 0)),
    "d/link2": ("lrwxrwxrwx", 6, 7, (0, 0)),
    "d/fifo2": ("prw-rw-rw-", 8, 9, (0, 0)),
    "d": ("drwxrwxr-x", NOBODY, NOBODY, (0, 0)),
    "": ("drwxr-xr-x", 0, 0, (0, 0)),
}


def image_layer() -> Layer:
    layer = Layer().directory("./", 0o755).directory("d", 0o775, owner=(NOBODY, NOBODY))
    layer.file("d/su", WHO_AM_I, mode=0o4755).file("d/sg", WHO_AM_I, mode=0o2755)
    layer.add("d/zero", tarfile.CHRTYPE, device=ZERO, mode=0o666)
    layer.add("d/disk", tarfile.BLKTYPE, device=(7, 300), mode=0o666)
    layer.file("d/cap", WHO_AM_I, mode=0o755, xattrs=_XATTRS)
    layer.file("d/all", b"all", mode=0o666, owner=(4, 5)).symlink("d/link", "all", owner=(6, 7))
    layer.add("d/fifo", tarfile.FIFOTYPE, mode=0o666, owner=(8, 9))
    return layer


def attack(root: Path) -> None:
    """Done by NOBODY, whose directory it is."""
    for name in ("su", "sg", "zero", "disk", "cap", "all", "link", "fifo"):
        os.rename(root / "d" / name, root / "d" / f"{name}2")


def run_by_others(program: Path, option: str) -> str:
    """What ``id`` says of the one who runs it."""
    command = [str(program), option]
    return str(call_as(NOBODY, lambda: subprocess.check_output(command, text=True).strip()))


def read_by_others(path: Path) -> bytes:
    return bytes(call_as(NOBODY, lambda: path.open("rb").read(1)))


class Open:
    """A mount in a place that other users can reach."""

    def __init__(self, cli: CommandLine, place: Path) -> None:
        self.cli = cli
        self.place = place
        self.image = docker_archive(place / "image.tar", [image_layer()])
        self.root, self.upper, self.work = (place / name for name in ("mnt", "upper", "work"))
        self.root.mkdir()

    @property
    def words(self) -> tuple[str | Path, ...]:
        return ("mount", "--upper", self.upper, "--work", self.work)

    def mount(self, *options: str) -> str:
        return self.cli.run(*self.words, *options, self.image, self.root).stderr

    def refused(self, *options: str) -> str:
        message = self.cli.error(*self.words, *options, self.image, self.root)
        assert not is_mounted(self.root)
        return message

    def unmount(self) -> None:
        if is_mounted(self.root):
            self.cli.run("umount", self.root)

    def kill(self) -> None:
        """End the daemon as a crash does."""
        pid = self.cli.record(self.root)["pid"]
        daemon = Process(pid)
        os.kill(pid, signal.SIGKILL)
        daemon.wait()
        self.cli.run("umount", "--lazy", self.root)

    def make_open(self) -> None:
        for path in (self.upper, self.work):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)


@pytest.fixture
def cli(public_tmp: Path, server: Commands) -> CommandLine:
    """A command line with a store of its own, which others can reach."""
    return ForkedCommandLine(server, {"UNIONMOUNT_ROOT": str(public_tmp / "store")})


@pytest.fixture
def opened(cli: CommandLine, public_tmp: Path) -> Iterator[Open]:
    made = Open(cli, public_tmp)
    yield made
    made.unmount()


def look(opened: Open) -> None:
    assert {name: shown(opened.root / name) for name in LOOK} == LOOK
    assert os.getxattr(opened.root / "d/cap2", CAPABLE) == NET_RAW
    assert CAPABLE in os.listxattr(opened.root / "d/cap2")
    assert all("overlay" not in name for name in os.listxattr(opened.root / "d/cap2"))
    assert (opened.root / "d/su2").read_bytes() == WHO_AM_I
    listed = sorted(os.listdir(opened.root / "d"))
    assert listed == sorted(name.removeprefix("d/") for name in LOOK if "/" in name)


def test_the_attack_works_where_nothing_is_in_its_way(public_tmp: Path) -> None:
    """The control: this disk obeys set-user-ID bits and devices, so the tests below can fail."""
    program = public_tmp / "su"
    program.write_bytes(WHO_AM_I)
    program.chmod(0o4755)
    assert run_by_others(program, "-u") == "0"
    os.mknod(public_tmp / "zero", stat.S_IFCHR | 0o666, os.makedev(*ZERO))
    (public_tmp / "zero").chmod(0o666)
    assert read_by_others(public_tmp / "zero") == b"\0"


# ---- directories that are made -------------------------------------------------------------------


def check_closed(opened: Open) -> None:
    for path in (opened.upper, opened.work):
        assert shown(path) == ("drwx------", 0, 0, (0, 0))
    for attempt in (
        (opened.upper / "d/su2").lstat,
        lambda: os.listdir(opened.upper),
        lambda: os.listdir(opened.work),
        lambda: os.chdir(opened.upper),
    ):
        with failing(errno.EACCES):
            call_as(NOBODY, attempt)


@pytest.mark.parametrize("options", [(), ("--no-fastpath",), ("-o", "suid,dev")])
def test_what_is_made_nobody_else_can_enter(opened: Open, options: tuple[str, ...]) -> None:
    assert opened.mount(*options) == ""
    call_as(NOBODY, lambda: attack(opened.root))
    check_closed(opened)
    look(opened)
    # it is overlayfs' own format there
    assert shown(opened.upper / "d/su2") == LOOK["d/su2"]
    assert shown(opened.upper / "d/zero2") == LOOK["d/zero2"]
    assert os.getxattr(opened.upper / "d/cap2", CAPABLE) == NET_RAW
    opened.unmount()
    opened.mount(*options)
    look(opened)
    check_closed(opened)


@pytest.mark.parametrize("options", [(), ("--no-fastpath",)])
def test_the_root_opens_nothing_on_disk(opened: Open, options: tuple[str, ...]) -> None:
    grant = [(0x01, 7, NONE), (0x02, 7, NOBODY), (0x04, 5, NONE), (0x10, 7, NONE), (0x20, 5, NONE)]
    opened.mount(*options)
    for change, wanted in (
        (lambda root: root.chmod(0o7777), ("drwsrwsrwt", 0, 0, (0, 0))),
        (lambda root: os.chown(root, NOBODY, NOBODY), ("drwsrwsrwt", NOBODY, NOBODY, (0, 0))),
        (lambda root: root.chmod(0o711), ("drwx--x--x", NOBODY, NOBODY, (0, 0))),
        (
            lambda root: os.setxattr(root, ACCESS, posix_acl(*grant)),
            ("drwxrwxr-x", NOBODY, NOBODY, (0, 0)),
        ),
        (lambda root: root.chmod(0o750), ("drwxr-x---", NOBODY, NOBODY, (0, 0))),
    ):
        change(opened.root)
        assert shown(opened.root) == wanted
        check_closed(opened)
    masked = [(0x01, 7, NONE), (0x02, 7, NOBODY), (0x04, 5, NONE), (0x10, 5, NONE), (0x20, 0, NONE)]
    call_as(NOBODY, (opened.root / "theirs").touch)
    for end in (opened.unmount, opened.kill):
        assert os.getxattr(opened.root, ACCESS) == posix_acl(*masked)
        end()
        check_closed(opened)
        opened.mount(*options)
        assert shown(opened.root) == ("drwxr-x---", NOBODY, NOBODY, (0, 0))
    os.removexattr(opened.root, ACCESS)
    assert ACCESS not in os.listxattr(opened.root)
    assert shown(opened.root) == ("drwxr-x---", NOBODY, NOBODY, (0, 0))
    check_closed(opened)


def test_an_image_whose_root_is_somebody_elses(cli: CommandLine, public_tmp: Path) -> None:
    layer = Layer().directory("./", 0o777, owner=(NOBODY, NOBODY)).file("su", WHO_AM_I, mode=0o4755)
    opened = Open(cli, public_tmp)
    opened.image = docker_archive(public_tmp / "other.tar", [layer])
    opened.mount()
    try:
        assert shown(opened.root) == ("drwxrwxrwx", NOBODY, NOBODY, (0, 0))
        call_as(NOBODY, lambda: os.rename(opened.root / "su", opened.root / "su2"))
        check_closed(opened)
    finally:
        opened.unmount()


def test_a_container_of_a_store_that_was_there_before(cli: CommandLine, public_tmp: Path) -> None:
    store, where = public_tmp / "store", public_tmp / "mnt"
    for path in (store, where):
        path.mkdir()
    store.chmod(0o755)
    image = docker_archive(public_tmp / "image.tar", [image_layer()])
    cli.run("mount", "--root", store, "--name", "box", image, where)
    try:
        call_as(NOBODY, lambda: attack(where))
        box = store / "containers/box"
        for path in (box, box / "upper", box / "work"):
            assert shown(path) == ("drwx------", 0, 0, (0, 0))
        with failing(errno.EACCES):
            call_as(NOBODY, (box / "upper/d/su2").lstat)
        assert shown(where) == LOOK[""]
        cli.run("umount", where)
        for path in (box.parent, box, box / "upper"):
            path.chmod(0o755)
        message = cli.error("mount", "--root", store, "box", where)
        assert f"'chmod 700 {box}/upper' keeps them out" in message
        box.chmod(0o700)
        cli.run("mount", "--root", store, "box", where)
        assert shown(where / "d/su2") == LOOK["d/su2"]
    finally:
        if is_mounted(where):
            cli.run("umount", where)


def test_a_container_of_nothing_shows_an_ordinary_root(cli: CommandLine, public_tmp: Path) -> None:
    where = public_tmp / "mnt"
    where.mkdir()
    cli.run("mount", "--root", public_tmp / "store", "--ephemeral", "scratch", where)
    try:
        assert shown(where) == LOOK[""]
    finally:
        cli.run("umount", where)


# ---- directories that are there ------------------------------------------------------------------


def test_one_that_others_can_reach_is_refused(opened: Open) -> None:
    for made in (opened.upper, opened.work):
        made.mkdir(exist_ok=True)
        made.chmod(0o711)
        what = "upper" if made == opened.upper else "work"
        assert (
            opened.refused()
            == opened.refused("-o", "suid,dev")
            == (
                f"{what} directory {made}: other users can reach it without the mount; "
                f"'chmod 700 {made}' keeps them out, or accept it with --upper-open"
            )
        )
        made.chmod(0o700)
        assert opened.mount() == ""
        assert shown(opened.root) == LOOK[""]
        opened.unmount()
    os.chown(opened.upper, NOBODY, NOBODY)
    assert (
        f"it belongs to user {NOBODY}: 'chown 0 {opened.upper}' and 'chmod 700 {opened.upper}'"
        in opened.refused()
    )


def test_closing_one_of_an_earlier_version_changes_nothing(opened: Open) -> None:
    """Its root had the owner and mode on disk that the mount's root showed."""
    opened.mount()
    opened.unmount()
    os.removexattr(opened.upper, OVERRIDE)
    os.chown(opened.upper, NOBODY, NOBODY)
    opened.upper.chmod(0o1751)
    opened.refused()
    os.chown(opened.upper, 0, 0)
    opened.upper.chmod(0o700)
    opened.mount()
    assert shown(opened.root) == ("drwxr-x--t", NOBODY, NOBODY, (0, 0))


def test_the_directory_of_somebody_else_keeps_the_root_that_it_is(opened: Open) -> None:
    """What it says of the root would not be believed; who else writes to our own loses that."""
    opened.make_open()
    opened.upper.chmod(0o777)
    opened.mount("--upper-open")
    assert shown(opened.root) == LOOK[""]
    assert shown(opened.upper) == LOOK[""]
    opened.root.chmod(0o777)
    opened.unmount()
    os.chown(opened.upper, NOBODY, NOBODY)
    opened.mount("--upper-open")
    assert shown(opened.root) == ("drwxr-xr-x", NOBODY, NOBODY, (0, 0))
    with failing(errno.EPERM):
        opened.root.chmod(0o700)
    (opened.root / "d/su").chmod(0o4755)
    assert shown(opened.root / "d/su") == LOOK["d/su2"]
    assert shown(opened.upper / "d/su") == ("-rwxr-xr-x", 0, 0, (0, 0))


def test_one_below_a_closed_directory_is_taken_as_it_is(cli: CommandLine, public_tmp: Path) -> None:
    opened = Open(cli, public_tmp)
    (public_tmp / "closed").mkdir(0o700)
    opened.upper, opened.work = (public_tmp / "closed" / name for name in ("upper", "work"))
    opened.make_open()
    assert opened.mount() == ""
    try:
        opened.root.chmod(0o777)
        assert shown(opened.root)[0] == "drwxrwxrwx"
        assert shown(opened.upper)[0] == "drwxr-xr-x"
        (opened.root / "d/su").chmod(0o4711)
        assert shown(opened.upper / "d/su")[0] == "-rws--x--x"
    finally:
        opened.unmount()


def test_one_made_by_an_ordinary_user(public_tmp: Path) -> None:
    os.chown(public_tmp, NOBODY, NOBODY)
    places = {"UNIONMOUNT_RUNTIME_DIR": "run", "UNIONMOUNT_ROOT": "root"}
    environment = {name: str(public_tmp / place) for name, place in places.items()}
    with fuse_for_all():
        user = CommandLine(become_nobody(), environment)
        image = docker_archive(public_tmp / "image.tar", [image_layer()])
        where, upper = public_tmp / "mnt", public_tmp / "upper"
        call_as(NOBODY, where.mkdir)
        user.run("mount", "--upper", upper, image, where)
        try:
            call_as(NOBODY, lambda: where.chmod(0o777))
            call_as(NOBODY, lambda: (where / "d/cap").chmod(0o711))
            assert call_as(NOBODY, lambda: os.getxattr(where / "d/cap", CAPABLE)) == NET_RAW
            assert call_as(NOBODY, lambda: shown(where))[0] == "drwxrwxrwx"
            for path in (upper, public_tmp / "upper.work"):
                assert shown(path) == ("drwx------", NOBODY, NOBODY, (0, 0))
            user.run("umount", where)
            upper.chmod(0o755)
            assert "--upper-open" in user.error("mount", "--upper", upper, image, where)
            warned = user.run("mount", "--upper-open", "--upper", upper, image, where).stderr
            assert (
                warned
                == f"unionmount: warning: upper directory {upper}: other users can reach it\n"
            )
            assert call_as(NOBODY, lambda: shown(where))[0] == "drwxrwxrwx"
            assert call_as(NOBODY, lambda: os.getxattr(where / "d/cap", CAPABLE)) == NET_RAW
            call_as(NOBODY, lambda: (where / "d/cap").write_bytes(b"written"))
            assert CAPABLE not in call_as(NOBODY, lambda: os.listxattr(where / "d/cap"))
        finally:
            if is_mounted(where):
                user.run("umount", where)


# ---- accepted ------------------------------------------------------------------------------------


def check_powerless(opened: Open) -> None:
    """Others reach what is on disk, and it is worth nothing to them."""
    own = str(NOBODY)
    assert run_by_others(opened.upper / "d/su2", "-u") == own
    assert run_by_others(opened.upper / "d/sg2", "-g") == own
    assert read_by_others(opened.upper / "d/zero2") == b""
    for path in (opened.upper, *opened.upper.rglob("*")):
        found = path.lstat()
        is_whiteout = stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
        assert is_whiteout or not (stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode)), path
        assert not found.st_mode & 0o6000, path
        assert CAPABLE not in os.listxattr(path, follow_symlinks=False), path
        if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode):
            assert found.st_uid == 0, path
            assert not found.st_mode & 0o022, path
    with failing(errno.EACCES):
        call_as(NOBODY, lambda: os.setxattr(opened.upper / "d/all2", OVERRIDE, b"0:0:4755"))
    with failing(errno.EACCES):
        call_as(NOBODY, (opened.upper / "d/new").touch)


@pytest.mark.parametrize("options", [(), ("--no-fastpath",), ("-o", "suid"), ("-o", "dev")])
def test_what_is_accepted_has_no_power_on_disk(opened: Open, options: tuple[str, ...]) -> None:
    opened.make_open()
    warning = "unionmount: warning: {} directory {}: other users can reach it\n"
    warnings = warning.format("upper", opened.upper) + warning.format("work", opened.work)
    assert opened.mount("--upper-open", *options) == warnings
    call_as(NOBODY, lambda: attack(opened.root))
    check_powerless(opened)  # first: nobody can run what the daemon keeps open, once it was read
    look(opened)
    for end in (opened.unmount, opened.kill):
        end()
        opened.mount("--upper-open", *options)
        check_powerless(opened)
        look(opened)
    # closed, it is mounted as any other, and shows the same
    opened.unmount()
    opened.upper.chmod(0o700)
    opened.work.chmod(0o700)
    assert opened.mount(*options) == ""
    look(opened)
    (opened.root / "d/su2").chmod(0o4711)
    os.chown(opened.root / "d/zero2", 1, 2)
    opened.unmount()
    opened.mount(*options)
    assert shown(opened.root / "d/su2") == ("-rws--x--x", 0, 0, (0, 0))
    assert shown(opened.root / "d/zero2") == ("crw-rw-rw-", 1, 2, ZERO)


def test_what_root_makes_there_has_no_power_on_disk(opened: Open) -> None:
    """Nor does what gets its power by a change."""
    opened.make_open()
    opened.mount("--upper-open")
    attack(opened.root)
    d = opened.root / "d"
    for name, mode in (("a", 0o6777), ("b", 0o666)):
        (d / name).write_bytes(WHO_AM_I)
        os.chown(d / name, NOBODY, NOBODY)
        (d / name).chmod(mode)
    os.setxattr(d / "b", CAPABLE, NET_RAW)
    os.mknod(d / "c", stat.S_IFBLK | 0o666, os.makedev(7, 300))
    (d / "inner").mkdir(0o777)
    (d / "inner").chmod(0o7777)
    acl = [(0x01, 7, NONE), (0x02, 7, NOBODY), (0x04, 7, NONE), (0x10, 7, NONE), (0x20, 7, NONE)]
    os.setxattr(d / "inner", ACCESS, posix_acl(*acl))
    os.setxattr(d / "inner", "system.posix_acl_default", posix_acl(*acl))
    old = os.umask(0)
    try:
        (d / "inner/heir").touch(0o666)
        (d / "inner/deep").mkdir(0o777)
    finally:
        os.umask(old)
    seen = {path: shown(path) for path in sorted(opened.root.rglob("*"))}
    assert seen[d / "a"] == ("-rwsrwsrwx", NOBODY, NOBODY, (0, 0))
    assert seen[d / "inner"] == ("drwsrwsrwt", 0, 0, (0, 0))
    assert seen[d / "inner/heir"] == ("-rw-rw-rw-", 0, 0, (0, 0))
    assert seen[d / "inner/deep"] == ("drwxrwsrwx", 0, 0, (0, 0))
    assert os.getxattr(d / "inner", ACCESS) == posix_acl(*acl)
    check_powerless(opened)
    for name in ("inner", "inner/deep"):
        with failing(errno.EACCES):
            call_as(NOBODY, (opened.upper / "d" / name / "x").touch)
    for name in ("b", "inner/heir"):
        with failing(errno.EACCES):
            call_as(NOBODY, partial(os.truncate, opened.upper / "d" / name, 0))
    opened.unmount()
    opened.mount("--upper-open")
    assert {path: shown(path) for path in sorted(opened.root.rglob("*"))} == seen
    assert os.getxattr(d / "inner", ACCESS) == posix_acl(*acl)
    assert os.getxattr(d / "b", CAPABLE) == NET_RAW


def _write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"x")


def _allocate(path: Path) -> None:
    with path.open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 10)


def _copy_range(path: Path) -> None:
    with path.with_name("from").open("rb") as source, path.open("r+b") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 1)


LOSING: dict[str, Callable[[Path], Any]] = {
    "write": _write,
    "truncate": lambda path: os.truncate(path, 3),
    "open": lambda path: path.open("wb").close(),
    "allocate": _allocate,
    "copy": _copy_range,
    "chown": lambda path: os.chown(path, 1, 1),
    "remove": lambda path: os.removexattr(path, CAPABLE),
}
KEEPING: dict[str, Callable[[Path], Any]] = {
    "chmod": lambda path: path.chmod(0o711),
    "times": lambda path: os.utime(path, (1, 1)),
    "link": lambda path: os.link(path, path.with_name("more")),
    "xattr": lambda path: os.setxattr(path, "user.note", b"x"),
    "again": lambda path: os.setxattr(path, CAPABLE, NET_RAW),
    "read": lambda path: path.read_bytes(),
}


@pytest.mark.parametrize("open_it", [True, False], ids=["open", "closed"])
@pytest.mark.parametrize("options", [(), ("--no-fastpath",)], ids=["router", "python"])
def test_a_capability_lives_as_long_as_a_real_one(
    opened: Open, options: tuple[str, ...], open_it: bool
) -> None:
    """A closed upper has real ones, and is the oracle."""
    options += ("--upper-open",) if open_it else ()
    layer = Layer().directory("./", 0o755).file("from", b"from")
    for name in (*LOSING, *KEEPING):
        layer.file(name, b"12345", xattrs=_XATTRS).file(f"{name}-old", b"12345", xattrs=_XATTRS)
    opened.image = docker_archive(opened.place / "capable.tar", [layer])
    if open_it:
        opened.make_open()
    opened.mount(*options)
    for name in (*LOSING, *KEEPING):
        (opened.root / f"{name}-old").chmod(0o755)  # in the upper already
        (opened.root / f"{name}-new").write_bytes(b"12345")
        os.setxattr(opened.root / f"{name}-new", CAPABLE, NET_RAW)
    opened.unmount()
    opened.mount(*options)

    def there(path: Path) -> bool:
        return CAPABLE in os.listxattr(path)

    left = {}
    for name, change in (LOSING | KEEPING).items():
        for path in (opened.root / f"{name}{end}" for end in ("", "-old", "-new")):
            assert there(path)
            change(path)
            if name == "link":
                (path.with_name("more")).unlink()
            left[path] = there(path)
            if left[path]:
                assert os.getxattr(path, CAPABLE) == NET_RAW
            else:
                with failing(errno.ENODATA):
                    os.getxattr(path, CAPABLE)
    assert {path.name.split("-")[0] for path, is_left in left.items() if is_left} == set(KEEPING)
    assert {path.name.split("-")[0] for path, is_left in left.items() if not is_left} == set(LOSING)
    opened.unmount()
    opened.mount(*options)
    assert {path: there(path) for path in left} == left


@pytest.mark.parametrize("open_it", [True, False], ids=["open", "closed"])
def test_a_directory_keeps_its_capability(opened: Open, open_it: bool) -> None:
    """It has no effect, but disks keep it, whoever owns the directory."""
    options = ("--upper-open",) if open_it else ()
    opened.image = docker_archive(
        opened.place / "capable.tar", [Layer().directory("./", 0o755).directory("old", 0o755)]
    )
    if open_it:
        opened.make_open()
    opened.mount(*options)
    old, new = opened.root / "old", opened.root / "new"
    new.mkdir()
    for directory in (opened.root, old, new):
        os.setxattr(directory, CAPABLE, NET_RAW)
    os.chown(new, 7, 8)
    for _ in range(2):
        for directory in (opened.root, old, new):
            assert os.listxattr(directory) == [CAPABLE]
            assert os.getxattr(directory, CAPABLE) == NET_RAW
        opened.unmount()
        opened.mount(*options)


def test_diff_and_commit_see_what_the_mount_shows(opened: Open) -> None:
    """Compared with what they see of the same changes in a closed upper."""
    found = []
    for number, is_open in enumerate((False, True)):
        opened.upper, opened.work = (opened.place / f"{name}{number}" for name in ("upper", "work"))
        if is_open:
            opened.make_open()
        opened.mount(*(("--upper-open",) if is_open else ()))
        attack(opened.root)
        name = f"test{number}:latest"
        differences = opened.cli.run("diff", opened.root).stdout
        opened.cli.run("commit", opened.root, name)
        opened.unmount()
        opened.cli.run("mount", "--ro", name, opened.root)
        look(opened)
        opened.unmount()
        found.append(differences)
    assert found[0] == found[1]
    assert "d/su2" in found[1]


def test_as_a_lower_layer_it_shows_the_same(opened: Open) -> None:
    opened.make_open()
    opened.mount("--upper-open")
    call_as(NOBODY, lambda: attack(opened.root))
    look(opened)
    opened.unmount()
    below, opened.upper = opened.upper, opened.place / "closed"
    work = opened.place / "closed.work"
    for path in (opened.upper, work):
        path.mkdir(0o700)
    places = f"lowerdir={below},upperdir={opened.upper},workdir={work}"
    opened.cli.run("overlay", "-o", places, opened.root)
    for path in (opened.root / "d/cap2", opened.root / "d/su2"):
        path.chmod(stat.S_IMODE(path.stat().st_mode))  # copied up, where it may be what it is
    names = [name for name in LOOK if name]
    assert {name: shown(opened.root / name) for name in names} == {
        name: LOOK[name] for name in names
    }
    assert os.getxattr(opened.upper / "d/cap2", CAPABLE) == NET_RAW
    assert os.listxattr(opened.root / "d/cap2").count(CAPABLE) == 1
    assert shown(opened.upper / "d/su2") == LOOK["d/su2"]


def test_an_upper_that_was_closed_before(opened: Open) -> None:
    """It has real owners. Whatever is changed loses its power on disk, and shows what it showed."""
    opened.mount()
    attack(opened.root)
    for name in ("su2", "cap2"):
        os.chown(opened.root / "d" / name, 4, 5)
    (opened.root / "d/su2").chmod(0o6775)
    for name in ("cap2", "all2"):
        os.setxattr(opened.root / "d" / name, CAPABLE, NET_RAW)
    opened.unmount()
    opened.make_open()
    assert shown(opened.upper / "d/su2") == ("-rwsrwsr-x", 4, 5, (0, 0))
    opened.mount("--upper-open")
    assert shown(opened.root / "d/su2") == ("-rwsrwsr-x", 4, 5, (0, 0))
    (opened.root / "d/su2").chmod(0o6777)
    (opened.root / "d/cap2").chmod(0o711)
    os.chown(opened.root / "d", 4, 5)
    assert shown(opened.root / "d/su2") == ("-rwsrwsrwx", 4, 5, (0, 0))
    assert shown(opened.root / "d/cap2") == ("-rwx--x--x", 4, 5, (0, 0))
    assert os.getxattr(opened.root / "d/cap2", CAPABLE) == NET_RAW
    assert shown(opened.upper / "d/su2") == ("-rwxr-xr-x", 0, 0, (0, 0))
    assert shown(opened.upper / "d/cap2") == ("-rwx--x--x", 0, 0, (0, 0))
    assert CAPABLE not in os.listxattr(opened.upper / "d/cap2")
    os.chown(opened.root / "d/all2", 7, 8)  # takes a capability away, there as elsewhere
    for root in (opened.root, opened.upper):
        assert CAPABLE not in os.listxattr(root / "d/all2")
    assert shown(opened.upper / "d")[1:3] == (0, 0)
    with failing(errno.EPERM):  # a device on disk keeps the owner and mode that it has
        (opened.root / "d/zero2").chmod(0o600)
    os.chown(opened.root / "d/su2", 7, 8)
    assert shown(opened.root / "d/su2") == ("-rwxrwxrwx", 7, 8, (0, 0))


# ---- overlay -------------------------------------------------------------------------------------


class Overlay(Open):
    """The same with directories, by the command line of overlayfs."""

    def __init__(self, cli: CommandLine, place: Path) -> None:
        super().__init__(cli, place)
        self.lower = place / "lower"
        self.lower.mkdir()
        (self.lower / "su").write_bytes(WHO_AM_I)
        (self.lower / "su").chmod(0o4755)
        os.chown(self.lower, NOBODY, NOBODY)
        self.make_open()

    def options(self, *more: str) -> tuple[str, str, Path]:
        directories = f"lowerdir={self.lower},upperdir={self.upper},workdir={self.work}"
        denied = () if "suid" in more or "dev" in more or "engine" in more else ("nosuid", "nodev")
        words = (*denied, *(one for one in more if one != "engine"))
        return "-o", ",".join((directories, *words)), self.root

    def mount(self, *options: str) -> str:
        return self.cli.run("overlay", *self.options(*options)).stderr

    def refused(self, *options: str) -> str:
        message = self.cli.error("overlay", *self.options(*options))
        assert not is_mounted(self.root)
        return message

    def attack(self) -> str:
        os.chown(self.root, NOBODY, NOBODY)
        call_as(NOBODY, lambda: os.rename(self.root / "su", self.root / "su2"))
        return run_by_others(self.upper / "su2", "-u")


@pytest.fixture
def overlay(cli: CommandLine, public_tmp: Path) -> Iterator[Overlay]:
    made = Overlay(cli, public_tmp)
    yield made
    made.unmount()


def test_overlay_keeps_its_promise(overlay: Overlay) -> None:
    for options in ((), ("suid", "nodev"), ("dev", "nosuid")):
        assert overlay.refused(*options) == (
            f"upper directory {overlay.upper}: other users can reach it without the mount; "
            f"'chmod 700 {overlay.upper}' keeps them out, or accept it with "
            "-o upper_open"
        )
    assert overlay.mount("upper_open") == ""
    assert overlay.attack() == str(NOBODY)
    assert shown(overlay.root / "su2") == LOOK["d/su2"]
    assert shown(overlay.upper / "su2") == ("-rwxr-xr-x", 0, 0, (0, 0))


def test_the_root_of_an_overlay_opens_nothing_on_disk(overlay: Overlay) -> None:
    """Where only its own mode closes the upper, users of the mount do not change that."""
    for path in (overlay.upper, overlay.work):
        path.chmod(0o700)
    overlay.mount()
    overlay.root.chmod(0o755)
    os.setxattr(overlay.root, ACCESS, posix_acl((1, 7, NONE), (4, 5, NONE), (32, 5, NONE)))
    with pytest.raises(PermissionError):
        overlay.attack()
    assert shown(overlay.root) == ("drwxr-xr-x", NOBODY, NOBODY, (0, 0))
    assert shown(overlay.root / "su2") == LOOK["d/su2"]
    check_closed(overlay)
    overlay.unmount()
    overlay.mount()
    assert shown(overlay.root) == ("drwxr-xr-x", NOBODY, NOBODY, (0, 0))
    check_closed(overlay)


@pytest.mark.parametrize("options", [("suid", "dev"), ("engine",), ("suid",), ("dev",)])
def test_overlay_promises_nothing_unless_asked_to(
    overlay: Overlay, options: tuple[str, ...]
) -> None:
    """As overlayfs and fuse-overlayfs: container engines make the upper as they need it."""
    assert overlay.mount(*options) == ""
    assert overlay.attack() == "0"
    overlay.unmount()
    assert overlay.mount("suid", "dev", "upper_open") == ""


def test_overlay_takes_what_a_container_engine_made(overlay: Overlay, public_tmp: Path) -> None:
    """Its directories are 0755, below one that nobody enters."""
    closed = public_tmp / "engine"
    closed.mkdir(0o700)
    overlay.upper, overlay.work = closed / "diff", closed / "work"
    overlay.make_open()
    assert overlay.mount() == ""
    overlay.root.chmod(0o771)
    assert shown(overlay.upper)[0] == "drwxrwx--x"  # as overlayfs has it


# ---- whose word counts ---------------------------------------------------------------------------


def forge(path: Path) -> None:
    for name, value in ((OVERRIDE, b"0:0:4755:file"), (f"user.overlay.{KEPT}", NET_RAW)):
        call_as(NOBODY, partial(os.setxattr, path, name, value))


@pytest.mark.needs("overlayfs")
def test_an_owner_on_disk_claims_nothing(overlay: Overlay) -> None:
    """The kernel's overlayfs is the oracle: it knows no such mark."""
    for name, owner, mode in (("theirs", NOBODY, 0o644), ("all", 0, 0o666)):
        (overlay.upper / name).write_bytes(b"")
        os.chown(overlay.upper / name, owner, owner)
        (overlay.upper / name).chmod(mode)
        forge(overlay.upper / name)

    def seen() -> dict[str, Any]:
        assert all(CAPABLE not in os.listxattr(overlay.root / name) for name in ("theirs", "all"))
        with failing(errno.ENODATA):
            os.getxattr(overlay.root / "all", CAPABLE)
        return {name: shown(overlay.root / name) for name in ("theirs", "all")}

    places = f"lowerdir={overlay.lower},upperdir={overlay.upper},workdir={overlay.work}"
    subprocess.run(["mount", "-t", "overlay", "-o", places, "x", overlay.root], check=True)
    try:
        expected = seen()
    finally:
        subprocess.run(["umount", overlay.root], check=True)
    shutil.rmtree(overlay.work)
    overlay.make_open()
    overlay.mount("suid", "dev")
    assert seen() == expected
    # nor does it once the file is root's alone
    os.chown(overlay.root / "theirs", 0, 0)
    (overlay.root / "all").chmod(0o644)
    assert seen() == dict.fromkeys(("theirs", "all"), ("-rw-r--r--", 0, 0, (0, 0)))
    overlay.unmount()
    overlay.mount("suid", "dev")
    assert seen() == dict.fromkeys(("theirs", "all"), ("-rw-r--r--", 0, 0, (0, 0)))


def test_our_own_word_counts(overlay: Overlay) -> None:
    """A device 0:0 would be a whiteout: what it shows is kept where only root writes it."""
    overlay.mount("suid", "dev")
    old = os.umask(0)
    try:
        os.mknod(overlay.root / "none", stat.S_IFCHR | 0o666, os.makedev(0, 0))
    finally:
        os.umask(old)
    os.chown(overlay.root / "none", NOBODY, NOBODY)
    overlay.unmount()
    overlay.mount("suid", "dev")
    assert shown(overlay.root / "none") == ("crw-rw-rw-", NOBODY, NOBODY, (0, 0))
    (overlay.root / "none").chmod(0o777)
    overlay.unmount()
    overlay.mount("suid", "dev")
    assert shown(overlay.root / "none") == ("crwxrwxrwx", NOBODY, NOBODY, (0, 0))
    assert shown(overlay.upper / "none") == ("-rwxr-xr-x", 0, 0, (0, 0))
    with failing(errno.EACCES):
        forge(overlay.upper / "none")


def test_what_replaces_a_program_of_root_is_not_run_as_it(opened: Open) -> None:
    """The kernel keeps owner and mode of what it has seen, and asks for nothing but the data."""
    for path in (opened.upper, opened.work, opened.upper / "own"):
        path.mkdir(mode=0o755)
    for name in ("program", "other"):
        (opened.upper / "own" / name).write_bytes(WHO_AM_I)
        (opened.upper / "own" / name).chmod(0o4755)
    os.chown(opened.upper / "own", NOBODY, NOBODY)
    opened.mount("--upper-open", "-o", "suid")
    for name in ("program", "other"):
        on_disk, mounted = opened.upper / "own" / name, opened.root / "own" / name
        assert (mounted.stat().st_uid, mounted.stat().st_mode & 0o7777) == (0, 0o4755)
        number = on_disk.stat().st_ino if name == "other" else None
        call_as(NOBODY, partial(_replace, on_disk, number))
        seen = None
        with suppress(OSError), mounted.open("rb") as file:  # ESTALE: it is another file by now
            seen = (os.fstat(file.fileno()).st_uid, file.read(4))
        assert seen in (None, (NOBODY, b"evil"))


_FOR_ALL = posix_acl((0x01, 6, NONE), (0x04, 6, NONE), (0x20, 6, NONE))


@pytest.mark.parametrize("options", [(), ("--no-fastpath",)])
@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.chmod(0o666),
        lambda path: os.setxattr(path, ACCESS, _FOR_ALL),
        lambda path: os.truncate(path, 0),
    ],
    ids=["chmod", "acl", "truncate"],
)
def test_what_replaces_a_file_is_not_changed_as_it(
    opened: Open, change: Callable[[Path], None], options: tuple[str, ...]
) -> None:
    """Who owns a directory on disk may move root's files in it, and not have them opened to all."""
    own, mine = opened.upper / "own", opened.root / "own/mine"
    for path in (opened.upper, opened.work, own):
        path.mkdir(mode=0o755)
    for name, mode in (("mine", 0o644), ("secret", 0o600)):
        (own / name).write_bytes(name.encode())
        (own / name).chmod(mode)
    for path in (own, own / "mine"):
        os.chown(path, NOBODY, NOBODY)
    opened.mount("--upper-open", *options)
    assert shown(mine)[1] == NOBODY  # so the kernel lets this user change it
    call_as(NOBODY, partial(_exchange, own))
    with suppress(OSError):  # ESTALE, or as what it is: not allowed
        call_as(NOBODY, partial(change, mine))
    call_as(NOBODY, partial(_exchange, own))
    assert shown(own / "secret") == ("-rw-------", 0, 0, (0, 0))
    assert (own / "secret").read_bytes() == b"secret"


def _exchange(directory: Path) -> None:
    for old, new in (("mine", "x"), ("secret", "mine"), ("x", "secret")):
        (directory / old).rename(directory / new)


def _replace(path: Path, number: int | None) -> None:
    """Put a file in the place of one: with its number, where the file system gives it once more."""
    path.unlink()
    for attempt in range(1000 if number else 1):
        made = path.parent / f"made-{attempt}"
        made.write_bytes(b"evil")
        if made.stat().st_ino == number:
            break
    made.rename(path)
