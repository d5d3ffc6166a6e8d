"""``xattr_permissions``: owners and modes of an upper in an xattr, as fuse-overlayfs keeps them.

The same upper is mounted by both programs in turn; what one showed, the other has to show.
"""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from differential.lowers import CAPABILITY
from differential.sides import Layout, Unionmount, mounted
from support.backing import backing
from support.mounting import COMMAND
from support.user_namespaces import user_namespace
from support.users import NOBODY, call_as, fuse_for_all

pytestmark = [pytest.mark.needs("fuse", "root", "setfacl"), pytest.mark.slow]

FUSE = "user.fuseoverlayfs.override_stat"
CONTAINERS = "user.containers.override_stat"
SECURITY = "security.fuseoverlayfs.override_stat"
NAMES = {"1": SECURITY, "2": FUSE}
UNMAPPED = 4294967294

# Both programs in turn, $1 first. chown(1) sets both halves of an owner: fuse-overlayfs 1.10 drops
# the other one. Times are set: with its writeback cache they change when data is written.
SCRIPT = r"""
set -e
top=$PWD
options=lowerdir=lower,upperdir=upper,workdir=work,$OPTIONS
ours() { "$@" overlay -o "$options,$OURS" mount; }
theirs() {
    fuse-overlayfs -f -o "$options" mount &
    until mountpoint -q mount; do kill -0 $!; done
}
leave() { if [ $1 = ours ]; then "${@:2}" umount mount; else umount mount; wait; fi; }
trap 'cd "$top"; ! mountpoint -q mount || umount -l mount; wait' EXIT
show() {
    echo "== $1"
    find . -printf '%p %U:%G %m %y %s %l\n' | sort
    find . -type f -printf '%p %n %T@\n' | sort
    find . -type f -exec stat -c '%n %u %g %a %F %h' {} + | sort
    find . ! -type l -print0 | sort -z | xargs -0 getfacl -n -p
    find . -type f -print0 | sort -z | xargs -0 cat
}
first() {
    echo new >new; chmod 600 new; chown 11:12 new
    mkdir directory; chown 9:9 directory; mkdir -m 1777 sticky
    chmod 4711 low; chown 5:6 low; chmod 4711 low; chown 1:2 below; mv suid moved; rm gone
    echo more >>both; ln both second; : >empty
    case $1$OPTIONS in
        theirs*=1) ;; # it fails: ENOMEM, EPERM
        *) ln -s nowhere link; mkfifo fifo ;;
    esac
    setfacl -m u:5:rx,g:6:r directory; setfacl -d -m u:7:rx sticky
    rm -r replaced; mkdir replaced; echo inside >replaced/inside
}
second() {
    chmod 640 new; chown 21:22 new; echo also >directory/by-second; chown 13:14 directory/by-second
    chmod 2750 below; rm empty; mv low renamed; echo again >gone; echo third >>both
}
third() { chown 31:32 renamed both; chmod 4755 renamed; rmdir sticky; touch new; }
a=$1 b=$2
shift 2
umask 022
settle() { find . -newermt @1500000001 ! -type l -exec touch -d "$1" {} +; }
turn() { $1 "${@:2}"; }
enter() { turn $1 "${@:3}"; (cd mount; $2 $1); leave $1 "${@:3}"; }
one() { first $1; settle @1600000000; show "after the first"; }
two() { show "after the first"; second; settle @1600000001; show "after the second"; }
three() { show "after the second"; third; settle @1600000002; show "after the third"; }
four() { show "after the third"; }
enter $a one "$@"
enter $b two "$@"
enter $a three "$@"
enter $b four "$@"
"""


def sections(said: str) -> list[tuple[str, str]]:
    """What was shown, by the names of the sections."""
    parts = said.split("== ")[1:]
    return [(title, text) for title, _, text in (part.partition("\n") for part in parts)]


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory that nobody else enters, on a file system with ACLs."""
    with backing("ext4", 64) as top:
        top.chmod(0o700)
        place = top / "place"
        place.mkdir()
        fill(place)
        yield place


def fill(place: Path) -> None:
    for name in ("lower", "upper", "work", "mount", "store", "run"):
        (place / name).mkdir()
    lower = place / "lower"
    for name in ("low", "suid", "gone", "both", "other"):
        (lower / name).write_text(f"{name}\n")
    for name in ("below", "replaced"):
        (lower / name).mkdir()
        (lower / name / "file").write_text("file\n")
    os.chown(lower / "below", 7, 8)
    os.chown(lower / "low", 5, 6)
    (lower / "suid").chmod(0o4755)
    (lower / "both").chmod(0o666)
    for one in (place, *place.rglob("*")):
        os.utime(one, (1_500_000_000, 1_500_000_000))


def play(
    place: Path,
    order: tuple[str, str],
    options: str,
    ours: str = "fastpath",
    enter: Callable[[], None] | None = None,
) -> list[tuple[str, str]]:
    done = subprocess.run(
        ["bash", "-c", SCRIPT, "bash", *order, *COMMAND],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=enter,
        env=os.environ
        | {"OPTIONS": options, "OURS": ours}
        | {"UNIONMOUNT_ROOT": str(place / "store"), "UNIONMOUNT_RUNTIME_DIR": str(place / "run")},
    )
    assert done.returncode == 0, done.stderr
    return sections(done.stdout)


def check_turns(seen: list[tuple[str, str]]) -> None:
    """Each state was shown by the one that made it, and by the other one."""
    titles = [title for title, _ in seen]
    assert titles == [
        name for step in ("first", "second", "third") for name in [f"after the {step}"] * 2
    ]
    for (_, left), (_, entered) in zip(seen[::2], seen[1::2], strict=True):
        assert entered.splitlines() == left.splitlines()


@pytest.mark.needs("fuse-overlayfs")
@pytest.mark.parametrize("fastpath", ["fastpath", "nofastpath"])
@pytest.mark.parametrize("value", ["1", "2"])
@pytest.mark.parametrize("order", [("ours", "theirs"), ("theirs", "ours")])
def test_both_programs_read_what_the_other_wrote(
    disk: Path, order: tuple[str, str], value: str, fastpath: str
) -> None:
    check_turns(play(disk, order, f"xattr_permissions={value}", fastpath))
    for path in (disk / "upper").rglob("*"):
        if not path.is_symlink() and (path.is_dir() or path.is_file()) and ".wh." not in str(path):
            assert os.getxattr(path, NAMES[value])
            assert path.stat().st_uid == 0


@pytest.mark.needs("fuse-overlayfs", "unshare")
@pytest.mark.parametrize("order", [("ours", "theirs"), ("theirs", "ours")])
def test_so_does_root_of_a_user_namespace(disk: Path, order: tuple[str, str]) -> None:
    with fuse_for_all(), user_namespace("0 0 65536") as enter:
        check_turns(play(disk, order, "xattr_permissions=2", enter=enter))
    assert os.getxattr(disk / "upper/both", FUSE)


@pytest.mark.parametrize("value", ["1", "2"])
def test_the_mount_shows_the_same_with_and_without_it(disk: Path, value: str) -> None:
    seen = []
    for options in ("", f"xattr_permissions={value}"):
        place = disk.parent / f"with-{options}"
        place.mkdir()
        fill(place)
        seen.append(play(place, ("ours", "ours"), options or "fastpath"))
        check_turns(seen[-1])
    shown = [
        [[line for line in text.splitlines() if "@" not in line] for _, text in one] for one in seen
    ]
    assert [[line.rsplit(" ", 1)[0] for line in text] for text in shown[0]] == [
        [line.rsplit(" ", 1)[0] for line in text] for text in shown[1]
    ]


# ---- what is on disk -----------------------------------------------------------------------------


@pytest.fixture
def layout(disk: Path) -> Layout:
    return Layout((disk / "lower",), disk / "upper", disk / "work", disk / "mount", disk / "run")


def ours(value: str, options: str = ",suid,dev") -> Unionmount:
    return Unionmount(options=f"{options},xattr_permissions={value}")


def shown(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


@pytest.mark.parametrize("value", ["1", "2"])
def test_the_disk_grants_no_more_than_the_mount(layout: Layout, value: str) -> None:
    """Where fuse-overlayfs gives everybody 0755."""
    with mounted(ours(value), layout) as root:
        for name in ("secret", "program", "shared"):
            (root / name).write_text(name)
        (root / "secret").chmod(0o600)
        os.chown(root / "program", 5, 6)
        (root / "program").chmod(0o6755)
        (root / "shared").chmod(0o666)
        (root / "directory").mkdir(0o700)
    assert shown(layout.upper / "secret") == (0, 0, 0o600)
    assert shown(layout.upper / "program") == (0, 0, 0o755)
    assert shown(layout.upper / "shared") == (0, 0, 0o644)
    assert shown(layout.upper / "directory") == (0, 0, 0o700)
    assert os.getxattr(layout.upper / "program", NAMES[value]) == b"5:6:6755:file"


@pytest.mark.parametrize("value", ["1", "2"])
def test_everything_else_is_real(layout: Layout, value: str) -> None:
    with mounted(ours(value), layout) as root:
        os.mknod(root / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
        os.chown(root / "null", 5, 6)
        (root / "able").write_text("x")
        os.setxattr(root / "able", "security.capability", CAPABILITY)
        (root / "link").symlink_to("able")
        os.chown(root / "link", 7, 8, follow_symlinks=False)
    assert shown(layout.upper / "null") == (5, 6, 0o640)
    assert (layout.upper / "null").stat().st_rdev == os.makedev(1, 3)
    assert shown(layout.upper / "link")[:2] == (7, 8)
    assert os.getxattr(layout.upper / "able", "security.capability") == CAPABILITY
    with mounted(ours(value), layout) as root:
        os.chown(root / "able", 5, 5)  # as everywhere, it takes the capability away
        assert "security.capability" not in os.listxattr(root / "able")
    assert "security.capability" not in os.listxattr(layout.upper / "able")


def test_a_file_of_another_owner_becomes_the_daemons(layout: Layout) -> None:
    """An upper may have been used without the option before."""
    with mounted(Unionmount(options=",suid,dev"), layout) as root:
        (root / "able").write_text("x")
        os.chown(root / "able", 5, 6)
        os.setxattr(root / "able", "security.capability", CAPABILITY)
    with mounted(ours("2"), layout) as root:
        assert shown(root / "able") == (5, 6, 0o644)
        (root / "able").chmod(0o4700)
        assert shown(root / "able") == (5, 6, 0o4700)
        assert os.getxattr(root / "able", "security.capability") == CAPABILITY
    assert shown(layout.upper / "able") == (0, 0, 0o700)
    with mounted(Unionmount(options=",suid,dev"), layout) as root:
        assert shown(root / "able") == (5, 6, 0o4700)


def test_nothing_is_written_that_fuse_overlayfs_does_not_read(layout: Layout) -> None:
    large = layout.lowers[0] / "large"
    large.write_bytes(b"large" * 100_000)
    with mounted(ours("2"), layout) as root:
        (root / "large").chmod(0o600)
        with pytest.raises(OSError, match="cross-device"):
            (root / "below").rename(root / "elsewhere")
    assert (layout.upper / "large").read_bytes() == large.read_bytes()
    with mounted(ours("2", ",redirect_dir=on"), layout) as root:  # unless one wants it
        (root / "below").rename(root / "elsewhere")
    assert os.getxattr(layout.upper / "elsewhere", "trusted.overlay.redirect") == b"/below"


# ---- which name ----------------------------------------------------------------------------------


def test_the_name_is_the_one_that_the_directory_has(layout: Layout) -> None:
    """containers/storage and later versions of fuse-overlayfs write the first one there."""
    os.setxattr(layout.upper, CONTAINERS, b"1:2:0751")
    with mounted(ours("2"), layout) as root:
        assert shown(root) == (1, 2, 0o751)
        (root / "new").write_text("x")
        os.chown(root / "new", 5, 6)
    assert os.getxattr(layout.upper / "new", CONTAINERS) == b"5:6:0644:file"
    assert FUSE not in os.listxattr(layout.upper / "new")


@pytest.mark.parametrize("value", ["1", "2"])
def test_an_open_upper_keeps_its_name(disk: Path, layout: Layout, value: str) -> None:
    disk.parent.chmod(0o755)
    layout.upper.chmod(0o777)
    with mounted(ours(value), layout) as root:
        (root / "new").write_text("x")
        os.chown(root / "new", 5, 6)
    assert shown(layout.upper) == (0, 0, 0o755)
    for again in (ours(value), Unionmount(options=",suid,dev")):
        with mounted(again, layout) as root:
            assert shown(root) == (0, 0, 0o777)
            assert shown(root / "new") == (5, 6, 0o644)


@pytest.mark.parametrize("value", ["1", "2"])
def test_another_option_than_that_of_the_upper_is_refused(layout: Layout, value: str) -> None:
    other = {"1": "2", "2": "1"}[value]
    with mounted(ours(value), layout) as root:
        (root / "file").write_text("x")
    with pytest.raises(AssertionError, match=f"mount it with xattr_permissions={value}"):
        ours(other).mount(layout)
    with mounted(Unionmount(options=",suid,dev"), layout) as root:  # without, it is seen
        os.chown(root / "file", 5, 6)
    assert os.getxattr(layout.upper / "file", NAMES[value]) == b"5:6:0644:file"


def test_only_the_administrator_can_have_the_privileged_one(disk: Path) -> None:
    command = "lowerdir=lower,upperdir=upper,workdir=work,xattr_permissions=1"
    with fuse_for_all(), user_namespace("0 0 65536") as enter:
        done = subprocess.run(
            [*COMMAND, "overlay", "-o", command, "mount"],
            cwd=disk,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=enter,
            env=os.environ
            | {"UNIONMOUNT_ROOT": str(disk / "store"), "UNIONMOUNT_RUNTIME_DIR": str(disk / "run")},
        )
    assert done.returncode == 1
    assert "only the administrator (CAP_SYS_ADMIN outside of user namespaces)" in done.stderr
    assert "use -o xattr_permissions=2" in done.stderr
    assert not os.listxattr(disk / "upper")


# ---- whose word counts ---------------------------------------------------------------------------


@pytest.mark.parametrize(("closed", "believed"), [(True, True), (False, False)])
def test_who_can_write_to_a_file_makes_it_no_program_of_root(
    disk: Path, layout: Layout, closed: bool, believed: bool
) -> None:
    """fuse-overlayfs leaves files that everybody may write to, and believes them."""
    disk.parent.chmod(0o700 if closed else 0o755)
    os.setxattr(layout.upper, FUSE, b"0:0:40755")
    program = layout.upper / "program"
    program.write_text("x")
    program.chmod(0o777)
    claim = b"0:0:104755"
    if closed:
        os.setxattr(program, FUSE, claim)
    else:
        call_as(NOBODY, lambda: os.setxattr(program, FUSE, claim))
    with mounted(ours("2"), layout) as root:
        assert shown(root / "program") == (0, 0, 0o4755 if believed else 0o777)


def test_what_others_may_write_counts_below_security(disk: Path, layout: Layout) -> None:
    disk.parent.chmod(0o755)
    os.setxattr(layout.upper, SECURITY, b"0:0:40755")
    for name, owner in (("roots", 0), ("strangers", NOBODY)):
        path = layout.upper / name
        path.write_text("x")
        path.chmod(0o777)
        os.chown(path, owner, owner)
        os.setxattr(path, SECURITY, b"5:6:100711")
        with pytest.raises(PermissionError):
            call_as(NOBODY, lambda: os.setxattr(path, SECURITY, b"0:0:104755"))  # noqa: B023
    with mounted(ours("1"), layout) as root:
        assert shown(root / "roots") == (5, 6, 0o711)
        assert shown(root / "strangers") == (NOBODY, NOBODY, 0o777)


@pytest.mark.parametrize(
    ("name", "option", "owner", "mode", "believed"),
    [
        (SECURITY, "", 0, 0o777, True),
        (SECURITY, ",xattr_permissions=1", 0, 0o777, True),
        (SECURITY, "", NOBODY, 0o755, False),
        (SECURITY, ",xattr_permissions=0", 0, 0o755, False),
        (SECURITY, ",xattr_permissions=2", NOBODY, 0o777, True),
        (FUSE, "", 0, 0o755, True),
        (FUSE, "", 0, 0o777, False),
        (FUSE, ",xattr_permissions=1", 0, 0o777, False),
        (FUSE, ",xattr_permissions=2", NOBODY, 0o777, True),
    ],
)
def test_lower_directories_have_it_by_all_names(
    disk: Path, layout: Layout, name: str, option: str, owner: int, mode: int, believed: bool
) -> None:
    disk.parent.chmod(0o755)
    lower = layout.lowers[0]
    os.setxattr(lower, name, b"0:0:40755")
    file = lower / "other"
    os.chown(file, owner, owner)
    file.chmod(mode)
    os.setxattr(file, name, b"5:6:104711")
    os.setxattr(file, CONTAINERS, b"7:7:0")  # means nothing here
    with mounted(Unionmount(options=f",suid,dev{option}"), layout) as root:
        assert shown(root / "other") == ((5, 6, 0o4711) if believed else (owner, owner, mode))


def test_nobody_else_chooses_the_name(disk: Path, layout: Layout) -> None:
    """With another one, what the files say would be lost: modes that hide, owners."""
    disk.parent.chmod(0o755)
    lower = layout.lowers[0]
    os.setxattr(lower / "other", CONTAINERS, b"5:6:0400")
    lower.chmod(0o777)
    call_as(NOBODY, lambda: os.setxattr(lower, FUSE, b"0:0:40777"))
    with mounted(Unionmount(options=",suid,dev"), layout) as root:
        assert shown(root / "other") == (5, 6, 0o400)


def test_half_an_owner_is_nobody(layout: Layout) -> None:
    """fuse-overlayfs before 1.14 writes so; ignoring it would show the owner on disk, root."""
    os.setxattr(layout.upper, FUSE, b"0:0:40755")
    program = layout.upper / "program"
    program.write_text("x")
    program.chmod(0o4755)
    os.setxattr(program, FUSE, b"-1:6:104755")
    with mounted(ours("2"), layout) as root:
        assert shown(root / "program") == (UNMAPPED, 6, 0o4755)
        os.chown(root / "program", 5, 6)
        assert shown(root / "program") == (5, 6, 0o755)


def test_users_of_the_mount_cannot_set_it(layout: Layout) -> None:
    for value in ("2", ""):
        with mounted(ours(value) if value else Unionmount(), layout) as root, ExitStack():
            (root / "file").touch()
            for name in (FUSE, CONTAINERS, SECURITY):
                with pytest.raises(OSError, match="not permitted") as caught:
                    os.setxattr(root / "file", name, b"0:0:04755")
                assert caught.value.errno == errno.EPERM
                assert name not in os.listxattr(root / "file")
