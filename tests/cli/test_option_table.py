"""Every option that somebody may pass, mounted for real: carried out, without effect, or refused.

docs/reference/options.md has the same list. Where the kernel's overlayfs knows an option, mount(8)
tries it there: what the kernel refuses is refused; what only we refuse, or only we take, is marked.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.backing import backing
from support.mounting import COMMAND, CommandLine, is_mounted, own_places

from unionmount.cli.commands import overlay
from unionmount.mounting import options as generic

pytestmark = pytest.mark.needs("fuse")

DOCS = Path(__file__).parents[2] / "docs/reference/options.md"
WRITABLE = "upperdir=u,workdir=w"
LOWERS = "lowerdir=a:b"

BOTH, OURS, NEITHER, KERNEL = "both", "ours", "neither", "kernel"  # who takes it

# On an upper over two lower directories.
WRITABLE_ROWS = {
    **dict.fromkeys(
        (
            *[
                "redirect_dir=on",
                "redirect_dir=off",
                "redirect_dir=follow",
                "redirect_dir=nofollow",
            ],
            *["index=on", "index=off", "nfs_export=off", "xino=on", "xino=off", "xino=auto"],
            *[
                "metacopy=on",
                "metacopy=off",
                "verity=off",
                "volatile",
                "uuid=off",
                "uuid=null",
                "uuid=auto",
            ],
            *[
                "userxattr",
                "default_permissions",
                "ro",
                "rw",
                "suid",
                "nosuid",
                "dev",
                "nodev",
                "exec",
                "noexec",
            ],
            *[
                "atime",
                "noatime",
                "relatime",
                "norelatime",
                "nodiratime",
                "diratime",
                "nostrictatime",
            ],
            *[
                "async",
                "nomand",
                "noiversion",
                "nolazytime",
                "lazytime",
                "context=x",
                'context="a:b:c:s0:c1,c2"',
                "fscontext=x",
                "defcontext=x",
                "rootcontext=x",
                "silent",
                "loud",
                "defaults",
                "auto",
                "noauto",
            ],
            *[
                "nofail",
                "_netdev",
                "nosymfollow",
                "user",
                "users",
                "owner",
                "group",
                "nouser",
                "comment=x",
                "override_creds",
            ],
            *["x-systemd.automount", "userxattr,redirect_dir=nofollow", "userxattr,metacopy=off"],
            *["metacopy=on,redirect_dir=on", "upperdir=u,upperdir=u", "nosuid,,nodev"],
        ),
        BOTH,
    ),
    **dict.fromkeys(
        (
            *[
                "redirect_dir=x",
                "redirect_dir",
                "index=x",
                "metacopy=x",
                "metacopy",
                "xino",
                "volatile=1",
            ],
            *["userxattr=1", "default_permissions=1", "verity=x", "uuid=x", "no-such", "x=y"],
            *["userxattr,redirect_dir=on", "userxattr,redirect_dir=follow"],
            *["userxattr,redirect_dir=off", "userxattr,metacopy=on", "lowerdir", "upperdir"],
            *["metacopy=on,redirect_dir=nofollow", "metacopy=on,redirect_dir=follow"],
            *["metacopy=on,redirect_dir=off", "nfs_export=on,metacopy=on"],
            *["uidmapping=0:1", "gidmapping=0:1:0", "uidmapping=0:1:2:1:5:1", "squash_to_uid=x"],
            *["squash_to_gid=-1", "squash_to_root=1", "noxattrs=2", "plugins=x", "timeout=x"],
            *["xattr_permissions=3", "allow_root", "auto_unmount", "subtype=x", "blksize=1"],
            *["max_read=1", "nooverride_creds=1", "fsync=x", "ino32_t"],
        ),
        NEITHER,
    ),
    **dict.fromkeys(
        (
            *[
                "fsname=x",
                "allow_other",
                "noallow_other",
                "threads=1",
                "fastpath",
                "nofastpath",
                "noio_uring",
                "upper_open",
            ],
            *["xattrs=layers", "fsync=0", "fsync=1", "nopassthrough"],
            *["xattr_permissions=0", "xattr_permissions=1", "xattr_permissions=2"],
            *[
                "fast_ino=1",
                "threaded=1",
                "writeback=0",
                "noxattrs=0",
                "noxattrs=1",
                "uidmapping=0:1:1",
                "gidmapping=0:1:1:1:0:1",
                "squash_to_root",
                "squash_to_uid=1",
                "squash_to_gid=1",
                "static_nlink",
                "noacl",
                "timeout=1.5",
                "clone_fd",
                "fast_ino_check=1",
                *["splice_read", "splice_write", "splice_move", "kernel_cache", "max_write=4096"],
                "max_threads=3",
                "max_idle_threads=3",
                "nonempty",
            ],
        ),
        OURS,
    ),
    **dict.fromkeys(
        (
            *[
                "verity=on",
                "verity=require",
                "uuid=on",
                "nfs_export=on",
                "strictatime",
                "sync",
                "dirsync",
            ],
            *[
                "mand",
                "iversion",
                "nooverride_creds",
                "fsync=strict",
            ],
        ),
        KERNEL,
    ),
}

# Lower directories alone; in each two or more count, as the kernel wants it.
LOWER_ROWS = {
    "lowerdir=a:b": BOTH,
    "lowerdir=a:b,lowerdir=c:a": BOTH,
    "lowerdir+=a,lowerdir+=b": BOTH,
    "lowerdir+=a,lowerdir=b:c": BOTH,
    r"lowerdir=a\:b:c": BOTH,
    r"lowerdir=a\,b:c": BOTH,
    r"lowerdir=a\\b:c": BOTH,
    r"lowerdir=\a:b": BOTH,
    r"lowerdir=c:a" + "\\": BOTH,
    "lowerdir+=a:b,lowerdir+=c": BOTH,
    "lowerdir=a:b,workdir=w": BOTH,
    "lowerdir=a:b,volatile": BOTH,
    "lowerdir=a:b,metacopy=on,redirect_dir=follow": BOTH,
    r"lowerdir=a\072b:c": NEITHER,
    r"lowerdir+=a\:b,lowerdir+=c": NEITHER,
    r"lowerdir+=a\,b,lowerdir+=c": NEITHER,
    "lowerdir=a:b,lowerdir+=c": NEITHER,
    "lowerdir=": NEITHER,
    "lowerdir=a:b,lowerdir=": NEITHER,
    "lowerdir=a:b:": NEITHER,
    "lowerdir=:a:b": NEITHER,
    "lowerdir=a:::b": NEITHER,
    "lowerdir+=,lowerdir+=a": NEITHER,
    "lowerdir=a:b,metacopy=on,redirect_dir=nofollow": NEITHER,
    "lowerdir=a,upperdir=u": NEITHER,
    "lowerdir=a,datadir+=b,metacopy=on": NEITHER,
    "datadir+=b,metacopy=on": NEITHER,
    "lowerdir=a::b,metacopy=on": KERNEL,  # layers of data only
    "lowerdir+=a,datadir+=b,metacopy=on": KERNEL,
    "lowerdir=a": OURS,
}


@pytest.fixture
def top(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, on a file system that the kernel takes an upper on."""
    with backing("tmpfs", 16) as disk:
        disk.chmod(0o700)
        for name in ("a", "b", "c", "a:b", "a,b", "a\\b", "u", "w", "m"):
            (disk / name).mkdir()
        monkeypatch.chdir(disk)
        yield disk
        monkeypatch.undo()


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return CommandLine(environment=own_places(tmp_path))


def clean() -> None:
    """Nothing of an earlier mount is in the way."""
    for name in ("u", "w"):
        shutil.rmtree(name)
        Path(name).mkdir()


def we_take(cli: CommandLine, top: Path, options: str) -> bool:
    clean()
    done = subprocess.run(
        [*COMMAND, "overlay", "-o", options, "m"],
        env=cli.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    mounted = is_mounted(top / "m")
    if mounted:
        cli.run("umount", "m")
    assert mounted == (done.returncode == 0), done.stderr
    assert mounted or done.stderr.count("\n") == 1, done.stderr
    return mounted


def kernel_takes(top: Path, options: str) -> bool:
    clean()
    command = ["mount", "-i", "-t", "overlay", "-o", options, "overlay", str(top / "m")]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0:
        subprocess.run(["umount", top / "m"], check=True)
    return done.returncode == 0


@pytest.mark.needs("root", "overlayfs")
@pytest.mark.parametrize("options", [*WRITABLE_ROWS, *LOWER_ROWS])
def test_taken_or_refused(cli: CommandLine, top: Path, options: str) -> None:
    if options in WRITABLE_ROWS:
        expected, options = WRITABLE_ROWS[options], f"{LOWERS},{WRITABLE},{options}"
    else:
        expected = LOWER_ROWS[options]
    assert we_take(cli, top, options) == (expected in (BOTH, OURS))
    assert kernel_takes(top, options) == (expected in (BOTH, KERNEL))


# ---- what is written down ------------------------------------------------------------------------


def documented(heading: str) -> set[str]:
    """The options in the first column of the tables below a heading."""
    _, _, rest = DOCS.read_text().partition(f"\n## {heading}\n")
    rows = [line for line in rest.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def test_what_has_no_effect_is_documented() -> None:
    numbers = {f"{name}=N" for name in overlay.NUMBERS_HERE}
    comments = {f"{start}…" for start in generic.COMMENTS}
    expected = {*generic.WITHOUT_EFFECT, *overlay.SAME_HERE, *numbers, *comments}
    assert documented("Without effect") - {"x-mount.…", "X-mount.…", "workdir=W"} == expected


def test_what_is_refused_is_documented() -> None:
    here = {
        name + ("" if not value else "=…" if value == "*" else f"={value}")
        for name, values in overlay.REFUSED_HERE.items()
        for value in values
    }
    also = {"x-mount.…", "X-mount.…"}
    assert documented("Refused") == {*generic.REFUSED, *here, *also}


def documented_reasons() -> dict[str, str]:
    """The second columns of both tables, by option."""
    rest = DOCS.read_text().partition("\n## Without effect\n")[2].partition("\n## mount(8)")[0]
    rows = [line.strip("| ").split(" | ") for line in rest.splitlines() if line.startswith("| `")]
    return {
        name: row[1].replace("`", "") for row in rows for name in re.findall(r"`([^`]+)`", row[0])
    }


def test_the_reasons_are_those_of_the_messages() -> None:
    said = {
        **generic.WITHOUT_EFFECT,
        **generic.REFUSED,
        **overlay.SAME_HERE,
        **{f"{name}=N": why for name, why in overlay.NUMBERS_HERE.items()},
        **{f"{start}…": why for start, why in generic.COMMENTS.items()},
        **{
            name + ("" if not value else "=…" if value == "*" else f"={value}"): why
            for name, values in overlay.REFUSED_HERE.items()
            for value, why in values.items()
        },
        **{f"{one}-mount.…": generic.refusal(f"{one}-mount.a") for one in "xX"},
    }
    reasons = documented_reasons()
    reasons.pop("workdir=W")  # the message names it
    assert reasons == said


def test_every_option_is_tried() -> None:
    tried = {
        one.partition("=")[0] for row in (*WRITABLE_ROWS, *LOWER_ROWS) for one in row.split(",")
    }
    tried.add("debug")  # serves in the foreground: tests/cli/test_quick_start.py
    known = {*overlay.KNOWN, *overlay.SAME_HERE, *overlay.NUMBERS_HERE, *overlay.REFUSED_HERE}
    assert {name.partition("=")[0] for name in known} <= tried
