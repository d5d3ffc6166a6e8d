"""Files without a name (O_TMPFILE) on a writable mount: as the kernel's overlayfs has them."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive, posix_acl
from support.backing import backing
from support.descriptors import held_paths
from support.mounting import CommandLine, Process, is_mounted
from support.users import NOBODY, become_nobody, call_as, fuse_for_all

from unionmount.mounting.records import MountTable

pytestmark = pytest.mark.needs("fuse")

_AT_EMPTY_PATH = 0x1000
GROUP = 4321
NAMELESS = os.O_TMPFILE | os.O_RDWR
NO_ONE = 0xFFFFFFFF
libc = ctypes.CDLL(None, use_errno=True)


def give_name(fd: int, path: Path) -> None:
    """As open(2) says it is done."""
    directory = os.open("/proc/self/fd", os.O_RDONLY)
    try:
        os.link(str(fd), path, src_dir_fd=directory, follow_symlinks=True)
    finally:
        os.close(directory)


def give_name_by_number(fd: int, path: Path) -> None:
    """The other way, which only root may go."""
    if libc.linkat(fd, b"", -100, os.fsencode(path), _AT_EMPTY_PATH) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def failure(function: Callable[..., object], *arguments: object) -> str:
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def shown(status: os.stat_result) -> tuple[Any, ...]:
    mode = stat.filemode(status.st_mode)
    return mode, status.st_nlink, status.st_uid, status.st_gid, status.st_size


# ---- against overlayfs ---------------------------------------------------------------------------


def life(root: Path) -> Any:
    """Made, written, named, and used by its name."""
    fd = os.open(root / "dir", NAMELESS, 0o640)
    seen: list[Any] = [shown(os.fstat(fd)), os.listdir(root / "dir")]
    os.write(fd, b"content")
    os.posix_fallocate(fd, 0, 5000)
    os.fsync(fd)
    os.setxattr(fd, "user.note", b"x")
    os.fchmod(fd, 0o604)
    os.fchown(fd, 5, 6)
    os.utime(fd, ns=(3, 4))
    seen += [shown(os.fstat(fd)), os.fstat(fd).st_mtime_ns, os.pread(fd, 8, 0)]
    give_name(fd, root / "dir/named")
    seen += [shown(os.fstat(fd)), os.path.sameopenfile(fd, os.open(root / "dir/named", 0))]
    os.pwrite(fd, b"C", 0)
    seen += [(root / "dir/named").read_bytes()[:8], os.getxattr(root / "dir/named", "user.note")]
    give_name(fd, root / "second")  # it is a file like others now
    seen += [shown((root / "second").stat())]
    (root / "second").unlink()
    (root / "dir/named").rename(root / "moved")
    os.close(fd)
    return [*seen, shown((root / "moved").stat()), sorted(os.listdir(root))]


def names(root: Path) -> Any:
    """What may become its name."""
    seen: list[Any] = []
    (root / "removed").unlink()
    (root / "hidden/file").unlink()
    (root / "hidden").rmdir()
    for name in ("removed", "hidden", "dir/file", "none/name", "dir", "x" * 256, "only-root"):
        fd = os.open(root, NAMELESS)
        os.write(fd, name.encode())
        how = give_name_by_number if name == "only-root" else give_name
        seen += [name, failure(how, fd, root / name)]
        seen += [shown(os.fstat(fd))[1:], failure(give_name, fd, root / "late")]
        os.close(fd)
        (root / "late").unlink()
    return [*seen, sorted(os.listdir(root)), (root / "removed").read_bytes()]


def exclusive(root: Path) -> Any:
    """With O_EXCL, and after its last name has gone again, it gets no name."""
    fd = os.open(root, NAMELESS | os.O_EXCL)
    again = os.open(root, NAMELESS)
    give_name(again, root / "once")
    (root / "once").unlink()
    seen = [failure(give_name, one, root / "never") for one in (fd, again)]
    return [*seen, shown(os.fstat(again)), os.write(again, b"x"), sorted(os.listdir(root))]


def refused(root: Path) -> Any:
    return [
        failure(os.open, root / "dir/file", NAMELESS),
        failure(os.open, root / "none", NAMELESS),
        failure(os.open, root, os.O_TMPFILE | os.O_RDONLY),
        failure(os.open, root / "link", NAMELESS | os.O_NOFOLLOW),
        shown(os.fstat(os.open(root / "link", NAMELESS))),
    ]


def masks(root: Path) -> Any:
    """Mode and umask, set-group-ID directories, and default ACLs."""
    acl = posix_acl((0x01, 7, NO_ONE), (0x02, 7, 77), (0x04, 5, NO_ONE), (0x10, 7, NO_ONE))
    os.setxattr(root / "acl", "system.posix_acl_default", acl + posix_acl((0x20, 0, NO_ONE))[4:])
    seen = []
    for directory in ("dir", "setgid", "acl"):
        for mask in (0, 0o027):
            for mode in (0o666, 0o7777, 0):
                before = os.umask(mask)
                fd = os.open(root / directory, NAMELESS, mode)
                os.umask(before)
                give_name(fd, root / directory / f"{mask}-{mode}")
                seen.append((directory, mask, mode, shown(os.fstat(fd)), os.listxattr(fd)))
                os.close(fd)
    path = root / "acl" / f"{0o027}-{0o666}"
    return [*seen, os.getxattr(path, "system.posix_acl_access")]


def by_others(root: Path) -> Any:
    """An ordinary user, in directories of everybody."""

    def work() -> Any:
        seen: list[Any] = []
        for directory in ("open", "setgid"):
            for mode in (0o644, 0o6775):
                fd = os.open(root / directory, NAMELESS, mode)
                os.write(fd, b"mine")
                give_name(fd, root / directory / f"{mode}")
                seen.append((directory, mode, shown(os.fstat(fd))))
        seen.append(failure(lambda: give_name_by_number(os.open(root / "open", NAMELESS), root)))
        return [*seen, failure(os.open, root / "dir", NAMELESS)]

    return call_as(GROUP + 1, work)


class Side:
    """A mount of the lower directory, with an upper of its own."""

    def __init__(self, top: Path, cli: CommandLine | None) -> None:
        self.root, self.cli = top / "mnt", cli
        self.upper, self.work = top / "upper", top / "work"
        for path in (self.root, self.upper, self.work):
            path.mkdir()
        where = f"upperdir={self.upper},workdir={self.work}"
        self.options = f"lowerdir={top.parent / 'lower'},{where}"

    def mount(self) -> None:
        if self.cli is None:
            subprocess.run(
                ["mount", "-t", "overlay", "overlay", "-o", self.options, self.root], check=True
            )
        else:
            # with all that overlayfs has, as the directories are open to all
            self.cli.run("overlay", "-o", f"{self.options},suid,dev", self.root)

    def unmount(self) -> None:
        if self.cli is None:
            subprocess.run(["umount", self.root], check=True)
        else:
            self.cli.run("umount", self.root)

    def look(self) -> list[Any]:
        """All that is there after a remount, and on disk."""
        self.mount()
        seen = [
            (str(path.relative_to(self.root)), shown(path.stat())[0:1] + shown(path.stat())[2:])
            for path in sorted(self.root.rglob("*"))
            if not path.is_dir()
        ]
        self.unmount()
        on_disk = sorted(str(path.relative_to(self.upper)) for path in self.upper.rglob("*"))
        return [seen, on_disk, list(self.work.rglob("#*"))]


def make_lower(top: Path) -> None:
    for name, mode in {"dir": 0o755, "setgid": 0o2777, "acl": 0o755, "open": 0o777}.items():
        (top / name).mkdir(parents=True)
        os.chown(top / name, 0, GROUP if name == "setgid" else 0)
        (top / name).chmod(mode)
    (top / "hidden").mkdir()
    for name in ("dir/file", "removed", "hidden/file"):
        (top / name).write_bytes(b"lower")
    (top / "link").symlink_to("open")


@pytest.fixture(
    params=[pytest.param(k, marks=pytest.mark.needs(f"backing-{k}")) for k in ("ext4", "tmpfs")]
)
def sides(request: pytest.FixtureRequest, cli: CommandLine) -> Iterator[tuple[Side, Side]]:
    """The kernel's and ours, on one file system."""
    with backing(request.param, 64) as top:
        make_lower(top / "lower")
        both = []
        for name, line in (("theirs", None), ("ours", cli)):
            (top / name).mkdir()
            both.append(Side(top / name, line))
        yield both[0], both[1]
        for side in both:
            if is_mounted(side.root):
                side.unmount()


@pytest.mark.needs("overlayfs")
@pytest.mark.parametrize(
    "work", [life, names, exclusive, refused, masks, by_others], ids=lambda work: work.__name__
)
def test_it_is_as_on_overlayfs(sides: tuple[Side, Side], work: Callable[[Path], Any]) -> None:
    seen = []
    for side in sides:
        side.mount()
        # a process of its own: what is left open is closed when it ends
        seen.append(call_as(os.geteuid(), partial(work, side.root)))
        side.unmount()
    assert seen[1] == seen[0]
    theirs, ours = (side.look() for side in sides)
    assert ours == theirs


# ---- by itself -----------------------------------------------------------------------------------


@pytest.fixture
def mount(cli: CommandLine, public_tmp: Path) -> Iterator[Callable[..., Path]]:
    """A function that mounts an image with an upper, afresh or again."""
    layer = Layer().directory("dir").file("dir/file")
    image = docker_archive(public_tmp / "image.tar", [layer], name="nameless:1")
    root = public_tmp / "mnt"

    def mount_it(*options: str) -> Path:
        root.mkdir(exist_ok=True)
        where = ("--upper", public_tmp / "upper", "--work", public_tmp / "work")
        cli.run("mount", *where, *options, image, root)
        return root

    yield mount_it
    if is_mounted(root):
        cli.run("umount", "--lazy", root)


def pid_of(root: Path) -> int:
    (found,) = [one for one in MountTable.of_user().all() if one.record.path == root]
    return found.record.pid


def test_it_goes_with_its_last_descriptor(mount: Callable[..., Path]) -> None:
    root = mount()
    pid = pid_of(root)

    def deleted() -> int:
        return sum(path.endswith(" (deleted)") for path in held_paths(pid))

    before = deleted()
    fds = [os.open(root / "dir", NAMELESS) for _ in range(20)]
    assert deleted() == before + 20
    give_name(fds[0], root / "dir/named")  # its place leads to it: no descriptor is needed
    assert deleted() == before + 19
    for fd in fds:
        os.close(fd)
    asked = (root / f"none-{number}" for number in range(10_000))
    # What was forgotten is told between other requests.
    assert any(not path.exists() and deleted() == before for path in asked)
    assert os.listdir(root) == ["dir"]


def test_nothing_is_left_when_the_daemon_is_killed(
    mount: Callable[..., Path], cli: CommandLine, public_tmp: Path
) -> None:
    root = mount()
    daemon, pid = Process(pid_of(root)), pid_of(root)
    fds = [os.open(root / "dir", NAMELESS) for _ in range(5)]
    for fd in fds:
        os.write(fd, b"x" * 10_000)
    give_name(fds[0], root / "dir/named")
    os.kill(pid, signal.SIGKILL)
    daemon.wait()
    assert not list((public_tmp / "work").iterdir())
    assert os.listdir(public_tmp / "upper/dir") == ["named"]
    for fd in fds:
        assert failure(os.close, fd) == "ENOTCONN"
    cli.run("umount", "--lazy", root)
    assert (mount() / "dir/named").read_bytes() == b"x" * 10_000


def test_more_of_them_than_descriptors_that_are_kept(mount: Callable[..., Path]) -> None:
    root = mount()
    for number in range(1500):
        fd = os.open(root / "dir", NAMELESS)
        os.write(fd, b"%d" % number)
        give_name(fd, root / f"dir/{number}")
        os.close(fd)
    assert len(list(Path(f"/proc/{pid_of(root)}/fd").iterdir())) < 1200
    assert [(root / f"dir/{n}").read_bytes() for n in (0, 1499)] == [b"0", b"1499"]


def test_python_alone_has_none(mount: Callable[..., Path]) -> None:
    root = mount("--no-fastpath")
    for _ in range(2):
        assert failure(os.open, root / "dir", NAMELESS) == "ENOTSUP"
    assert os.listdir(root / "dir") == ["file"]


# ---- an ordinary user's --------------------------------------------------------------------------


@pytest.mark.needs("ordinary-user")
def test_an_ordinary_user(public_tmp: Path) -> None:
    home, root = public_tmp, public_tmp / "mnt"
    layer = Layer().directory("dir", owner=(7, 8), mode=0o2755).directory("closed", 0o500)
    image = docker_archive(home / "image.tar", [layer], name="nameless:2")
    if os.geteuid() == 0:
        os.chown(home, NOBODY, NOBODY)
    call_as(NOBODY, root.mkdir)
    places = {"UNIONMOUNT_RUNTIME_DIR": str(home / "run"), "UNIONMOUNT_ROOT": str(home / "root")}

    def work() -> Any:
        for directory in ("dir", "closed"):
            fd = os.open(root / directory, NAMELESS, 0o200)
            os.write(fd, b"content")
            os.setxattr(fd, "user.note", b"x")
            give_name(fd, root / directory / "named")  # while it is theirs: see proc_sys_fs(5)
            os.fchown(fd, 11, 12)
            os.fchmod(fd, 0o4711)
            os.close(fd)
        fd = os.open(root / "dir", NAMELESS, 0o644)
        return shown(os.fstat(fd))

    def look() -> Any:
        paths = [root / "dir/named", root / "closed/named"]
        return [(shown(path.stat()), path.read_bytes(), os.listxattr(path)) for path in paths]

    with fuse_for_all(), ExitStack() as stack:
        user = CommandLine(become_nobody(), places)
        where = ("--upper", home / "upper", "--work", home / "work")

        def again() -> None:
            user.run("mount", *where, image, root)

        again()
        stack.callback(lambda: is_mounted(root) and user.run("umount", "--lazy", root))
        uid = call_as(NOBODY, os.getuid)
        assert call_as(NOBODY, work) == ("-rw-r--r--", 0, uid, 8, 0)
        expected = [(("-rws--x--x", 1, 11, 12, 7), b"content", ["user.note"])] * 2
        assert call_as(NOBODY, look) == expected
        user.run("umount", root)
        again()
        assert call_as(NOBODY, look) == expected
        assert not list((home / "work").iterdir())
