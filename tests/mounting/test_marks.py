"""Whose marks count: what somebody else wrote to a directory that is mounted.

Oracles: the kernel's overlayfs, and fuse-overlayfs where it has the feature. Alice is a user
without privileges; root mounts, or she does.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from differential.sides import (
    FuseOverlayfs,
    KernelOverlay,
    Layout,
    Subject,
    Unionmount,
    UnionmountImage,
)
from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine
from support.user_namespaces import user_namespace
from support.users import NOBODY, become_nobody, call_as, fuse_for_all

pytestmark = pytest.mark.needs("fuse", "root", "overlayfs")

OVERRIDE = "user.containers.override_stat"
USER_PREFIXES = ("user.overlay.", "user.fuseoverlayfs.")
ALICE = NOBODY
LARGE = 200_000  # unionmount copies the data of smaller files in any case
SECRET = b"secret" * (LARGE // 6)
FULL = ",suid,dev"
KERNEL = "index=off,redirect_dir=on,metacopy=on"
KERNEL_USER = "index=off,userxattr"


@pytest.fixture
def top(public_tmp: Path) -> Path:
    """A directory that everybody can reach; so nothing in it is closed."""
    return public_tmp


@dataclass(frozen=True)
class Scene:
    """Two lower directories, the upper one alice's, and what one side needs besides."""

    top: Path

    @property
    def alice(self) -> Path:
        return self.top / "alice"

    @property
    def base(self) -> Path:
        return self.top / "base"

    def layout(self, side: str) -> Layout:
        """Directories of a side's own; the upper ones are root's."""
        own = self.top / side
        places = [own / name for name in ("upper", "work", "mnt", "state")]
        if not own.exists():
            for place in (own, *places):
                place.mkdir()
        return Layout((self.alice, self.base), *places)


@pytest.fixture
def scene(top: Path) -> Scene:
    made = Scene(top)
    for place in (made.alice, made.base):
        place.mkdir()
    os.chown(made.alice, ALICE, ALICE)
    (made.base / "secret").write_bytes(SECRET)
    (made.base / "secret").chmod(0o600)
    (made.base / "private").mkdir(0o700)
    (made.base / "private/inner").write_text("secret")
    (made.base / "private/inner").chmod(0o644)
    (made.base / "open").write_text("open")
    return made


@contextmanager
def mounted(subject: Subject, layout: Layout) -> Iterator[Path]:
    subject.mount(layout)
    try:
        yield layout.mountpoint
    finally:
        subject.unmount(layout)


def mark(path: Path, prefix: str, what: str, value: bytes) -> None:
    os.setxattr(path, prefix + what, value)


def claim_file(directory: Path, prefix: str, name: str = "file", *, owner: int = ALICE) -> None:
    """A file without data that says it has that of ``/secret``."""
    path = directory / name
    path.touch(0o644)
    os.truncate(path, len(SECRET))
    os.chown(path, owner, owner)
    mark(path, prefix, "metacopy", b"")
    mark(path, prefix, "redirect", b"/secret")


def claim_directory(
    directory: Path, prefix: str, name: str = "dir", *, owner: int = ALICE, to: bytes = b"/private"
) -> None:
    """A directory that says it goes on with ``/private``."""
    path = directory / name
    path.mkdir()
    (path / "own").write_text("own")
    os.chown(path, owner, owner)
    mark(path, prefix, "redirect", to)


def outcome(uid: int, function: Callable[[], Any]) -> Any:
    """What a function gives a user: a value, or the number of its error."""
    try:
        return call_as(uid, function)
    except OSError as error:
        return error.errno


def reading(root: Path, name: str = "file") -> Any:
    return outcome(ALICE, (root / name).read_bytes)


def listing(root: Path, name: str = "dir") -> Any:
    return outcome(ALICE, lambda: sorted(os.listdir(root / name)))


# ---- override_stat of a lower --------------------------------------------------------------------


def make_root_program(path: Path, owner: int) -> None:
    """A program that says it is root's, and runs as root."""
    path.write_text("#!/bin/true\n")
    path.chmod(0o755)
    os.chown(path, owner, owner)
    os.setxattr(path, OVERRIDE, b"0:0:04755")


@pytest.mark.needs("fuse-overlayfs")
@pytest.mark.parametrize("side", ["unionmount", "overlayfs", "fuse-overlayfs"])
def test_the_owner_of_a_lower_makes_no_file_of_root(scene: Scene, side: str) -> None:
    make_root_program(scene.alice / "su", ALICE)
    subjects: dict[str, Subject] = {
        "unionmount": Unionmount(options=FULL),
        "overlayfs": KernelOverlay(KERNEL),
        "fuse-overlayfs": FuseOverlayfs(),
    }
    layout = scene.layout(side)
    os.chown(layout.upper, ALICE, ALICE)  # the mount's root is the upper's
    with mounted(subjects[side], layout) as root:
        found = (root / "su").stat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (ALICE, 0o755)
        call_as(ALICE, lambda: (root / "su").rename(root / "su2"))
    found = (layout.upper / "su2").stat()
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (ALICE, 0o755)


@pytest.mark.parametrize(
    ("option", "owner", "mode", "closed", "believed"),
    [
        ("", 0, 0o644, False, True),
        ("", 0, 0o664, False, False),
        ("", 0, 0o646, False, False),
        ("", 0, 0o666, True, True),
        ("", ALICE, 0o644, False, False),
        ("", ALICE, 0o644, True, False),
        (",xattr_permissions=2", ALICE, 0o666, False, True),
        (",xattr_permissions=0", 0, 0o644, True, False),
    ],
)
def test_whose_override_stat_of_a_lower_is_believed(
    scene: Scene, option: str, owner: int, mode: int, closed: bool, believed: bool
) -> None:
    for name in ("file", "dir"):
        path = scene.base / name
        path.touch() if name == "file" else path.mkdir()
        path.chmod(mode)
        os.chown(path, owner, owner)
        os.setxattr(path, OVERRIDE, b"7:8:0711")
    if closed:
        scene.base.chmod(0o700)
    with mounted(Unionmount(options=FULL + option), scene.layout("ours")) as root:
        for name in ("file", "dir"):
            found = (root / name).stat()
            shown = (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))
            assert shown == ((7, 8, 0o711) if believed else (owner, owner, mode))


@pytest.mark.needs("fuse-overlayfs")
def test_xattr_permissions_shows_what_fuse_overlayfs_shows(scene: Scene) -> None:
    class Asked(FuseOverlayfs):
        def command(self, layout: Layout) -> list[str]:
            options = f"lowerdir={scene.alice}:{scene.base},xattr_permissions=2"
            return ["fuse-overlayfs", "-f", "-o", options, str(layout.mountpoint)]

    for place in (scene.alice, scene.base):
        os.setxattr(place, OVERRIDE, b"0:0:0755")
    make_root_program(scene.alice / "su", ALICE)
    seen = []
    for subject in (Asked(), Unionmount(options=FULL + ",xattr_permissions=2")):
        with mounted(subject, scene.layout(subject.name.replace(" ", "-"))) as root:
            found = (root / "su").stat()
            seen.append((found.st_uid, found.st_gid, found.st_mode))
    assert seen == [(0, 0, stat.S_IFREG | 0o4755)] * 2


# ---- redirects and metacopies that somebody else wrote -------------------------------------------


@pytest.mark.parametrize("prefix", USER_PREFIXES)
@pytest.mark.parametrize("option", ["", ",userxattr"])
@pytest.mark.parametrize("where", ["lower", "upper"])
def test_root_follows_no_marks_of_others(
    scene: Scene, prefix: str, option: str, where: str
) -> None:
    layout = scene.layout("ours")
    place = scene.alice if where == "lower" else layout.upper
    claim_file(place, prefix)
    claim_directory(place, prefix)
    ours = Unionmount(options=FULL + option)
    if (where, prefix, option) == ("upper", "user.overlay.", ""):
        # nor takes it an upper for one whose marks are below trusted.
        with pytest.raises(AssertionError, match="mount it with -o userxattr"):
            ours.mount(layout)
        return
    with mounted(ours, layout) as root:
        assert reading(root) == errno.EIO
        assert listing(root) == errno.EIO
        for name in ("own", "inner", "new"):
            assert outcome(ALICE, (root / "dir" / name).stat) == errno.EIO
        found = (root / "file").stat()
        assert (found.st_uid, found.st_size) == (ALICE, len(SECRET))
        assert (root / "dir").stat().st_uid == ALICE
        names = sorted(path.name for path in root.iterdir())
        assert names == ["dir", "file", "open", "private", "secret"]
        assert (root / "open").read_text() == "open"
        if where == "upper":
            assert outcome(0, partial((root / "dir").rename, root / "moved")) == errno.EIO
            assert outcome(0, (root / "dir").rmdir) == errno.EIO
    lines = ours.log().splitlines()
    assert {line.split(": ")[1] for line in lines} == {f"{where} directory {place}"}
    assert {line.split(": ")[2] for line in lines} == {"dir", "file"}
    assert all("not followed" in line for line in lines)


@pytest.mark.parametrize("options", [KERNEL, KERNEL_USER])
@pytest.mark.parametrize("where", ["lower", "upper"])
def test_the_kernel_does_not_follow_them_either(scene: Scene, options: str, where: str) -> None:
    layout = scene.layout("kernel")
    place = scene.alice if where == "lower" else layout.upper
    claim_file(place, "user.overlay.")
    claim_directory(place, "user.overlay.")
    with mounted(KernelOverlay(options), layout) as root:
        assert reading(root) != SECRET
        assert listing(root) in (["own"], errno.EPERM)


@pytest.mark.parametrize("change", ["chmod", "rename", "write", "truncate", "remove"])
def test_changing_what_is_not_followed_shows_nothing_else(scene: Scene, change: str) -> None:
    claim_file(scene.alice, "user.overlay.")
    claim_directory(scene.alice, "user.overlay.")
    layout = scene.layout("ours")

    def write(root: Path) -> None:
        with pytest.raises(OSError, match="Input/output"), (root / "file").open("r+b") as file:
            file.write(b"x")

    def remove(root: Path) -> None:
        with pytest.raises(OSError, match="Input/output"):
            (root / "dir").rmdir()

    def chmod(root: Path) -> None:
        for name in ("file", "dir"):
            (root / name).chmod(0o777)

    def rename(root: Path) -> None:
        for name in ("file", "dir"):
            (root / name).rename(root / f"{name}2")

    changes: dict[str, Callable[[Path], object]] = {
        "chmod": chmod,
        "rename": rename,
        "write": write,
        "truncate": lambda root: os.truncate(root / "file", 0),
        "remove": remove,
    }
    names = ("file2", "dir2") if change == "rename" else ("file", "dir")
    for _ in range(2):  # and as another mount sees it
        with mounted(Unionmount(options=FULL), layout) as root:
            changes[change](root)
            changes[change] = lambda _: None
            assert reading(root, names[0]) == (b"" if change == "truncate" else errno.EIO)
            assert listing(root, names[1]) == errno.EIO


def test_marks_that_hide_are_everybodys(scene: Scene) -> None:
    for name in ("opaque", "gone", "device"):
        (scene.base / name).mkdir()
        (scene.base / name / "below").touch()
    (scene.alice / "opaque").mkdir()
    os.setxattr(scene.alice / "opaque", "user.overlay.opaque", b"y")
    (scene.alice / ".wh.gone").touch()
    os.mknod(scene.alice / "device", stat.S_IFCHR, 0)
    for name in ("opaque", ".wh.gone", "device"):
        os.chown(scene.alice / name, ALICE, ALICE)
    with mounted(Unionmount(options=FULL), scene.layout("ours")) as root:
        assert listing(root, "opaque") == []
        assert not (root / "gone").exists()
        assert not (root / "device").exists()


def test_a_redirect_of_root_leads_through_none_of_others(scene: Scene) -> None:
    claim_directory(scene.alice, "user.overlay.")
    upmost = scene.top / "root"
    (upmost / "led").mkdir(parents=True)
    mark(upmost / "led", "trusted.overlay.", "redirect", b"/dir")
    layout = scene.layout("ours")
    layout = replace(layout, lowers=(upmost, *layout.lowers))
    with mounted(Unionmount(options=FULL), layout) as root:
        assert listing(root, "led") == errno.EIO
        assert "led" in listing(root, ".")
        (root / "new").hardlink_to(root / "open")  # asks for all redirects
        assert (root / "open").stat().st_nlink == 2


# ---- what still is followed ----------------------------------------------------------------------


def large(directory: Path) -> None:
    (directory / "large").write_bytes(SECRET)
    (directory / "tree").mkdir()
    (directory / "tree/leaf").write_text("leaf")


def has_data(path: Path) -> bool:
    """Whether the data of a large file is its own."""
    return path.stat().st_blocks >= len(SECRET) // 512


def move_both(root: Path) -> None:
    (root / "large").chmod(0o640)
    (root / "large").rename(root / "moved-large")
    (root / "tree").rename(root / "moved")


def check_moved(root: Path) -> None:
    assert (root / "moved-large").read_bytes() == SECRET
    assert (root / "moved/leaf").read_text() == "leaf"
    assert not (root / "tree").exists()
    assert not (root / "large").exists()


def test_trusted_marks_are_followed(scene: Scene) -> None:
    claim_file(scene.alice, "trusted.overlay.")
    claim_directory(scene.alice, "trusted.overlay.")
    mark(scene.alice / "dir", "user.overlay.", "redirect", b"/nowhere")  # what root says counts
    with mounted(Unionmount(options=FULL), scene.layout("ours")) as root:
        assert reading(root) == SECRET
        assert sorted(os.listdir(root / "dir")) == ["inner", "own"]
    with mounted(Unionmount(options=FULL + ",userxattr"), scene.layout("user")) as root:
        assert (reading(root), listing(root)) == (errno.EIO, errno.EIO)


def test_an_upper_of_root_is_a_lower_again(scene: Scene) -> None:
    large(scene.base)
    first, second = scene.layout("first"), scene.layout("second")
    with mounted(Unionmount(options=FULL), first) as root:
        move_both(root)
    assert not has_data(first.upper / "moved-large")
    again = replace(second, lowers=(first.upper, *first.lowers))
    with mounted(Unionmount(options=FULL), again) as root:
        check_moved(root)
    with mounted(KernelOverlay(KERNEL), replace(scene.layout("kernel"), lowers=again.lowers)) as at:
        check_moved(at)


@pytest.mark.parametrize("option", [",userxattr"])
def test_with_userxattr_nothing_leads_elsewhere(scene: Scene, option: str) -> None:
    large(scene.base)
    seen = []
    for side, subject in (
        ("ours", Unionmount(options=FULL + option)),
        ("kernel", KernelOverlay(KERNEL_USER)),
    ):
        layout = scene.layout(side)
        with mounted(subject, layout) as root:
            code = outcome(0, partial((root / "tree").rename, root / "moved"))
            (root / "large").chmod(0o640)
            (root / "made").mkdir()
            (root / "made").rename(root / "made2")
        copied = has_data(layout.upper / "large")
        seen.append((code, copied, (layout.upper / "made2").is_dir()))
        assert not (layout.upper / "tree").exists()
    assert seen == [(errno.EXDEV, True, True)] * 2


@pytest.mark.parametrize("options", [",userxattr,redirect_dir=on", ",userxattr,metacopy=on"])
def test_userxattr_and_marks_that_lead_are_refused(scene: Scene, options: str) -> None:
    refusal = pytest.raises(AssertionError, match=r"exit 1\n.*leave one of the two out")
    with refusal, mounted(Unionmount(options=options), scene.layout("ours")):
        pass
    kernel = KernelOverlay(options.strip(","))
    with pytest.raises(OSError, match="Invalid argument"), mounted(kernel, scene.layout("kernel")):
        pass


def test_other_xattr_permissions_are_refused(scene: Scene) -> None:
    ours = Unionmount(options=f"{FULL},xattr_permissions=3")
    refusal = pytest.raises(AssertionError, match=r"exit 1\n.*not one of 0, 1, 2")
    with refusal, mounted(ours, scene.layout("ours")):
        pass


# ---- a mount of an ordinary user -----------------------------------------------------------------


@pytest.fixture
def bob(scene: Scene) -> Iterator[Callable[[str], tuple[Unionmount, Layout]]]:
    """What mounts as a user without privileges, and directories of his, closed or not."""

    def make(side: str, mode: int = 0o700) -> tuple[Unionmount, Layout]:
        layout = scene.layout(side)
        for path in (layout.upper.parent, *layout.upper.parent.iterdir()):
            os.chown(path, ALICE, ALICE)
        layout.upper.parent.chmod(mode)
        os.chown(scene.base, ALICE, ALICE)
        for path in scene.base.rglob("*"):
            os.chown(path, ALICE, ALICE)
        return Unionmount(become_nobody()), layout

    with fuse_for_all():
        yield make


def test_an_upper_of_an_ordinary_user_is_his_lower_again(
    scene: Scene, bob: Callable[..., tuple[Unionmount, Layout]]
) -> None:
    large(scene.base)
    ours, first = bob("first")
    with mounted(ours, first) as root:
        call_as(ALICE, lambda: move_both(root))
        call_as(ALICE, lambda: (root / "moved").chmod(0o777))
    assert not has_data(first.upper / "moved-large")
    with mounted(ours, first) as root:
        call_as(ALICE, lambda: check_moved(root))
    lowers = (first.upper, *first.lowers)
    ours, second = bob("second")
    with mounted(ours, replace(second, lowers=lowers)) as root:
        call_as(ALICE, lambda: check_moved(root))
    assert ours.log() == ""
    root_mount = Unionmount(options=FULL)
    with mounted(root_mount, replace(scene.layout("root"), lowers=lowers)) as root:
        assert outcome(0, (root / "moved-large").read_bytes) == errno.EIO
        assert outcome(0, lambda: list((root / "moved").iterdir())) == errno.EIO
    assert str(first.upper) in root_mount.log()


def test_an_ordinary_user_follows_no_marks_of_others(
    scene: Scene, bob: Callable[..., tuple[Unionmount, Layout]]
) -> None:
    ours, layout = bob("ours")
    claim_file(scene.alice, "user.overlay.", owner=1234)
    claim_directory(scene.alice, "user.overlay.", owner=1234)
    claim_file(scene.alice, "user.overlay.", "writable")
    (scene.alice / "writable").chmod(0o666)
    claim_directory(scene.alice, "user.overlay.", "mine")
    claim_file(scene.alice, "user.overlay.", "roots", owner=0)
    with mounted(ours, layout) as root:
        assert (reading(root), listing(root)) == (errno.EIO, errno.EIO)
        assert reading(root, "writable") == errno.EIO
        assert listing(root, "mine") == ["inner", "own"]
        assert reading(root, "roots") == SECRET


def test_in_an_open_upper_what_leads_stays_his(
    scene: Scene, bob: Callable[..., tuple[Unionmount, Layout]]
) -> None:
    """Others could set marks on what they may write to; the modes on disk let nobody do so."""
    large(scene.base)
    ours, layout = bob("ours", 0o755)

    def change(root: Path) -> None:
        move_both(root)
        for name in ("moved", "moved-large"):
            (root / name).chmod(0o777)

    with mounted(ours, layout) as root:
        call_as(ALICE, lambda: change(root))
    assert not has_data(layout.upper / "moved-large")
    claim_file(layout.upper, "user.overlay.", "other", owner=1234)
    claim_directory(layout.upper, "user.overlay.", "others", owner=1234)
    for _ in range(2):
        with mounted(ours, layout) as root:
            call_as(ALICE, partial(check_moved, root))
            assert stat.S_IMODE(outcome(ALICE, (root / "moved").stat).st_mode) == 0o777
            assert (reading(root, "other"), listing(root, "others")) == (errno.EIO, errno.EIO)
    (layout.upper / "moved").chmod(0o777)  # by whom the directory on disk is opened to others
    with mounted(ours, layout) as root:
        assert listing(root, "moved") == errno.EIO


_IN_NAMESPACE = """
set -e
cd "$1"
shift
overlay() { "$@" overlay -o lowerdir=alice:base,upperdir=ns/upper,workdir=ns/work,suid,dev ns/mnt; }
overlay "$@"
mv -T ns/mnt/tree ns/mnt/moved
chmod 640 ns/mnt/large
chown 1234 ns/mnt/large ns/mnt/moved || true
"$@" umount ns/mnt
overlay "$@"
cat ns/mnt/moved/leaf
cmp ns/mnt/large base/large
! cat ns/mnt/strangers 2>/dev/null
"$@" umount ns/mnt
"""
_MAPS = {"one": "0 0 1", "many": "0 0 65536"}


@pytest.mark.parametrize("users", _MAPS)
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_root_of_a_user_namespace_is_an_ordinary_user(scene: Scene, users: str, mode: int) -> None:
    """Where he can give files away, he leaves marks only where nobody else gets to them."""
    large(scene.base)
    layout = scene.layout("ns")
    layout.upper.parent.chmod(mode)
    claim_file(scene.alice, "user.overlay.", "strangers")
    state = str(layout.state)
    with user_namespace(_MAPS[users]) as enter:
        done = subprocess.run(
            ["sh", "-c", _IN_NAMESPACE, "sh", str(scene.top), *COMMAND],
            check=False,
            capture_output=True,
            text=True,
            preexec_fn=enter,
            env=os.environ | {"UNIONMOUNT_ROOT": state, "UNIONMOUNT_RUNTIME_DIR": state},
        )
    assert (done.returncode, done.stdout) == (0, "leaf"), done.stderr
    leads = users == "one" or mode == 0o700
    names = os.listxattr(layout.upper / "moved")
    assert ("user.overlay.redirect" in names) is leads  # else it was copied
    assert has_data(layout.upper / "large") is not leads
    if users == "many":
        assert (layout.upper / "moved").stat().st_uid == 1234


# ---- other claims --------------------------------------------------------------------------------


def test_the_number_of_a_lower_file_is_nobodys_to_claim(scene: Scene) -> None:
    """What has the number of a file is that file for the kernel, and its pages are shared."""
    layout = scene.layout("ours")
    ours = Unionmount(options=FULL + ",userxattr")
    with mounted(ours, layout) as root:
        number = (root / "secret").stat().st_ino
    forged = layout.upper / "forged"
    forged.write_bytes(b"x" * len(SECRET))
    os.chown(forged, ALICE, ALICE)
    os.setxattr(forged, "user.overlay.unionmount.origin", b"%d" % number)
    with mounted(ours, layout) as root:
        assert (root / "secret").read_bytes() == SECRET
        assert (root / "forged").stat().st_ino != number
        assert reading(root, "forged") == b"x" * len(SECRET)


def test_nobody_else_finishes_a_group_of_hard_links(scene: Scene) -> None:
    (scene.base / "link").symlink_to("open")
    layout = scene.layout("ours")
    ours = Unionmount(options=FULL)
    with mounted(ours, layout) as root:
        number = (root / "link").lstat().st_ino
    index = layout.work / "index"
    index.mkdir()
    (index / str(number)).symlink_to("secret")
    os.chown(index, ALICE, ALICE)
    with mounted(ours, layout) as root:
        assert os.readlink(root / "link") == "open"


# ---- marks in images -----------------------------------------------------------------------------

IMAGE_MARKS = {
    "user.overlay.redirect": b"/private",
    "user.overlay.metacopy": b"x",
    "user.overlay.opaque": b"y",
    "user.fuseoverlayfs.opaque": b"y",
    "trusted.overlay.redirect": b"/private",
    "trusted.overlay.metacopy": b"x",
    "trusted.overlay.unionmount.origin": b"1",
    "security.fuseoverlayfs.override_stat": b"0:0:04755",
    OVERRIDE: b"0:0:04755",
}


@pytest.fixture
def image(top: Path) -> Path:
    xattrs = {**IMAGE_MARKS, "user.plain": b"x"}
    layer = Layer().directory("./", xattrs=xattrs).directory("dir", xattrs=xattrs)
    layer.file("dir/file", b"of the image", xattrs=xattrs, owner=(7, 8))
    return docker_archive(top / "image.tar", [layer])


def test_marks_in_an_image_mean_nothing(scene: Scene, image: Path) -> None:
    """Neither in it, nor in what is copied up from it, nor in a mount with the image in it."""
    layout = replace(scene.layout("ours"), image=image)
    with mounted(UnionmountImage(), layout) as root:
        for path in (root, root / "dir", root / "dir/file"):
            assert set(os.listxattr(path)) == {"user.plain"}
        (root / "dir/file").chmod(0o600)
        (root / "dir").rename(root / "dir2")
        assert (root / "dir2/file").read_bytes() == b"of the image"
    for path in (layout.upper, layout.upper / "dir2/file"):
        ours = {f"trusted.overlay.unionmount.{mark}" for mark in ("origin", "lowers", "namespace")}
        if path == layout.upper:
            ours.add(OVERRIDE)  # what the mount's root shows
        assert set(os.listxattr(path)) - ours == {"user.plain"}
    assert (layout.upper / "dir2/file").stat().st_uid == 7


@pytest.fixture
def escaping(top: Path) -> Path:
    """An image whose layer has marks as a mount writes those that its users set."""
    escaped = {
        prefix + "overlay." + name.removeprefix(prefix): value
        for name, value in IMAGE_MARKS.items()
        for prefix in ("trusted.overlay.", "user.overlay.")
        if name.startswith(prefix)
    }
    layer = Layer().directory("./", xattrs=escaped).directory("dir", xattrs=escaped)
    layer.file("dir/file", b"of the image", xattrs=escaped)
    return docker_archive(top / "escaping.tar", [layer])


@pytest.mark.parametrize("name", ["image", "escaping"])
def test_marks_of_an_image_lead_no_mount_astray(
    scene: Scene, name: str, request: pytest.FixtureRequest
) -> None:
    image = request.getfixturevalue(name)
    shown = scene.top / "shown"
    shown.mkdir()
    state = str(scene.layout("image").state)
    line = CommandLine(environment={"UNIONMOUNT_ROOT": state, "UNIONMOUNT_RUNTIME_DIR": state})
    line.run("mount", image, shown)
    try:
        for subject in (Unionmount(options=FULL), KernelOverlay(KERNEL)):
            layout = replace(scene.layout(subject.name[:5]), lowers=(shown, scene.base))
            with mounted(subject, layout) as root:
                assert (root / "dir/file").read_bytes() == b"of the image"
                assert sorted(path.name for path in (root / "dir").iterdir()) == ["file"]
    finally:
        line.run("umount", shown)


def test_python_knows_which_namespace_it_is_in() -> None:
    code = "from unionmount.system.trust import *; print(reads_trusted(), has_identity())"
    seen = []
    for prefix in ([], ["unshare", "--user", "--map-root-user"], ["unshare", "--user"]):
        command = [*prefix, sys.executable, "-c", code]
        seen.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert seen == ["True True\n", "False True\n", "False False\n"]
