"""Changes in an upper become a layer and an image."""

from __future__ import annotations

import io
import json
import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, posix_acl
from support.capabilities import in_ci
from support.compare import snapshot
from support.image_files import MadeImage, oci_layout, small_image, write_directory, write_tar
from support.trees import Shown, differences, facts, layer_between, tree_of

from unionmount.browse.diff import Comparison, Difference
from unionmount.browse.open import OpenChanges, open_container
from unionmount.committing import CommitRequest, LayerWriter, commit
from unionmount.core import ROOT, Attributes, Maker, Node, SetAttr, Tree, Upper, UpperFlags, View
from unionmount.errors import NotFoundError, UsageError
from unionmount.formats.tar_writer import END
from unionmount.images.reference import Reference
from unionmount.mounting.upper_directory import UpperPlan, open_upper
from unionmount.store.containers import Container, ContainerImage, Containers
from unionmount.store.store import Store, StoredImage
from unionmount.transfer.load import load, open_image

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("UNIONMOUNT_EXAMPLES", "200" if in_ci() else "60"))
STEPS = 40
ME = Maker(0, 0)


class Box:
    """What is in a container, without a store: an upper on layers made of bytes.

    ``other()`` is what another process sees of it.
    """

    def __init__(self, tree: Tree, top: Path, stack: ExitStack) -> None:
        self.tree = tree
        self.top = top
        self._stack = stack
        for name in ("upper", "work"):
            (top / name).mkdir()
        plan = UpperPlan(top / "upper", top / "work", lowers="these", adopt_root=True)
        opened = stack.enter_context(open_upper(plan, tree))
        self.upper = opened.core
        self.view = stack.enter_context(View(self.upper))
        self._fd = opened.fd

    @contextmanager
    def other(self) -> Iterator[View]:
        with (
            Upper(self.tree, self._fd, self._fd, UpperFlags(trusted=True)) as upper,
            View(upper) as view,
        ):
            yield view

    @property
    def layer(self) -> int:
        return self.upper.layer

    # what is done to it, by path

    def node(self, path: bytes) -> Node:
        return self.view.resolve(path).node

    def _place(self, path: bytes) -> tuple[Node, bytes]:
        directory, _, name = path.rpartition(b"/")
        return self.node(directory), name

    def _ready(self, path: bytes) -> Node:
        """A file that can be changed: it is in the upper."""
        node = self.node(path)
        self.upper.copy_up(node)
        return node

    def write(self, path: bytes, content: bytes, offset: int = 0) -> None:
        with suppress(FileNotFoundError):
            return self._write(self._ready(path), content, offset)
        made = self.upper.mknod(*self._place(path), stat.S_IFREG | 0o644, (0, 0), ME)
        self._write(made.node, content, offset)
        self.upper.forget(made.node)
        return None

    def _write(self, node: Node, content: bytes, offset: int) -> None:
        self.upper.open_file(node, write=True)
        self.upper.write(node, offset, content)
        self.upper.release(node)

    def set(self, path: bytes, **changes: Any) -> None:
        node = self.node(path)
        if not stat.S_ISDIR(self.upper.getattr(node).mode):
            self.upper.copy_up(node)
        self.upper.setattr(node, SetAttr(**changes))

    def set_xattr(self, path: bytes, name: bytes, value: bytes) -> None:
        node = self.node(path)
        if not stat.S_ISDIR(self.upper.getattr(node).mode):
            self.upper.copy_up(node)
        self.upper.setxattr(node, name, value)

    def mknod(self, path: bytes, mode: int, device: tuple[int, int] = (0, 0)) -> None:
        self._forget(self.upper.mknod(*self._place(path), mode, device, ME))

    def mkdir(self, path: bytes) -> None:
        self._forget(self.upper.mkdir(*self._place(path), 0o755, ME))

    def symlink(self, path: bytes, target: bytes) -> None:
        self._forget(self.upper.symlink(*self._place(path), target, ME))

    def link(self, old: bytes, new: bytes) -> None:
        self._forget(self.upper.link(self._ready(old), *self._place(new)))

    def unlink(self, path: bytes) -> None:
        self.upper.unlink(*self._place(path))

    def rmdir(self, path: bytes) -> None:
        self.upper.rmdir(*self._place(path))

    def remove(self, path: bytes) -> None:
        """As ``rm -r``."""
        if not stat.S_ISDIR(self.view.resolve(path).mode):
            self.unlink(path)
            return
        for entry in self.view.list(self.node(path), 0, 1000):
            self.remove(path + b"/" + entry.name)
        self.rmdir(path)

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        node = self.view.resolve(old)
        if not stat.S_ISDIR(node.mode):
            self.upper.copy_up(node.node)
        self.upper.rename(self._place(old), self._place(new), flags)

    def _forget(self, made: Attributes) -> None:
        self.upper.forget(made.node)


@contextmanager
def container(*layers: Layer, top: Path) -> Iterator[Box]:
    with tree_of([layer.data() for layer in layers]) as tree, ExitStack() as stack:
        yield Box(tree, top, stack)


def disk(top: Path) -> list[tuple[Any, ...]]:
    """Everything on disk that a change would show in."""
    return [
        (path, s.st_mode, s.st_nlink, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        for path in sorted(top.rglob("*"))
        for s in [path.lstat()]
    ]


def check(box: Box, tars: list[bytes], known: int = 0) -> bytes:
    """The layer of a container, put on the image, shows the container; looking changed nothing.

    ``known`` is how many warnings are expected.
    """
    before = disk(box.top)
    with box.other() as view:
        told = differences(box.tree, view, box.layer)
        made, warnings = layer_between(box.tree, view, box.layer)
    with box.other() as view:
        wanted = facts(view)
        assert [one.path for one in differences(box.tree, view, None)] == [
            one.path for one in told
        ], "something differs outside of the upper"
    assert len(warnings) == known
    assert disk(box.top) == before
    if made == END:
        wanted[b""] = replace(wanted[b""], mtime_ns=box.tree.getattr(ROOT).mtime_ns)
    wanted = {path: one for path, one in wanted.items() if not stat.S_ISSOCK(one.mode)}
    with tree_of([*tars, made]) as result:
        assert facts(result) == wanted
    return made


LOWER = (
    Layer()
    .directory("a")
    .directory("a/b", xattrs={"user.dir": b"1"})
    .file("a/b/c", b"abc", mode=0o4755)
    .file("a/c", b"a" * 5000, xattrs={"user.file": b"\0\xff"})
    .hard_link("b", "a/c")
    .hard_link("a/b/a", "a/c")
    .symlink("c", "a/b")
    .add("d", tarfile.FIFOTYPE)
)
UPPER = Layer().directory("a/d").file("a/d/a", b"x").hard_link("a/d/b", "a/d/a").file("e", b"e")
NAMES = (b"a", b"b", b"c", b"d")


class Monkey:
    """Does anything to a container; what the container refuses is fine."""

    def __init__(self, box: Box, seed: int) -> None:
        self._box = box
        self._choose = random.Random(seed)

    def _path(self) -> bytes:
        return b"/".join(self._choose.choices(NAMES, k=self._choose.randrange(1, 4)))

    def step(self) -> None:
        box, path = self._box, self._path()
        actions = [
            lambda: box.write(path, self._choose.randbytes(3)),
            lambda: box.write(path, b"", 0),
            lambda: box.set(path, mode=self._choose.choice([0o600, 0o755, 0o4711])),
            lambda: box.set(path, mtime_ns=self._choose.choice([1, 10**18 + 5])),
            lambda: box.set(path, uid=self._choose.randrange(3)),
            lambda: box.set_xattr(path, b"user.x", self._choose.randbytes(2)),
            lambda: box.mkdir(path),
            lambda: box.symlink(path, self._path()),
            lambda: box.mknod(path, stat.S_IFIFO | 0o644),
            lambda: box.link(path, self._path()),
            lambda: box.link(path, self._path()),
            lambda: box.unlink(path),
            lambda: box.rmdir(path),
            lambda: box.remove(path),
            lambda: box.rename(path, self._path()),
            lambda: box.rename(path, self._path()),
            lambda: box.rename(path, self._path(), 2),
        ]
        with suppress(OSError):
            self._choose.choice(actions)()


@pytest.mark.parametrize("seed", range(RUNS))
def test_whatever_is_done_the_layer_does_it_too(seed: int, tmp_path: Path) -> None:
    with container(LOWER, UPPER, top=tmp_path) as box:
        monkey = Monkey(box, seed)
        for _ in range(4):
            for _ in range(STEPS // 4):
                monkey.step()
            check(box, [LOWER.data(), UPPER.data()])


# ---- what a layer is like ------------------------------------------------------------------------


def members(tar: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as file:
        return file.getmembers()


def names(tar: bytes) -> list[str]:
    return [member.name + ("/" if member.isdir() else "") for member in members(tar)]


def test_deletions_come_first_and_names_are_sorted(tmp_path: Path) -> None:
    lower = Layer().directory("d").file("d/m", b"").file("d/z", b"").file("z", b"")
    with container(lower, top=tmp_path) as box:
        box.unlink(b"z")
        box.unlink(b"d/z")
        box.unlink(b"d/m")
        box.write(b"d/n", b"new")
        box.write(b"a", b"new")
        made = check(box, [lower.data()])
    assert names(made) == ["./", ".wh.z", "a", "d/", "d/.wh.m", "d/.wh.z", "d/n"]


def test_a_directory_made_again_hides_all_of_the_old_one(tmp_path: Path) -> None:
    lower = Layer().directory("d").file("d/a", b"a").directory("d/e").file("d/e/x").directory("f")
    with container(lower, top=tmp_path) as box:
        box.remove(b"d")
        box.mkdir(b"d")
        box.mkdir(b"d/e")
        box.write(b"d/a", b"a")
        box.remove(b"f")
        box.mkdir(b"f")  # over an empty one: nothing to be hidden
        made = check(box, [lower.data()])
    assert names(made) == ["./", "d/", "d/.wh..wh..opq", "d/a", "d/e/", "f/"]


def test_what_was_only_copied_up_is_left_out(tmp_path: Path) -> None:
    lower = Layer().directory("d").file("d/a", b"a" * 9).file("d/b", b"b").hard_link("c", "d/b")
    with container(lower, top=tmp_path) as box:
        box.set(b"d/a", mode=0o600)
        box.set(b"d/a", mode=0o644)
        box.set(b"c", mode=0o644)  # a group of hard links
        box.write(b"new", b"")
        box.unlink(b"new")
        assert len(list((tmp_path / "upper").rglob("*"))) == 4
        assert check(box, [lower.data()]) == END


def test_a_link_to_a_lower_file_brings_all_names(tmp_path: Path) -> None:
    lower = Layer().directory("d").file("d/a", b"a").file("x", b"x")
    with container(lower, top=tmp_path) as box:
        box.link(b"d/a", b"b")
        made = members(check(box, [lower.data()]))
    assert [(one.name, one.linkname) for one in made] == [
        (".", ""),
        ("b", ""),
        ("d", ""),
        ("d/a", "b"),
    ]


def test_a_renamed_directory_is_written_in_full(tmp_path: Path) -> None:
    lower = Layer().directory("d").file("d/a", b"a").file("d/b", b"b").hard_link("c", "d/b")
    with container(lower, top=tmp_path) as box:
        box.rename(b"d", b"e")
        made = members(check(box, [lower.data()]))
    # the hard link across is kept, which takes a name that nobody touched
    assert [(one.name, one.linkname) for one in made] == [
        (".", ""),
        (".wh.d", ""),
        ("c", ""),
        ("e", ""),
        ("e/a", ""),
        ("e/b", "c"),
    ]


def test_what_no_layer_can_hold_is_left_out(tmp_path: Path) -> None:
    lower = Layer().file("s", b"").file("n", b"")
    with container(lower, top=tmp_path) as box:
        box.unlink(b"s")
        box.mknod(b"s", stat.S_IFSOCK | 0o600)
        box.mknod(b"new", stat.S_IFSOCK | 0o600)
        made = check(box, [lower.data()], known=2)
    assert names(made) == ["./", ".wh.s"]


def test_owners_and_devices_are_those_that_the_mount_shows(tmp_path: Path) -> None:
    lower = Layer().file("f", b"f")
    with container(lower, top=tmp_path) as box:
        box.set(b"f", uid=12, gid=34)
        box.set(b"f", mode=0o4750)
        box.mknod(b"null", stat.S_IFCHR | 0o666, (1, 3))
        found = members(check(box, [lower.data()]))
    file, device = found[1:]
    assert (file.uid, file.gid, file.mode) == (12, 34, 0o4750)
    assert (device.ischr(), device.devmajor, device.devminor) == (True, 1, 3)


def test_holes_are_zeros(tmp_path: Path) -> None:
    with container(Layer(), top=tmp_path) as box:
        box.write(b"sparse", b"end", 3_000_000)
        made = check(box, [Layer().data()])
    assert members(made)[1].size == 3_000_003
    assert made.count(b"end") == 1


def test_the_layer_does_not_depend_on_when_it_is_made(tmp_path: Path) -> None:
    epoch = 1_000_000_000
    made = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        lower = Layer().file("f", b"f")
        with container(lower, top=tmp_path / name) as box:
            box.write(b"new", b"new")
            box.set(b"f", mtime_ns=(epoch - 5) * 10**9 + 7)
            with box.other() as view:
                made.append(layer_between(box.tree, view, box.layer, epoch)[0])
    assert made[0] == made[1]
    assert [one.mtime for one in members(made[0])] == [epoch, epoch - 5 + 7e-9, epoch]


def test_what_is_replaced_meanwhile_is_written_as_one_or_the_other(tmp_path: Path) -> None:
    lower = Layer().file("gone", b"lower").file("into-directory", b"lower")
    names = (b"gone", b"into-directory", b"into-symlink", b"longer", b"seen-elsewhere", b"shorter")
    warnings: list[str] = []
    pieces: list[bytes] = []
    with container(lower, top=tmp_path) as box:
        for name in names:
            box.write(name, b"first")
        box.write(b"tmp", b"was seen as tmp")

        def replace_all() -> None:
            box.unlink(b"gone")
            box.unlink(b"into-directory")
            box.mkdir(b"into-directory")
            box.write(b"into-directory/x", b"x")
            box.unlink(b"into-symlink")
            box.symlink(b"into-symlink", b"target")
            box.rename(b"tmp", b"seen-elsewhere")
            for name, content in ((b"longer", b"second" * 1000), (b"shorter", b"2")):
                box.write(b"new", content)
                box.rename(b"new", name)

        def found(view: View) -> Iterator[Difference]:
            for one in Comparison(box.tree, view, box.layer, for_layer=True).differences():
                if one.path == names[0]:
                    replace_all()
                yield one

        with box.other() as view:
            LayerWriter(view, pieces.append, None, warnings.append).write(found(view))
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
        content = {
            one.name: one.linkname or (file.read() if (file := tar.extractfile(one)) else None)
            for one in tar
        }
    assert content == {
        ".": None,
        ".wh.gone": b"",
        "into-directory": None,
        "into-directory/x": b"x",
        "into-symlink": "target",
        "longer": b"second" * 1000,
        "seen-elsewhere": b"was seen as tmp",
        "shorter": b"2",
    }
    assert [text.partition(":")[0] for text in warnings] == ["/gone", "/tmp"]


# ---- umoci ---------------------------------------------------------------------------------------


def unpacked(tars: list[bytes], top: Path) -> dict[bytes, Shown]:
    """What ``umoci unpack`` makes of layers."""
    image = MadeImage(tuple(tars), names=("made",))
    layout = write_directory(top / "layout", oci_layout(image))
    command = ["umoci", "unpack", "--image", f"{layout}:made", str(top / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {
        path: Shown(
            mode=item.kind | (item.mode if item.kind != stat.S_IFLNK else 0),
            owner=(item.uid, item.gid),
            mtime_ns=item.mtime_ns,
            device=item.rdev,
            target=item.target,
            digest=item.digest,
            xattrs=item.xattrs,
            names=item.names,
        )
        for path, item in snapshot(top / "bundle/rootfs").items()
    }


def disturb(box: Box) -> None:
    """All kinds of changes."""
    box.remove(b"opaque")
    box.mkdir(b"opaque")
    box.write(b"opaque/kept", b"new")
    box.unlink(b"file-directory")
    box.mkdir(b"file-directory")
    box.write(b"file-directory/x", b"x")
    box.remove(b"directory-file")
    box.write(b"directory-file", b"x")
    box.remove(b"directory-symlink")
    box.symlink(b"directory-symlink", b"opaque")
    box.unlink(b"symlink-directory")
    box.mkdir(b"symlink-directory")
    box.write(b"symlink-directory/x", b"x")
    box.unlink(b"n" * 255)
    box.write(b"m" * 255, b"long")
    box.mkdir(b"d" * 120)
    box.write(b"d" * 120 + b"/" + b"\xff\xfe", b"not UTF-8")
    box.symlink(b"long", b"t" * 1000)
    box.write(b"linked", b"L")
    box.link(b"linked", b"linked-too")
    box.link(b"lower-linked", b"opaque/linked")
    box.rename(b"moved", b"moved-away")
    box.write(b"caps", b"\x7fELF")
    box.set(b"caps", uid=70_000, gid=2_000_000_000, mtime_ns=-1_500_000_000)
    box.set(b"caps", mode=0o4755)
    box.set_xattr(b"caps", b"security.capability", CAPABILITY)
    box.set_xattr(b"caps", b"user.bytes", b"a\0b=\xff\n")
    box.set_xattr(b"caps", b"trusted.secret", b"not empty: that is nothing for Go's tar")
    box.set_xattr(b"file-directory", b"system.posix_acl_default", ACL)
    box.write(b"sparse", b"end", 2_000_000)
    box.mknod(b"null", stat.S_IFCHR | 0o666, (1, 3))
    box.mknod(b"block", stat.S_IFBLK | 0o600, (259, 70_000))
    box.mknod(b"fifo", stat.S_IFIFO | 0o640)
    box.set(b"", mode=0o711)


CAPABILITY = b"\x01\0\0\2\0\x20" + bytes(14)
ACL = posix_acl(*((tag, 7, 0xFFFFFFFF) for tag in (0x01, 0x04, 0x20)))


def disturbed_lower() -> Layer:
    lower = Layer().directory("opaque").file("opaque/gone", b"x").file("opaque/kept", b"old")
    lower.file("file-directory", b"x").directory("directory-file").file("directory-file/x", b"x")
    lower.directory("directory-symlink").file("directory-symlink/x", b"x")
    lower.symlink("symlink-directory", "opaque").file("n" * 255, b"x")
    lower.file("lower-linked", b"x").directory("moved").directory("moved/deep")
    return lower.file("moved/deep/x", b"x", mode=0o600).hard_link("moved/y", "moved/deep/x")


@pytest.mark.needs("umoci", "root")
def test_a_symlink_on_the_way_of_its_layer_stays_one(tmp_path: Path) -> None:
    lower = Layer().directory("./").directory("usr").directory("usr/lib")
    lower.symlink("lib", "usr/lib").file("lib/x.so", b"old").file("lib/gone", b"x")
    with container(lower, top=tmp_path) as box:
        box.write(b"usr/lib/x.so", b"new")
        box.unlink(b"usr/lib/gone")
        made = check(box, [lower.data()])
        wanted = facts(box.view)
    found = unpacked([lower.data(), made], tmp_path)
    assert found == wanted
    assert found[b"lib"].target == b"usr/lib"
    assert not [one.name for one in members(made) if one.name.startswith("lib")]


@pytest.mark.needs("umoci", "root")
def test_umoci_unpacks_the_same(tmp_path: Path) -> None:
    lower = disturbed_lower()
    # umoci's root is its own where no layer has one
    lower.directory("./", mode=0o755)
    with container(lower, top=tmp_path) as box:
        disturb(box)
        made = check(box, [lower.data()])
        wanted = facts(box.view)
    found = unpacked([lower.data(), made], tmp_path)
    assert found == wanted
    assert dict(found[b"caps"].xattrs).keys() == {
        *(b"security.capability", b"user.bytes", b"trusted.secret"),
    }


@pytest.mark.needs("root")
def test_tarfile_reads_the_layer(tmp_path: Path) -> None:
    lower = disturbed_lower()
    with container(lower, top=tmp_path) as box:
        disturb(box)
        made = check(box, [lower.data()])
    found = {one.name: one for one in members(made)}
    caps = found["caps"]
    assert (caps.mode, caps.uid, caps.gid, caps.mtime) == (0o4755, 70_000, 2_000_000_000, -1.5)
    assert caps.pax_headers["SCHILY.xattr.user.bytes"] == "a\0b=\udcff\n"
    assert found["d" * 120 + "/\udcff\udcfe"].size == 9
    assert found["long"].linkname == "t" * 1000
    assert (found["null"].devmajor, found["null"].devminor) == (1, 3)
    assert (found["linked-too"].islnk(), found["linked-too"].linkname) == (True, "linked")
    assert not any("kept" in name and "moved" in name for name in found)


# ---- images --------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def parent(store: Store, tmp_path: Path) -> StoredImage:
    (found,) = load(store, str(write_tar(tmp_path / "image.tar", _with_layout(small_image()))))
    return found


def _with_layout(image: MadeImage) -> dict[str, bytes]:
    return oci_layout(image)


def new_container(store: Store, source: str, name: str = "box") -> Container:
    with open_image(store, source) as image:
        about = ContainerImage(source, image.name, image.image.id, image.image.manifest.digest)
        with Containers(store).create(about, name) as held:
            return held.container


@contextmanager
def changing(store: Store, box: Container) -> Iterator[Upper]:
    """The upper of a container, as its mount has it."""
    with open_image(store, box.image.source) as image:
        lowers = f"layers:{image.image.chain_id}"
        plan = UpperPlan(box.upper, box.work, lowers, adopt_root=bool(image.layers))
        with open_upper(plan, image.tree()) as opened:
            yield opened.core


def make_file(upper: Upper, name: bytes, content: bytes) -> None:
    made = upper.mknod(ROOT, name, stat.S_IFREG | 0o644, (0, 0), ME)
    upper.open_file(made.node, write=True)
    upper.write(made.node, 0, content)
    upper.release(made.node)
    upper.forget(made.node)


def committed(store: Store, box: Container, name: str = "made", **more: Any) -> StoredImage:
    warnings: list[str] = []
    with open_container(store, box) as target:
        request = CommitRequest(Reference.parse(name), **more)
        found = commit(store, target, request, warnings.append)
    assert warnings == []
    return found


def config_of(store: Store, image: StoredImage) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(store.get_blob(image.id))
    return document


def test_an_image_is_the_container(store: Store, parent: StoredImage) -> None:
    box = new_container(store, str(parent.id))
    with changing(store, box) as upper:
        make_file(upper, b"file", b"content")
    made = committed(store, box, "made:1", message="why", author="who")
    assert made.names == ("docker.io/library/made:1",)
    with open_container(store, box) as target, open_image(store, "made:1") as image:
        assert facts(image.tree()) == facts(target.view)
        assert image.image.diff_ids[:-1] == target.image.image.diff_ids
        assert image.image.id == made.id
        image_raw = image.image.config.raw
    before, after = config_of(store, parent), json.loads(image_raw)
    assert after["architecture"] == before["architecture"]
    assert after["config"] == before["config"]
    assert after["author"] == "who"
    # the parent told of no layer: its two get rows of their own
    assert after["history"][:-1] == [*before["history"], {}, {}]
    assert after["history"][-1] == {
        "created": after["created"],
        "created_by": "unionmount commit",
        "author": "who",
        "comment": "why",
    }


def test_instructions_change_the_config(store: Store, parent: StoredImage) -> None:
    box = new_container(store, str(parent.id))
    lines = ['CMD ["a"]', "ENV A='b c'"]
    document = config_of(store, committed(store, box, instructions=lines))
    assert document["config"] == {"Cmd": ["a"], "Env": ["A=b c"]}
    row = document["history"][-1]
    assert row["created_by"] == """unionmount commit -c 'CMD ["a"]' -c 'ENV A='"'"'b c'"'"''"""


def test_no_change_is_no_layer(store: Store, parent: StoredImage) -> None:
    box = new_container(store, str(parent.id))
    with changing(store, box):
        pass
    document = config_of(store, committed(store, box))
    assert document["rootfs"] == config_of(store, parent)["rootfs"]
    assert document["history"][-1]["empty_layer"] is True


def test_the_same_changes_are_the_same_image(store: Store, parent: StoredImage) -> None:
    made = []
    for name in ("one", "two"):
        box = new_container(store, str(parent.id), name)
        with changing(store, box) as upper:
            make_file(upper, b"file", b"content")
        made.append(committed(store, box, name, epoch=1_000_000_000).id)
    assert made[0] == made[1]
    document = json.loads(store.get_blob(made[0]))
    assert document["created"] == document["history"][-1]["created"] == "2001-09-09T01:46:40Z"


def test_scratch_becomes_an_image_of_one_layer(store: Store) -> None:
    box = new_container(store, "scratch")
    with changing(store, box) as upper:
        make_file(upper, b"file", b"content")
    committed(store, box)
    with open_image(store, "made") as image, open_container(store, box) as target:
        assert len(image.layers) == 1
        assert facts(image.tree()) == facts(target.view)


def test_layers_that_are_elsewhere_come_into_the_store(store: Store, tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "image.tar", _with_layout(small_image()))
    with open_image(store, str(archive)) as image:
        diff_ids = image.image.diff_ids
        assert not any(map(store.has_layer, diff_ids))
        (tmp_path / "upper").mkdir()
        target = OpenChanges(image, tmp_path / "upper")
        commit(store, target, CommitRequest(Reference.parse("made")), print)
    assert all(map(store.has_layer, diff_ids))
    open_image(store, "made").close()


def test_a_failed_commit_leaves_nothing(store: Store, parent: StoredImage) -> None:
    box = new_container(store, str(parent.id))
    with changing(store, box) as upper:
        make_file(upper, b"file", b"content")
    layers = sorted((store.root / "layers/sha256").iterdir())

    def fail(_data: bytes) -> None:
        raise OSError(28, "no space")

    with open_container(store, box) as target, pytest.MonkeyPatch.context() as patch:
        patch.setattr("unionmount.committing.LayerWriter._flush", fail)
        with pytest.raises(OSError, match="no space"):
            commit(store, target, CommitRequest(Reference.parse("made")), print)
    assert sorted((store.root / "layers/sha256").iterdir()) == layers
    assert list((store.root / "tmp").iterdir()) == []
    assert len(store.list_images()) == 1


def test_a_container_that_is_removed_meanwhile_is_no_image(
    store: Store, parent: StoredImage
) -> None:
    box = new_container(store, str(parent.id))
    with changing(store, box) as upper:
        make_file(upper, b"file", b"content")

    def remove(_data: bytes) -> None:
        with suppress(NotFoundError):
            Containers(store).remove(box.name)

    with open_container(store, box) as target, pytest.MonkeyPatch.context() as patch:
        patch.setattr("unionmount.committing.LayerWriter._flush", remove)
        with pytest.raises(NotFoundError, match="removed meanwhile"):
            commit(store, target, CommitRequest(Reference.parse("made")), print)
    assert len(store.list_images()) == 1


@pytest.mark.parametrize(
    "request_",
    [
        CommitRequest(Reference.parse(f"made@sha256:{'0' * 64}")),
        CommitRequest(Reference.parse("made"), instructions=["RUN x"]),
    ],
)
def test_what_makes_no_sense_is_refused(
    request_: CommitRequest, store: Store, parent: StoredImage
) -> None:
    box = new_container(store, str(parent.id))
    with open_container(store, box) as target, pytest.raises(UsageError):
        commit(store, target, request_, print)
