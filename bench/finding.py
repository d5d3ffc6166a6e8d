"""Listing all names of an image: ``unionmount find``, and find(1) on a mount of the same image.

What is measured is the time of the processor, user and system, of all that work: of find(1), that
of the daemon of the mount as well. They take turns; each mount is new.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from support.mounting import COMMAND, CommandLine

from bench import synthetic

SUBJECTS = ("find(1) on the mount", "unionmount find")
SEARCHES = {
    "names": (),
    "-ls": ("-ls",),
    "-printf of five": ("-printf", r"%p %s %m %u %t\n"),
    "--format jsonl": ("--format", "jsonl"),
}
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Found:
    """The processor's seconds of one search by one program."""

    what: str
    subject: str
    seconds: Sequence[float]


def measure(work: Path, *, quick: bool, passes: int) -> Iterator[Found]:
    """All numbers of the part ``find``."""
    count = 50_000 if quick else 1_000_000
    archive, mountpoint = work / "names.tar", work / "find-mount"
    synthetic.write_archive(archive, count, 8)
    mountpoint.mkdir()
    line = CommandLine(environment={"UNIONMOUNT_ROOT": str(work / "find-store")})
    line.run("find", archive, "-maxdepth", "0")  # builds the indexes
    for what, words in SEARCHES.items():
        taken: list[list[float]] = [[], []]
        for _ in range(passes):
            if "--format" not in words:
                taken[0].append(_on_a_mount(line, archive, mountpoint, words))
            taken[1].append(_processor([*COMMAND, "find", archive, *words], line))
        for subject, seconds in zip(SUBJECTS, taken, strict=True):
            if seconds:
                yield Found(f"{count:,} files: {what}", subject, seconds)
    archive.unlink()


def _on_a_mount(line: CommandLine, archive: Path, where: Path, words: Sequence[str]) -> float:
    line.run("mount", "--ro", archive, where)
    try:
        daemon = int(line.record(where)["pid"])
        before = _of_process(daemon)
        taken = _processor(["find", where, *words], line)
        return taken + _of_process(daemon) - before
    finally:
        line.run("umount", where)


def _processor(words: Sequence[str | Path], line: CommandLine) -> float:
    before = _of_children()
    subprocess.run(words, check=True, env=line.environment, stdout=subprocess.DEVNULL)
    return _of_children() - before


def _of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _of_process(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
