"""Copies to a directory of the host: what an attacker tries, from the tar or from within DEST.

The names of the first tests are those of umoci's tests of its unpacking (oci/layer/unpack_test.go,
tar_extract_test.go), which has the same enemies.
"""

from __future__ import annotations

import os
import stat
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest
from support.tar_streams import TarMember, descriptor_of, member, tar_of, unpack

from unionmount.errors import FormatError, UnionmountError
from unionmount.extract.host_source import HostSource
from unionmount.extract.host_target import HostTarget
from unionmount.extract.items import CopyItem
from unionmount.extract.tar_source import TarSource
from unionmount.extract.target import CopyPolicy

OUTSIDE = b"outside\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory to copy into, with a file outside that nothing may touch."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/file").write_bytes(OUTSIDE)
    return tmp_path


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def untouched(place: Path) -> bool:
    """Whether nothing came to be outside."""
    return names_in(place / "out") == ["file"] and (place / "out/file").read_bytes() == OUTSIDE


# ---- a hostile tar -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../out/file", "../../x", "a/../../out/file", "..", "./../out/new", "/../out/new"]
)
def test_parent_names(place: Path, name: str) -> None:
    with pytest.raises(FormatError, match=r"has a '\.\.'"):
        unpack(tar_of(member(name, content=b"evil")), place / "in")
    assert untouched(place)
    assert not list((place / "in").iterdir())


def test_absolute_names(place: Path) -> None:
    out = str(place / "out/file")
    unpack(tar_of(member(out, content=b"evil")), place / "in")
    assert untouched(place)
    assert Path(f"{place}/in{out}").read_bytes() == b"evil"


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("target", ["../out", "{top}/out", "../../../../../..{top}/out", "/"])
def test_symlink_then_file_through_it(place: Path, target: str, inside: bool) -> None:
    link = member("link", tarfile.SYMTYPE, link=target.format(top=place))
    data = tar_of(link, member("link/file", content=b"evil"))
    with pytest.raises(UnionmountError, match="symlink"):
        unpack(data, place / "in", inside=inside)
    data = tar_of(link, member("link/deep/new", content=b"evil"))
    with pytest.raises(UnionmountError, match="symlink"):
        unpack(data, place / "in", inside=inside)
    assert untouched(place)


@pytest.mark.parametrize("inside", [False, True])
def test_chain_of_symlinks(place: Path, inside: bool) -> None:
    links = [member("a", tarfile.SYMTYPE, link="b"), member("b", tarfile.SYMTYPE, link="../out")]
    with pytest.raises(UnionmountError, match="symlink"):
        unpack(tar_of(*links, member("a/file", content=b"evil")), place / "in", inside=inside)
    assert untouched(place)


def test_file_over_a_symlink(place: Path) -> None:
    """It replaces the link, and is not written through it."""
    (place / "in/link").symlink_to("../out/file")
    unpack(tar_of(member("link", content=b"new")), place / "in")
    assert untouched(place)
    assert not (place / "in/link").is_symlink()


def test_directory_over_a_symlink(place: Path) -> None:
    (place / "in/link").symlink_to("../out")
    data = tar_of(member("link", tarfile.DIRTYPE), member("link/file", content=b"evil"))
    with pytest.raises(UnionmountError, match="not a directory"):
        unpack(data, place / "in")
    assert untouched(place)
    assert stat.S_IMODE((place / "out").stat().st_mode) != 0o777


@pytest.mark.parametrize("target", ["../out/file", "{top}/out/file", "link/file", "link"])
def test_hard_link_to_outside(place: Path, target: str) -> None:
    links = [member("link", tarfile.SYMTYPE, link="../out")]
    name = target.format(top=place)
    data = tar_of(*links, member("hard", tarfile.LNKTYPE, link=name), member("hard", content=b"x"))
    if target == "link":  # a second name of the link itself, which is then replaced
        unpack(data, place / "in")
    else:
        with pytest.raises((UnionmountError, OSError)):
            unpack(data, place / "in")
    assert untouched(place)
    assert (place / "out/file").stat().st_nlink == 1


def test_hard_link_through_a_symlink_in_a_container(place: Path) -> None:
    """Symlinks of the container are followed, but in it alone."""
    (place / "in/way").symlink_to("/../../out")
    (place / "in/out").mkdir()
    (place / "in/out/file").write_bytes(b"inside\n")
    data = tar_of(
        member("way/new", content=b"new"), member("hard", tarfile.LNKTYPE, link="way/new")
    )
    unpack(data, place / "in", inside=True)
    assert untouched(place)
    assert (place / "in/hard").read_bytes() == b"new"
    assert (place / "in/out/new").read_bytes() == b"new"


@pytest.mark.parametrize("inside", [False, True])
def test_hard_link_to_a_file_that_was_there(place: Path, inside: bool) -> None:
    (place / "in/theirs").write_bytes(b"theirs")
    data = tar_of(member("./hard", tarfile.LNKTYPE, link="theirs"))
    with pytest.raises(FormatError, match="a hard link to 'theirs', which was not copied before"):
        unpack(data, place / "in", inside=inside)
    assert names_in(place / "in") == ["theirs"]


@pytest.mark.parametrize("theirs", [False, True])
@pytest.mark.parametrize("kind", [stat.S_IFBLK, stat.S_IFSOCK])
def test_hard_link_to_a_file_that_was_left_out(place: Path, kind: int, theirs: bool) -> None:
    if theirs:
        (place / "in/one").write_bytes(b"theirs")
    root, warnings = os.open(place / "in", os.O_PATH), list[str]()
    with HostTarget(root, b"", CopyPolicy(), warnings.append) as target:
        target.put(CopyItem(b"one", kind | 0o600))
        target.put(CopyItem(b"two", kind | 0o600, link=b"one"))
        target.put(CopyItem(b"three", stat.S_IFREG | 0o600, link=b"one"))  # as tars have it
        target.finish()
    os.close(root)
    assert names_in(place / "in") == (["one"] if theirs else [])
    assert [text.partition(":")[0] for text in warnings] == ["/one", "/two", "/three"]


def test_nothing_is_written_through_a_hard_link(place: Path) -> None:
    os.link(place / "out/file", place / "in/hard")
    unpack(tar_of(member("hard", content=b"new")), place / "in")
    assert untouched(place)
    assert (place / "in/hard").read_bytes() == b"new"


def test_set_id_bits_and_devices(place: Path) -> None:
    device = tarfile.TarInfo("disk")
    device.type, device.devmajor, device.devminor = tarfile.BLKTYPE, 8, 0
    program = tarfile.TarInfo("program")
    program.mode = 0o6755
    directory = tarfile.TarInfo("directory")
    directory.type, directory.mode = tarfile.DIRTYPE, 0o3777
    data = tar_of((device, b""), (program, b""), (directory, b""))
    for policy in (CopyPolicy(), CopyPolicy(attributes=True)):
        warnings = unpack(data, place / "in", policy)
        assert len(warnings) == 1
        assert "/disk: left out, since it is a device" in warnings[0]
        assert names_in(place / "in") == ["directory", "program"]
        assert stat.S_IMODE((place / "in/program").stat().st_mode) == 0o755
        assert stat.S_IMODE((place / "in/directory").stat().st_mode) == 0o1777


@pytest.mark.needs("root")
def test_root_who_asks_for_everything_gets_it(place: Path) -> None:
    device = tarfile.TarInfo("disk")
    device.type, device.devmajor, device.devminor, device.mode = tarfile.CHRTYPE, 1, 3, 0o666
    program = tarfile.TarInfo("program")
    program.mode, program.uid, program.gid = 0o6755, 33, 34
    link = tarfile.TarInfo("link")
    link.type, link.linkname, link.uid = tarfile.SYMTYPE, "../out/file", 33
    policy = CopyPolicy(attributes=True, owners=True)
    assert unpack(tar_of((device, b""), (program, b""), (link, b"")), place / "in", policy) == []
    found = (place / "in/program").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o6755, 33, 34)
    assert stat.S_ISCHR((place / "in/disk").stat().st_mode)
    assert (place / "in/link").lstat().st_uid == 33
    assert (place / "out/file").stat().st_uid == os.geteuid()


# ---- a hostile directory -------------------------------------------------------------------------


class Swapper:
    """Somebody who exchanges a directory of DEST for a symlink that leads out, over and over."""

    def __init__(self, place: Path) -> None:
        self._top = place / "in"
        (self._top / "directory").mkdir(exist_ok=True)
        (self._top / "trap").symlink_to("../out")
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.swaps = 0

    def _run(self) -> None:
        import ctypes  # noqa: PLC0415

        libc = ctypes.CDLL(None, use_errno=True)
        one, other = (os.fsencode(self._top / name) for name in ("directory", "trap"))
        while not self._ends.is_set():
            # RENAME_EXCHANGE: at each moment there is one or the other
            assert libc.renameat2(-100, one, -100, other, 2) == 0
            self.swaps += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()


@pytest.mark.parametrize("policy", [CopyPolicy(), CopyPolicy(attributes=True)])
def test_directories_that_become_symlinks(place: Path, policy: CopyPolicy) -> None:
    members: list[TarMember] = [member("directory", tarfile.DIRTYPE)]
    for number in range(20):
        name = f"directory/{number}"
        members += [member(name, content=b"evil"), member(f"{name}-s", tarfile.SYMTYPE, link="x")]
        members += [member(f"{name}-d", tarfile.DIRTYPE), member(f"{name}-d/f", content=b"evil")]
        members += [member(f"{name}-h", tarfile.LNKTYPE, link=name), member(f"{number}")]
    data, ends = tar_of(*members), {"done": 0, "refused": 0}
    mode = (place / "out").stat().st_mode
    with Swapper(place) as swapper:
        while swapper.swaps < 20_000 or sum(ends.values()) < 100:
            try:
                unpack(data, place / "in", policy)
                ends["done"] += 1
            except (UnionmountError, OSError):
                ends["refused"] += 1
    assert untouched(place)
    assert (place / "out").stat().st_mode == mode
    assert ends["refused"]


def test_sources_that_become_symlinks(place: Path, tmp_path: Path) -> None:
    """A directory that is brought in shows no file outside of it."""
    (place / "in/directory").mkdir()
    (place / "in/directory/file").write_bytes(b"inside")
    top, found = os.open(place / "in", os.O_PATH), set()
    with Swapper(place) as swapper:
        while swapper.swaps < 20_000:
            source = HostSource(top, str(place), lambda _: None, attributes=True)
            try:
                found |= {(item.path, content_of(item)) for item in source.items()}
            except OSError:
                continue
    os.close(top)
    assert (b"directory/file", b"inside") in found
    assert OUTSIDE not in {content for _, content in found}


def content_of(item: CopyItem) -> bytes:
    return b"".join(data for _, data in item.content.pieces()) if item.content else b""


@pytest.mark.needs("root")
def test_what_replaces_a_directory_gets_no_owner(place: Path) -> None:
    """A directory of others that takes the place of a new one stays theirs."""
    root = os.open(place / "in", os.O_PATH)
    policy = CopyPolicy(attributes=True, owners=True)
    with HostTarget(root, b"", policy, lambda _: None) as target:
        target.put(CopyItem(b"new", stat.S_IFDIR | 0o777, uid=1, gid=1))
        (place / "in/new").rmdir()
        (place / "in/new").mkdir(0o700)
        os.chown(place / "in/new", 7, 7)
        with pytest.raises(UnionmountError, match="replaced"):
            target.finish()
    os.close(root)
    found = (place / "in/new").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (7, 0o700)


# ---- ways around what a file system lacks --------------------------------------------------------


@pytest.fixture
def watched(place: Path) -> Callable[[], list[str]]:
    return lambda: [name for name in names_in(place / "in") if name.startswith(".unionmount")]


def test_without_nameless_files(place: Path, watched: Callable[[], list[str]]) -> None:
    root = os.open(place / "in", os.O_PATH)
    fd = descriptor_of(tar_of(member("one", content=b"1"), member("one", content=b"2")))
    with HostTarget(root, b"", CopyPolicy(), lambda _: None) as target:
        target._has_nameless = False
        for item in TarSource(fd, "the tar").items():
            target.put(item)
            assert not watched()
    os.close(root)
    os.close(fd)
    assert (place / "in/one").read_bytes() == b"2"


def test_a_path_that_is_too_long_for_one_call(place: Path) -> None:
    name = "/".join(["d" * 200] * 50)
    unpack(tar_of(member(f"{name}/file", content=b"deep")), place / "in")
    fd = os.open(place / "in", os.O_PATH)
    for part in name.split("/"):
        before, fd = fd, os.open(part, os.O_PATH, dir_fd=fd)
        os.close(before)
    opened = os.open("file", os.O_RDONLY, dir_fd=fd)
    assert os.read(opened, 100) == b"deep"
    os.close(opened)
    os.close(fd)
