"""Changes to a mount, beside the same on other file systems that can be changed so.

One lower directory for all of them: a Debian root (with ``quick`` nothing of the kind) and, in
``bench/``, what the tasks need. An image of the same files is mounted, too. Each task is done by
each subject in turn, on a new upper; the native directory is a copy of the lower one. All of it is
on a disk of its own (bench/disk.py), so that no subject pays for what another has deleted.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench import disk, lower, subjects, synthetic
from bench.measuring import (
    WRITING,
    Measurement,
    Notebook,
    Reading,
    Scene,
    Step,
    UnableError,
    present,
)
from bench.subjects import Choice, Places, quietly


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to do."""

    files: int  # of the tar
    appended: int  # files of the lower layer, by one client, and as many by several
    writes: int  # to one file
    megabytes: int  # of the large file
    sources: int  # files of the repository
    disk: int  # gigabytes, of everything


CLIENTS = 4  # that append at once
FULL = Sizes(10_000, 1_000, 10_000, 1024, 4_000, 8)
QUICK = Sizes(1_000, 100, 1_000, 32, 400, 1)


# ---- the lower directory -------------------------------------------------------------------------


def _make_files(top: Path, sizes: Sizes) -> None:
    """What the tasks work on."""
    rng = random.Random(5)
    (top / "many").mkdir(parents=True)
    for number in range(2 * sizes.appended):  # half of them for the clients
        (top / f"many/{number}").write_bytes(rng.randbytes(1000))
    lower.write_large(top / "large", sizes.megabytes, rng)
    lower.make_repository(top / "repository", sizes.sources)


# ---- tasks ---------------------------------------------------------------------------------------


def _append_to_one(path: Path, count: int) -> None:
    line = b"x" * 99 + b"\n"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for _ in range(count):
            os.write(fd, line)
    finally:
        os.close(fd)


def append_to_each(top: Path, count: int) -> None:
    for number in range(count):
        with (top / str(number)).open("ab", buffering=0) as file:
            file.write(b"appended\n")


def _append_at_once(top: Path, first: int, count: int) -> None:
    """Four clients, each a process of its own, append to a quarter of the files."""
    children = []
    for client in range(CLIENTS):
        numbers = range(first + client, first + count, CLIENTS)
        child = os.fork()
        if child == 0:
            failed = 1
            try:
                for number in numbers:
                    with (top / str(number)).open("ab", buffering=0) as file:
                        file.write(b"appended\n")
                failed = 0
            finally:
                os._exit(failed)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    if any(codes):
        raise UnableError("a client failed")


def _append_byte(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@contextmanager
def _new_directory(place: Path) -> Iterator[None]:
    place.mkdir()
    yield


def _small_files(top: Path, sizes: Sizes, tar: Path) -> Iterator[Step]:
    place, many, count = top / "untarred", top / "bench/many", f"{sizes.files:,} files"
    untar = partial(quietly, "tar", "-C", place, "-xf", tar)
    yield Step(f"untar {count}", untar, WRITING, partial(_new_directory, place))
    yield Step(f"rm -r of {count}", partial(quietly, "rm", "-r", place), WRITING)
    appends = partial(_append_to_one, top / "log", sizes.writes)
    yield Step(f"{sizes.writes:,} appends of 100 bytes to a file", appends, WRITING)
    append = partial(append_to_each, many, sizes.appended)
    yield Step(f"append to {sizes.appended:,} lower files", append, WRITING)
    yield Step(f"append to {sizes.appended:,} files again", append, WRITING)
    at_once = partial(_append_at_once, many, sizes.appended, sizes.appended)
    yield Step(f"append to {sizes.appended:,} lower files, {CLIENTS} clients", at_once, WRITING)


def _sequential(top: Path, sizes: Sizes) -> Iterator[Step]:
    size = sizes.megabytes
    dd = ("dd", "if=/dev/zero", f"of={top / 'zeros'}", "bs=1M", f"count={size}")
    work = partial(quietly, *dd, "conv=fsync", "status=none")
    yield Step(f"write {size} MB, and fsync", work, WRITING)


def _copy_up(top: Path, sizes: Sizes) -> Iterator[Step]:
    what = f"append a byte to a lower file of {sizes.megabytes} MB"
    yield Step(what, partial(_append_byte, top / "bench/large"), WRITING)


def _change_mode(top: Path, sizes: Sizes) -> Iterator[Step]:
    what = f"chmod of a lower file of {sizes.megabytes} MB"
    yield Step(what, partial((top / "bench/large").chmod, 0o600), WRITING)


def _repository(top: Path, sizes: Sizes) -> Iterator[Step]:
    git = partial(lower.git, top / "bench/repository")
    what, status = f"{sizes.sources:,} files", partial(git, "status", "--porcelain")
    yield Step(f"git status of {what}, first", status, WRITING)
    yield Step(f"git status of {what}, again", status, WRITING)
    checkout = partial(git, "checkout", "-q", "other")
    yield Step(f"git checkout of another branch of {what}", checkout, WRITING)


def _packages(top: Path) -> Iterator[Step]:
    words = ("apt-get", "install", "-y", "-q", "--no-download", *lower.PACKAGES)
    install = partial(lower.chroot, top, *words)
    yield Step("apt-get install", install, WRITING, partial(lower.in_chroot, top))


def _scenes(sizes: Sizes, tar: Path, *, debian: bool) -> Iterator[Scene]:
    yield Scene("small files", partial(_small_files, sizes=sizes, tar=tar))
    yield Scene("sequential", partial(_sequential, sizes=sizes))
    yield Scene("copy-up", partial(_copy_up, sizes=sizes))
    yield Scene("chmod", partial(_change_mode, sizes=sizes))
    yield Scene("repository", partial(_repository, sizes=sizes))
    if debian:
        yield Scene("packages", _packages)


def _prepare(work: Path, images: Path, sizes: Sizes, *, debian: bool) -> tuple[Places, Path]:
    """The lower directory, and the tar of small files."""
    places, tar = Places.below(work), work / "small.tar"
    if debian:
        lower.make_debian_to_install(images, places.lower)
    _make_files(places.lower / "bench", sizes)
    synthetic.write_small(tar, sizes.files)
    return places, tar


def measure(
    work: Path, images: Path, choice: Choice, notes: Notebook, *, quick: bool
) -> Iterator[Reading]:
    """Every wanted task by every wanted subject."""
    sizes, debian = QUICK if quick else FULL, not quick and lower.can_install()
    if not debian:
        notes.miss("apt-get install", "all", "there is no Debian root")
    found = present(choice, subjects.WRITING, notes)
    with disk.place_for("writing", work, sizes.disk * disk.GIGABYTE, notes) as place:
        places, tar = _prepare(place, images, sizes, debian=debian)
        lower.make_forms(places, found)
        scenes = [replace(scene, cold=False) for scene in _scenes(sizes, tar, debian=debian)]
        taking = Measurement(
            places, choice, notes, before_step=os.sync, mount=subjects.mounted_or_copied
        )
        yield from taking.take(scenes, found)
