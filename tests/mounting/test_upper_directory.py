"""The upper of a mount without a mount: places, locks, what is recorded, and browsing it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.archives import Layer
from support.errnos import failing
from support.users import NOBODY, call_as

from unionmount.core import (
    ROOT,
    DirectoryLayer,
    Index,
    Indexer,
    Maker,
    SetAttr,
    Tree,
    TreeLayer,
    View,
)
from unionmount.errors import MountError
from unionmount.mounting.directories import OpenDirectories
from unionmount.mounting.upper_directory import (
    UpperPlan,
    name_directories,
    open_upper,
    recorded_lowers,
)

ME = Maker(os.geteuid(), os.getegid())


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    layer = Layer().directory("./", 0o751, mtime_ns=12_345_678_901, xattrs={"user.root": b"x"})
    layer.directory("directory").file("directory/file", b"lower").directory("directory/sub")
    layer.file("big", bytes(range(256)) * 4096).symlink("link", "file").directory("many")
    for number in range(300):
        layer.directory(f"many/{number:03}")
    data = layer.data()
    with (
        (tmp_path / "tar").open("w+b") as tar,
        (tmp_path / "index").open("w+b") as index,
        Indexer("layer") as indexer,
    ):
        tar.write(data)
        tar.flush()
        indexer.feed(data)
        indexer.finish(len(data), index.fileno())
        with (
            Index(index.fileno(), "layer") as opened,
            Tree([TreeLayer(opened, tar.fileno(), 0, len(data))]) as tree,
        ):
            yield tree


@pytest.fixture
def plan(tmp_path: Path) -> UpperPlan:
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()
    return UpperPlan(tmp_path / "upper", tmp_path / "work", "these")


def recorded(plan: UpperPlan) -> bytes:
    prefix = "trusted" if os.geteuid() == 0 else "user"
    return os.getxattr(plan.upper, f"{prefix}.overlay.unionmount.lowers")


def test_it_is_opened_and_closed(tree: Tree, plan: UpperPlan) -> None:
    with open_upper(plan, tree) as upper:
        assert upper.abilities.owners == (os.geteuid() == 0)
        made = upper.core.mkdir(ROOT, b"made", 0o755, ME)
        upper.core.forget(made.node)
        upper.core.sync()
    assert (plan.upper / "made").is_dir()
    assert [path for path in plan.work.iterdir() if path.name != "index"] == []
    upper.close()


def test_one_upper_is_opened_once(tree: Tree, plan: UpperPlan, tmp_path: Path) -> None:
    message = f"upper directory {plan.upper} is in use by another mount"
    with open_upper(plan, tree):
        with pytest.raises(MountError) as refused:
            open_upper(plan, tree)
        assert str(refused.value) == message
        (tmp_path / "other").mkdir()
        with pytest.raises(MountError):
            open_upper(replace(plan, upper=tmp_path / "other"), tree)
        with pytest.raises(MountError):
            open_upper(replace(plan, work=tmp_path / "other"), tree)
    open_upper(plan, tree).close()


def test_a_refused_upper_is_let_go_of(tree: Tree, plan: UpperPlan, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for wrong in (
        replace(plan, work=tmp_path / "missing"),
        replace(plan, upper=tmp_path / "tar"),
        replace(plan, work=plan.upper),
    ):
        with pytest.raises(MountError):
            open_upper(wrong, tree)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    open_upper(plan, tree).close()


@pytest.mark.parametrize(
    ("upper", "work"),
    [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "lower"), (".", "a")],
)
def test_places_that_overlap(tree: Tree, tmp_path: Path, upper: str, work: str) -> None:
    for name in ("lower", upper, work):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    plan = UpperPlan(tmp_path / upper, tmp_path / work, "these")
    with pytest.raises(MountError, match="one contains the other"):
        open_upper(plan, tree, [tmp_path / "lower"])


def test_two_file_systems(tree: Tree, plan: UpperPlan) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == plan.upper.stat().st_dev:
        pytest.skip("no second file system")
    with pytest.raises(MountError, match="on different file systems"):
        open_upper(replace(plan, work=shm), tree)


def test_the_lower_layers_are_recorded(tree: Tree, plan: UpperPlan) -> None:
    open_upper(plan, tree).close()
    assert recorded(plan) == b"these"
    open_upper(replace(plan, lowers="those"), tree).close()  # nothing was changed: no matter
    assert recorded(plan) == b"those"
    (plan.upper / "file").touch()
    open_upper(plan, tree).close()
    assert recorded(plan) == b"those"


def test_numbers_of_other_layers_are_not_believed(tree: Tree, plan: UpperPlan) -> None:
    with open_upper(plan, tree) as upper, View(upper.core) as view:
        node = view.resolve(b"directory/file").node
        upper.core.copy_up(node)
        upper.core.setattr(node, SetAttr(mode=0o600))
        assert view.resolve(b"directory/file").node == node
    for lowers, kept in (("these", True), ("those", False), ("these", True)):
        with open_upper(replace(plan, lowers=lowers), tree) as upper, View(upper.core) as view:
            assert (view.resolve(b"directory/file").node == node) == kept


def test_the_root_is_adopted_once(tree: Tree, plan: UpperPlan) -> None:
    plan.upper.chmod(0o700)
    adopting = replace(plan, adopt_root=True)
    with open_upper(adopting, tree) as upper:
        found = upper.core.getattr(ROOT)
        assert stat.filemode(found.mode) == "drwxr-x--x"
        assert found.mtime_ns == 12_345_678_901
        assert upper.core.getxattr(ROOT, b"user.root") == b"x"
        upper.core.setattr(ROOT, SetAttr(mode=0o711))
    with open_upper(adopting, tree) as upper:
        assert stat.filemode(upper.core.getattr(ROOT).mode) == "drwx--x--x"


def test_the_root_is_that_of_the_upper_where_it_is_not_adopted(tree: Tree, plan: UpperPlan) -> None:
    plan.upper.chmod(0o700)
    with open_upper(plan, tree) as upper:
        assert stat.filemode(upper.core.getattr(ROOT).mode) == "drwx------"


def test_marks_where_everybody_sees_them(tree: Tree, plan: UpperPlan) -> None:
    with open_upper(replace(plan, user_marks=True), tree) as upper:
        made = upper.core.lookup(ROOT, b"directory")
        with pytest.raises(OSError, match="cross-device"):
            upper.core.rename((ROOT, b"directory"), (ROOT, b"moved"))
        upper.core.forget(made.node)
        link = upper.core.lookup(ROOT, b"link")
        upper.core.unlink(ROOT, b"link")
        upper.core.forget(link.node)
        made = upper.core.mkdir(ROOT, b"made", 0o700, ME)
        upper.core.rename((ROOT, b"made"), (ROOT, b"link"))
        upper.core.forget(made.node)
        big = upper.core.lookup(ROOT, b"big")
        upper.core.copy_up(big.node)
        upper.core.forget(big.node)
    assert "user.overlay.unionmount.origin" in os.listxattr(plan.upper / "big")


@pytest.mark.needs("root")
def test_what_others_recorded_is_not_known(public_tmp: Path) -> None:
    os.setxattr(public_tmp, "user.overlay.unionmount.lowers", b"these")
    assert recorded_lowers(public_tmp) == "these"
    os.chown(public_tmp, NOBODY, NOBODY)
    assert recorded_lowers(public_tmp) is None


def test_names_of_stacks_of_directories(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    names = {name_directories(stack) for stack in ([one], [two], [one, two], [two, one])}
    assert len(names) == 4
    assert name_directories([one, two]) in names


# ---- browsing ------------------------------------------------------------------------------------


def _write(tree: Tree, plan: UpperPlan, use: Callable[[View], None]) -> None:
    with open_upper(plan, tree) as upper:
        made = upper.core.mknod(ROOT, b"made", stat.S_IFREG | 0o600, (0, 0), ME)
        upper.core.open_file(made.node, write=True)
        upper.core.write(made.node, 0, b"content")
        upper.core.release(made.node)
        upper.core.forget(made.node)
        upper.core.unlink(ROOT, b"link")
        with View(upper.core) as view:
            use(view)


def test_a_view_shows_what_a_mount_would(tree: Tree, plan: UpperPlan) -> None:
    def look(view: View) -> None:
        paths = [path for path, _ in view.walk() if not path.startswith(b"many")]
        assert paths == [b"big", b"directory", b"directory/file", b"directory/sub", b"made"]
        made = view.resolve(b"made")
        assert view.read(made.node, 0, 100) == b"content"
        assert made.layer == len(tree)
        assert view.origin(made.node) is None
        file = view.resolve(b"directory/file")
        assert view.read(file.node, 1, 2) == b"ow"
        assert view.listxattr(made.node) == []
        with failing(errno.ENODATA):
            view.getxattr(made.node, b"user.missing")
        with failing(errno.ENOENT):
            view.resolve(b"link")
        view.forget(made.node)
        assert view.getattr(file.node).size == 5

    _write(tree, plan, look)


def test_a_walk_finds_everything_in_a_large_directory(tree: Tree, plan: UpperPlan) -> None:
    with open_upper(plan, tree) as upper, View(upper.core) as view:
        top = upper.core.lookup(ROOT, b"many")
        upper.core.forget(upper.core.mkdir(top.node, b"150a", 0o755, ME).node)
        upper.core.forget(top.node)
        seen = [path for path, _ in view.walk() if path.startswith(b"many/")]
    assert seen == sorted([*(b"many/%03d" % number for number in range(300)), b"many/150a"])
    assert len([path for path, _ in tree.walk()]) == 306


def test_a_tree_of_no_layers_can_have_an_upper(plan: UpperPlan) -> None:
    with Tree([]) as tree, open_upper(replace(plan, adopt_root=True), tree) as upper:
        made = upper.core.mkdir(ROOT, b"first", 0o755, ME)
        assert made.layer == 0
        upper.core.forget(made.node)
        with View(upper.core) as view:
            assert [path for path, _ in view.walk()] == [b"first"]


# ---- directories as layers -----------------------------------------------------------------------


def test_a_stack_of_directories(tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    (lower / "directory").mkdir(parents=True)
    (lower / "directory/file").write_bytes(b"lower")
    (tmp_path / "top/directory").mkdir(parents=True)
    (tmp_path / "top/directory/file").write_bytes(b"top")
    with OpenDirectories([lower, tmp_path / "top"], "two") as layers:
        found = layers.tree().resolve(b"directory/file")
        assert layers.tree().read(found.node, 0, 10) == b"top"
        assert found.layer == 1
        assert layers.paths == (lower, tmp_path / "top")
    with pytest.raises(FileNotFoundError, match="missing"):
        OpenDirectories([lower, tmp_path / "missing"], "two")


def test_directory_layers_need_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with failing(errno.ENOTDIR):
            Tree([DirectoryLayer(fd)])
    finally:
        os.close(fd)


def test_a_directory_above_that_may_only_be_entered(tree: Tree, public_tmp: Path) -> None:
    """As of homes of mode 0711: who owns two directories there need not be able to list it."""
    above = public_tmp / "above"
    plan = UpperPlan(above / "upper", above / "work", "these")
    for path in (above, plan.upper, plan.work):
        path.mkdir()
    if os.geteuid() == 0:
        for path in (plan.upper, plan.work):
            os.chown(path, NOBODY, NOBODY)
    above.chmod(0o711 if os.geteuid() == 0 else 0o100)
    try:
        call_as(NOBODY, lambda: open_upper(plan, tree).close())
    finally:
        above.chmod(0o700)
