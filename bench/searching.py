"""Searching all files of an image: ``unionmount grep`` and GNU grep on a mount of the same image.

Both begin cold: what they read is not in the page cache, and the mount is new. The index is there.
They take turns. Starting the process is in the time of both, the mount is in neither.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.mounting import COMMAND
from support.real_images import real_image

from bench import synthetic

SUBJECTS = ("GNU grep on the mount", "unionmount grep")
SEARCHES = {
    "a word that is nowhere": ("hunter2-nowhere",),
    "a word, -i -w": ("-iw", "password"),
    "addresses, -E": ("-E", r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}"),
    "lines counted, -c": ("-c", "e"),
}


@dataclass(frozen=True, slots=True)
class Searched:
    """The seconds of one search by one program."""

    what: str
    subject: str
    seconds: Sequence[float]


def measure(work: Path, images: Path, *, quick: bool, passes: int) -> Iterator[Searched]:
    """All numbers of the part ``grep``."""
    count = 20_000 if quick else 200_000
    small = work / "small.tar"
    synthetic.write_archive(small, count, 8)
    yield from _compare(work, f"{count:,} small files", small, passes)
    small.unlink()
    image = Path(str(real_image(images).sources()["docker-archive"]).partition(":")[2])
    yield from _compare(work, "Debian", image, passes)


def _compare(work: Path, name: str, archive: Path, passes: int) -> Iterator[Searched]:
    mountpoint, root = work / "grep-mount", work / "grep-store"
    mountpoint.mkdir(exist_ok=True)
    environment = os.environ | {"UNIONMOUNT_ROOT": str(root), "LC_ALL": "C.UTF-8"}
    _run([*COMMAND, "grep", "-q", "nowhere", archive], environment)  # builds the index
    for what, words in SEARCHES.items():
        taken: list[list[float]] = [[], []]
        for _ in range(passes):
            _run([*COMMAND, "mount", "--ro", archive, mountpoint], environment)
            _evict(archive, root)
            taken[0].append(_timed(["grep", "-r", *words, mountpoint], environment))
            _run([*COMMAND, "umount", mountpoint], environment)
            _evict(archive, root)
            taken[1].append(_timed([*COMMAND, "grep", *words, archive], environment))
        for subject, seconds in zip(SUBJECTS, taken, strict=True):
            yield Searched(f"{name}: {what}", subject, seconds)


def _run(words: Sequence[str | Path], environment: dict[str, str]) -> None:
    """Run a program whose output and status do not matter: 1 is that nothing was found."""
    done = subprocess.run(
        words, check=False, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if done.returncode not in (0, 1):
        raise subprocess.CalledProcessError(done.returncode, [str(word) for word in words])


def _timed(words: Sequence[str | Path], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    _run(words, environment)
    return time.perf_counter() - start


def _evict(archive: Path, root: Path) -> None:
    """Make the kernel forget the archive and the store: nothing else on this machine."""
    os.sync()
    for path in (archive, *filter(Path.is_file, root.rglob("*"))):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
