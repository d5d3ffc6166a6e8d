"""Reading a mount, beside the kernel's overlayfs, other FUSE file systems, and no mount at all.

One lower directory for all: a Debian root with python3 (not with ``quick``, nor without the tools
that make one), 2,000 small files, a git repository and one large file. unionmount mounts it with
and without the router, as a directory and as an image. Before a mount the kernel's caches are
dropped (``/proc/sys/vm/drop_caches``, 3), but not with ``quick``: it is the whole machine that
waits then.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from bench import disk, lower, subjects
from bench.clients import at_once
from bench.measuring import (
    COLD,
    LATENCY,
    WARM,
    WRITING,
    Latencies,
    Measurement,
    Notebook,
    Reading,
    Scene,
    Step,
    UnableError,
    each,
    present,
)
from bench.subjects import NATIVE, Choice, Places, Subject, quietly

NAMES = 2000  # names that do not exist; extended attributes that are asked for
_RANDOM = 4000  # reads of 4 KiB
_BLOCK = 4096
_JOBS = 8
_CHANGES = 200
_SOURCES = 2000
_IMPORT = (
    "import asyncio, concurrent.futures, ctypes, decimal, email.message, http.client, json, "
    "logging.config, multiprocessing, sqlite3, ssl, tarfile, unittest, xml.etree.ElementTree"
)
_PYTHON = "usr/bin/python3"
_ACL = "system.posix_acl_access"


# ---- what is done --------------------------------------------------------------------------------


@dataclass(slots=True)
class Names:
    """What is in the lower directory, relative to it."""

    everything: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # regular ones below 1 MiB

    @classmethod
    def of(cls, top: Path) -> Names:
        """Walk it once; the large file is left out."""
        found = cls()
        for directory, names, files in os.walk(top):
            for name in (*names, *files):
                path = Path(directory, name)
                found.everything.append(str(path.relative_to(top)))
                if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 20:
                    found.files.append(found.everything[-1])
        return found

    @property
    def small(self) -> list[str]:
        """Those of the small files that are no program's."""
        return [name for name in self.files if name.startswith("bench/directory")]


def stat_all(top: Path, names: Names) -> None:
    for name in names.everything:
        os.lstat(f"{top}/{name}")


def read_all(top: Path, files: Sequence[str]) -> None:
    for name in files:
        fd = os.open(f"{top}/{name}", os.O_RDONLY)
        while os.read(fd, 1 << 17):
            pass
        os.close(fd)


def ask_absent(top: Path, prefix: str) -> None:
    for number in range(NAMES):
        with suppress(FileNotFoundError):
            os.lstat(f"{top}/bench/{prefix}{number}")


def ask_xattr(top: Path, names: Names) -> None:
    for name in names.files[:NAMES]:
        try:
            os.getxattr(f"{top}/{name}", "user.bench")
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise


def read_through(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    while os.read(fd, 1 << 20):
        pass
    os.close(fd)


def _read_at_random(path: Path, seed: int) -> None:
    rng = random.Random(seed)
    fd = os.open(path, os.O_RDONLY)
    blocks = os.fstat(fd).st_size // _BLOCK
    for _ in range(_RANDOM):
        os.pread(fd, _BLOCK, rng.randrange(blocks) * _BLOCK)
    os.close(fd)


def _grep(top: Path) -> None:
    words = ("grep", "-r", "--exclude=large", "nothing like it", top)
    subprocess.run(words, check=False, stdout=subprocess.DEVNULL)


def _git_status(repository: Path) -> None:
    """Without the lock that git takes to write its index, which a read-only mount refuses.

    Only size and seconds are compared: where numbers of inodes differ from those in the index, git
    would read all files, and that would be another task.
    """
    settings = ("-c", "core.checkStat=minimal", "-c", "core.trustctime=false")
    done = subprocess.run(
        ["git", "-C", repository, "-c", "safe.directory=*", *settings, "status", "--porcelain"],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | lower.GIT | {"GIT_OPTIONAL_LOCKS": "0"},
    )
    if done.stdout:
        raise UnableError("git finds changes where there are none")


def _import(top: Path) -> None:
    path = f"PATH={os.defpath}:/usr/sbin"
    quietly("env", "-i", path, "chroot", top, f"/{_PYTHON}", "-B", "-c", _IMPORT)


# ---- single calls --------------------------------------------------------------------------------


def _stat_each(top: Path, names: Names) -> Latencies:
    return each([partial(os.lstat, f"{top}/{name}") for name in names.small])


def _pread_each(path: Path) -> Latencies:
    rng = random.Random(9)
    fd = os.open(path, os.O_RDONLY)
    try:
        blocks = os.fstat(fd).st_size // _BLOCK
        offsets = [rng.randrange(blocks) * _BLOCK for _ in range(_RANDOM)]
        return each([partial(os.pread, fd, _BLOCK, offset) for offset in offsets])
    finally:
        os.close(fd)


# ---- changes -------------------------------------------------------------------------------------


def _acl() -> bytes:
    """user::rw-, user:1000:r--, group::r--, mask::r--, other::r--."""
    nobody = 0xFFFFFFFF
    entries = ((1, 6, nobody), (2, 4, 1000), (4, 4, nobody), (16, 4, nobody), (32, 4, nobody))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _set_acls(place: Path, acl: bytes) -> None:
    for number in range(_CHANGES):
        os.setxattr(f"{place}/{number}", _ACL, acl)


def _make_setgid(place: Path) -> None:
    for number in range(_CHANGES):
        os.mknod(f"{place}/{number}", 0o102644)


def _link_all(files: list[str], place: Path) -> None:
    for number, name in enumerate(files):
        os.link(name, f"{place}/{number}")


@contextmanager
def _directory(
    top: Path, place: Path, *, files: int = 0, known: Sequence[str] = ()
) -> Iterator[None]:
    """A new directory, which is removed again: the lower one stays what it is."""
    read_all(top, known)
    place.mkdir()
    try:
        for number in range(files):
            (place / str(number)).touch()
        yield
    finally:
        shutil.rmtree(place)


def _changing(top: Path, names: Names) -> Iterator[Step]:
    """Names and attributes; S_ISGID on a new file is what the router leaves to pyfuse3."""
    place = top / "bench/new"
    known = names.small[-_CHANGES:]
    acls = partial(_directory, top, place, files=_CHANGES)
    yield Step(
        f"set an ACL on {_CHANGES} new files", partial(_set_acls, place, _acl()), WRITING, acls
    )
    new = partial(_directory, top, place)
    yield Step(f"make {_CHANGES} files with S_ISGID", partial(_make_setgid, place), WRITING, new)
    links = partial(_directory, top, place, known=known)
    files = [f"{top}/{name}" for name in known]
    yield Step(f"link to {_CHANGES} lower files", partial(_link_all, files, place), WRITING, links)


# ---- scenes --------------------------------------------------------------------------------------


def _programs(top: Path, elsewhere: Path) -> Iterator[Step]:
    yield Step("find -ls", partial(quietly, "find", top, "-ls"))
    yield Step("du -s", partial(quietly, "du", "-s", top))
    yield Step("grep -r, small files", partial(_grep, top))
    tar = f"tar -C {top} --exclude=large -c . | cat >/dev/null"
    yield Step("tar c", partial(quietly, "sh", "-c", tar))
    yield Step("rsync, dry run", partial(quietly, "rsync", "-an", f"{top}/", f"{elsewhere}/"))


def _reading(top: Path, names: Names, elsewhere: Path) -> Iterator[Step]:
    """In this order: what is called cold has not been asked for before."""
    large = top / "bench/large"
    for state in (COLD, WARM):
        yield Step(f"stat walk, {state}", partial(stat_all, top, names), state)
    for state in (COLD, WARM):
        yield Step(f"open, read, close, {state}", partial(read_all, top, names.files), state)
    absent, what = partial(ask_absent, top, "absent"), f"{NAMES} names that do not exist"
    yield Step(f"{what}, first", absent, COLD)
    yield Step(f"{what}, again", absent)
    yield Step(f"getxattr of {NAMES} files", partial(ask_xattr, top, names))
    yield from _programs(top, elsewhere)
    yield Step("large file, random 4 KiB, 1 process", partial(_read_at_random, large, 1), COLD)
    jobs = [(_read_at_random, (large, seed)) for seed in range(2, 2 + _JOBS)]
    yield Step(f"large file, random 4 KiB, {_JOBS} processes", partial(at_once, jobs), COLD)


def _at_large(top: Path, names: Names) -> Iterator[Step]:
    parts = [names.files[number::_JOBS] for number in range(_JOBS)]
    works = [(read_all, (top, part)) for part in parts]
    yield Step(f"open, read, close, cold, {_JOBS} processes", partial(at_once, works), COLD)
    for state in (COLD, WARM):
        work = partial(read_through, top / "bench/large")
        yield Step(f"large file, sequential, {state}", work, state)


def _single(top: Path, names: Names, *, debian: bool) -> Iterator[Step]:
    """Things that do not touch each other's files, so that one mount does for all."""
    repository, large = top / "bench/repository", top / "bench/large"
    for state in (COLD, WARM):
        yield Step(f"git status, {state}", partial(_git_status, repository), state)
    for state in (COLD, WARM) if debian else ():
        yield Step(f"python3 -c 'import …' in a chroot, {state}", partial(_import, top), state)
    for state in (COLD, WARM):
        yield Step(f"one stat, {state}", partial(_stat_each, top, names), LATENCY)
    for state in (COLD, WARM):
        yield Step(f"one pread of 4 KiB, {state}", partial(_pread_each, large), LATENCY)


def _takes_changes(subject: Subject) -> bool:
    """Not those that show a layer only, nor mergerfs, which would change the lower directory."""
    return subject.copies or subject.name == NATIVE


# ---- measuring -----------------------------------------------------------------------------------


def _prepare(places: Places, images: Path, *, quick: bool, debian: bool) -> Names:
    if debian:
        quietly("cp", "-a", lower.debian_with_python(images), places.lower)
    top = places.lower / "bench"
    top.mkdir(parents=True)
    rng = random.Random(6)
    lower.write_small(top, NAMES, rng)
    lower.write_large(top / "large", 64 if quick else 1024, rng)
    lower.make_clean_repository(top / "repository", _SOURCES)
    return Names.of(places.lower)


def measure(
    work: Path, images: Path, choice: Choice, notes: Notebook, *, quick: bool
) -> Iterator[Reading]:
    """Every wanted row on every wanted subject."""
    debian = not quick and lower.can_install()
    if not debian:
        notes.miss("python3 -c 'import …' in a chroot", "all", "there is no Debian root")
    found = present(choice, subjects.READING, notes)
    places, elsewhere = Places.below(work), work / "elsewhere"
    names = _prepare(places, images, quick=quick, debian=debian)
    lower.make_forms(places, found)
    elsewhere.mkdir()
    scenes = (
        Scene("names and files", partial(_reading, names=names, elsewhere=elsewhere)),
        Scene("processes and large file", partial(_at_large, names=names)),
        Scene("single tasks and calls", partial(_single, names=names, debian=debian)),
    )
    taking = Measurement(places, choice, notes)
    yield from taking.take(scenes, found)
    yield from _changes(taking, work, names, found)
    shutil.rmtree(places.lower)


def _changes(
    taking: Measurement, work: Path, names: Names, found: Sequence[Subject]
) -> Iterator[Reading]:
    """What is changed is on a disk of its own; the lower directory stays where it is."""
    scene = Scene("changes", partial(_changing, names=names), _takes_changes, cold=False)
    if taking.wants(scene):
        part = "fastpath, changes"
        with disk.place_for(part, work, disk.GIGABYTE, taking.notes) as place:
            places = replace(Places.below(place), lower=taking.places.lower)
            changing = replace(taking, places=places, before_step=os.sync)
            yield from changing.take([scene], found)
