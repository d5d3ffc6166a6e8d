"""Single operations in thousands, on one lower directory: the rows by which mounts are known.

Names and files are read cold, from a mount that nobody has asked before; changes are made with
everything in the page cache. Each subject's mount has the same files: small ones, one large one
and, where ``python -m bench.supplies`` has made it, a Debian root.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import digest, disk, fastpath, lower, subjects, supplies, synthetic, writing
from bench.measuring import COLD, WARM, WRITING, Measurement, Notebook, Reading, Scene, Step
from bench.measuring import present as those_present
from bench.subjects import Choice, Places, Subject, quietly


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is to do."""

    created: int
    appended: int
    untarred: int
    megabytes: int
    disk: int  # gigabytes, of everything


FULL = Sizes(3_000, 500, 5_000, 512, 8)
QUICK = Sizes(200, 50, 200, 16, 1)
_LINE = b"x" * 3000


# ---- tasks ---------------------------------------------------------------------------------------


def _create(place: Path, count: int) -> None:
    for number in range(count):
        fd = os.open(f"{place}/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, _LINE)
        os.close(fd)


def _rename(place: Path, count: int) -> None:
    for number in range(count):
        os.rename(f"{place}/{number}", f"{place}/renamed{number}")  # noqa: PTH104 - it is timed


def _mount_and_list(subject: Subject, places: Places) -> None:
    subjects.mount(subject, places)
    quietly("ls", places.mountpoint)


def _names(top: Path) -> str:
    return ", ".join(sorted(path.name for path in top.iterdir()))


def _size(path: Path) -> str:
    return str(path.stat().st_size) if path.exists() else "gone"


# ---- scenes --------------------------------------------------------------------------------------


def _mounting(subject: Subject, places: Places) -> Iterator[Step]:
    work, names = partial(_mount_and_list, subject, places), partial(_names, places.mountpoint)
    yield Step("mount and ls", work, result=names)


def _mounting_named(_: Path) -> Iterator[Step]:
    yield Step("mount and ls", int)


def _reading(top: Path, names: fastpath.Names) -> Iterator[Step]:
    """In this order: what is called cold has not been asked for before."""
    walk = partial(fastpath.stat_all, top, names)
    found = partial(digest.of_names, top)
    yield Step("stat walk, cold", walk, COLD)
    yield Step("stat walk, again", walk, WARM, result=found)
    read = partial(fastpath.read_all, top, names.files)
    contents = partial(digest.of_tree, top / "bench")
    yield Step("open, read, close, cold", read, COLD)
    yield Step("open, read, close, again", read, WARM, result=contents)
    absent = partial(fastpath.ask_absent, top, "absent")
    yield Step(f"{fastpath.NAMES:,} names that do not exist, first", absent, COLD)
    ask = partial(fastpath.ask_xattr, top, names)
    yield Step(f"getxattr of {fastpath.NAMES:,} files", ask)


@contextmanager
def _new(place: Path) -> Iterator[None]:
    place.mkdir()
    yield


def _changing(top: Path, sizes: Sizes, tar: Path) -> Iterator[Step]:
    new, untarred, many = top / "new", top / "untarred", top / "bench/many"
    count, files = sizes.created, f"{sizes.untarred:,} files"
    made = partial(digest.of_tree, new)
    create = partial(_create, new, count)
    yield Step(f"create {count:,} files", create, WRITING, partial(_new, new), result=made)
    rename = partial(_rename, new, count)
    yield Step(f"rename {count:,} files", rename, WRITING, result=made)
    untar = partial(quietly, "tar", "-C", untarred, "-xf", tar)
    there = partial(digest.of_tree, untarred)
    yield Step(f"untar {files}", untar, WRITING, partial(_new, untarred), result=there)
    append = partial(writing.append_to_each, many, sizes.appended)
    appended = partial(digest.of_tree, many)
    yield Step(f"append to {sizes.appended:,} lower files", append, WRITING, result=appended)
    remove = partial(quietly, "rm", "-r", untarred)
    yield Step(f"rm -r of {files}", remove, WRITING, result=partial(_size, untarred))


def _large(top: Path, sizes: Sizes) -> Iterator[Step]:
    size, zeros, large = sizes.megabytes, top / "zeros", top / "bench/large"
    dd = ("dd", "if=/dev/zero", f"of={zeros}", "bs=1M", f"count={size}")
    write = partial(quietly, *dd, "conv=fsync", "status=none")
    length = partial(_size, zeros)
    yield Step(f"write {size} MB, and fsync", write, WRITING, result=length)
    read, content = partial(fastpath.read_through, large), partial(digest.of_tree, top / "bench")
    yield Step(f"read {size} MB, cold", read, COLD, cold=True)
    yield Step(f"read {size} MB, again", read, WARM, result=content)


def _scenes(sizes: Sizes, names: fastpath.Names, tar: Path) -> Sequence[Scene]:
    return (
        Scene("mounting", _mounting_named, cold=False, unmounted=_mounting),
        Scene("names and files", partial(_reading, names=names)),
        Scene("changes", partial(_changing, sizes=sizes, tar=tar), cold=False),
        Scene("large file", partial(_large, sizes=sizes), cold=False),
    )


# ---- measuring -----------------------------------------------------------------------------------


def _prepare(places: Places, sizes: Sizes, root: Path | None) -> fastpath.Names:
    if root is not None:
        quietly("cp", "-a", root, places.lower)
    top, rng = places.lower / "bench", random.Random(8)
    (top / "many").mkdir(parents=True)
    lower.write_small(top, fastpath.NAMES, rng)
    for number in range(sizes.appended):
        (top / f"many/{number}").write_bytes(rng.randbytes(1000))
    lower.write_large(top / "large", sizes.megabytes, rng)
    return fastpath.Names.of(places.lower)


def measure(work: Path, choice: Choice, notes: Notebook, *, quick: bool) -> Iterator[Reading]:
    """Every wanted row by every wanted subject."""
    sizes = QUICK if quick else FULL
    root = None if quick else supplies.debian_root()
    found = those_present(choice, subjects.TABLE, notes)
    with disk.place_for("operations", work, sizes.disk * disk.GIGABYTE, notes) as place:
        places, tar = Places.below(place), place / "small.tar"
        names = _prepare(places, sizes, root)
        synthetic.write_small(tar, sizes.untarred)
        lower.make_forms(places, found)
        taking = Measurement(places, choice, notes, before_step=os.sync)
        yield from taking.take(_scenes(sizes, names, tar), found)
