"""Real work: programs that people run on a mount, each on a new upper.

What a task reads is in the lower directory, and what it writes goes to the mount; everything is on
a disk of its own (bench/disk.py). Nothing uses the network. After each task its result is compared
with that on the kernel's overlayfs.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench import building, digest, disk, lower, subjects, supplies, wheels
from bench.measuring import (
    COLD,
    WRITING,
    Measurement,
    Notebook,
    Reading,
    Scene,
    Seconds,
    Step,
    UnableError,
    WrongError,
    present,
)
from bench.subjects import Choice, Places, Subject, quietly

_SOURCES = Path(__file__).parents[1] / "csrc"
_MAKEFILE = """\
OBJECTS := $(patsubst %.c,%.o,$(wildcard {folders}))
all: $(OBJECTS)
%.o: %.c
\tgcc -O0 -D_GNU_SOURCE -I. -c $< -o $@
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to do."""

    sources: int  # files of the repository
    packages: int  # for pip
    folders: str  # of C files
    inserts: int  # each in a transaction of its own
    inserted: int  # in one transaction
    megabytes: int  # of fio's file
    accessed: int  # megabytes that fio reads or writes at random
    disk: int  # gigabytes, of everything


FULL = Sizes(4_000, 40, "*/*.c", 500, 200_000, 512, 64, 10)
QUICK = Sizes(200, 3, "base/*.c", 20, 2_000, 8, 1, 1)


def _needs(*programs: str) -> None:
    lacking = [name for name in programs if shutil.which(name) is None]
    if lacking:
        raise UnableError(f"not on this machine: {', '.join(lacking)}")


# ---- git -----------------------------------------------------------------------------------------


def _git(top: Path) -> Iterator[Step]:
    """A clone as from a server: git's own protocol, all objects in one new pack."""
    clone, tree = top / "clone", partial(digest.of_tree, top / "clone", ("*/.git",))
    url = f"file://{top}/bench/repository"
    cloning = partial(lower.git, top, "clone", "-q", url, "clone")
    yield Step("git clone", cloning, WRITING, result=tree)
    checkout = partial(lower.git, clone, "checkout", "-q", "other")
    yield Step("git checkout of another branch", checkout, WRITING, result=tree)
    status = ("git", "-c", "safe.directory=*", "-C", clone, "status", "--porcelain")
    said = partial(subprocess.check_output, status, text=True, env=os.environ | lower.GIT)
    yield Step("git status", partial(lower.git, clone, "status", "--porcelain"), result=said)


# ---- pip -----------------------------------------------------------------------------------------


def _pip_install(top: Path, packages: Sequence[str]) -> None:
    options = ("-q", "--no-index", "--no-deps", "--ignore-installed", "--no-cache-dir")
    where: tuple[str | Path, ...] = (
        "--prefix",
        top / "prefix",
        "--find-links",
        top / "bench/wheels",
    )
    calm = ("--disable-pip-version-check", "--no-warn-script-location")
    words = (sys.executable, "-m", "pip", "install", *options, *calm, *where, *packages)
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_ROOT_USER_ACTION": "ignore"}
    quietly(*words, environment={**own, "TMPDIR": str(top / "tmp")})


@contextmanager
def _temporary(place: Path) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    yield


def _pip(top: Path, packages: Sequence[str]) -> Iterator[Step]:
    """With the compilation to bytecode, whose files have times in them and are not compared."""
    tree = partial(digest.of_tree, top / "prefix", ("*.pyc",))
    what, install = "pip install", partial(_pip_install, top, packages)
    yield Step(what, install, WRITING, partial(_temporary, top / "tmp"), result=tree)


# ---- make ----------------------------------------------------------------------------------------


def _make(top: Path) -> None:
    _needs("make", "gcc")
    quietly("make", "-s", "-j2", "-C", top / "bench/source")


def _building(top: Path) -> Iterator[Step]:
    tree = partial(digest.of_tree, top / "bench/source")
    yield Step("make -j2 of a C program", partial(_make, top), WRITING, result=tree)


# ---- SQLite --------------------------------------------------------------------------------------


def _insert(path: Path, count: int, each: int) -> None:
    """Rows, and a transaction for so many of them; SQLite syncs at the end of each."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("create table if not exists t (number integer primary key, word text)")
        database.execute("create index if not exists i on t (word)")
        for start in range(0, count, each):
            database.execute("begin")
            for number in range(start, start + each):
                word = f"{number * 2654435761 % 4294967296:08x}"
                database.execute("insert into t (word) values (?)", (word,))
            database.execute("commit")


def _database(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        checks = database.execute("pragma integrity_check").fetchall()
        words = database.execute("select count(*), min(word), max(word) from t").fetchall()
    return f"{checks} {words}"


def _sqlite(top: Path, sizes: Sizes) -> Iterator[Step]:
    for name, count, each in (("each", sizes.inserts, 1), ("one", sizes.inserted, sizes.inserted)):
        path = top / f"{name}.sqlite"
        how = "a transaction each" if each == 1 else "one transaction"
        what, work = f"SQLite: {count:,} inserts, {how}", partial(_insert, path, count, each)
        yield Step(what, work, WRITING, result=partial(_database, path))


# ---- fio -----------------------------------------------------------------------------------------


def _run_fio(path: Path, how: str, size: int, amount: int) -> Seconds:
    """One standard job, and the time of its reads or writes; a sync ends those that write."""
    _needs("fio")
    block = "1M" if how in {"read", "write"} else "4k"
    words = ("fio", "--name=bench", f"--filename={path}", f"--rw={how}", f"--bs={block}")
    sizes = (f"--size={size}M", f"--io_size={amount}M", "--ioengine=psync", "--randseed=7")
    ends = ("--end_fsync=1", f"--buffer_pattern={'0xfeed' if 'rand' in how else '0x5eed'}")
    done = subprocess.run(
        [*words, *sizes, *ends, "--output-format=json"], check=True, capture_output=True, text=True
    )
    (job,) = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    kind = job["read" if "read" in how else "write"]
    if job["error"] or kind["io_bytes"] != amount << 20:
        raise WrongError(f"fio: error {job['error']}, {kind['io_bytes']} bytes")
    return Seconds(kind["runtime"] / 1000)


def _fio(top: Path, sizes: Sizes) -> Iterator[Step]:
    """Reads of a lower file; writes to a new one, first from beginning to end."""
    rows = (
        ("sequential read, cold", "read", top / "bench/data", sizes.megabytes),
        ("random read of 4 KiB, cold", "randread", top / "bench/data", sizes.accessed),
        ("sequential write", "write", top / "written", sizes.megabytes),
        ("random write of 4 KiB", "randwrite", top / "written", sizes.accessed),
    )
    for what, how, path, amount in rows:
        work, cold = partial(_run_fio, path, how, sizes.megabytes, amount), "read" in how
        result = partial(digest.of_file, path)
        name = f"fio, {what}, {amount} MB"
        yield Step(name, work, COLD if cold else WRITING, cold=cold, result=result)


# ---- apt -----------------------------------------------------------------------------------------

_INSTALLED = ("dpkg-query", "-W", "-f", "${Package} ${Version} ${Status}\\n")


def _apt_install(top: Path) -> None:
    words = ("apt-get", "install", "-y", "-q", "--no-download", "--no-install-recommends")
    try:
        lower.chroot(top, *words, supplies.PACKAGE)
    except RuntimeError as error:
        errors = [line for line in str(error).splitlines() if line.startswith("E: ")]
        raise UnableError("; ".join(dict.fromkeys(errors)) or str(error)) from error


def _apt(top: Path) -> Iterator[Step]:
    install = partial(_apt_install, top)
    what, around = f"apt-get install {supplies.PACKAGE}", partial(lower.in_chroot, top)

    def result() -> str:
        return lower.chroot(top, *_INSTALLED) + digest.of_tree(top / "usr", ("*.pyc",))

    yield Step(what, install, WRITING, around, result=result)


# ---- all of them ---------------------------------------------------------------------------------


def _takes_podman(subject: Subject) -> bool:
    return subject.engine is not None


def _scenes(sizes: Sizes, packages: Sequence[str], *, debian: bool) -> Iterator[Scene]:
    quick = sizes is QUICK
    yield Scene("git", _git)
    yield Scene("pip", partial(_pip, packages=packages))
    yield Scene("make", _building)
    yield Scene("SQLite", partial(_sqlite, sizes=sizes))
    yield Scene("fio", partial(_fio, sizes=sizes))
    if debian:
        yield Scene("apt", _apt)
    steps: Callable[[Subject, Places], Iterator[Step]] = partial(building.steps, quick=quick)
    yield Scene("podman", building.named, _takes_podman, unmounted=steps)


def _prepare(places: Places, sizes: Sizes, root: Path | None) -> list[str]:
    """The lower directory; the names of the packages for pip."""
    if root is not None:
        quietly("cp", "-a", root, places.lower)
    top = places.lower / "bench"
    top.mkdir(parents=True)
    lower.make_repository(top / "repository", sizes.sources)
    lower.git(top / "repository", "repack", "-q", "-a", "-d")  # else a clone would compress it all
    shutil.copytree(_SOURCES, top / "source", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (top / "source/Makefile").write_text(_MAKEFILE.format(folders=sizes.folders))
    lower.write_large(top / "data", sizes.megabytes, random.Random(11))
    return wheels.write(top / "wheels", sizes.packages)


def measure(work: Path, choice: Choice, notes: Notebook, *, quick: bool) -> Iterator[Reading]:
    """Every wanted task by every wanted subject."""
    sizes = QUICK if quick else FULL
    root = None if quick else supplies.debian_root()
    if root is None:
        why = "left out by --quick" if quick else "python -m bench.supplies makes its packages"
        notes.miss(f"apt-get install {supplies.PACKAGE}", "all", why)
    found = present(choice, subjects.TABLE, notes)
    with disk.place_for("work", work, sizes.disk * disk.GIGABYTE, notes) as place:
        places = Places.below(place)
        packages = _prepare(places, sizes, root)
        lower.make_forms(places, found)
        every = _scenes(sizes, packages, debian=root is not None)
        scenes = [replace(scene, cold=False) for scene in every]
        yield from Measurement(places, choice, notes, before_step=os.sync).take(scenes, found)
