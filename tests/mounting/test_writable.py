"""A writable mount as programs see it: every change, on an image of known content.

One image, whose lower layers must not change; an upper on each file system that the machine has.
What the kernel has cached is held against what the server says (``true_caches``), and what the
mount shows against what it shows when it is mounted again (``World.remounted``).
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import random
import shutil
import socket
import stat
import struct
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.archives import Layer, docker_archive, posix_acl
from support.backing import backing, kinds
from support.commands import Commands, ForkedCommandLine
from support.errnos import failing
from support.mounting import CommandLine, is_mounted
from support.users import call_as

pytestmark = pytest.mark.needs("fuse")

BIG = random.Random(3).randbytes(3_000_000)
USER, STRANGER, TEAM = 4321, 4322, 4400
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep, version 2
USER_OBJ, NAMED_USER, GROUP_OBJ, MASK, OTHER, NOBODY = 0x01, 0x02, 0x04, 0x10, 0x20, 0xFFFFFFFF
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"
LONG = "n" * 255

_FORCE_SYNC = 0x2000
_EMPTY_PATH = 0x1000
_BASIC_STATS = 0x7FF
_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE, _WHITEOUT = 1, 2, 4

libc = ctypes.CDLL(None, use_errno=True)


# ---- the image -----------------------------------------------------------------------------------


def base_layer() -> Layer:
    layer = Layer()
    layer.directory("./", 0o755)
    layer.file("file", b"lower\n", mode=0o640, owner=(USER, USER))
    layer.file("big", BIG).file("other", b"other").file("removed", b"x").file("victim", b"victim")
    layer.directory("links").file("links/one", b"shared").hard_link("links/two", "links/one")
    layer.directory("links/below").hard_link("links/below/three", "links/one")
    layer.directory("pair").file("pair/a", b"pair").hard_link("pair/b", "pair/a")
    layer.directory("tree").directory("tree/sub").file("tree/sub/deep", b"deep")
    layer.file("tree/low", b"low").directory("tree/empty")
    layer.directory("merged").file("merged/below", b"below").file("merged/hidden", b"x")
    layer.directory("full").file("full/name")
    layer.directory("opaque").file("opaque/old", b"old")
    layer.symlink("link", "file")
    layer.add("fifo", tarfile.FIFOTYPE, mode=0o644)
    layer.add("null", tarfile.CHRTYPE, device=(1, 3), mode=0o666)
    layer.add("loop", tarfile.BLKTYPE, device=(7, 300), mode=0o660)
    layer.directory("open", 0o777).directory("sticky", 0o1777)
    layer.file("sticky/theirs", owner=(USER, USER), mode=0o666)
    layer.directory("team", 0o2775, owner=(USER, TEAM))
    for number in range(8):
        mode = {"mode": 0o6777, "owner": (USER, USER)}
        layer.file(f"open/suid-{number}", b"x", **mode)
        layer.file(f"open/capable-{number}", b"x", xattrs={"security.capability": CAPABILITY})
    sparse = {
        "GNU.sparse.size": "10485760",
        "GNU.sparse.numblocks": "1",
        "GNU.sparse.map": "1048576,4096",
    }
    layer.file("sparse", b"D" * 4096, pax=sparse)
    layer.file("attributes", b"x", xattrs={"user.note": b"kept", "trusted.secret": b"root's"})
    layer.directory("many")
    for number in range(500):
        layer.file(f"many/{number:04}", b"%d" % number)
    layer.file(LONG, b"long")
    grant = [(USER_OBJ, 7, NOBODY), (NAMED_USER, 7, STRANGER), (GROUP_OBJ, 5, NOBODY)]
    grant += [(MASK, 7, NOBODY), (OTHER, 0, NOBODY)]
    layer.directory("heirs", 0o755, xattrs={DEFAULT: posix_acl(*grant)})
    return layer


def top_layer() -> Layer:
    layer = Layer()
    layer.file("merged/above", b"above").file("merged/.wh.hidden").file(".wh.removed")
    layer.file("opaque/.wh..wh..opq").file("opaque/new", b"new")
    layer.file("pair/c", b"c")
    return layer


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = docker_archive(
        tmp_path_factory.mktemp("image") / "image.tar", [base_layer(), top_layer()]
    )
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    yield path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before, "a lower layer has changed"


# ---- mounts --------------------------------------------------------------------------------------


@dataclass
class World:
    """A mount and what it is made of."""

    cli: CommandLine
    image: Path
    place: Path

    @property
    def root(self) -> Path:
        return self.place / "mnt"

    @property
    def upper(self) -> Path:
        return self.place / "upper"

    @property
    def work(self) -> Path:
        return self.place / "work"

    def mount(self, *options: str) -> Path:
        self.root.mkdir(parents=True, exist_ok=True)
        where = ("--upper", self.upper, "--work", self.work)
        self.cli.run("mount", *where, *options, self.image, self.root)
        return self.root

    def unmount(self) -> None:
        if is_mounted(self.root):
            self.cli.run("umount", self.root)

    def remount(self) -> None:
        """Mount again: what was only in memory is lost."""
        self.unmount()
        left = [name for name in os.listdir(self.work) if name != "index"]
        assert left == []
        self.mount()


def _kinds() -> list[Any]:
    """Every kind of file system there is; where only root can make one, any directory does."""
    if os.geteuid():
        return ["directory"]
    return [pytest.param(kind, marks=pytest.mark.needs(f"backing-{kind}")) for kind in kinds()]


@pytest.fixture(scope="module", params=_kinds())
def disk_kind(request: pytest.FixtureRequest) -> str:
    """What is under the upper."""
    return str(request.param)


@pytest.fixture(scope="module")
def disk(disk_kind: str, make_public_tmp: Callable[[], Path]) -> Iterator[Path]:
    """A file system for uppers, which everyone may enter."""
    if disk_kind == "directory":
        yield make_public_tmp()
    else:
        with backing(disk_kind) as made:
            yield made


# Who answers the kernel makes no difference; on each file system it is somebody else.
_ANSWERED_BY = {"xfs": "0", "tmpfs": "1", "btrfs": "7"}


@pytest.fixture(scope="module")
def cli(disk_kind: str, server: Commands) -> CommandLine:
    """The command line: on xfs without the router, on others with some number of threads."""
    return ForkedCommandLine(server, {"UNIONMOUNT_FASTPATH": _ANSWERED_BY.get(disk_kind, "")})


@pytest.fixture(scope="module")
def shared(disk: Path, cli: CommandLine, image: Path) -> Iterator[World]:
    """One mount for all tests of the module, each of which leaves alone what others use."""
    world = World(cli, image, disk / "shared")
    world.mount()
    yield world
    world.unmount()
    shutil.rmtree(world.place)


@pytest.fixture
def root(shared: World) -> Path:
    return shared.root


@pytest.fixture
def world(disk: Path, cli: CommandLine, image: Path) -> Iterator[World]:
    """A mount of one test's own."""
    made = World(cli, image, disk / "own")
    made.mount()
    yield made
    made.unmount()
    shutil.rmtree(made.place)


# ---- helpers -------------------------------------------------------------------------------------


def as_user(function: Callable[[], Any], uid: int = USER, **options: Any) -> Any:
    """Call a function as somebody without privileges."""
    return call_as(uid, function, **options)


def renameat2(source: Path, target: Path, flags: int) -> None:
    done = libc.renameat2(
        _AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)
    )
    if done != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Stat(NamedTuple):
    """What stat tells, without the time of access."""

    mode: int
    ino: int
    nlink: int
    uid: int
    gid: int
    size: int
    blocks: int
    mtime: int
    ctime: int


def fresh(fd: int) -> Stat:
    """What the server says of a file now, whatever the kernel has cached."""
    buffer = ctypes.create_string_buffer(256)
    if libc.statx(fd, b"", _FORCE_SYNC | _EMPTY_PATH, _BASIC_STATS, buffer) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    nlink, uid, gid, mode, ino, size, blocks = struct.unpack_from("<IIIHxxQQQ", buffer, 16)
    times = [struct.unpack_from("<qI", buffer, at) for at in (112, 96)]
    mtime, ctime = (seconds * 10**9 + nanoseconds for seconds, nanoseconds in times)
    return Stat(mode, ino, nlink, uid, gid, size, blocks, mtime, ctime)


def cached(path: Path | int) -> Stat:
    found = os.stat(path, follow_symlinks=isinstance(path, int))
    return Stat(
        found.st_mode,
        found.st_ino,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_size,
        found.st_blocks,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def below(top: Path) -> list[Path]:
    return [top, *(Path(place, name) for place, d, f in os.walk(top) for name in (*d, *f))]


@contextmanager
def true_caches(top: Path) -> Iterator[None]:
    """What the kernel had cached before the block, it has not kept where it is no longer true.

    But for what no program goes by: a directory's size on disk and ctime, when the directory or
    what is in it was copied up.
    """
    with ExitStack() as stack:
        held = {}
        for path in below(top):
            held[path] = os.open(path, os.O_PATH | os.O_NOFOLLOW)
            stack.callback(os.close, held[path])
            os.fstat(held[path])
        yield
        for path, fd in held.items():
            known, true = cached(fd), fresh(fd)
            if stat.S_ISDIR(true.mode):
                known, true = (one._replace(size=0, blocks=0, ctime=0) for one in (known, true))
            assert known == true, path


def shown(top: Path) -> dict[str, Any]:
    """Everything a program can see of a tree, but times of directories' and files' access."""
    found: dict[str, Any] = {}
    for path in below(top):
        status = path.lstat()
        facts: list[Any] = [status.st_mode, status.st_uid, status.st_gid, status.st_ino]
        facts += [status.st_nlink, status.st_mtime_ns, status.st_rdev]
        if stat.S_ISREG(status.st_mode):
            facts.append(hashlib.sha256(path.read_bytes()).hexdigest())
        if stat.S_ISLNK(status.st_mode):
            facts.append(os.readlink(path))
        names = os.listxattr(path, follow_symlinks=False)
        facts.append({name: os.getxattr(path, name, follow_symlinks=False) for name in names})
        found[str(path.relative_to(top))] = facts
    return found


def check_survival(world: World) -> None:
    """Mounted again, everything is as it was."""
    before = shown(world.root)
    world.remount()
    after = shown(world.root)
    assert before.keys() == after.keys()
    for name, facts in before.items():
        assert after[name] == facts, name


# ---- making --------------------------------------------------------------------------------------


def test_files_are_made_written_and_read(root: Path) -> None:
    path = root / "made"
    with open(path, "xb") as file:
        file.write(b"one\n")
    with open(path, "ab") as file:
        file.write(b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    with failing(errno.EEXIST):
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with open(path, "r+b") as file:
        file.seek(2)
        file.write(b"XX")
        file.truncate(5)
        assert file.seek(0) == 0
        assert file.read() == b"onXXt"
    with open(path, "r+b") as file:
        file.seek(1_000_000)
        file.write(b"end")
    assert path.stat().st_size == 1_000_003
    assert path.stat().st_blocks < 1000


def test_a_large_file_is_written_whole(root: Path) -> None:
    (root / "large").write_bytes(BIG)
    assert (root / "large").read_bytes() == BIG


def test_a_file_may_be_made_that_its_mode_does_not_let_be_written(root: Path) -> None:
    def make() -> int:
        fd = os.open(root / "open/read-only", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o444)
        return os.write(fd, b"written")

    assert as_user(make) == 7
    assert (root / "open/read-only").read_bytes() == b"written"
    assert stat.S_IMODE((root / "open/read-only").stat().st_mode) == 0o444


def test_things_of_every_type_are_made(root: Path) -> None:
    top = root / "types"
    top.mkdir(0o750)
    with true_caches(top):
        os.mkfifo(top / "fifo", 0o600)
        os.mknod(top / "file", 0o640)
        os.symlink("t" * 1000, top / "link")
        before = os.open(".", os.O_RDONLY)
        try:
            os.chdir(top)  # the name of a socket has at most 107 bytes
            with socket.socket(socket.AF_UNIX) as unix:
                unix.bind("socket")
        finally:
            os.fchdir(before)
            os.close(before)
        assert stat.filemode(top.stat().st_mode) == "drwxr-x---"
        types = {path.name: stat.filemode(path.lstat().st_mode)[0] for path in top.iterdir()}
        assert types == {"fifo": "p", "file": "-", "link": "l", "socket": "s"}
        assert os.readlink(top / "link") == "t" * 1000


@pytest.mark.needs("root")
def test_devices_are_made_and_none_becomes_a_whiteout(root: Path) -> None:
    os.mknod(root / "device", stat.S_IFBLK | 0o600, os.makedev(259, 70_000))
    found = (root / "device").stat()
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (259, 70_000)
    with suppress(PermissionError):  # it may be refused, where the disk can't tell the two apart
        os.mknod(root / "zero", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    shown_types = [stat.S_ISCHR(path.lstat().st_mode) for path in root.glob("zero")]
    assert all(shown_types)
    assert (root / "victim").exists()


def test_owners_are_those_who_make(root: Path) -> None:
    def make() -> None:
        (root / "open/theirs").mkdir()
        (root / "open/theirs/file").touch()
        os.symlink("x", root / "open/theirs/link")

    as_user(make)
    uid = USER if os.geteuid() == 0 else os.geteuid()
    for path in below(root / "open/theirs"):
        assert path.lstat().st_uid == uid


def test_the_umask_counts(root: Path) -> None:
    def make() -> None:
        (root / "open/masked").mkdir()
        os.close(os.open(root / "open/masked/file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkfifo(root / "open/masked/fifo", 0o666)

    as_user(make, umask=0o027)
    assert stat.S_IMODE((root / "open/masked").stat().st_mode) == 0o750
    assert stat.S_IMODE((root / "open/masked/file").stat().st_mode) == 0o640
    assert stat.S_IMODE((root / "open/masked/fifo").stat().st_mode) == 0o640


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("x")])
def test_long_names(root: Path, make: Callable[[Path], None]) -> None:
    long = root / ("m" * 255)
    make(long)
    assert long.name in os.listdir(root)
    os.rename(long, root / ("o" * 255))
    long = root / ("o" * 255)
    (long.rmdir if stat.S_ISDIR(long.lstat().st_mode) else long.unlink)()
    assert long.name not in os.listdir(root)
    with failing(errno.ENAMETOOLONG):
        os.mkdir(root / ("m" * 256))
    with failing(errno.ENAMETOOLONG):
        os.rename(root / "other", root / ("m" * 256))


def test_names_no_layer_can_hold_are_refused(root: Path) -> None:
    for name in (".wh.name", ".wh..wh..opq"):
        with failing(errno.EINVAL):
            (root / name).touch()
        with failing(errno.EINVAL):
            (root / name).mkdir()
        with failing(errno.EINVAL):
            os.rename(root / "other", root / name)
    assert (root / "other").exists()


# ---- removing ------------------------------------------------------------------------------------


def test_removing_lower_names(world: World) -> None:
    root = world.root
    with true_caches(root):
        for name in ("victim", "link", "fifo", "null", LONG):
            (root / name).unlink()
            assert not os.path.lexists(root / name)
            with failing(errno.ENOENT):
                (root / name).unlink()
        shutil.rmtree(root / "tree")
        shutil.rmtree(root / "merged")
        shutil.rmtree(root / "opaque")
        (root / "full/name").unlink()
        (root / "full").rmdir()
    left = set(os.listdir(root))
    assert not left & {"victim", "link", "fifo", "null", LONG, "tree", "merged", "opaque", "full"}
    check_survival(world)


def test_removing_what_is_no_such_thing(root: Path) -> None:
    with failing(errno.ENOTEMPTY):
        (root / "full").rmdir()
    with failing(errno.ENOTEMPTY):
        (root / "merged").rmdir()
    with failing(errno.EISDIR):
        os.unlink(root / "full")
    with failing(errno.ENOTDIR):
        os.rmdir(root / "other")
    with failing(errno.ENOENT):
        os.unlink(root / "removed")


def test_a_directory_made_again_is_empty(world: World) -> None:
    root = world.root
    with true_caches(root):
        for name in ("tree", "merged", "opaque"):
            shutil.rmtree(root / name)
            (root / name).mkdir()
            assert os.listdir(root / name) == []
            (root / name / "mine").write_bytes(b"mine")
        (root / "victim").unlink()
        (root / "victim").write_bytes(b"again")
        os.unlink(root / "other")
        (root / "other").mkdir()
    check_survival(world)
    assert os.listdir(root / "merged") == ["mine"]


def test_removed_names_of_all_lengths(world: World) -> None:
    (world.root / LONG).unlink()
    (world.root / ("y" * 255)).mkdir()
    (world.root / ("y" * 255)).rmdir()
    world.remount()
    assert not (world.root / LONG).exists()


# ---- renaming ------------------------------------------------------------------------------------


def test_renaming_files(world: World) -> None:
    root = world.root
    with true_caches(root):
        numbers = {name: (root / name).lstat().st_ino for name in ("file", "big", "link", "fifo")}
        os.rename(root / "file", root / "tree/file")
        os.rename(root / "big", root / "other")  # over a file
        os.rename(root / "link", root / "merged/link")
        os.rename(root / "fifo", root / "full/fifo")
        assert (root / "tree/file").read_bytes() == b"lower\n"
        assert (root / "other").read_bytes() == BIG
        now = ("tree/file", "other", "merged/link", "full/fifo")
        assert [(root / name).lstat().st_ino for name in now] == list(numbers.values())
        for name in numbers:
            assert not os.path.lexists(root / name)
    check_survival(world)


def test_renaming_lower_and_merged_directories(world: World) -> None:
    root = world.root
    with true_caches(root):
        number = (root / "tree").stat().st_ino
        os.rename(root / "tree", root / "moved")
        assert (root / "moved").stat().st_ino == number
        os.rename(root / "moved/sub", root / "merged/sub")
        os.rename(root / "merged", root / "moved/merged")
        assert (root / "moved/merged/sub/deep").read_bytes() == b"deep"
        assert sorted(os.listdir(root / "moved/merged")) == ["above", "below", "sub"]
        assert not (root / "moved/merged/hidden").exists()
        assert (root / "moved").stat().st_nlink == 4
        assert os.stat(root / "moved/merged/..").st_ino == (root / "moved").stat().st_ino
        (root / "tree").mkdir()
        assert os.listdir(root / "tree") == []
    check_survival(world)
    os.rename(root / "moved", root / "tree")  # back, over an empty directory
    assert (root / "tree/low").read_bytes() == b"low"
    check_survival(world)


def test_renames_that_make_no_sense(root: Path) -> None:
    with failing(errno.EINVAL):
        os.rename(root / "full", root / "full/inside")
    with failing(errno.ENOTEMPTY):
        os.rename(root / "tree/empty", root / "full")
    with failing(errno.EISDIR):
        os.rename(root / "other", root / "tree/empty")
    with failing(errno.ENOTDIR):
        os.rename(root / "tree/empty", root / "other")
    with failing(errno.ENOENT):
        os.rename(root / "removed", root / "x")
    os.rename(root / "pair/a", root / "pair/b")  # one file: nothing happens
    assert (root / "pair/a").exists()


def test_noreplace_and_exchange(world: World) -> None:
    root = world.root
    with true_caches(root):
        with failing(errno.EEXIST):
            renameat2(root / "file", root / "other", _NOREPLACE)
        renameat2(root / "file", root / "elsewhere", _NOREPLACE)
        renameat2(root / "other", root / "victim", _EXCHANGE)
        assert (root / "other").read_bytes() == b"victim"
        assert (root / "victim").read_bytes() == b"other"
        renameat2(root / "tree", root / "big", _EXCHANGE)
        assert (root / "tree").read_bytes() == BIG
        assert (root / "big/sub/deep").read_bytes() == b"deep"
        renameat2(root / "merged", root / "opaque", _EXCHANGE)
        assert sorted(os.listdir(root / "opaque")) == ["above", "below"]
        assert os.listdir(root / "merged") == ["new"]
        with failing(errno.ENOENT):
            renameat2(root / "other", root / "nowhere", _EXCHANGE)
        with failing(errno.EINVAL):
            renameat2(root / "other", root / "x", _WHITEOUT)
    check_survival(world)


def _room(path: Path) -> int:
    """Bytes on disk."""
    return path.stat().st_blocks * 512


def test_an_exchange_leaves_data_below_that_is_there(world: World) -> None:
    """One of two files needs its data copied up; the other is in the upper without its own."""
    root, when = world.root, 1_650_000_000_123_456_789
    os.utime(root / "big", ns=(when, when))
    assert _room(world.upper / "big") < len(BIG) / 2
    renameat2(root / "big", root / "other", _EXCHANGE)
    assert _room(world.upper / "other") < len(BIG) / 2
    assert (root / "other").stat().st_mtime_ns == when
    assert (root / "other").read_bytes() == BIG
    assert (root / "big").read_bytes() == b"other"
    check_survival(world)


# ---- hard links ----------------------------------------------------------------------------------


def test_hard_links_stay_hard_links(world: World) -> None:
    root = world.root
    with true_caches(root):
        names = [root / "links/one", root / "links/two", root / "links/below/three"]
        number = names[0].stat().st_ino
        names[1].write_bytes(b"changed")
        for name in names:
            assert name.read_bytes() == b"changed"
            assert (name.stat().st_nlink, name.stat().st_ino) == (3, number)
        os.link(names[0], root / "four")
        assert {name.stat().st_nlink for name in (*names, root / "four")} == {4}
        names[0].unlink()
        assert {name.stat().st_nlink for name in (*names[1:], root / "four")} == {3}
    check_survival(world)


def test_link_counts_without_copy_up(world: World) -> None:
    root = world.root
    with true_caches(root):
        os.unlink(root / "links/two")
        assert (root / "links/one").stat().st_nlink == 2
        os.rename(root / "links/below", root / "below")
        assert (root / "below/three").stat().st_nlink == 2
    check_survival(world)
    (root / "below/three").write_bytes(b"x")
    assert (root / "links/one").read_bytes() == b"x"
    check_survival(world)


def test_linking_what_can_be_linked(root: Path) -> None:
    os.symlink("file", root / "symlink")
    os.link(root / "symlink", root / "second", follow_symlinks=False)
    assert os.lstat(root / "symlink").st_nlink == 2
    os.link(root / "fifo", root / "fifo-too")
    assert os.stat(root / "fifo").st_nlink == 2
    with failing(errno.EPERM):
        os.link(root / "tree", root / "tree-too")
    with failing(errno.EEXIST):
        os.link(root / "other", root / "big")
    for name in ("symlink", "second", "fifo-too"):
        (root / name).unlink()


# ---- copy-up -------------------------------------------------------------------------------------


CHANGES: dict[str, Callable[[Path], object]] = {
    "chmod": lambda path: path.chmod(0o600),
    "utime": lambda path: os.utime(path, ns=(1, 2)),
    "chown": lambda path: os.chown(path, os.geteuid(), os.getegid()),
    "setxattr": lambda path: os.setxattr(path, "user.new", b"new"),
    "append": lambda path: path.open("ab").close(),
    "truncate": lambda path: os.truncate(path, path.stat().st_size),
    "link": lambda path: os.link(path, path.with_name("linked")),
}


CHANGED = {
    "chmod": {"mode", "ctime", "blocks"},
    "utime": {"mtime", "ctime", "blocks"},
    "chown": {"uid", "gid", "ctime", "blocks"},
    "truncate": {"mtime", "ctime", "blocks"},
    "link": {"nlink", "ctime", "blocks"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_copy_up_keeps_everything_else(world: World, change: str) -> None:
    path = world.root / "big"
    with true_caches(world.root):
        before = cached(path)._asdict()
        CHANGES[change](path)
        after = cached(path)._asdict()
        assert path.read_bytes() == BIG
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= CHANGED.get(change, {"ctime", "blocks"})
    check_survival(world)


def test_copy_up_keeps_holes_and_attributes(world: World) -> None:
    root = world.root
    with open(root / "sparse", "r+b") as file:
        file.seek(5_000_000)
        file.write(b"here")
    content = (root / "sparse").read_bytes()
    assert content[1048576 : 1048576 + 4096] == b"D" * 4096
    assert content[5_000_000:5_000_004] == b"here"
    assert content.count(0) == len(content) - 4100
    assert (root / "sparse").stat().st_blocks * 512 < 200_000
    (root / "attributes").write_bytes(b"y")
    assert os.getxattr(root / "attributes", "user.note") == b"kept"
    if os.geteuid() == 0:
        assert os.getxattr(root / "attributes", "trusted.secret") == b"root's"
    check_survival(world)


def test_a_directory_is_copied_up_without_a_trace(world: World) -> None:
    tops = (world.root, world.root / "tree")
    before = [cached(path)[:5] for path in tops]
    times = [cached(path).mtime for path in tops]
    (world.root / "tree/sub/new").touch()
    (world.root / "tree/sub/deep").chmod(0o600)
    world.remount()
    assert [cached(path)[:5] for path in tops] == before
    assert [cached(path).mtime for path in tops] == times


def test_special_files_are_copied_up_unopened(world: World) -> None:
    """Opening a FIFO without a writer would wait for good."""
    root = world.root
    with true_caches(root):
        for name in ("fifo", "null", "loop"):
            mode = stat.S_IFMT((root / name).stat().st_mode)
            (root / name).chmod(0o604)
            os.utime(root / name, ns=(10**9, 10**9))
            assert (root / name).stat().st_mode == mode | 0o604
            os.rename(root / name, root / f"{name}-moved")
            assert (root / f"{name}-moved").stat().st_mode == mode | 0o604
            os.link(root / f"{name}-moved", root / f"{name}-linked")
            (root / f"{name}-moved").unlink()
    check_survival(world)


def test_symlinks_are_changed_themselves(world: World) -> None:
    link, target = world.root / "link", world.root / "file"
    before = cached(target)
    os.utime(link, ns=(5, 7_000_000_123), follow_symlinks=False)
    assert link.lstat().st_mtime_ns == 7_000_000_123
    os.chown(link, os.geteuid(), os.getegid(), follow_symlinks=False)
    if os.geteuid() == 0:
        os.setxattr(link, "trusted.mine", b"x", follow_symlinks=False)
        assert os.getxattr(link, "trusted.mine", follow_symlinks=False) == b"x"
        assert "trusted.mine" not in os.listxattr(target)
        os.removexattr(link, "trusted.mine", follow_symlinks=False)
    with failing(errno.EPERM):
        os.setxattr(link, "user.mine", b"x", follow_symlinks=False)
    assert cached(target) == before
    if os.geteuid() == 0:  # else the link's number is not kept
        check_survival(world)


# ---- open files ----------------------------------------------------------------------------------


def test_readers_see_what_is_written_after_copy_up(world: World) -> None:
    path = world.root / "file"
    with open(path, "rb", buffering=0) as reader, open(path, "rb", buffering=0) as second:
        assert reader.read() == b"lower\n"
        with open(path, "r+b", buffering=0) as writer:
            writer.write(b"UPPER")
            assert os.pread(reader.fileno(), 10, 0) == b"UPPER\n"
            assert second.read() == b"UPPER\n"
            writer.seek(0, os.SEEK_END)
            writer.write(b"more")
        assert os.pread(reader.fileno(), 20, 0) == b"UPPER\nmore"
        assert os.fstat(reader.fileno()).st_size == 10
        path.write_bytes(b"")
        assert os.pread(reader.fileno(), 20, 0) == b""


def test_shared_mappings_agree_with_reads_and_writes(world: World) -> None:
    path = world.root / "big"
    with open(path, "rb") as early, mmap.mmap(early.fileno(), 0, prot=mmap.PROT_READ) as before:
        assert before[:4] == BIG[:4]
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
            shared[10_000:10_004] = b"mmap"
            shared.flush()
            assert before[10_000:10_004] == b"mmap"
            assert os.pread(early.fileno(), 4, 10_000) == b"mmap"
            os.pwrite(file.fileno(), b"pwrite", 20_000)
            assert shared[20_000:20_006] == before[20_000:20_006] == b"pwrite"
            shared[30_000:30_004] = b"last"
    world.remount()
    content = path.read_bytes()
    assert content[10_000:10_004] == b"mmap"
    assert content[20_000:20_006] == b"pwrite"
    assert content[30_000:30_004] == b"last"


def test_direct_and_buffered_reads_and_writes_agree(world: World) -> None:
    path = world.root / "big"
    buffer = mmap.mmap(-1, 8192)
    buffer.write(b"D" * 8192)
    direct = os.open(path, os.O_RDWR | os.O_DIRECT)
    try:
        with open(path, "r+b", buffering=0) as file:
            assert os.pread(file.fileno(), 100, 4096) == BIG[4096:4196]
            assert os.pwrite(direct, buffer, 4096) == 8192
            assert os.pread(file.fileno(), 100, 4096) == b"D" * 100
            os.pwrite(file.fileno(), b"buffered", 4096)
            assert os.preadv(direct, [buffer], 4096) == 8192
            assert buffer[:8] == b"buffered"
    finally:
        os.close(direct)


@pytest.mark.parametrize("name", ["file", "fresh"])
def test_unlinked_files_live_while_they_are_open(world: World, name: str) -> None:
    path = world.root / name
    if name == "fresh":
        path.write_bytes(b"lower\n")
    with open(path, "rb", buffering=0) as reader, open(path, "r+b", buffering=0) as file:
        path.unlink()
        _use_unlinked(file.fileno())
        assert os.pread(reader.fileno(), 100, 0) == b"new\n\0\0\0\0"
    assert not path.exists()
    world.remount()
    assert not path.exists()


def _use_unlinked(fd: int) -> None:
    assert os.fstat(fd).st_nlink == 0
    assert os.pread(fd, 100, 0) == b"lower\n"
    os.fchmod(fd, 0o604)
    os.utime(fd, ns=(3, 4))
    os.fsync(fd)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o604
    assert os.fstat(fd).st_mtime_ns == 4
    os.pwrite(fd, b"new\n", 0)
    os.ftruncate(fd, 4)
    os.ftruncate(fd, 8)
    os.setxattr(fd, "user.a", b"b")
    assert os.getxattr(fd, "user.a") == b"b"
    assert os.fstat(fd).st_size == 8


def test_an_unlinked_lower_file_can_still_be_changed(world: World) -> None:
    path = world.root / "big"
    fd = os.open(path, os.O_RDONLY)
    try:
        path.unlink()
        assert os.fstat(fd).st_nlink == 0
        os.fchmod(fd, 0o611)
        os.utime(fd, ns=(3, 4))
        found = os.fstat(fd)
        assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_nlink) == (0o611, 4, 0)
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        os.ftruncate(again, 2_000_000)
        os.pwrite(again, b"!", 0)
        os.close(again)
        assert os.pread(fd, 4, 0) == b"!" + BIG[1:4]
        assert os.fstat(fd).st_size == 2_000_000
    finally:
        os.close(fd)
    world.remount()
    assert not path.exists()


def test_a_file_replaced_while_it_is_open(world: World) -> None:
    path = world.root / "file"
    with open(path, "rb") as reader:
        (world.root / "next").write_bytes(b"next")
        os.rename(world.root / "next", path)
        assert os.fstat(reader.fileno()).st_nlink == 0
        assert reader.read() == b"lower\n"
        assert path.read_bytes() == b"next"


def test_truncating(world: World) -> None:
    root = world.root
    with true_caches(root):
        os.truncate(root / "big", 1000)
        assert (root / "big").read_bytes() == BIG[:1000]
        os.truncate(root / "big", 5000)
        assert (root / "big").read_bytes() == BIG[:1000] + bytes(4000)
        with open(root / "file", "wb") as file:
            assert os.fstat(file.fileno()).st_size == 0
        assert (root / "file").read_bytes() == b""
        with open(root / "other", "rb", buffering=0) as reader:
            assert reader.read(2) == b"ot"
            os.close(os.open(root / "other", os.O_RDONLY | os.O_TRUNC))
            assert reader.read() == b""
        assert (root / "sparse").stat().st_size == 10485760
        os.truncate(root / "sparse", 0)
        assert (root / "sparse").stat().st_size == 0
    check_survival(world)


def test_syncing(root: Path) -> None:
    with open(root / "synced", "wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        os.fdatasync(file.fileno())
    for name in (".", "tree"):
        fd = os.open(root / name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    with open(root / "victim", "rb") as file:
        os.fsync(file.fileno())  # of a lower layer: nothing to do


def test_locks(root: Path) -> None:
    import fcntl  # noqa: PLC0415

    with open(root / "locked", "w") as one, open(root / "locked") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        with failing(errno.EAGAIN):
            fcntl.flock(two, fcntl.LOCK_SH | fcntl.LOCK_NB)


# ---- listing -------------------------------------------------------------------------------------


def test_listing_while_names_come_and_go(world: World) -> None:
    root = world.root / "many"
    for number in range(0, 500, 5):
        (root / f"{number:04}").chmod(0o600)
    stable = {f"{number:04}" for number in range(500) if number % 3}
    seen = []
    with os.scandir(root) as entries:
        for count, entry in enumerate(entries):
            seen.append(entry.name)
            if count < 160:
                name = f"{count * 3:04}"
                (root / name).unlink()
                (root / f"new-{count}").touch()
    assert len(seen) == len(set(seen))
    assert stable <= set(seen)
    now = set(os.listdir(root))
    assert stable <= now
    assert {f"new-{count}" for count in range(160)} <= now
    assert "0000" not in now
    check_survival(world)


class _Dirent(ctypes.Structure):
    _fields_ = (
        ("d_ino", ctypes.c_ulong),
        ("d_off", ctypes.c_long),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


def test_seeking_in_a_directory(world: World) -> None:
    top = world.root / "many"
    (top / "0007").unlink()
    (top / "added").touch()
    libc.opendir.restype = ctypes.c_void_p
    libc.readdir.restype = ctypes.POINTER(_Dirent)
    stream = ctypes.c_void_p(libc.opendir(os.fsencode(top)))
    libc.telldir.restype = ctypes.c_long
    places, names = [], []
    while True:
        place = libc.telldir(stream)
        entry = libc.readdir(stream)
        if not entry:
            break
        places.append(place)
        names.append(entry.contents.d_name)
    assert names[:2] == [b".", b".."]
    assert set(map(os.fsdecode, names[2:])) == set(os.listdir(top))
    for number in random.Random(1).sample(range(len(names)), 60):
        libc.seekdir(stream, ctypes.c_long(places[number]))
        assert libc.readdir(stream).contents.d_name == names[number]
    libc.rewinddir(stream)
    assert libc.readdir(stream).contents.d_name == b"."
    libc.closedir(stream)


def test_listing_a_removed_directory(root: Path) -> None:
    (root / "doomed").mkdir()
    fd = os.open(root / "doomed", os.O_RDONLY)
    try:
        (root / "doomed").rmdir()
        assert os.listdir(fd) == []
        assert os.fstat(fd).st_nlink == 0
        with failing(errno.ENOENT):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    finally:
        os.close(fd)


def test_link_counts_of_directories(root: Path) -> None:
    top = root / "counts"
    top.mkdir()
    with true_caches(top):
        for name in ("a", "b", "a/c"):
            (top / name).mkdir()
        assert top.stat().st_nlink == 4
        os.rename(top / "a/c", top / "b/c")
        assert [(top / name).stat().st_nlink for name in ("a", "b", "b/c")] == [2, 3, 2]
        os.rename(top / "b/c", top / "a")  # over an empty directory
        assert [(top / name).stat().st_nlink for name in (".", "a", "b")] == [4, 2, 2]
        (top / "b").rmdir()
        assert top.stat().st_nlink == 3


# ---- permissions ---------------------------------------------------------------------------------


def privileges(path: Path) -> str:
    return stat.filemode(path.stat().st_mode)


def _on_descriptor(path: Path, change: Callable[[int], object]) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        change(fd)
    finally:
        os.close(fd)


def _write_mapped(path: Path) -> None:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as shared:
        os.pwrite(file.fileno(), b"y", 0)
        shared[0] = 120


PRIVILEGED_CHANGES: dict[str, Callable[[Path], object]] = {
    "write": lambda path: _on_descriptor(path, lambda fd: os.pwrite(fd, b"y", 0)),
    "extend": lambda path: _on_descriptor(path, lambda fd: os.pwrite(fd, b"y", 10_000)),
    "truncate": lambda path: os.truncate(path, 0),
    "ftruncate": lambda path: _on_descriptor(path, lambda fd: os.ftruncate(fd, 100)),
    "O_TRUNC": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
    "O_TRUNC alone": lambda path: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC)),
    "mapping": _write_mapped,
}


@pytest.mark.needs("root")
@pytest.mark.parametrize("number", range(len(PRIVILEGED_CHANGES)), ids=list(PRIVILEGED_CHANGES))
def test_changing_a_file_takes_its_privileges(root: Path, number: int) -> None:
    change = list(PRIVILEGED_CHANGES.values())[number]
    path = root / f"open/suid-{number}"
    assert privileges(path) == "-rwsrwsrwx"
    as_user(lambda: change(path), STRANGER)
    assert privileges(path) == "-rwxrwxrwx"
    fd = os.open(path, os.O_PATH)
    assert cached(path) == fresh(fd)
    os.close(fd)
    capable = root / f"open/capable-{number}"
    assert os.getxattr(capable, "security.capability")
    change(capable)  # even by root
    with failing(errno.ENODATA):
        os.getxattr(capable, "security.capability")


@pytest.mark.needs("root")
def test_root_keeps_set_user_id_bits_when_writing(root: Path) -> None:
    path = root / "kept"
    path.write_bytes(b"x")
    path.chmod(0o6755)
    with open(path, "r+b") as file:
        file.write(b"y")
    path.write_bytes(b"z")
    assert privileges(path) == "-rwsr-sr-x"
    os.setxattr(path, "security.capability", CAPABILITY)
    with path.open("ab") as file:
        file.write(b"y")
    assert privileges(path) == "-rwsr-sr-x"
    with failing(errno.ENODATA):
        os.getxattr(path, "security.capability")


@pytest.mark.needs("root")
def test_changing_the_owner_to_nobody_else_takes_privileges(root: Path) -> None:
    path = root / "same"
    path.write_bytes(b"x")
    path.chmod(0o6755)
    with suppress(PermissionError):  # the router can't tell it from a write, and answers nothing
        as_user(lambda: os.chown(path, -1, -1))
    assert privileges(path) == "-rwsr-sr-x"
    os.chown(path, -1, -1)
    assert privileges(path) == "-rwxr-xr-x"
    assert cached(path).mode == stat.S_IFREG | 0o755


@pytest.mark.needs("root")
def test_changing_the_owner_takes_privileges(root: Path) -> None:
    path = root / "open/suid-7"
    with true_caches(root / "open"):
        os.chown(path, STRANGER, -1)
        assert privileges(path) == "-rwxrwxrwx"
        capable = root / "open/capable-7"
        os.chown(capable, -1, STRANGER)
        with failing(errno.ENODATA):
            os.getxattr(capable, "security.capability")


@pytest.mark.needs("root")
def test_the_kernel_checks_who_may_change(root: Path) -> None:
    for change in (
        lambda: (root / "other").write_bytes(b"x"),
        (root / "other").unlink,
        (root / "tree/new").touch,
        lambda: os.rename(root / "tree/low", root / "tree/lower"),
        (root / "full").rmdir,
    ):
        with failing(errno.EACCES):
            as_user(change)
    for change in (
        lambda: (root / "other").chmod(0o777),
        lambda: os.chown(root / "file", STRANGER, -1),
        lambda: os.utime(root / "other", ns=(1, 1)),
        lambda: os.setxattr(root / "other", "trusted.x", b"x"),
    ):
        with failing(errno.EPERM):
            as_user(change)


@pytest.mark.needs("root")
def test_sticky_directories(root: Path) -> None:
    with failing(errno.EPERM):
        as_user((root / "sticky/theirs").unlink, STRANGER)
    with failing(errno.EPERM):
        as_user(lambda: os.rename(root / "sticky/theirs", root / "sticky/mine"), STRANGER)
    as_user((root / "sticky/theirs").unlink)


@pytest.mark.needs("root")
def test_directories_with_setgid(root: Path) -> None:
    team = root / "team"

    def make() -> None:
        (team / "sub").mkdir()
        (team / "file").touch()
        os.close(os.open(team / "script", os.O_CREAT | os.O_WRONLY, 0o2755))
        os.symlink("x", team / "link")

    as_user(make)
    assert stat.filemode((team / "sub").stat().st_mode) == "drwxr-sr-x"
    for name in ("sub", "file", "script", "link"):
        assert ((team / name).lstat().st_uid, (team / name).lstat().st_gid) == (USER, TEAM)
    assert privileges(team / "script") == "-rwxr-xr-x"  # not of the group
    as_user(
        lambda: os.close(os.open(team / "ours", os.O_CREAT | os.O_WRONLY, 0o2755)), groups=[TEAM]
    )
    assert privileges(team / "ours") == "-rwxr-sr-x"
    as_user(lambda: (team / "script").chmod(0o2755))
    assert privileges(team / "script") == "-rwxr-xr-x"
    as_user(lambda: (team / "script").chmod(0o2755), groups=[TEAM])
    assert privileges(team / "script") == "-rwxr-sr-x"


# ---- extended attributes -------------------------------------------------------------------------


def test_extended_attributes_are_set_and_removed(root: Path) -> None:
    path = root / "attributes"
    os.setxattr(path, "user.new", b"\0\xff")
    os.setxattr(path, "user.empty", b"")
    assert os.getxattr(path, "user.new") == b"\0\xff"
    assert os.getxattr(path, "user.empty") == b""
    with failing(errno.EEXIST):
        os.setxattr(path, "user.new", b"x", os.XATTR_CREATE)
    with failing(errno.ENODATA):
        os.setxattr(path, "user.none", b"x", os.XATTR_REPLACE)
    os.setxattr(path, "user.new", b"y" * 1000, os.XATTR_REPLACE)
    assert os.getxattr(path, "user.new") == b"y" * 1000
    os.removexattr(path, "user.new")
    os.removexattr(path, "user.note")
    names = {name for name in os.listxattr(path) if name.startswith("user.")}
    assert names == {"user.empty"}
    with failing(errno.ENODATA):
        os.removexattr(path, "user.new")
    with failing(errno.ENODATA):
        os.getxattr(path, "user.note")
    with failing(errno.EOPNOTSUPP):
        os.setxattr(path, "bogus.name", b"x")
    for flags in (0, os.XATTR_CREATE, os.XATTR_REPLACE):
        with failing(errno.EINVAL):
            os.setxattr(path, "user.", b"x", flags)
    for call in (os.getxattr, os.removexattr):
        with failing(errno.EINVAL):
            call(path, "user.")
    os.setxattr(root / "tree", "user.directory", b"d")
    assert os.listxattr(root / "tree") == ["user.directory"]


def test_marks_are_not_to_be_seen_or_set(root: Path) -> None:
    (root / "marked").mkdir()
    prefixes = ["user."] + (["trusted."] if os.geteuid() == 0 else [])
    for prefix in prefixes:
        for name in ("overlay.opaque", "overlay.redirect", "overlay.unionmount.origin"):
            with failing(errno.ENODATA):
                os.getxattr(root / "marked", prefix + name)
    for name in ("user.containers.override_stat", "user.fuseoverlayfs.opaque"):
        with failing(errno.EPERM):
            os.setxattr(root / "marked", name, b"0:0:0755")
    os.rename(root / "opaque", root / "marked/opaque")
    for path in below(root / "marked"):
        assert os.listxattr(path) == []
    os.rename(root / "marked/opaque", root / "opaque")


def test_the_layer_of_a_file(root: Path) -> None:
    (root / "laid").touch()
    assert os.getxattr(root / "laid", "user.unionmount.layer") == b"upper"
    assert os.getxattr(root / "laid", "user.unionmount.layer_index") == b"2"
    assert os.getxattr(root / "victim", "user.unionmount.layer_index") == b"0"
    assert os.getxattr(root / "merged/above", "user.unionmount.layer_index") == b"1"
    with failing(errno.EPERM):
        os.setxattr(root / "laid", "user.unionmount.layer", b"mine")


# ---- access control lists ------------------------------------------------------------------------


def acl(path: Path, name: str = ACCESS) -> dict[tuple[int, int], int]:
    value = os.getxattr(path, name)
    entries = [struct.unpack_from("<HHI", value, at) for at in range(4, len(value), 8)]
    return {(tag, who): permissions for tag, permissions, who in entries}


@pytest.mark.needs("root")
def test_acls_are_enforced_and_follow_chmod(root: Path) -> None:
    path = root / "listed"
    path.write_bytes(b"x")
    with true_caches(path):
        path.chmod(0o640)
        entries = [(USER_OBJ, 6, NOBODY), (NAMED_USER, 6, STRANGER), (GROUP_OBJ, 4, NOBODY)]
        entries += [(MASK, 6, NOBODY), (OTHER, 0, NOBODY)]
        os.setxattr(path, ACCESS, posix_acl(*entries))
        assert privileges(path) == "-rw-rw----"
        as_user(lambda: path.write_bytes(b"theirs"), STRANGER)
        with failing(errno.EACCES):
            as_user(path.read_bytes, USER)
        path.chmod(0o640)
        assert acl(path)[MASK, NOBODY] == 4
        as_user(path.read_bytes, STRANGER)
        with failing(errno.EACCES):
            as_user(lambda: path.write_bytes(b"again"), STRANGER)
        os.removexattr(path, ACCESS)
        with failing(errno.EACCES):
            as_user(path.read_bytes, STRANGER)


@pytest.mark.needs("root")
@pytest.mark.parametrize("umask", [0, 0o077])
def test_default_acls_are_inherited(root: Path, umask: int) -> None:
    heirs = root / "heirs"
    before = os.umask(umask)
    try:
        os.mkdir(heirs / f"{umask}", 0o777)
        os.close(os.open(heirs / f"{umask}/file", os.O_CREAT | os.O_WRONLY, 0o666))
        os.mkfifo(heirs / f"{umask}/fifo", 0o666)
        os.close(os.open(heirs / f"{umask}/private", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    directory = heirs / f"{umask}"
    assert acl(directory, DEFAULT) == acl(heirs, DEFAULT)
    assert privileges(directory) == "drwxrwx---"
    assert acl(directory)[NAMED_USER, STRANGER] == 7
    for name in ("file", "fifo"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o660
        assert acl(directory / name) == {
            (USER_OBJ, NOBODY): 6,
            (NAMED_USER, STRANGER): 7,
            (GROUP_OBJ, NOBODY): 5,
            (MASK, NOBODY): 6,
            (OTHER, NOBODY): 0,
        }
    assert stat.S_IMODE((directory / "private").stat().st_mode) == 0o600
    as_user(lambda: (directory / "file").write_bytes(b"heir"), STRANGER)


@pytest.mark.needs("root")
def test_setting_an_acl_takes_setgid(root: Path) -> None:
    path = root / "team/with-acl"
    path.touch()
    os.chown(path, USER, TEAM)
    path.chmod(0o2755)
    entries = [(USER_OBJ, 7, NOBODY), (NAMED_USER, 6, STRANGER), (GROUP_OBJ, 5, NOBODY)]
    entries += [(MASK, 7, NOBODY), (OTHER, 5, NOBODY)]
    as_user(lambda: os.setxattr(path, ACCESS, posix_acl(*entries)), groups=[TEAM])
    assert privileges(path) == "-rwxrwsr-x"
    as_user(lambda: os.setxattr(path, ACCESS, posix_acl(*entries)))
    assert privileges(path) == "-rwxrwxr-x"


# ---- the mount as a whole ------------------------------------------------------------------------


def test_the_root_directory_is_that_of_the_image(world: World) -> None:
    found = world.root.stat()
    assert stat.filemode(found.st_mode) == "drwxr-xr-x"
    assert found.st_mtime_ns == 1_600_000_000_123_456_789
    assert found.st_ino == 1
    world.root.chmod(0o751)
    check_survival(world)
    assert stat.S_IMODE(world.root.stat().st_mode) == 0o751


def test_statfs_is_that_of_the_upper(shared: World) -> None:
    ours, disk = os.statvfs(shared.root), os.statvfs(shared.upper)
    assert (ours.f_blocks, ours.f_bsize, ours.f_files) == (
        disk.f_blocks,
        disk.f_bsize,
        disk.f_files,
    )
    assert ours.f_namemax == 255
    assert not ours.f_flag & os.ST_RDONLY


def test_inode_numbers_are_kept(world: World) -> None:
    root = world.root
    before = {path: path.lstat().st_ino for path in below(root)}
    for path in before:
        if not path.is_symlink():
            os.utime(path, ns=(1, 1))
    (root / "new").touch()
    number = (root / "new").stat().st_ino
    assert {path: path.lstat().st_ino for path in before} == before
    world.remount()
    assert {path: path.lstat().st_ino for path in before} == before
    assert (root / "new").stat().st_ino == number
    assert number not in before.values()


def test_an_upper_is_mounted_once(world: World, tmp_path: Path) -> None:
    where = ("--upper", world.upper, "--work", world.work)
    message = world.cli.error("mount", *where, world.image, tmp_path)
    assert message == f"upper directory {world.upper} is in use by another mount"
    (world.root / "still").touch()


def test_two_file_systems_are_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "work").mkdir()
    world.unmount()
    if tmp_path.stat().st_dev == world.upper.stat().st_dev:
        pytest.skip("one file system")
    where = ("--upper", world.upper, "--work", tmp_path / "work")
    assert "on different file systems" in world.cli.error(
        "mount", *where, world.image, tmp_path / "mnt"
    )


@pytest.mark.parametrize(("upper", "work"), [("a", "a/w"), ("a/u", "a"), ("a", "a")])
def test_directories_inside_of_each_other_are_refused(
    world: World, tmp_path: Path, upper: str, work: str
) -> None:
    (tmp_path / "mnt").mkdir()
    for name in (upper, work):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    where = ("--upper", tmp_path / upper, "--work", tmp_path / work)
    message = world.cli.error("mount", *where, world.image, tmp_path / "mnt")
    assert "one contains the other" in message


def test_a_read_only_mount_refuses_changes(world: World, tmp_path: Path) -> None:
    (tmp_path / "ro").mkdir()
    with ExitStack() as stack:
        world.cli.run("mount", "--ro", world.image, tmp_path / "ro")
        stack.callback(world.cli.run, "umount", tmp_path / "ro")
        with failing(errno.EROFS):
            (tmp_path / "ro/new").touch()
        assert (tmp_path / "ro/file").read_bytes() == b"lower\n"


@pytest.mark.needs("backing-tmpfs")
def test_a_full_disk(cli: CommandLine, image: Path) -> None:
    with backing("tmpfs", megabytes=2) as disk:
        world = World(cli, image, disk / "full")
        root = world.mount()
        try:
            _fill(root)
            (root / "filler").unlink()
            assert (root / "big").read_bytes() == BIG
            (root / "other").write_bytes(b"there is room again")
            check_survival(world)
        finally:
            world.unmount()


def _append_byte(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(b"x")


def _fill(root: Path) -> None:
    changes: list[Callable[[], object]] = [
        lambda: _append_byte(root / "big"),  # opening alone may copy nothing up
        lambda: os.truncate(root / "big", len(BIG) - 1),
    ]
    for change in changes:
        with failing(errno.ENOSPC):
            change()
    with failing(errno.ENOSPC), open(root / "filler", "wb", buffering=0) as file:
        while True:
            file.write(bytes(100_000))
    assert (root / "filler").stat().st_size > 1_000_000
    (root / "big").chmod(0o600)  # copies no data
    os.rename(root / "big", root / "moved")
    os.rename(root / "moved", root / "big")


def test_a_mount_that_was_killed_comes_back(world: World) -> None:
    import signal  # noqa: PLC0415

    (world.root / "file").write_bytes(b"kept")
    pid = world.cli.record(world.root)["pid"]
    os.kill(pid, signal.SIGKILL)
    world.cli.run("umount", world.root)
    world.mount()
    assert (world.root / "file").read_bytes() == b"kept"


def test_the_log_is_empty(shared: World) -> None:
    """Runs last: nothing that the tests did was an error of the server's."""
    record = shared.cli.record(shared.root)
    runtime = Path(os.environ["UNIONMOUNT_RUNTIME_DIR"])
    log = runtime / "mounts" / f"{record['id']}.log"
    assert log.read_text() == ""
