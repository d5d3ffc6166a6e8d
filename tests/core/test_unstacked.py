"""Each layer's own tree, marks shown: against the model, and against tarfile."""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from support import model, strategies
from support.archives import Layer
from support.effort import examples
from support.strategies import Entry, tar_of
from support.trees import tree_of

from unionmount.core import OPAQUE, ROOT, Attributes, DirectoryLayer, LayerTrees, Node, Tree
from unionmount.errors import FormatError

pytestmark = pytest.mark.slow

EXAMPLES = examples(200, 1000)


@dataclass(frozen=True, slots=True)
class Seen:
    """All that is compared of one path."""

    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    device: tuple[int, int]
    nlink: int
    layer: int
    xattrs: dict[bytes, bytes]
    content: bytes


# ---- what the model says -------------------------------------------------------------------------


def _file(file: model.File, nlink: int) -> Seen:
    meta = file.meta
    return Seen(
        file.kind | meta.mode,
        (meta.uid, meta.gid),
        meta.mtime_ns,
        file.rdev,
        nlink,
        meta.layer,
        meta.xattrs,
        file.target if file.kind == model.SYMLINK else file.content,
    )


def _whiteout(layer: int) -> Seen:
    return Seen(model.CHARACTER, (0, 0), 0, (0, 0), 1, layer, {}, b"")


def _directory(path: model.Path, own: model.Directory, layer: model.Layer) -> Seen:
    inside = [p for p, one in layer.own.items() if p and p[:-1] == path]
    nlink = 2 + sum(isinstance(layer.own[p], model.Directory) for p in inside)
    marks = {OPAQUE: b"y"} if path in layer.opaques | layer.whiteouts else {}
    meta = own.meta or model.Meta(0o755, 0, 0, 0, {}, layer.number)
    return Seen(
        model.DIRECTORY | meta.mode,
        (meta.uid, meta.gid),
        meta.mtime_ns,
        (0, 0),
        nlink,
        layer.number,
        meta.xattrs | marks,
        b"",
    )


def expected(tars: Sequence[bytes]) -> dict[bytes, Seen]:
    stack = model.Stack(list(tars))
    files: dict[tuple[int, model.Path], model.File] = {}
    found: dict[bytes, Seen] = {}
    for layer in stack.layers:
        view = stack.views[layer.number]
        for path, own in layer.own.items():
            shown = view.get(path)
            if not isinstance(own, model.Directory) and isinstance(shown, model.File):
                files[layer.number, path] = shown
    names = Counter(map(id, files.values()))
    for layer in stack.layers:
        top = b"%d" % layer.number
        for path in layer.own.keys() | layer.whiteouts:
            file = files.get((layer.number, path))
            marked = layer.own.get(path)
            full = b"/".join((top, *path))
            if isinstance(marked, model.Directory):
                found[full] = _directory(path, marked, layer)
            else:
                found[full] = _file(file, names[id(file)]) if file else _whiteout(layer.number)
    return found


# ---- what is shown -------------------------------------------------------------------------------


def _seen(trees: LayerTrees, attributes: Attributes) -> Seen:
    node, kind = attributes.node, stat.S_IFMT(attributes.mode)
    content = b""
    if kind == stat.S_IFLNK:
        content = trees.readlink(node)
    elif kind == stat.S_IFREG:
        content = trees.read(node, 0, attributes.size + 1)
        assert len(content) == attributes.size
    return Seen(
        attributes.mode,
        (attributes.uid, attributes.gid),
        attributes.mtime_ns,
        (attributes.major, attributes.minor),
        attributes.nlink,
        attributes.layer,
        {name: trees.getxattr(node, name) for name in trees.listxattr(node)},
        content,
    )


def shown(trees: LayerTrees) -> dict[bytes, Seen]:
    found = {}
    for path, attributes in trees.walk():
        found[path] = _seen(trees, attributes)
        assert trees.resolve(path) == attributes
        assert trees.getattr(attributes.node) == attributes
        if stat.S_ISDIR(attributes.mode):
            above = trees.resolve(path.rpartition(b"/")[0])
            assert trees.parent(attributes.node) == above.node
    return found


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.stacks)
def test_every_layer_is_shown_as_it_is(stack: list[list[Entry]]) -> None:
    tars = [tar_of(entries) for entries in stack]
    try:
        with tree_of(tars) as tree, LayerTrees(tree) as trees:
            found = shown(trees)
    except FormatError:
        return
    assert found == expected(tars)


def images() -> list[bytes]:
    base = Layer().directory("d", 0o750).file("d/a", b"a").symlink("d/s", "a").file("c", b"c")
    middle = Layer().file("d/.wh.a").hard_link("x/linked", "c").hard_link("x/broken", "nowhere")
    top = Layer().file(".wh.d").directory("d").file("d/new", b"new").file("e/.wh..wh..opq")
    return [layer.data() for layer in (base, middle, top)]


def test_tarfile_reads_the_same_names() -> None:
    tars = images()
    with tree_of(tars) as tree, LayerTrees(tree) as trees:
        found = shown(trees)
    for number, tar in enumerate(tars):
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            names = {b"%d/%b" % (number, m.name.encode()) for m in archive}
        plain = {name for name in names if b".wh." not in name}
        assert plain <= found.keys()
        for name in (name.replace(b".wh.", b"") for name in names - plain):
            if not name.endswith(b".opq") and name not in plain:
                assert stat.S_ISCHR(found[name].mode), name


def test_marks_are_shown() -> None:
    with tree_of(images()) as tree, LayerTrees(tree) as trees:
        found = shown(trees)
        assert [entry.name for entry in trees.list(ROOT)] == [b"0", b"1", b"2"]
        assert trees.parent(ROOT) == ROOT
        assert trees.getattr(ROOT).nlink == 5
        assert trees.resolve(b"0/c").node == trees.resolve(b"1/x/linked").node
    assert found[b"1/d/a"] == found[b"1/x/broken"] == _whiteout(1)
    assert found[b"0/c"] == found[b"1/x/linked"]
    assert (found[b"0/c"].nlink, found[b"0/c"].layer) == (2, 0)
    assert found[b"2/d"].xattrs == found[b"2/e"].xattrs == {OPAQUE: b"y"}
    assert found[b"1/d"].xattrs == {}


def test_an_opaque_directory_that_bears_the_mark_itself() -> None:
    layer = Layer().directory("d", xattrs={OPAQUE.decode(): b"n", "user.x": b"1"})
    tars = [layer.file("d/.wh..wh..opq").data()]
    with tree_of(tars) as tree, LayerTrees(tree) as trees:
        assert shown(trees)[b"0/d"].xattrs == {OPAQUE: b"y", b"user.x": b"1"}


@pytest.mark.parametrize("name", [b"3", b"00", b"01", b"-1", b"", b"x", b"4294967296", b"9999999"])
def test_there_are_no_other_layers(name: bytes) -> None:
    with tree_of(images()) as tree, LayerTrees(tree) as trees, pytest.raises(FileNotFoundError):
        trees.lookup(ROOT, name)


def test_wrong_questions() -> None:
    with tree_of(images()) as tree, LayerTrees(tree) as trees:
        whiteout, directory = trees.resolve(b"1/d/a").node, trees.resolve(b"0/d").node
        file = trees.resolve(b"0/c").node
        for node, code in ((whiteout, errno.EINVAL), (directory, errno.EISDIR)):
            with pytest.raises(OSError, match=os.strerror(code)):
                trees.read(node, 0, 1)
        for node in (whiteout, file):
            with pytest.raises(NotADirectoryError):
                trees.list(node)
            with pytest.raises(NotADirectoryError):
                trees.lookup(node, b"x")
        for node in (Node(0), Node(10**6)):
            with pytest.raises(OSError, match="Stale"):
                trees.getattr(node)
        with pytest.raises(OSError, match="too long"):
            trees.lookup(directory, b"n" * 256)
        with pytest.raises(OSError, match="Invalid"):
            trees.readlink(file)


def test_an_image_without_layers() -> None:
    with tree_of([]) as tree, LayerTrees(tree) as trees:
        assert list(trees.walk()) == []
        assert trees.getattr(ROOT).nlink == 2


def test_live_directories_have_no_such_trees() -> None:
    fd = os.open("/", os.O_PATH)
    try:
        with Tree([DirectoryLayer(fd)]) as tree, pytest.raises(OSError, match="not supported"):
            LayerTrees(tree)
    finally:
        os.close(fd)
