"""The mounted file system as programs see it: every operation, on an image of known content."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
from support.archives import MTIME_NS, Layer, docker_archive, posix_acl
from support.commands import Commands, ForkedCommandLine
from support.errnos import failing
from support.mounting import CommandLine

from unionmount import core
from unionmount.mounting.facts import ImageFacts
from unionmount.mounting.read_operations import ReadOnlyOperations
from unionmount.store.store import Store
from unionmount.transfer.load import open_image

pytestmark = pytest.mark.needs("fuse")

BIG = random.Random(1).randbytes(3_000_000)
MAP_LOCKED = 0x2000  # of <linux/mman.h>
LONG_NAME = "n" * 255
ODD_NAME = b"caf\xe9-\xff"
LONG_TARGET = "t" * 4095
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)  # cap_net_raw+ep, version 2
READER, STRANGER = 4321, 4322
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER, NOBODY = 0x01, 0x02, 0x04, 0x10, 0x20, 0xFFFFFFFF


def lower_layer() -> Layer:
    """Files of every type, and attributes of every kind."""
    layer = Layer()
    layer.directory("./", 0o755)
    layer.directory("etc").file("etc/motd", b"hello\n").file("etc/gone", b"x").directory("etc/sub")
    layer.file("etc/sub/one").file("etc/sub/two")
    layer.file("big", BIG, owner=(1000, 1001), mode=0o640)
    layer.file("linked", b"same").hard_link("etc/also", "linked")
    layer.symlink("link", "etc/motd").symlink("long-link", LONG_TARGET)
    layer.add("fifo", tarfile.FIFOTYPE)
    layer.add("null", tarfile.CHRTYPE, device=(1, 3), mode=0o666)
    layer.add("loop", tarfile.BLKTYPE, device=(7, 300), mode=0o660)
    layer.file(LONG_NAME, b"long").file(os.fsdecode(ODD_NAME), b"odd")
    layer.file("early", mtime_ns=-1_500_000_000)
    layer.directory("private", 0o700, owner=(1000, 1000)).file(
        "private/key", b"secret", mode=0o600, owner=(1000, 1000)
    )
    layer.directory("sticky", 0o1777).file("suid", b"", mode=0o6755)
    return layer


def special_layer() -> Layer:
    """Extended attributes, sparse files, and a directory of many."""
    layer = Layer()
    layer.file(
        "attributes",
        b"x",
        xattrs={
            "user.note": b"caf\xe9 \xff",
            "user.empty": b"",
            "trusted.secret": b"root only",
            "security.capability": CAPABILITY,
            "bogus.name": b"x",
            "system.posix_acl_unknown": b"x",
        },
    )
    layer.symlink("attributed-link", "attributes", pax={"SCHILY.xattr.user.note": "unreadable"})
    sparse = {
        "GNU.sparse.size": "10485760",
        "GNU.sparse.numblocks": "1",
        "GNU.sparse.map": "1048576,4096",
    }
    layer.file("sparse", b"D" * 4096, pax=sparse)
    layer.directory("many")
    for number in range(3000):
        layer.file(f"many/file-{number:04}", b"%d" % number)
    return layer


def acl_layer() -> Layer:
    """Files whose ACL says something else than their mode."""
    layer = Layer()
    grant = [(USER_OBJ, 6, NOBODY), (USER, 4, READER), (GROUP_OBJ, 0, NOBODY)]
    grant += [(MASK, 4, NOBODY), (OTHER, 0, NOBODY)]
    deny = [(USER_OBJ, 6, NOBODY), (USER, 0, READER), (GROUP_OBJ, 4, NOBODY)]
    deny += [(MASK, 4, NOBODY), (OTHER, 4, NOBODY)]
    default = [(USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHER, 0, NOBODY)]
    for name, mode, entries in (("granted", 0o640, grant), ("denied", 0o644, deny)):
        xattrs = {"system.posix_acl_access": posix_acl(*entries)}
        layer.file(name, b"acl", mode=mode, xattrs=xattrs)
    layer.directory("defaults", xattrs={"system.posix_acl_default": posix_acl(*default)})
    return layer


def top_layer() -> Layer:
    """Changes to the layers below."""
    layer = Layer()
    layer.file("etc/motd", b"changed\n").file("etc/.wh.gone")
    layer.file("etc/sub/.wh..wh..opq").file("etc/sub/three")
    return layer


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    layers = [lower_layer(), special_layer(), acl_layer(), top_layer()]
    return docker_archive(tmp_path_factory.mktemp("image") / "image.tar", layers)


@pytest.fixture(scope="module", params=["", "0", "1"], ids=["router", "pyfuse3", "one-thread"])
def cli(request: pytest.FixtureRequest, server: Commands) -> CommandLine:
    """The command line, with each way to answer the kernel: the answers are the same."""
    return ForkedCommandLine(server, {"UNIONMOUNT_FASTPATH": request.param})


@pytest.fixture(scope="module")
def root(image: Path, module_mount: Callable[..., Path]) -> Path:
    return module_mount(image)


# ---- attributes ----------------------------------------------------------------------------------


def test_attributes_of_a_file(root: Path) -> None:
    found = (root / "big").stat()
    assert stat.filemode(found.st_mode) == "-rw-r-----"
    assert (found.st_uid, found.st_gid, found.st_size) == (1000, 1001, len(BIG))
    assert found.st_mtime_ns == found.st_ctime_ns == found.st_atime_ns == MTIME_NS
    assert found.st_blocks == -(-len(BIG) // 512)
    assert found.st_blksize >= 4096
    assert found.st_nlink == 1


def test_times_before_1970(root: Path) -> None:
    assert (root / "early").stat().st_mtime_ns == -1_500_000_000


def test_mode_bits_of_all_kinds(root: Path) -> None:
    assert stat.filemode((root / "sticky").stat().st_mode) == "drwxrwxrwt"
    assert stat.filemode((root / "suid").stat().st_mode) == "-rwsr-sr-x"
    assert stat.filemode((root / "fifo").stat().st_mode) == "prw-r--r--"


def test_devices(root: Path) -> None:
    character, block = (root / "null").stat(), (root / "loop").stat()
    assert stat.S_ISCHR(character.st_mode)
    assert stat.S_ISBLK(block.st_mode)
    assert (os.major(character.st_rdev), os.minor(character.st_rdev)) == (1, 3)
    assert (os.major(block.st_rdev), os.minor(block.st_rdev)) == (7, 300)


def test_hard_links_are_one_file(root: Path) -> None:
    one, two = (root / "linked").stat(), (root / "etc/also").stat()
    assert one.st_ino == two.st_ino
    assert one.st_nlink == two.st_nlink == 2


def test_link_count_of_a_directory(root: Path) -> None:
    assert (root / "etc").stat().st_nlink == 3
    assert (root / "many").stat().st_nlink == 2


def test_inode_numbers_are_distinct_and_stable(
    root: Path, image: Path, mount: Callable[..., Path]
) -> None:
    def numbers(top: Path) -> dict[str, int]:
        # not rglob: in Python 3.11.2 it fails at a symlink whose target is too long to follow
        below = [Path(place, name) for place, d, f in os.walk(top) for name in (*d, *f)]
        paths = [top, *below]
        return {str(path.relative_to(top)): path.lstat().st_ino for path in paths}

    first = numbers(root)
    assert first == numbers(mount(image))
    linked = {"linked", "etc/also"}
    others = [number for name, number in first.items() if name not in linked]
    assert len(set(others)) == len(others)


def test_sparse_files_have_holes(root: Path) -> None:
    found = (root / "sparse").stat()
    assert found.st_size == 10 * 1024 * 1024
    assert found.st_blocks == 8
    content = (root / "sparse").read_bytes()
    assert content[1048576 : 1048576 + 4096] == b"D" * 4096
    assert content.count(0) == len(content) - 4096


def test_layers_are_merged(root: Path) -> None:
    assert (root / "etc/motd").read_bytes() == b"changed\n"
    assert not (root / "etc/gone").exists()
    assert os.listdir(root / "etc/sub") == ["three"]


# ---- names ---------------------------------------------------------------------------------------


def test_long_and_odd_names(root: Path) -> None:
    assert (root / LONG_NAME).read_bytes() == b"long"
    with open(os.fsencode(root) + b"/" + ODD_NAME, "rb") as file:
        assert file.read() == b"odd"
    assert ODD_NAME in os.listdir(os.fsencode(root))


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing", errno.ENOENT),
        ("m" * 255, errno.ENOENT),
        ("m" * 256, errno.ENAMETOOLONG),
        ("missing/below", errno.ENOENT),
        ("etc/motd/below", errno.ENOTDIR),
        ("private/" * 600, errno.ENAMETOOLONG),
    ],
)
def test_names_that_do_not_exist(root: Path, name: str, code: int) -> None:
    with failing(code):
        os.stat(f"{root}/{name}")


def test_readlink(root: Path) -> None:
    assert os.readlink(root / "link") == "etc/motd"
    assert os.readlink(root / "long-link") == LONG_TARGET
    assert (root / "link").lstat().st_size == len("etc/motd")
    assert (root / "link").read_bytes() == b"changed\n"
    with failing(errno.EINVAL):
        os.readlink(root / "big")


# ---- directories ---------------------------------------------------------------------------------


def test_listing_has_every_name_once_with_its_type(root: Path) -> None:
    with os.scandir(root) as entries:
        found = {
            entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries
        }
    assert len(found) == len(os.listdir(root))
    for name, (inode, is_directory) in found.items():
        status = (root / name).lstat()
        assert (status.st_ino, stat.S_ISDIR(status.st_mode)) == (inode, is_directory)


def test_listing_of_many(root: Path) -> None:
    assert sorted(os.listdir(root / "many")) == [f"file-{number:04}" for number in range(3000)]


def test_ls_shows_the_dots(root: Path) -> None:
    shown = subprocess.run(
        ["ls", "-a", root / "etc/sub"], check=True, capture_output=True, text=True
    ).stdout
    assert shown.split() == [".", "..", "three"]


def test_the_dots_have_the_numbers_of_what_they_are(root: Path) -> None:
    for place, above in ((root / "etc/sub", root / "etc"), (root / "etc", root)):
        shown = subprocess.run(
            ["ls", "-ai", place], check=True, capture_output=True, text=True
        ).stdout
        assert f"{place.stat().st_ino} ." in map(str.strip, shown.splitlines())
        assert f"{above.stat().st_ino} .." in map(str.strip, shown.splitlines())


class Directory:
    """A directory stream of the C library, which Python's os does not let be positioned."""

    class Dirent(ctypes.Structure):
        _fields_ = (
            ("ino", ctypes.c_uint64),
            ("off", ctypes.c_int64),
            ("reclen", ctypes.c_ushort),
            ("type", ctypes.c_ubyte),
            ("name", ctypes.c_char * 256),
        )

    def __init__(self, path: Path) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        for name in ("opendir", "readdir"):
            getattr(self._libc, name).restype = ctypes.c_void_p
        self._libc.telldir.restype = ctypes.c_long
        self._stream = ctypes.c_void_p(self._libc.opendir(os.fsencode(path)))
        assert self._stream.value

    def next(self) -> bytes | None:
        found = self._libc.readdir(self._stream)
        return (
            bytes(ctypes.cast(found, ctypes.POINTER(self.Dirent)).contents.name) if found else None
        )

    def tell(self) -> int:
        return int(self._libc.telldir(self._stream))

    def seek(self, place: int) -> None:
        self._libc.seekdir(self._stream, ctypes.c_long(place))

    def rewind(self) -> None:
        self._libc.rewinddir(self._stream)

    def close(self) -> None:
        self._libc.closedir(self._stream)


@pytest.fixture
def many(root: Path) -> Iterator[Directory]:
    directory = Directory(root / "many")
    yield directory
    directory.close()


def test_seekdir_returns_to_every_place(many: Directory) -> None:
    places = []
    while True:
        place = many.tell()
        name = many.next()
        places.append((place, name))
        if name is None:
            break
    assert len(places) == 3003  # the dots and the end
    random.Random(2).shuffle(places)
    for place, name in places:
        many.seek(place)
        assert many.next() == name


def test_rewinddir_begins_again(many: Directory) -> None:
    first = many.next()
    for _ in range(500):
        many.next()
    many.rewind()
    assert many.next() == first == b"."


# ---- files ---------------------------------------------------------------------------------------


def test_reads_anywhere(root: Path) -> None:
    choose = random.Random(3)
    with open(root / "big", "rb", buffering=0) as file:
        for _ in range(300):
            offset, size = choose.randrange(len(BIG) + 100_000), choose.randrange(300_000)
            assert os.pread(file.fileno(), size, offset) == BIG[offset : offset + size]


def test_reads_by_mmap(root: Path) -> None:
    with open(root / "big", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert hashlib.sha256(view).digest() == hashlib.sha256(BIG).digest()


def test_reads_around_the_cache(root: Path) -> None:
    with mmap.mmap(-1, 1 << 20) as buffer:
        fd = os.open(root / "big", os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.preadv(fd, [buffer], 1 << 20) == 1 << 20
        finally:
            os.close(fd)
        assert buffer[:] == BIG[1 << 20 : 2 << 20]


def test_reads_that_wait_for_the_disk(
    image: Path, mount: Callable[..., Path], tmp_path: Path
) -> None:
    cold = Path(shutil.copy(image, tmp_path / "cold.tar"))
    root = mount(cold)
    with open(cold, "rb") as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = ["sha256sum", str(root / "big")]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(6)]
    expected = hashlib.sha256(BIG).hexdigest().encode()
    assert all(reader.communicate()[0].startswith(expected) for reader in readers)


def test_an_archive_that_is_cut_while_mounted(
    image: Path, mount: Callable[..., Path], tmp_path: Path
) -> None:
    cut = Path(shutil.copy(image, tmp_path / "cut.tar"))
    root = mount(cut)
    os.truncate(cut, 100_000)
    with failing(errno.EIO):
        (root / "big").read_bytes()
    assert len(os.listdir(root / "many")) == 3000
    assert (root / "big").stat().st_size == len(BIG)


def test_reading_a_directory_or_a_missing_file(root: Path) -> None:
    fd = os.open(root / "etc", os.O_RDONLY)
    try:
        with failing(errno.EISDIR):
            os.read(fd, 1)
    finally:
        os.close(fd)
    with failing(errno.ENOTDIR):
        os.open(root / "big", os.O_RDONLY | os.O_DIRECTORY)
    with failing(errno.ELOOP):
        os.open(root / "link", os.O_RDONLY | os.O_NOFOLLOW)


def test_fsync_and_poll_and_locks_of_a_file_that_is_read(root: Path) -> None:
    with open(root / "big", "rb") as file:
        os.fsync(file)
        os.fdatasync(file)
        fcntl.flock(file, fcntl.LOCK_SH)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
    fd = os.open(root / "etc", os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def test_seeking_to_data_and_holes(root: Path) -> None:
    with open(root / "big", "rb") as file:
        assert os.lseek(file.fileno(), 5, os.SEEK_DATA) == 5
        assert os.lseek(file.fileno(), 5, os.SEEK_HOLE) == len(BIG)


def test_statfs(root: Path) -> None:
    found = os.statvfs(root)
    assert found.f_bsize == found.f_frsize == 4096
    assert found.f_blocks * 4096 >= len(BIG)
    assert found.f_files > 3000
    assert found.f_bfree == found.f_bavail == found.f_ffree == 0
    assert found.f_namemax == 255
    assert found.f_flag & os.ST_RDONLY


# ---- extended attributes -------------------------------------------------------------------------


def test_extended_attributes(root: Path) -> None:
    path = root / "attributes"
    assert os.getxattr(path, "user.note") == b"caf\xe9 \xff"
    assert os.getxattr(path, "user.empty") == b""
    assert os.getxattr(path, "security.capability") == CAPABILITY
    for name in ("user.missing", "bogus.name", "system.posix_acl_unknown"):
        with pytest.raises(OSError, match=r"not supported|No data"):
            os.getxattr(path, name)


def test_listing_extended_attributes(root: Path) -> None:
    expected = {"user.note", "user.empty", "security.capability"}
    if os.geteuid() == 0:
        expected.add("trusted.secret")
        assert os.getxattr(root / "attributes", "trusted.secret") == b"root only"
    assert set(os.listxattr(root / "attributes")) == expected
    assert os.listxattr(root / "big") == []


def test_a_symlink_lists_only_what_can_be_read_of_it(root: Path) -> None:
    assert os.listxattr(root / "attributed-link", follow_symlinks=False) == []


@pytest.mark.needs("root", "setpriv", "getfattr")
def test_trusted_attributes_are_roots(reachable: Callable[..., Path]) -> None:
    root = reachable()
    shown = as_user(READER, "getfattr", "-m", "-", root / "attributes").stdout
    assert b"user.note" in shown
    assert b"trusted" not in shown


def test_the_layer_of_a_file(root: Path, image: Path) -> None:
    layers = {"big": 0, "attributes": 1, "granted": 2, "etc/motd": 3, "etc/sub/three": 3, "etc": 0}
    config = image_config(image)
    for name, number in layers.items():
        assert os.getxattr(root / name, "user.unionmount.layer_index") == str(number).encode()
        diff_id = config["rootfs"]["diff_ids"][number].encode()
        assert os.getxattr(root / name, "user.unionmount.layer") == diff_id
        assert not any("unionmount" in listed for listed in os.listxattr(root / name))


def image_config(image: Path) -> dict[str, dict[str, list[str]]]:
    with tarfile.open(image) as tar:
        (manifest,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        config: dict[str, dict[str, list[str]]] = json.load(
            tar.extractfile(manifest["Config"])  # type: ignore[arg-type]
        )
        return config


def test_layers_are_listed_when_asked_for(image: Path, mount: Callable[..., Path]) -> None:
    root = mount(image, "-o", "xattrs=layers")
    expected = {"user.unionmount.layer", "user.unionmount.layer_index"}
    assert set(os.listxattr(root / "big")) == expected
    assert set(os.listxattr(root / "etc")) == expected
    assert os.listxattr(root / "link", follow_symlinks=False) == []


# ---- permissions ---------------------------------------------------------------------------------


def as_user(uid: int, *command: str | Path, status: int = 0) -> subprocess.CompletedProcess[bytes]:
    """Run a program as somebody without privileges."""
    prefix = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    done = subprocess.run([*prefix, *command], capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture
def reachable(image: Path, public_tmp: Path, mount: Callable[..., Path]) -> Callable[..., Path]:
    """A function that mounts the image where every user gets to."""

    def mount_it(*options: str) -> Path:
        return mount(image, *options, at=public_tmp / "mnt")

    return mount_it


@pytest.mark.needs("root", "setpriv")
def test_the_kernel_checks_modes(reachable: Callable[..., Path]) -> None:
    root = reachable()
    assert as_user(STRANGER, "cat", root / "etc/motd").stdout == b"changed\n"
    assert b"Permission denied" in as_user(STRANGER, "cat", root / "big", status=1).stderr
    assert b"Permission denied" in as_user(STRANGER, "ls", root / "private", status=2).stderr
    assert as_user(1000, "cat", root / "private/key").stdout == b"secret"
    as_user(STRANGER, "test", "-r", root / "big", status=1)
    as_user(STRANGER, "test", "-w", root / "etc/motd", status=1)


@pytest.mark.needs("root", "setpriv")
def test_the_kernel_enforces_acls(reachable: Callable[..., Path]) -> None:
    root = reachable()
    assert as_user(READER, "cat", root / "granted").stdout == b"acl"
    assert b"Permission denied" in as_user(STRANGER, "cat", root / "granted", status=1).stderr
    assert b"Permission denied" in as_user(READER, "cat", root / "denied", status=1).stderr
    assert as_user(STRANGER, "cat", root / "denied").stdout == b"acl"


@pytest.mark.needs("getfacl")
def test_getfacl_shows_acls(root: Path) -> None:
    command = ["getfacl", "-n", "-p", f"{root}/granted", f"{root}/defaults"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert f"user:{READER}:r--" in shown
    assert "mask::r--" in shown
    assert "default:group::r-x" in shown


@pytest.mark.needs("root")
def test_devices_follow_the_options(
    image: Path, mount: Callable[..., Path], tmp_path: Path
) -> None:
    with failing(errno.EACCES):
        (mount(image) / "null").read_bytes()
    assert (mount(image, "-o", "dev", at=tmp_path / "dev") / "null").read_bytes() == b""


@pytest.mark.needs("root", "setpriv")
def test_suid_follows_the_options(
    public_tmp: Path, mount: Callable[..., Path], tmp_path: Path
) -> None:
    program = Path(shutil.which("id") or "").resolve().read_bytes()
    layer = Layer().file("id", program, mode=0o4755)
    image = docker_archive(tmp_path / "suid.tar", [layer])
    plain = mount(image, at=public_tmp / "plain")
    suid = mount(image, "-o", "suid", at=public_tmp / "suid")
    noexec = mount(image, "-o", "noexec", at=public_tmp / "noexec")
    assert as_user(STRANGER, plain / "id", "-u").stdout == b"4322\n"
    assert as_user(STRANGER, suid / "id", "-u").stdout == b"0\n"
    with failing(errno.EACCES):
        subprocess.run([noexec / "id"], check=False)


# ---- changes -------------------------------------------------------------------------------------


def _fallocate(root: Path) -> None:
    with open(root / "big", "rb") as file:
        os.posix_fallocate(file.fileno(), 0, 10)


def _bind_socket(root: Path) -> None:
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(root)  # the name of a socket has at most 107 bytes
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("new")
    finally:
        os.fchdir(before)
        os.close(before)


def _write(root: Path, flags: int) -> None:
    """Opening may be no message to the server: then the write is what fails."""
    fd = os.open(root / "big", flags)
    try:
        os.write(fd, b"x")
    finally:
        os.close(fd)


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda root: (root / "new").touch(),
    "open for writing": lambda root: _write(root, os.O_WRONLY),
    "open for both": lambda root: _write(root, os.O_RDWR),
    "open to append": lambda root: _write(root, os.O_WRONLY | os.O_APPEND),
    "open and truncate": lambda root: os.open(root / "big", os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda root: os.truncate(root / "big", 1),
    "nameless file": lambda root: os.open(root, os.O_TMPFILE | os.O_RDWR),
    "mkdir": lambda root: (root / "new").mkdir(),
    "mknod": lambda root: os.mknod(root / "new"),
    "mkfifo": lambda root: os.mkfifo(root / "new"),
    "socket": _bind_socket,
    "symlink": lambda root: (root / "new").symlink_to("big"),
    "link": lambda root: os.link(root / "big", root / "new"),
    "unlink": lambda root: (root / "big").unlink(),
    "rmdir": lambda root: (root / "sticky").rmdir(),
    "rename": lambda root: (root / "big").rename(root / "new"),
    "chmod": lambda root: (root / "big").chmod(0o600),
    "chown": lambda root: os.chown(root / "big", 1, 1),
    "lchown": lambda root: os.lchown(root / "link", 1, 1),
    "utime": lambda root: os.utime(root / "big"),
    "setxattr": lambda root: os.setxattr(root / "big", "user.new", b"x"),
    "removexattr": lambda root: os.removexattr(root / "attributes", "user.note"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_fail(root: Path, name: str) -> None:
    with failing(errno.EROFS):
        CHANGES[name](root)


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", CHANGES)
def test_changes_fail_in_the_daemon_too(writable: Path, name: str) -> None:
    """Where somebody remounts it read-write, the kernel lets changes through to us."""
    # what the server does not implement at all is not supported, rather than refused
    lacking = name in ("nameless file", "setxattr")
    expected = (errno.EROFS, errno.EOPNOTSUPP) if lacking else (errno.EROFS,)
    with pytest.raises(OSError, check=lambda error: error.errno in expected):
        CHANGES[name](writable)
    assert (writable / "etc/motd").read_bytes() == b"changed\n"


@pytest.fixture(scope="module")
def writable(image: Path, module_mount: Callable[..., Path]) -> Path:
    root = module_mount(image)
    subprocess.run(["mount", "-i", "-o", "remount,rw,bind", root], check=True)
    subprocess.run(["mount", "-i", "-o", "remount,rw", root], check=True)
    return root


# ---- what the kernel keeps -----------------------------------------------------------------------


@contextmanager
def stopped(cli: CommandLine, root: Path) -> Iterator[None]:
    """The daemon asleep: what works now comes from the kernel's memory."""
    pid = cli.record(root)["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_kernel_remembers_names_attributes_and_absence(cli: CommandLine, root: Path) -> None:
    questions = f"""
import os
os.stat({str(root)!r} + "/etc/motd")
os.stat({str(root)!r} + "/many/file-0001")
assert not os.path.exists({str(root)!r} + "/nowhere")
assert not os.path.exists({str(root)!r} + "/many/nowhere")
"""
    ask = [sys.executable, "-c", questions]
    subprocess.run(ask, check=True)
    with stopped(cli, root):
        subprocess.run(ask, check=True, timeout=20)


def test_a_listing_tells_the_attributes_too(
    cli: CommandLine, image: Path, mount: Callable[..., Path]
) -> None:
    root = mount(image)
    os.listdir(root / "many")
    paths = [str(root / "many" / f"file-{number:04}") for number in range(0, 3000, 7)]
    with stopped(cli, root):
        subprocess.run(["stat", "--format=%s", *paths], check=True, timeout=20, capture_output=True)


def test_the_kernel_keeps_what_was_read(
    cli: CommandLine, image: Path, mount: Callable[..., Path]
) -> None:
    """Locked in memory: the kernel may let go of any page, and DAMON does before it is scarce."""
    root = mount(image)
    with open(root / "big", "rb") as file:
        locked = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | MAP_LOCKED, mmap.PROT_READ)
        assert file.read() == BIG
    with locked, open(root / "big", "rb") as file, stopped(cli, root):  # opened again: they stay
        done = subprocess.run(["cat"], stdin=file, capture_output=True, check=True, timeout=20)
    assert done.stdout == BIG


# ---- errors ------------------------------------------------------------------------------------


async def test_no_error_ends_the_main_loop(
    image: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_image(Store(tmp_path), str(image)) as opened:
        tree = opened.tree()
        operations: Any = ReadOnlyOperations(tree, ImageFacts((), 0, 0))
        with pytest.raises(pyfuse3.FUSEError, check=lambda e: e.errno == errno.EINVAL):
            await operations.readlink(core.ROOT, None)
        with pytest.raises(pyfuse3.FUSEError, check=lambda e: e.errno == errno.ESTALE):
            await operations.getattr(2**40, None)
        assert not caplog.records
        tree.close()
        for request in (operations.getattr(1, None), operations.lookup(1, b"x", None)):
            with pytest.raises(pyfuse3.FUSEError, check=lambda e: e.errno == errno.EIO):
                await request
        assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
