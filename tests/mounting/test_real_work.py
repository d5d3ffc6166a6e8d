"""Real work on a writable mount: programs that would notice if anything were not as it should be.

The mount is `unionmount overlay` over two lower directories; UNIONMOUNT_REAL_WORK=fuse-overlayfs or
=overlayfs takes another file system, to tell a mistake of the tests from one of the mount. What is
copied up in the course of the work lies in the lowers: the sources that are compiled and some of
the trees that are removed. The lowers must not change.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from differential import sides
from differential.sides import FuseOverlayfs, KernelOverlay, Layout, Subject, Unionmount
from differential.sides import UnionmountImage as UnionmountImageSubject
from support.backing import backing
from support.compare import differences, snapshot
from support.programs import run
from support.real_images import RealImage, mirror

pytestmark = [pytest.mark.needs("fuse", "root", "backing-ext4"), pytest.mark.timeout(900)]

FILES = 10_000
_SUBJECTS: dict[str, Callable[[], Subject]] = {
    "unionmount": lambda: Unionmount(options=",dev,suid"),
    "fuse-overlayfs": FuseOverlayfs,
    "overlayfs": KernelOverlay,
}


# ---- the mount -----------------------------------------------------------------------------------


def c_project(top: Path) -> None:
    """Fifty C files that need each other, and a Makefile."""
    top.mkdir()
    for number in range(50):
        (top / f"part{number}.h").write_text(f"int part{number}(int);\n")
        following = f"part{number + 1}(n) + " if number < 49 else ""
        include = f'#include "part{number + 1}.h"\n' if number < 49 else ""
        body = f"int part{number}(int n) {{ return {following}n * {number}; }}\n"
        (top / f"part{number}.c").write_text(f'#include "part{number}.h"\n{include}{body}')
    main = '#include <stdio.h>\n#include "part0.h"\nint main(void) { printf("%d\\n", part0(3)); }\n'
    (top / "main.c").write_text(main)
    (top / "Makefile").write_text(
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\n"
        "CFLAGS := -O0 -MMD\n"
        "program: libparts.a main.o\n\t$(CC) -o $@ main.o libparts.a\n"
        "libparts.a: $(filter-out main.o,$(OBJECTS))\n\t$(AR) rcs $@ $^\n"
        "clean:\n\trm -f *.o *.a *.d program\n"
        "-include $(wildcard *.d)\n"
    )


def many_files(top: Path, count: int, seed: int) -> None:
    """Small files in directories of fifty, some with a second name."""
    choose = random.Random(seed)
    for number in range(count):
        directory = top / f"d{number // 1000}" / f"e{number % 1000 // 50}"
        if number % 50 == 0:
            directory.mkdir(parents=True)
        path = directory / f"file{number}"
        path.write_bytes(choose.randbytes(choose.randrange(1500)))
        if number % 97 == 0:
            os.link(path, directory / f"link{number}")
        if number % 89 == 0:
            (directory / f"symlink{number}").symlink_to(path.name)


@contextmanager
def mounted(subject: Subject, base: Path, lowers: tuple[Path, ...]) -> Iterator[Path]:
    """A writable mount on the file system of ``base``."""
    places = [base / name for name in ("upper", "work", "mnt", "state")]
    for place in places:
        place.mkdir()
        place.chmod(0o755)
    with sides.mounted(subject, Layout(lowers, *places)) as root:
        yield root


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    with backing("ext4", 1536) as top:
        yield top


@pytest.fixture(scope="module")
def lowers(disk: Path) -> tuple[Path, ...]:
    made = (disk / "lower-top", disk / "lower")
    for path in made:
        path.mkdir()
    c_project(made[1] / "project")
    many_files(made[1] / "tree", 500, 1)
    many_files(made[0] / "tree", 100, 2)
    return made


@pytest.fixture(scope="module")
def writable_mount(disk: Path, lowers: tuple[Path, ...]) -> Iterator[Path]:
    """A writable mount over two lower directories, which must be the same afterwards."""
    before = [snapshot(path) for path in lowers]
    subject = _SUBJECTS[os.environ.get("UNIONMOUNT_REAL_WORK", "unionmount")]()
    with mounted(subject, disk, lowers) as where:
        yield where
    for path, then in zip(lowers, before, strict=True):
        assert differences(then, snapshot(path)) == []


@pytest.fixture
def here(writable_mount: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory of the test's own on the mount."""
    directory = writable_mount / request.node.name.partition("[")[0]
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


# ---- files ---------------------------------------------------------------------------------------


def test_ten_thousand_files_come_and_go(here: Path, tmp_path: Path) -> None:
    many_files(tmp_path / "files", FILES, 3)
    archive = tmp_path / "files.tar"
    run("tar", "-C", tmp_path, "--format=posix", "-cf", archive, "files")
    run("tar", "-C", here, "-xpf", archive)
    run("tar", "-C", here, "-df", archive)  # compares
    assert differences(snapshot(tmp_path / "files"), snapshot(here / "files"), _nlink) == []
    run("rm", "-r", here / "files")
    assert list(here.iterdir()) == []


def _nlink(path: bytes, field: str, expected: object, found: object) -> bool:
    return field == "nlink" and path in (b"",)


def test_a_tree_of_the_lowers_is_copied_and_removed(writable_mount: Path) -> None:
    tree = writable_mount / "tree"
    before = snapshot(tree)
    run("cp", "-a", tree, writable_mount / "copy")
    assert differences(before, snapshot(writable_mount / "copy")) == []
    run("rm", "-r", tree)
    assert not tree.exists()
    run("mv", writable_mount / "copy", tree)
    assert differences(before, snapshot(tree)) == []


@pytest.mark.needs("rsync")
def test_rsync_in_and_out_finds_no_difference(
    here: Path, writable_mount: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    many_files(source, 1000, 4)
    special = source / "special"
    special.mkdir(mode=0o2775)
    os.mkfifo(special / "fifo")
    os.mknod(special / "null", 0o20666, os.makedev(1, 3))
    (special / "attributes").write_bytes(b"x")
    os.setxattr(special / "attributes", "user.comment", b"a value\0")
    run("setfacl", "-m", "u:65534:rwx", special / "attributes")
    run("setfacl", "-d", "-m", "u:65534:rx", special)
    with (special / "sparse").open("wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
    both = ("rsync", "-aHAXS", "--delete")
    back = tmp_path / "back"
    run(*both, f"{source}/", f"{here}/in/")
    run(*both, f"{here}/in/", f"{back}/")
    run(*both, f"{writable_mount}/tree/", f"{tmp_path}/tree/")
    for one, other in (
        (source, here / "in"),
        (here / "in", back),
        (source, back),
        (writable_mount / "tree", tmp_path / "tree"),
    ):
        command = ("rsync", "-naHAXc", "--delete", "--itemize-changes", f"{one}/", f"{other}/")
        assert run(*command) == "", (one, other)


# ---- programs ------------------------------------------------------------------------------------


@pytest.mark.needs("git")
def test_git(here: Path, writable_mount: Path) -> None:
    me = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER")
          for what in ("NAME", "EMAIL")} | {"GIT_CONFIG_GLOBAL": "/dev/null"}  # fmt: skip
    origin = here / "origin"
    shutil.copytree(writable_mount / "project", origin)
    many_files(origin / "files", 300, 5)
    run("git", "init", "-q", "-b", "main", cwd=origin)
    run("git", "add", "-A", cwd=origin)
    run("git", "commit", "-qm", "first", cwd=origin, env=me)
    run("git", "clone", "-q", "--local", origin, here / "clone")
    clone = here / "clone"
    run("git", "switch", "-qc", "other", cwd=clone)
    for number in range(5):
        (clone / f"part{number}.c").write_text(f"/* {number} */\n")
        run("git", "rm", "-q", f"part{number + 10}.h", cwd=clone)
        run("git", "commit", "-qam", f"change {number}", cwd=clone, env=me)
    run("git", "switch", "-q", "main", cwd=clone)
    run("git", "merge", "-q", "--no-ff", "-m", "merge", "other", cwd=clone, env=me)
    run("git", "gc", "-q", "--aggressive", "--prune=now", cwd=clone)
    assert "error" not in run("git", "fsck", "--full", "--strict", cwd=clone)
    assert run("git", "status", "--porcelain", cwd=clone) == ""
    run("git", "push", "-q", "origin", "main:pushed", cwd=clone)
    run("git", "fsck", "--full", "--strict", cwd=origin)


@pytest.mark.needs("make", "gcc", "ar")
def test_a_c_build(writable_mount: Path) -> None:
    project = writable_mount / "project"
    expected = f"{3 * sum(range(50))}\n"
    for _ in range(2):
        run("make", "-j2", cwd=project)
        assert run(project / "program") == expected
        assert "up to date" in run("make", "-j2", cwd=project)
        source = project / "part7.c"  # of the lower; now it is copied up
        source.write_text(source.read_text() + "\n/* changed */\n")
        rebuilt = run("make", "-j2", cwd=project)
        assert rebuilt.count(" -c ") == 1
        run("make", "clean", cwd=project)


_WRITER = """
import sqlite3, sys
path, who, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
base = sqlite3.connect(path, timeout=120, isolation_level=None)
for number in range(rows):
    base.execute("BEGIN IMMEDIATE")
    base.execute("INSERT INTO rows VALUES (?, ?, ?)", (who, number, bytes(number % 3000)))
    base.execute("UPDATE total SET value = value + 1")
    base.execute("COMMIT")
    if number % 50 == 0:
        base.execute("PRAGMA wal_checkpoint(PASSIVE)")
base.close()
"""


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_sqlite_with_four_writers(here: Path, journal: str) -> None:
    path, writers, rows = here / "data.sqlite", 4, 150
    with closing(sqlite3.connect(path)) as base:
        assert base.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal.lower(),)
        base.execute("CREATE TABLE rows (who INT, number INT, data BLOB, UNIQUE (who, number))")
        base.execute("CREATE TABLE total AS SELECT 0 AS value")
        base.commit()
    started = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(who), str(rows)])
        for who in range(writers)
    ]
    assert [one.wait(300) for one in started] == [0] * writers
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert base.execute("SELECT value FROM total").fetchone() == (writers * rows,)
        assert base.execute("SELECT count(*) FROM rows").fetchone() == (writers * rows,)


# Those that work with files and verify what they do; "seconds each" is bounded by operations.
STRESSORS = (
    *("access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "dirmany"),
    *("dup", "fault", "fcntl", "fiemap", "file-ioctl", "filename", "flock", "fsize", "fstat"),
    *("hdd", "inode-flags", "iomix", "lease", "link", "locka", "lockf", "lockofd"),
    *("mknod", "mmap", "open", "readahead", "rename", "seek", "sendfile", "symlink", "sync-file"),
    *("touch", "utime", "verity", "xattr"),
)


@pytest.mark.needs("stress-ng")
@pytest.mark.parametrize("stressor", STRESSORS)
def test_stressors(here: Path, stressor: str) -> None:
    options = ("--verify", "--timeout", "1s", "--temp-path", here, "--oom-avoid", "--quiet")
    done = subprocess.run(
        ["stress-ng", f"--{stressor}", "1", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    # 4: the kernel or the machine has no such thing; 3: resources ran out, which the machine may
    assert done.returncode in (0, 4), f"exit {done.returncode}\n{done.stdout}{done.stderr}"


_FIO = {
    "random": ("--rw=randwrite", "--ioengine=psync", "--bs=512-16k", "--fsync=32"),
    "mapped": ("--rw=randwrite", "--ioengine=mmap", "--bs=4k"),
    "direct": ("--rw=randwrite", "--ioengine=libaio", "--direct=1", "--bs=4k", "--iodepth=16"),
    "mixed": ("--rw=randrw", "--ioengine=libaio", "--bs=8k", "--iodepth=8"),
}


@pytest.mark.needs("fio")
@pytest.mark.parametrize("kind", _FIO)
def test_fio_reads_what_it_wrote(here: Path, kind: str) -> None:
    common = (
        "--size=24m",
        "--numjobs=2",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--verify_state_save=0",
    )
    where = (f"--directory={here}", "--name=job", "--output-format=terse", "--randseed=7")
    run("fio", *common, *where, *_FIO[kind])


# ---- a system ------------------------------------------------------------------------------------

_PACKAGES = ("hello", "file")  # the second has dependencies


def test_apt_installs_into_a_debian_image(real: RealImage, disk: Path) -> None:
    places = [disk / f"apt-{name}" for name in ("upper", "work", "mnt", "state")]
    for place in places:
        place.mkdir()
    upper, work, mountpoint, state = places
    layout = Layout((), upper, work, mountpoint, state, real.base / "built.tar")
    subject = UnionmountImageSubject(options=",dev,suid")
    subject.mount(layout)
    try:
        with in_chroot(layout.mountpoint) as chroot:
            chroot("apt-get", "update", "-q")
            chroot("apt-get", "install", "-y", "-q", "--no-install-recommends", *_PACKAGES)
            assert chroot("hello") == "Hello, world!\n"
            assert chroot("dpkg", "--verify", *_PACKAGES) == ""
            chroot("apt-get", "purge", "-y", "-q", "hello")
            chroot("dpkg", "--audit")
            missing = subprocess.run(["chroot", layout.mountpoint, "hello"], check=False, stderr=-3)
            assert missing.returncode == 127
    finally:
        subject.unmount(layout)
    assert subject.log() == ""


@contextmanager
def in_chroot(root: Path) -> Iterator[Callable[..., str]]:
    """A function that runs a program in there; it can reach the archive that this machine uses."""
    sources = root / "etc/apt/sources.list"
    sources.write_text(f"deb [trusted=yes] {mirror()} bookworm main\n")
    for name in ("etc/resolv.conf", "etc/hosts"):
        shutil.copy(Path("/", name), root / name)
    with ExitStack() as stack:
        for path in ("etc/apt/apt.conf.d", "etc/ssl/certs", "usr/local/share/ca-certificates"):
            _copy_settings(Path("/", path), root / path)
        run("mount", "-t", "proc", "proc", root / "proc")
        stack.callback(run, "umount", root / "proc")

        def chroot(*command: str) -> str:
            return run("chroot", root, *command, env={"DEBIAN_FRONTEND": "noninteractive"})

        yield chroot


def _copy_settings(source: Path, target: Path) -> None:
    """Proxies and certificates, without which the archive may be out of reach."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for path in source.iterdir():
            if path.is_file() and not (target / path.name).exists():
                shutil.copy(path, target / path.name)
