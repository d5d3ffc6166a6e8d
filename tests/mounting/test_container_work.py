"""Real work in a container: programs change what stands in an image's layers, and it stays so.

Unlike in ``test_real_work``, which works on directories, the mount is that of ``unionmount mount
IMAGE``: served in the background, with a container of the store as its upper. Every test looks
again after the container was mounted anew. The judges are the programs themselves and umoci.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import programs
from support.archives import Layer, docker_archive
from support.compare import Snapshot, differences, snapshot
from support.mounting import CommandLine, is_mounted
from support.real_images import RealImage

pytestmark = [pytest.mark.needs("fuse", "root", "git", "tar"), pytest.mark.timeout(600)]

NAME = "example.org/work:1"
FILES = 2000  # test_real_work has more, but none of them in a layer
WRITERS, ROWS = 4, 1000
PARTS = 40
FIO_SIZE = 16 << 20

_AUTHOR = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER")
           for what in ("NAME", "EMAIL")}  # fmt: skip
ENVIRONMENT = (
    {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    | {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    | _AUTHOR
)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program in an environment that is the same everywhere."""
    return programs.run(*command, cwd=cwd, env=ENVIRONMENT)


# ---- the image -----------------------------------------------------------------------------------


class Packed(Layer):
    """A layer that GNU tar makes of a tree."""

    def __init__(self, top: Path) -> None:
        super().__init__()
        self._top = top

    def data(self) -> bytes:
        """The tar."""
        attributes = ("--format=posix", "--numeric-owner", "--acls", "--xattrs", "--sparse")
        command = ("tar", *attributes, "-C", self._top, "-c", ".")
        return subprocess.run(command, check=True, capture_output=True).stdout


def many_files(top: Path, count: int, seed: int) -> None:
    """Small files in directories of fifty."""
    choose = random.Random(seed)
    for number in range(count):
        directory = top / f"d{number // 1000}" / f"e{number % 1000 // 50}"
        if number % 50 == 0:
            directory.mkdir(parents=True)
        (directory / f"file{number}").write_bytes(choose.randbytes(choose.randrange(600)))


def c_project(top: Path) -> None:
    """Files that call each other, a Makefile, and what a build makes of them."""
    top.mkdir()
    for number in range(PARTS):
        following, include = f"n * {number}", f'#include "part{number}.h"\n'
        if number + 1 < PARTS:
            following += f" + part{number + 1}(n)"
            include += f'#include "part{number + 1}.h"\n'
        (top / f"part{number}.h").write_text(f"int part{number}(int n);\n")
        text = f"{include}int part{number}(int n) {{ return {following}; }}\n"
        (top / f"part{number}.c").write_text(text)
    main = '#include <stdio.h>\n#include "part0.h"\nint main(void) { printf("%d\\n", part0(2)); }\n'
    (top / "main.c").write_text(main)
    (top / "Makefile").write_text(
        "CFLAGS := -O0 -MMD\n"
        "OBJECTS := $(patsubst %.c,%.o,$(wildcard *.c))\n"
        "program: $(OBJECTS)\n\t$(CC) -o $@ $^\n"
        "clean:\n\trm -f *.o *.d program\n"
        "-include $(wildcard *.d)\n"
    )
    run("make", "-j4", cwd=top)


def repository(top: Path) -> None:
    """500 files with a history, some of it in a pack."""
    many_files(top, 500, 1)
    run("git", "init", "-q", "-b", "main", cwd=top)
    run("git", "add", "-A", cwd=top)
    run("git", "commit", "-qm", "first", cwd=top)
    run("git", "gc", "-q", cwd=top)
    for path in sorted(top.glob("d0/e3/*")):
        path.write_text("second\n")
    run("git", "commit", "-qam", "second", cwd=top)


def database(path: Path) -> None:
    """In WAL mode, with a log that was never moved into the database."""
    with closing(sqlite3.connect(path)) as base:
        assert base.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
        base.execute("CREATE TABLE row (who INT, number INT, data BLOB, UNIQUE (who, number))")
        base.execute("CREATE TABLE total AS SELECT 0 AS value")
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        row = ((-1, number, bytes(number)) for number in range(ROWS))
        base.executemany("INSERT INTO row VALUES (?, ?, ?)", row)
        base.execute("UPDATE total SET value = ?", (ROWS,))
        base.commit()
        for name in (path.name, f"{path.name}-wal"):  # before the last connection empties the log
            shutil.copy(path.parent / name, path.parent / f"copy-of-{name}")
    path.unlink()
    for name in (path.name, f"{path.name}-wal"):
        (path.parent / f"copy-of-{name}").rename(path.parent / name)


def attributed(top: Path, seed: int) -> None:
    """What rsync -aHAXS can carry; another seed, another state of the same tree."""
    choose = random.Random(seed)
    top.mkdir()
    for number in range(100):
        path = top / f"dir{number % 10}" / f"file{number}"
        path.parent.mkdir(exist_ok=True)
        if choose.randrange(4):
            path.write_bytes(choose.randbytes(choose.randrange(1, 20_000)))
            path.chmod(choose.choice((0o600, 0o644, 0o4755, 0o2750)))
            os.chown(path, *choose.choices((0, 1000, 65534), k=2))
            os.setxattr(path, "user.seed", b"%d\0" % seed)
        if number % 7 == seed % 7 and path.exists():
            os.link(path, top / f"link{number}")
    for name in choose.sample(sorted(os.listdir(top)), 5):
        run("setfacl", "-m", f"u:{1000 + seed}:rwx,g:4000:r", top / name)
    run("setfacl", "-d", "-m", "u:1001:rwx,o::-", top / f"dir{seed}")
    os.setxattr(top / "dir3", "trusted.note", b"%d" % seed)
    os.mknod(top / "device", 0o20640, os.makedev(1, 3 + seed))
    os.mknod(top / "block", 0o60600, os.makedev(7, seed))
    os.mkfifo(top / f"fifo{seed}")
    (top / "symlink").symlink_to(f"dir{seed}/nothing")
    (top / ("n" * 255)).write_bytes(b"%d" % seed)
    (top / "empty-or-not").mkdir()
    if seed % 2:
        (top / "empty-or-not" / "x").write_bytes(b"x")
    with (top / "sparse").open("wb") as file:
        for offset in (0, 1_000_000 * seed, 5_000_000):
            file.seek(offset)
            file.write(choose.randbytes(5000))


@dataclass(frozen=True, slots=True)
class World:
    """A store with an image, of which every test makes a container of its own."""

    cli: CommandLine
    places: Path

    @contextmanager
    def container(self, name: str) -> Iterator[Callable[[], None]]:
        """A container, mounted; the function mounts it anew."""
        where = self.places / name
        where.mkdir()

        def again(*words: str) -> None:
            if is_mounted(where):
                self.cli.run("umount", where)
            self.cli.run("mount", "-o", "dev,suid", *(words or (name,)), where)

        again("--name", name, NAME)
        try:
            yield again
        finally:
            if is_mounted(where):
                self.cli.run("umount", where)
            self.cli.run("rm", name)
            where.rmdir()


def _layers(root: Path) -> dict[str, str]:
    """The files of a store that no container may change."""
    tops = (root / "blobs", root / "layers")
    files = [path for top in tops for path in top.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def world(
    require: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    require("git", "make", "gcc", "setfacl")
    top = tmp_path_factory.mktemp("work")
    base, above = top / "base", top / "above"
    base.mkdir()
    above.mkdir()
    many_files(base / "files", FILES // 2, 2)
    many_files(above / "files", 1000, 3)
    c_project(base / "project")
    repository(above / "repository")
    attributed(above / "attributed", 3)
    database(above / "data.sqlite")
    (base / "big").write_bytes(random.Random(4).randbytes(FIO_SIZE))
    archive = docker_archive(top / "image.tar", [Packed(base), Packed(above)], NAME)
    cli = CommandLine(environment={"UNIONMOUNT_ROOT": str(top / "root")})
    cli.run("load", "-i", archive)
    for path in (base, above):
        shutil.rmtree(path)
    before = _layers(top / "root")
    assert before
    (top / "mounts").mkdir(mode=0o755)
    yield World(cli, top / "mounts")
    assert _layers(top / "root") == before, "a lower layer has changed"
    archive.unlink()
    shutil.rmtree(top / "root")


@pytest.fixture
def container(world: World, request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """A function that mounts the container of the test anew; it is mounted already."""
    name = request.node.name.removeprefix("test_").replace("[", "-").rstrip("]")
    with world.container(name) as again:
        yield again


@pytest.fixture
def top(container: Callable[[], None], world: World, request: pytest.FixtureRequest) -> Path:
    """Where the container of the test is mounted."""
    (where,) = world.places.iterdir()
    return where


# ---- files ---------------------------------------------------------------------------------------


def test_many_files_over_those_of_the_layers(
    top: Path, container: Callable[[], None], world: World, tmp_path: Path
) -> None:
    many_files(tmp_path / "files", FILES, 5)
    archive = tmp_path / "files.tar"
    run("tar", "-C", tmp_path, "-cf", archive, "files")
    run("tar", "-C", top, "-xpf", archive)
    run("tar", "-C", top, "--compare", "-f", archive)
    assert sum(len(files) for _, _, files in os.walk(top / "files")) == FILES
    container()
    run("tar", "-C", top, "--compare", "-f", archive)
    run("rm", "-r", top / "files")
    assert not (top / "files").exists()
    container()
    assert not (top / "files").exists()
    assert world.cli.run("diff", top).stdout == "D /files\n"
    (top / "files").mkdir()
    assert os.listdir(top / "files") == []
    container()
    assert os.listdir(top / "files") == []
    run("tar", "-C", top, "-xpf", archive)
    run("tar", "-C", top, "--compare", "-f", archive)


def test_copies_and_moves(top: Path, container: Callable[[], None], tmp_path: Path) -> None:
    attributed(tmp_path / "new", 5)
    old, new = snapshot(top / "attributed"), snapshot(tmp_path / "new")
    listed = _list(tmp_path / "new")
    run("cp", "-a", tmp_path / "new", top / "copied")
    run("cp", "-a", "--reflink=auto", top / "attributed", top / "files" / "copy")
    assert _list(top / "copied") == listed
    run("mv", top / "attributed", top / "files" / "d0" / "moved")
    run("mv", top / "copied", top / "attributed")
    run("mv", top / "attributed" / "sparse", top / "files" / "copy" / "sparse-too")
    run("mv", top / "files" / "copy" / "sparse-too", top / "attributed" / "sparse")
    del new[b""], old[b""]  # moves changed the time of the tops, as they should
    for _ in range(2):
        for wanted, path in (
            (new, top / "attributed"),
            (old, top / "files" / "d0" / "moved"),
            (old, top / "files" / "copy"),
        ):
            found = snapshot(path)
            del found[b""]
            assert differences(wanted, found) == [], path
        container()


def _list(path: Path) -> list[str]:
    form = "%P|%y|%#m|%U|%G|%n|%s|%T@|%l\\n"
    found = run("find", path, "-mindepth", "1", "-type", "d", "-printf", "%P|%#m|%U|%G|%n|%T@\\n")
    return sorted((found + run("find", path, "!", "-type", "d", "-printf", form)).splitlines())


def test_files_are_rewritten_by_common_tools(
    top: Path, container: Callable[[], None], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.write_bytes(random.Random(6).randbytes(3_000_001))
    in_place, log = top / "big", top / "data.sqlite-wal"
    wanted = bytearray(in_place.read_bytes())
    wanted[70 * 4096 : 70 * 4096 + 3_000_001] = data.read_bytes()
    into = ("bs=4096", "seek=70", "conv=notrunc,fsync", "status=none")
    run("dd", f"if={data}", f"of={in_place}", *into)
    direct = ("bs=64k", "oflag=direct", "conv=fsync", "count=40", "status=none")
    run("dd", f"if={data}", f"of={top / 'direct'}", *direct)
    run("install", "-m", "4711", "-o", "1000", data, top / "project" / "program")
    run("sed", "-i", "s/return/return 1 +/", *sorted((top / "project").glob("part?.c")))
    run("cp", "--reflink=auto", in_place, top / "copy")
    run("truncate", "-s", "5000", log)
    run("ln", "-f", top / "project" / "main.c", top / "project" / "part9.c")
    run("sh", "-c", f"cat '{data}' >> '{log}'")
    for _ in range(2):
        assert in_place.read_bytes() == wanted
        assert (top / "copy").read_bytes() == wanted
        run("cmp", "-n", str(40 << 16), data, top / "direct")
        run("cmp", data, top / "project" / "program")
        assert (top / "project" / "program").stat().st_mode == 0o104711
        assert "return 1 + n * 3" in (top / "project" / "part3.c").read_text()
        run("cmp", "-i", "0:5000", data, log)
        assert (top / "project" / "part9.c").samefile(top / "project" / "main.c")
        container()


# Without the window, rsync takes times of the same second for the same.
_RSYNC = ("rsync", "-aHAX", "--modify-window=-1")


@pytest.mark.needs("rsync", "setfacl")
@pytest.mark.parametrize("how", ["renaming", "inplace"])
def test_rsync_over_an_older_state(
    how: str, top: Path, container: Callable[[], None], tmp_path: Path
) -> None:
    source, there, back = tmp_path / "source", top / "attributed", tmp_path / "back"
    attributed(source, 5)
    assert differences(snapshot(source), snapshot(there)) != []
    more = ("--inplace",) if how == "inplace" else ()
    run(*_RSYNC, "-S", "--delete", *more, f"{source}/", f"{there}/")
    _same(source, there)
    container()
    _same(source, there)
    run(*_RSYNC, "-S", f"{there}/", f"{back}/")
    _same(there, back)
    assert differences(snapshot(source), snapshot(back)) == []


def _same(one: Path, other: Path) -> None:
    for source, target in ((one, other), (other, one)):
        assert run(*_RSYNC, "-nic", "--delete", f"{source}/", f"{target}/") == ""


# ---- programs ------------------------------------------------------------------------------------


def test_git_in_a_repository_of_the_layers(top: Path, container: Callable[[], None]) -> None:
    here = top / "repository"

    def git(*words: str | Path, at: Path = here) -> str:
        return run("git", *words, cwd=at)

    assert git("status", "--porcelain") == ""
    git("switch", "-qc", "other")
    for path in sorted(here.glob("d0/e1/*")):
        path.write_text(f"other {path.name}\n")
    git("rm", "-rq", "d0/e2")
    git("mv", "d0/e4", "moved")
    many_files(here / "more", 500, 7)
    git("add", "-A")
    git("commit", "-qm", "other")
    wanted: dict[str, set[bytes]] = {}
    for branch in ("main", "other", "main", "other"):
        git("switch", "-q", branch)
        assert git("status", "--porcelain") == ""
        tree = {path for path in snapshot(here) if not path.startswith(b".git")}
        assert wanted.setdefault(branch, tree) == tree
    assert len(wanted["other"]) > len(wanted["main"]) > 500
    git("clone", "-q", "--local", here, top / "clone")
    links = [path.stat().st_nlink for path in (here / ".git" / "objects").rglob("*.pack")]
    assert set(links) == {2}
    container()
    clone = top / "clone"
    assert git("status", "--porcelain", at=clone) == git("status", "--porcelain") == ""
    git("switch", "-q", "main")
    git("merge", "-q", "--no-ff", "-m", "merge", "other")
    git("pull", "-q", "--ff-only", "origin", "main", at=clone)
    for path in (here, clone):
        git("gc", "-q", "--prune=now", at=path)
    for _ in range(2):
        for path in (here, clone):
            assert git("fsck", "--full", "--strict", at=path) == ""
            assert git("status", "--porcelain", at=path) == ""
        run("diff", "-r", "--exclude=.git", here, clone)
        container()


@pytest.mark.needs("make", "gcc")
def test_make_in_a_project_of_the_layers(top: Path, container: Callable[[], None]) -> None:
    here = top / "project"

    def compiled() -> int:
        return run("make", "-j4", cwd=here).count(" -c ")

    def answer() -> int:
        return int(run(here / "program"))

    wanted = 2 * sum(range(PARTS))
    assert (compiled(), answer()) == (0, wanted)
    (here / "part7.c").write_text((here / "part7.c").read_text().replace("n * 7", "n * 8"))
    assert (compiled(), answer()) == (1, wanted + 2)
    run("touch", here / "part9.h")
    container()
    assert (compiled(), answer()) == (2, wanted + 2)
    container()
    assert (compiled(), answer()) == (0, wanted + 2)
    run("make", "clean", cwd=here)
    assert sorted({path.suffix for path in here.iterdir()}) == ["", ".c", ".h"]
    container()
    assert (compiled(), answer()) == (PARTS + 1, wanted + 2)


_WRITER = """
import sqlite3, sys
path, who, transactions = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
base = sqlite3.connect(path, timeout=120, isolation_level=None)
for number in range(transactions):
    base.execute("BEGIN IMMEDIATE")
    base.execute("INSERT INTO row VALUES (?, ?, ?)", (who, number, bytes(number * 7 % 3000)))
    base.execute("UPDATE total SET value = value + 1")
    (same,) = base.execute("SELECT value = (SELECT count(*) FROM row) FROM total").fetchone()
    assert same == 1
    base.execute("COMMIT")
    if number % 50 == who:
        base.execute("PRAGMA wal_checkpoint(PASSIVE)")
base.close()
"""


@pytest.mark.parametrize(("journal", "transactions"), [("wal", 200), ("delete", 50)])
def test_sqlite_with_a_database_of_the_layers(
    journal: str, transactions: int, top: Path, container: Callable[[], None]
) -> None:
    path = top / "data.sqlite"
    with closing(sqlite3.connect(path)) as base:
        _check_database(base, ROWS)  # they are in the log
        assert base.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
    container()
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        if journal == "wal":  # what it sees now it goes on seeing
            reader.execute("BEGIN")
            _check_database(reader, ROWS)
        _write_at_once(path, transactions)
        if journal == "wal":
            _check_database(reader, ROWS)
            reader.execute("COMMIT")
        _check_database(reader, ROWS + WRITERS * transactions)
    container()
    with closing(sqlite3.connect(path)) as base:
        _check_database(base, ROWS + WRITERS * transactions)
        base.execute("VACUUM")
        _check_database(base, ROWS + WRITERS * transactions)


def _write_at_once(path: Path, transactions: int) -> None:
    words = [sys.executable, "-c", _WRITER, str(path)]
    started = [subprocess.Popen([*words, str(who), str(transactions)]) for who in range(WRITERS)]
    assert [one.wait(300) for one in started] == [0] * WRITERS


def _check_database(base: sqlite3.Connection, rows: int) -> None:
    assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert base.execute("SELECT count(*) FROM row").fetchone() == (rows,)
    assert base.execute("SELECT value FROM total").fetchone() == (rows,)


_FIO = {
    "psync": ("--ioengine=psync", "--bs=4k", "--fsync=256"),
    "mapped": ("--ioengine=mmap", "--bs=4k"),
    "direct": ("--ioengine=libaio", "--direct=1", "--bs=4k", "--iodepth=16"),
    "processes": ("--bs=4k", "--numjobs=2", "--size=8m", "--offset_increment=8m"),
}


@pytest.mark.needs("fio")
@pytest.mark.parametrize("kind", _FIO)
def test_fio_over_a_file_of_the_layers(
    kind: str, top: Path, container: Callable[[], None], tmp_path: Path
) -> None:
    job = ("--name=job", f"--filename={top / 'big'}", f"--size={FIO_SIZE}")
    what = ("--rw=randwrite", "--randseed=7", *_FIO[kind])
    verify = ("--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0")
    run("fio", *job, *what, *verify, cwd=tmp_path)
    assert (top / "big").stat().st_size == FIO_SIZE
    container()
    run("fio", *job, *what, *verify, "--verify_only", cwd=tmp_path)


# What `test_real_work` does not have, and those for which several processes matter. Left out:
# fiemap and verity (FUSE hands neither on), getdent, fanotify and io (they go to all of /tmp and
# open all mounts of the machine), bind-mount (mounts), io-uring and ioprio (may be forbidden),
# binderfs, eventfd and procfs (no files), revio (takes long to tidy up).
STRESSORS = (
    *("aio", "aiol", "chattr", "dnotify", "fallocate", "fcntl", "fpunch", "handle", "inotify"),
    *("locka", "mincore", "msync", "open", "remap", "rename", "splice", "touch", "utime"),
)


@pytest.mark.needs("stress-ng")
def test_stressors_of_two_processes(top: Path, container: Callable[[], None]) -> None:
    here = top / "project"
    before = sorted(here.iterdir())
    for stressor in STRESSORS:
        options = (
            "--verify",
            "--timeout",
            "1s",
            "--temp-path",
            here,
            "--oomable",
            "--no-rand-seed",
        )
        run("stress-ng", f"--{stressor}", "2", *options)
        assert sorted(here.iterdir()) == before, f"{stressor} leaves something"
    container()
    assert sorted(here.iterdir()) == before


# ---- a system ------------------------------------------------------------------------------------

_PROGRAM = "jq"  # it needs two libraries


def _fetch(root: Path) -> list[str]:
    """Have this machine's apt fetch what the image lacks of the program; the packages' paths."""
    archives = root / "var/cache/apt/archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    status = f"Dir::State::status={root}/var/lib/dpkg/status"
    run(
        *("apt-get", "install", "-q", "-y", "--no-install-recommends", "--download-only"),
        *("-o", status, "-o", f"Dir::Cache::archives={archives}", _PROGRAM),
    )
    return sorted(f"/{path.relative_to(root)}" for path in archives.glob("*.deb"))


def _installed(root: Path, cli: CommandLine, target: str | Path) -> None:
    """The program works, and the container's changes have all of its files."""

    def chroot(*words: str) -> str:
        return run("chroot", root, *words)

    assert chroot(_PROGRAM, "-n", "[1, 2] | add") == "3\n"
    assert chroot("dpkg", "--audit") == ""
    packages = ("jq", "libjq1", "libonig5")
    assert chroot("dpkg", "--verify", *packages) == ""
    files = chroot("dpkg", "-L", *packages).split()
    wanted = {f"A {path}" for path in files if not (root / path[1:]).is_dir()}
    assert len(wanted) > 10
    assert wanted <= set(cli.run("diff", target).stdout.splitlines())


def test_apt_installs_a_program(real: RealImage, tmp_path: Path) -> None:
    debian = real.built()["docker-archive"]
    cli = CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})
    root, bundle = tmp_path / "mnt", tmp_path / "bundle"
    root.mkdir()
    cli.run("mount", "-o", "dev,suid", "--name", "debian", debian, root)
    try:
        packages = _fetch(root)
        broken = run("chroot", root, "dpkg", "--verify")  # a layer removed documentation
        assert len(packages) > 1
        run("chroot", root, "apt-get", "install", "-q", "-y", *packages)
        run("chroot", root, "apt-get", "clean")
        assert run("chroot", root, "dpkg", "--verify") == broken
        _installed(root, cli, root)
        wanted = snapshot(root)
        cli.run("umount", root)
        _installed_elsewhere(cli, wanted, tmp_path)
        cli.run("mount", "-o", "dev,suid", "debian", root)
        _installed(root, cli, "debian")
        run("chroot", root, "dpkg", "--purge", "jq", "libjq1", "libonig5")
        assert not (root / "usr/bin/jq").exists()
        assert run("chroot", root, "dpkg", "--verify") == broken
    finally:
        if is_mounted(root):
            cli.run("umount", root)
    shutil.rmtree(bundle)


def _installed_elsewhere(cli: CommandLine, wanted: Snapshot, tmp_path: Path) -> None:
    """The image that is made of the container, as umoci unpacks it."""
    cli.run("commit", "debian", "made:1", "-c", f'CMD ["{_PROGRAM}"]')
    cli.run("save", "--format", "oci", "-o", tmp_path / "layout", "made:1")
    run("umoci", "unpack", "--image", f"{tmp_path}/layout:1", tmp_path / "bundle")
    unpacked = tmp_path / "bundle" / "rootfs"
    assert differences(wanted, snapshot(unpacked)) == []
    assert run("chroot", unpacked, _PROGRAM, "-n", "[1, 2] | add") == "3\n"
