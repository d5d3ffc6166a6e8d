"""Attributes that users name as overlayfs names its marks: beside the kernel's overlayfs.

What is called by the prefix of the mount's own marks is escaped on disk, the other one stands there
as it is; neither means anything to the mount, now or later.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from differential.sides import (
    OVERLAYFS_ESCAPES,
    KernelOverlay,
    Layout,
    Subject,
    Unionmount,
    UnionmountImage,
    mounted,
)
from support.archives import Layer, docker_archive
from support.mounting import CommandLine, is_mounted
from support.users import NOBODY, become_nobody, call_as, fuse_for_all

pytestmark = pytest.mark.needs("fuse", "root", "overlayfs")

TRUSTED, USER = "trusted.overlay.", "user.overlay."
FUSE_OVERLAYFS = "user.fuseoverlayfs."
PLAIN = "index=off,redirect_dir=on,metacopy=off"
BY_USER = "index=off,userxattr"
RECORD = "overlay.unionmount.namespace"


def make_layout(top: Path, side: str, *lowers: Path) -> Layout:
    own = top / side
    places = [own / name for name in ("upper", "work", "mnt", "state")]
    for place in (own, *places):
        place.mkdir(mode=0o700, exist_ok=True)
    return Layout(lowers, *places)


def make_lower(top: Path) -> Path:
    lower = top / "lower"
    for name in ("dir", "opaque"):
        (lower / name).mkdir(parents=True)
        (lower / name / "below").write_text("below")
    (lower / "file").write_text("file")
    (lower / "target").mkdir()
    (lower / "target/secret").write_text("secret")
    return lower


def names_of(path: Path) -> dict[str, bytes]:
    """All that are named like marks; a mark that has to do with where data comes from is not."""
    names = [name for name in os.listxattr(path) if ".overlay." in name]
    return {name: os.getxattr(path, name) for name in names}


def users_names(path: Path) -> dict[str, bytes]:
    """What on disk is not the work of a union's own."""
    own = ("origin", "impure", "uuid", "lowers", "namespace")
    return {name: value for name, value in names_of(path).items() if not name.endswith(own)}


def outcome(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def use_names(path: Path, prefix: str) -> list[Any]:
    """Set, get, list and remove names of all kinds; what each call said."""
    longest = prefix + "n" * (255 - len(prefix))
    fitting = prefix + "n" * (247 - len(prefix))
    return [
        outcome(lambda: os.setxattr(path, prefix + "x", b"1")),
        outcome(lambda: os.setxattr(path, prefix + "x", b"2", os.XATTR_CREATE)),
        outcome(lambda: os.setxattr(path, prefix + "x", b"2", os.XATTR_REPLACE)),
        outcome(lambda: os.setxattr(path, prefix + "opaque", b"y")),
        outcome(lambda: os.setxattr(path, prefix + "overlay.x", b"3")),
        outcome(lambda: os.setxattr(path, prefix + "overlay.overlay.x", b"4")),
        outcome(lambda: os.setxattr(path, prefix + "missing", b"", os.XATTR_REPLACE)),
        outcome(lambda: names_of(path)),
        outcome(lambda: os.getxattr(path, prefix + "missing")),
        outcome(lambda: os.removexattr(path, prefix + "missing")),
        outcome(lambda: os.removexattr(path, prefix + "overlay.x")),
        outcome(lambda: os.removexattr(path, prefix + "overlay.x")),
        outcome(lambda: os.setxattr(path, longest, b"")),
        outcome(lambda: os.getxattr(path, longest)),
        outcome(lambda: os.removexattr(path, longest)),
        outcome(lambda: os.setxattr(path, fitting, b"z")),
        outcome(lambda: os.getxattr(path, fitting)),
        outcome(lambda: os.removexattr(path, fitting)),
        outcome(lambda: os.setxattr(path, prefix, b"")),
        outcome(lambda: os.getxattr(path, prefix)),
        outcome(lambda: os.removexattr(path, prefix)),
        outcome(lambda: names_of(path)),
    ]


@pytest.mark.skipif(not OVERLAYFS_ESCAPES, reason="overlayfs escapes names since Linux 6.7")
@pytest.mark.parametrize("prefix", [TRUSTED, USER])
@pytest.mark.parametrize("option", ["", ",userxattr"])
def test_names_are_those_of_the_kernel(public_tmp: Path, prefix: str, option: str) -> None:
    lower = make_lower(public_tmp)
    seen: list[Any] = []
    subjects: tuple[Subject, ...] = (
        KernelOverlay(BY_USER if option else PLAIN),
        Unionmount(options=option),
    )
    for side, subject in zip(("kernel", "ours"), subjects, strict=True):
        layout = make_layout(public_tmp, side, lower)
        with mounted(subject, layout) as root:
            told = {name: use_names(root / name, prefix) for name in ("file", "dir")}
            (root / "dir" / "new").write_text("new")
            told["dir/new"] = use_names(root / "dir/new", prefix)
        disk = {name: users_names(layout.upper / name) for name in told}
        with mounted(subject, layout) as root:
            shown = {name: names_of(root / name) for name in told}
            below = (root / "dir/below").read_text()
        seen.append((told, disk, shown, below))
    assert seen[1] == seen[0]
    assert seen[1][3] == "below"  # nothing became opaque


@pytest.mark.skipif(not OVERLAYFS_ESCAPES, reason="overlayfs escapes names since Linux 6.7")
def test_lower_directories_show_what_the_kernel_shows(public_tmp: Path) -> None:
    lower = make_lower(public_tmp)
    for name in ("dir", "file"):
        for middle in ("x", "overlay.opaque", "overlay.overlay.x"):
            os.setxattr(lower / name, TRUSTED + middle, b"y")
    seen = []
    for side, subject in (("kernel", KernelOverlay(PLAIN)), ("ours", Unionmount())):
        layout = make_layout(public_tmp, side, lower)
        with mounted(subject, layout) as root:
            shown = {name: names_of(root / name) for name in ("dir", "file")}
            for name in ("dir", "file"):
                (root / name).chmod(0o700)  # copies it up
            assert {name: names_of(root / name) for name in ("dir", "file")} == shown
            (root / "file").rename(root / "renamed")
            assert names_of(root / "renamed") == shown["file"]
        disk = [users_names(layout.upper / name) for name in ("dir", "renamed")]
        seen.append((shown, disk))
    assert seen[1] == seen[0]
    assert seen[1][0]["dir"] == {TRUSTED + "opaque": b"y", TRUSTED + "overlay.x": b"y"}


@pytest.mark.parametrize("kernels", [1, 2])
def test_an_overlay_of_what_is_in_the_mount(public_tmp: Path, kernels: int) -> None:
    """The kernel's overlayfs obeys what users of the mount set; two of them as well as one."""
    lower = make_lower(public_tmp)
    layout = make_layout(public_tmp, "ours", lower)
    ours = Unionmount()
    for _ in range(2):
        with mounted(ours, layout) as root, ExitStack() as stack:
            top = root / "top"
            if not top.exists():
                (top / "opaque").mkdir(parents=True)
                (top / "moved").mkdir()
                os.setxattr(top / "opaque", TRUSTED + "opaque", b"y")
                os.setxattr(top / "moved", TRUSTED + "redirect", b"/target")
            lowers: tuple[Path, ...] = (top, lower)
            for number in range(kernels):
                outer = make_layout(public_tmp, f"outer{number}", *lowers)
                shown = stack.enter_context(mounted(KernelOverlay(PLAIN), outer))
                assert os.listdir(shown / "opaque") == []
                assert os.listdir(shown / "moved") == ["secret"]
                assert names_of(shown / "opaque") == {}
                lowers = (shown,)
    with mounted(ours, layout) as root:
        assert names_of(root / "top/opaque") == {TRUSTED + "opaque": b"y"}
        assert os.listdir(root / "opaque") == ["below"]


def test_an_upper_of_another_overlay_in_the_mount(public_tmp: Path) -> None:
    """Our own overlay on ours: what the inner one marks means nothing to the outer one."""
    lower = make_lower(public_tmp)
    for _ in range(2):
        with ExitStack() as stack:
            place = public_tmp
            for level in range(2):
                layout = make_layout(place, f"level{level}", lower)
                place = stack.enter_context(mounted(Unionmount(options=",suid,dev"), layout))
            if (place / "dir/below").exists():
                (place / "dir/below").unlink()
                (place / "dir").rename(place / "renamed")
                (place / "dir").mkdir()
                (place / "dir/new").touch()
            assert os.listdir(place / "dir") == ["new"]
            assert os.listdir(place / "renamed") == []
            assert names_of(place / "dir") == {}


@pytest.mark.parametrize("option", ["", ",userxattr"])
def test_what_users_set_never_becomes_a_mark(public_tmp: Path, option: str) -> None:
    """Neither for this mount, nor as a lower directory; and not in the other kind of mount."""
    lower = make_lower(public_tmp)
    layout = make_layout(public_tmp, "ours", lower)
    marks = {"opaque": b"y", "redirect": b"/target", "metacopy": b"", "unionmount.origin": b"1"}
    with mounted(Unionmount(options=option), layout) as root:
        for prefix in (TRUSTED, USER):
            for what, value in marks.items():
                os.setxattr(root / "dir", prefix + what, value)
                os.setxattr(root / "file", prefix + what, value)
            own = prefix == (USER if option else TRUSTED)
            record = prefix + "unionmount.namespace"
            set_record = outcome(partial(os.setxattr, root, record, b""))
            assert set_record == (None if own else "EPERM")
        for name in (FUSE_OVERLAYFS + "opaque", "security.fuseoverlayfs.x"):
            assert outcome(partial(os.setxattr, root / "dir", name, b"y")) == "EPERM"
        shown = names_of(root / "dir")
        assert len(shown) == 2 * len(marks)
        file_shown = names_of(root / "file")
    with mounted(Unionmount(options=option), layout) as root:
        assert names_of(root / "dir") == shown
        assert names_of(root / "file") == file_shown
        assert (root / "dir/below").read_text() == "below"
        assert not (root / "dir/secret").exists()
        assert (root / "file").read_text() == "file"
        if not option:  # with userxattr a merged directory can't be renamed
            (root / "dir").rename(root / "moved")
        (root / "file").write_text("changed")
        (root / "file").rename(root / "file2")
    moved = "dir" if option else "moved"
    with mounted(Unionmount(options=option), layout) as root:
        assert names_of(root / moved) == shown
        assert os.listdir(root / moved) == ["below"]
        assert names_of(root / "file2") == file_shown
    if option == "":
        above = make_layout(public_tmp, "above", layout.upper, lower)
        with mounted(Unionmount(), above) as root:
            assert names_of(root / "moved") == shown
            assert os.listdir(root / "moved") == ["below"]


# ---- which prefix the marks have -----------------------------------------------------------------


def hide(root: Path) -> None:
    for name in ("dir/below", "opaque/below"):
        (root / name).unlink()
    (root / "opaque").rmdir()
    (root / "opaque").mkdir()


def refused(cli: CommandLine, layout: Layout, option: str) -> str:
    options = layout.options() + option
    said = cli.error("overlay", "-o", options, layout.mountpoint)
    assert not is_mounted(layout.mountpoint)
    return said


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize(
    ("first", "then", "advice"),
    [
        (",userxattr", "", "mount it with -o userxattr"),
        ("", ",userxattr", "mount it without -o userxattr"),
    ],
)
def test_an_upper_keeps_the_prefix_of_its_marks(
    public_tmp: Path, cli: CommandLine, first: str, then: str, advice: str, recorded: bool
) -> None:
    layout = make_layout(public_tmp, "ours", make_lower(public_tmp))
    with mounted(Unionmount(options=first), layout) as root:
        hide(root)
    if not recorded:  # as earlier versions left it
        os.removexattr(layout.upper, f"{'user' if first else 'trusted'}.{RECORD}")
    said = refused(cli, layout, then)
    assert str(layout.upper) in said
    assert advice in said
    with mounted(Unionmount(options=first), layout) as root:
        assert os.listdir(root / "opaque") == []


@pytest.mark.parametrize(("kernel", "then"), [(BY_USER, ""), (PLAIN, ",userxattr")])
def test_so_does_one_of_the_kernel(
    public_tmp: Path, cli: CommandLine, kernel: str, then: str
) -> None:
    layout = make_layout(public_tmp, "ours", make_lower(public_tmp))
    with mounted(KernelOverlay(kernel), layout) as root:
        hide(root)
    assert "userxattr" in refused(cli, layout, then)
    with mounted(Unionmount(options="" if then else ",userxattr"), layout) as root:
        assert os.listdir(root / "opaque") == []


def test_users_of_the_kernel_may_have_set_the_other_prefix(
    public_tmp: Path, cli: CommandLine
) -> None:
    layout = make_layout(public_tmp, "ours", make_lower(public_tmp))
    with mounted(KernelOverlay(PLAIN), layout) as root:
        hide(root)
        if OVERLAYFS_ESCAPES:
            os.setxattr(root / "dir", USER + "opaque", b"y")
    with mounted(Unionmount(), layout) as root:
        assert os.listdir(root / "opaque") == []
        (root / "target/secret").chmod(0o600)
    assert "mount it without" in refused(cli, layout, ",userxattr")


@pytest.mark.parametrize(("first", "then"), [("", ",userxattr"), (",userxattr", "")])
def test_what_users_set_on_an_empty_upper_hides_nothing(
    public_tmp: Path, cli: CommandLine, first: str, then: str
) -> None:
    layout = make_layout(public_tmp, "ours", make_lower(public_tmp))
    with mounted(Unionmount(options=first), layout) as root:
        os.setxattr(root, (TRUSTED if first else USER) + "opaque", b"y")
    with mounted(Unionmount(options=first), layout) as root:
        assert "file" in os.listdir(root)
    assert "userxattr" in refused(cli, layout, then)


def test_an_empty_upper_may_change_its_prefix(public_tmp: Path) -> None:
    layout = make_layout(public_tmp, "ours", make_lower(public_tmp))
    for option in ("", ",userxattr", ""):
        with mounted(Unionmount(options=option), layout) as root:
            assert (root / "dir/below").exists()
    with mounted(Unionmount(options=",userxattr"), layout) as root:
        hide(root)
    with mounted(Unionmount(options=",userxattr"), layout) as root:
        assert os.listdir(root / "opaque") == []


# ---- images --------------------------------------------------------------------------------------


@pytest.fixture
def own(public_tmp: Path) -> CommandLine:
    """A command line with a store of its own, which has an image."""
    layer = Layer().directory("./").directory("dir").file("dir/below", b"below")
    marks = {
        TRUSTED + "opaque": b"y",
        USER + "opaque": b"y",
        TRUSTED + "overlay.image": b"i",
        USER + "overlay.image": b"i",
    }
    layer.file("file", b"file", xattrs=marks)
    made = CommandLine(environment={"UNIONMOUNT_ROOT": str(public_tmp / "root")})
    made.run("load", "-i", docker_archive(public_tmp / "image.tar", [layer], "base:1"))
    return made


@contextmanager
def container(cli: CommandLine, where: Path, *arguments: str) -> Iterator[Path]:
    where.mkdir(exist_ok=True)
    cli.run("mount", *arguments, where)
    try:
        yield where
    finally:
        cli.run("umount", where)


def test_commit_keeps_them(public_tmp: Path, own: CommandLine) -> None:
    where = public_tmp / "mnt"
    of_image = {TRUSTED + "image": b"i", USER + "image": b"i"}
    with container(own, where, "--name", "box", "base:1") as root:
        assert names_of(root / "file") == of_image
        (root / "file").chmod(0o600)
        assert names_of(root / "file") == of_image
        for prefix in (TRUSTED, USER):
            os.setxattr(root / "dir", prefix + "opaque", b"y")
            os.setxattr(root / "dir", prefix + "overlay.x", b"x")
        shown = names_of(root / "dir")
        assert len(shown) == 4
    told = own.run("diff", "box").stdout.splitlines()
    assert told == ["C /dir", "C /file"]
    own.run("commit", "box", "next:1")
    with container(own, where, "--ro", "next:1") as root:
        assert names_of(root / "dir") == shown
        assert names_of(root / "file") == of_image
        assert os.listdir(root / "dir") == ["below"]


def test_layers_beside_each_other_unite_to_the_image(public_tmp: Path, own: CommandLine) -> None:
    where = public_tmp / "mnt"
    with container(own, where, "--name", "box", "base:1") as root:
        (root / "dir/new").touch()
        for prefix in (TRUSTED, USER):
            os.setxattr(root / "dir", prefix + "opaque", b"y")
    own.run("commit", "box", "next:1")
    with container(own, where, "--ro", "next:1") as root:
        shown = {name: names_of(root / name) for name in ("dir", "file")}
    assert len(shown["dir"]) == 2
    with container(own, where, "--layers", "next:1") as layers:
        outer = make_layout(public_tmp, "outer", layers / "1", layers / "0")
        with mounted(KernelOverlay(BY_USER), outer) as root:
            assert sorted(os.listdir(root / "dir")) == ["below", "new"]
            if OVERLAYFS_ESCAPES:
                assert {name: names_of(root / name) for name in shown} == shown


# ---- ordinary users ------------------------------------------------------------------------------


@pytest.mark.needs("ordinary-user")
def test_a_user_has_names_below_user(public_tmp: Path) -> None:
    lower = make_lower(public_tmp)
    layout = make_layout(public_tmp, "theirs", lower)
    for place in (layout.upper.parent, *layout.upper.parent.iterdir()):
        os.chown(place, NOBODY, NOBODY)
    theirs = Unionmount(become_nobody())

    def set_names(root: Path) -> None:
        for name in ("opaque", "overlay.x"):
            os.setxattr(root / "dir", USER + name, b"y")

    with fuse_for_all(), mounted(theirs, layout) as root:
        call_as(NOBODY, lambda: set_names(root))
    stored = {USER + "overlay.opaque": b"y", USER + "overlay.overlay.x": b"y"}
    assert users_names(layout.upper / "dir") == stored
    with fuse_for_all(), mounted(theirs, layout) as root:
        shown = call_as(NOBODY, lambda: names_of(root / "dir"))
        assert shown == {USER + "opaque": b"y", USER + "overlay.x": b"y"}
        assert call_as(NOBODY, lambda: os.listdir(root / "dir")) == ["below"]


def test_root_mounts_the_container_of_a_user_as_it_is(public_tmp: Path) -> None:
    """Its marks stay those below user., for whoever mounts it."""
    archive = docker_archive(
        public_tmp / "image.tar", [Layer().directory("dir").file("dir/below", b"below")], "base:1"
    )
    layout = replace(make_layout(public_tmp, "ours"), image=archive)
    with mounted(UnionmountImage(), layout) as root:
        (root / "x").touch()
    os.removexattr(layout.upper, f"trusted.{RECORD}")
    (layout.upper / "dir").mkdir()
    os.setxattr(layout.upper / "dir", USER + "opaque", b"y")  # as a user's daemon
    with mounted(UnionmountImage(), layout) as root:
        assert os.listdir(root / "dir") == []
        os.setxattr(root / "dir", USER + "x", b"1")
    assert users_names(layout.upper / "dir")[USER + "overlay.x"] == b"1"
