"""The scaffold: mount points that an image lacks.

The oracle is the kernel: the image is unpacked, the scaffold is unpacked over it, and each place is
resolved in a chroot.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.archives import Layer
from support.effort import examples
from support.trees import facts, tree_of
from support.users import call_as

from unionmount.browse.paths import follow
from unionmount.core import Tree
from unionmount.errors import MountError
from unionmount.runtime.scaffold import Place, open_scaffold

NAMES = ["a", "b", "c"]
Item = tuple[str, str]  # a path and its kind: "dir", "file", or the target of a symlink

paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
targets = st.lists(st.sampled_from([*NAMES, "..", "."]), min_size=1, max_size=4).map("/".join)
links = st.tuples(st.sampled_from(["", "/"]), targets).map(lambda pair: f"->{pair[0]}{pair[1]}")
images = st.lists(st.tuples(paths, st.sampled_from(["dir", "file"]) | links), max_size=8)
# "x/.." is a directory
both = st.tuples(targets, st.booleans())
ends = both.map(lambda one: (f"/{one[0]}", one[1] or one[0].endswith("..")))
ends = ends.filter(lambda one: not one[0].endswith("/."))  # commands leave that out
wanted = st.lists(ends, min_size=1, max_size=5)


def make(items: list[Item], top: Path) -> bytes:
    """Make those files that can be made, in a directory and in a tar."""
    layer = Layer()
    for path, kind in items:
        file = top / path
        if any(part.is_symlink() for part in file.parents) or not file.parent.is_dir():
            continue
        if os.path.lexists(file):
            continue
        if kind == "dir":
            file.mkdir(0o750)
            layer.directory(path, mode=0o750, owner=(3, 4))
        elif kind == "file":
            file.write_bytes(b"x")
            layer.file(path, b"x")
        else:
            file.symlink_to(kind[2:])
            layer.symlink(path, kind[2:])
    return layer.data()


def in_chroot(top: Path, path: str) -> int | str:
    """Return the type of a file in a chroot, or the error."""

    def look() -> int | str:
        try:
            return stat.S_IFMT(Path(path).stat().st_mode)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def enter() -> int | str:
        os.chroot(top)
        os.chdir("/")
        return look()

    found: int | str = call_as(0, enter)
    return found


def unpack(tar: bytes, top: Path) -> None:
    """Unpack a scaffold; nothing of it is there already, or behind a symlink."""
    for member in members_of(tar):
        file = top / member.name
        assert not os.path.lexists(file), member.name
        for above in file.parents[: member.name.count("/")]:
            assert stat.S_ISDIR(above.lstat().st_mode), member.name
        if member.isdir():
            file.mkdir()
        else:
            file.touch()


def members_of(tar: bytes) -> list[tarfile.TarInfo]:
    if not tar:
        return []
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return archive.getmembers()


@contextmanager
def scaffold_of(tree: Tree, places: list[Place]) -> Iterator[bytes]:
    """Yield the tar of a scaffold, empty if there is none."""
    layer = open_scaffold(tree, places)
    if layer is None:
        yield b""
        return
    try:
        yield os.pread(layer.data_fd, layer.length, layer.offset)
    finally:
        layer.close()


@pytest.mark.needs("root")
@settings(max_examples=examples(60, 2000))
@given(images, wanted)
@example([("a", "->/b"), ("b", "->c")], [("/a/x", True)])
@example([("a", "->a")], [("/a", True)])
@example([("a", "file")], [("/a/b", True)])
@example([("a", "dir"), ("a/b", "->../../../c")], [("/a/b/c", False)])
def test_places_exist_as_the_kernel_sees_them(
    items: list[Item], places: list[tuple[str, bool]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        image = make(items, top)
        with tree_of([image]) as tree:
            wanted = [Place(path.encode(), directory=kind) for path, kind in places]
            try:
                with scaffold_of(tree, wanted) as tar:
                    unpack(tar, top)
            except MountError:
                # one place at least leads through something that is no directory, or in a circle
                alone = [one for one in wanted if fails(tree, one, top)]
                assert alone or len(wanted) > 1
                return
        for path, _ in places:
            found = in_chroot(top, path)
            assert isinstance(found, int), (path, found)


def fails(tree: Tree, place: Place, top: Path) -> bool:
    """Return whether a place alone is refused; then the kernel has to refuse it, too."""
    try:
        with scaffold_of(tree, [place]):
            return False
    except MountError:
        steps = place.path.decode().split("/")
        found = {in_chroot(top, "/".join(steps[:end]) or "/") for end in range(1, len(steps) + 1)}
        found |= {in_chroot(top, f"{place.path.decode()}/.")}
        assert found & {"ENOTDIR", "ELOOP", "ENOENT"}, place
        return True


@settings(max_examples=examples(60, 2000))
@given(images, wanted)
def test_nothing_of_the_image_changes(items: list[Item], places: list[tuple[str, bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        image = make(items, Path(name))
    with tree_of([image]) as tree:
        before = facts(tree)
        asked = [Place(path.encode(), directory=directory) for path, directory in places]
        try:
            with scaffold_of(tree, asked) as tar:
                scaffold = tar
        except MountError:
            return
    if not scaffold:
        return
    with tree_of([image, scaffold]) as both:
        after = facts(both)
        assert {path: after[path] for path in before} == before
        for path, _ in places:
            assert follow(both, path.encode()).attributes.mode


@pytest.mark.parametrize(
    ("path", "made"),
    [
        (b"/new", ["new"]),
        (b"/deep/er/still", ["deep", "deep/er", "deep/er/still"]),
        (b"//etc/./x//", ["etc/x"]),
        (b"/../../up", ["up"]),
        (b"/var/run/x", ["run/x"]),
        (b"/dangling", ["nowhere", "nowhere/there"]),
        (b"/dangling/below", ["nowhere", "nowhere/there", "nowhere/there/below"]),
        (b"/etc", []),
        (b"/", []),
        (b"/" + b"n" * 255, ["n" * 255]),
    ],
)
def test_cases(path: bytes, made: list[str]) -> None:
    layer = Layer().directory("etc").directory("run").directory("var")
    layer.symlink("var/run", "/run").symlink("dangling", "nowhere/there")
    with tree_of([layer.data()]) as tree, scaffold_of(tree, [Place(path)]) as tar:
        names = [one.name for one in members_of(tar)]
    assert names == made


def test_modes_and_kinds() -> None:
    places = [
        Place(b"/tmp", mode=0o1777),
        Place(b"/file", directory=False),
        Place(b"/x/dir", mode=0o700),
    ]
    with tree_of([Layer().data()]) as tree, scaffold_of(tree, places) as tar:
        members = members_of(tar)
    assert {one.name: (one.isdir(), oct(one.mode)) for one in members} == {
        "tmp": (True, "0o1777"),
        "file": (False, "0o644"),
        "x": (True, "0o755"),
        "x/dir": (True, "0o700"),
    }


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (b"/file/x", "mount point /file/x: /file is not a directory in the image"),
        (b"/link/x", "/file is not a directory"),
        (b"/loop/x", os.strerror(errno.ELOOP)),
        (b"/other", os.strerror(errno.ELOOP)),
        (b"/" + b"n" * 256, os.strerror(errno.ENAMETOOLONG)),
    ],
)
def test_places_that_cannot_be(path: bytes, message: str) -> None:
    layer = Layer().file("file", b"x").symlink("link", "file")
    layer.symlink("loop", "other").symlink("other", "loop")
    with tree_of([layer.data()]) as tree, pytest.raises(MountError, match=message):
        open_scaffold(tree, [Place(path)])


def test_no_descriptor_is_left(descriptors: list[int]) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    with tree_of([Layer().data()]) as tree:
        layer = open_scaffold(tree, [Place(b"/x")])
        assert layer is not None
        layer.close()
        with pytest.raises(MountError):
            open_scaffold(tree, [Place(b"/x", directory=False), Place(b"/x/y")])
    assert len(list(Path("/proc/self/fd").iterdir())) == len(before)
