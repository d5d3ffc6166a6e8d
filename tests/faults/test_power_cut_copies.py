"""Power cuts while files of lower layers are copied up: each is the lower file or a complete copy.

A copy-up waits for no flush where the disk keeps the order of data and names
(unionmount.mounting.disk_order). Several threads change files, so that copies are made at once, and
somebody else has the journal written at any time. Then the disks are made that a cut at any moment
could have left (power.py). A file that has its name must have the data of the lower file: the users
of the mount never wrote it, so for them it was on the disk all the time.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.commands import Commands
from support.effort import amount

from faults.disks import overlay_place
from faults.killed import Place, seeded, soak_seconds
from faults.power import (
    BTRFS,
    EXT4,
    XFS,
    Cutter,
    Kind,
    check_cuts,
    committing,
    loop_device,
    make_image,
    mounted,
    read_trace,
    recording,
)
from unionmount.mounting.disk_order import keeps_order

pytestmark = [
    pytest.mark.needs("fuse", "root", "backing-ext4", "e2fsck", "losetup"),
    pytest.mark.timeout(300 + 2 * soak_seconds()),
]

CUTS = amount(16, 60)
WORKERS = 4
FILES = 10  # of each size and way of changing them
SIZES = (1000, 5000, 64 << 10, (64 << 10) + 1, 300_000)
ADDED = b"added"


# ---- the changes ---------------------------------------------------------------------------------


def _append(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        file.write(ADDED)


def _overwrite(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        file.write(ADDED)


def _change_mode(path: Path) -> None:
    path.chmod(0o600)


def _complete(path: Path) -> None:
    """Copy up without the data, if the file is large enough; the data follows."""
    path.chmod(0o600)
    _overwrite(path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "append": _append,
    "overwrite": _overwrite,
    "mode": _change_mode,
    "complete": _complete,
}


def _is_whole(change: str, found: bytes, lower: bytes) -> bool:
    """Whether a file has all that the lower one had, but for what the change itself writes."""
    if change == "append":
        rest = found[len(lower) :]
        allowed = (ADDED[: len(rest)], bytes(len(rest)))  # its size may be there before its data
        return found[: len(lower)] == lower and rest in allowed
    if change == "mode":
        return found == lower
    start = found[: len(ADDED)]
    return (
        len(found) == len(lower)
        and found[len(ADDED) :] == lower[len(ADDED) :]
        and (start in (ADDED, lower[: len(ADDED)]))
    )


def _names() -> list[str]:
    """Files by change and size, in the order in which they are changed."""
    names = [
        f"{change}-{size}-{number}"
        for change in CHANGES
        for size in SIZES
        for number in range(FILES)
    ]
    random.Random(1).shuffle(names)
    return names


def _change_of(name: str) -> str:
    return name.partition("-")[0]


def _make_lower(lower: Path) -> dict[str, bytes]:
    rng, made = random.Random(2), {}
    lower.mkdir(parents=True)
    for number, name in enumerate(_names()):
        made[name] = rng.randbytes(int(name.split("-")[1]))
        (lower / name).write_bytes(made[name])
        if number % 7 == 0:
            (lower / f"{name}-link").hardlink_to(lower / name)
    return made


def _change_all(top: Path) -> None:
    def change(name: str) -> None:
        CHANGES[_change_of(name)](top / name)

    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(change, _names()):
            pass


# ---- the disks -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system for the upper; where ``same`` is set, the lower layer is on it, too."""

    kind: Kind
    ordered: bool = True  # as unionmount has to find out
    same: bool = False


def _ext4(options: str = "") -> Kind:
    options = f"{EXT4.options},{options}" if options else EXT4.options
    return replace(EXT4, megabytes=96, options=options)


_XFS = pytest.mark.needs("backing-xfs", "xfs_repair")
_BTRFS = pytest.mark.needs("backing-btrfs", "btrfs")
_PLAIN_XFS = replace(XFS, make=(*XFS.make, "-m", "reflink=0"))
DISKS = [
    pytest.param(Disk(_ext4()), id="ext4"),
    pytest.param(Disk(_ext4(), same=True), id="ext4-same"),
    pytest.param(Disk(_ext4("data=journal")), id="ext4-journal"),
    pytest.param(Disk(_ext4("dioread_lock,nodelalloc")), id="ext4-old"),
    pytest.param(Disk(_ext4("data=writeback"), ordered=False), id="ext4-writeback"),
    pytest.param(Disk(XFS), id="xfs", marks=_XFS),
    pytest.param(Disk(XFS, same=True), id="xfs-shared", marks=_XFS),
    pytest.param(Disk(_PLAIN_XFS, same=True), id="xfs-no-reflink", marks=_XFS),
    pytest.param(Disk(BTRFS, ordered=False, same=True), id="btrfs-shared", marks=_BTRFS),
]


@dataclass(slots=True)
class Findings:
    """What was found after the cuts, added up."""

    states: Counter[str]
    broken: list[str]


def _keeps_order(place: Path) -> bool:
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return keeps_order(fd)
    finally:
        os.close(fd)


def _cut(disk: Disk, commands: Commands, scratch: Path, *options: str) -> Findings:
    """Change all files on a recorded disk, cut, and look at each disk that was left."""
    where, image = scratch / "disk", scratch / "new.img"
    where.mkdir()
    make_image(disk.kind, image)
    lower = (where if disk.same else scratch) / "lower"
    with loop_device(image) as device, mounted(disk.kind, device, where):
        content = _make_lower(lower)
        place = overlay_place(commands, [lower], where, scratch / "mnt", *options)
    findings = Findings(Counter(), [])
    with seeded() as rng:
        with recording(disk.kind, image, where, scratch), committing(where, rng):
            assert _keeps_order(where) == disk.ordered
            with place.mounted() as top:
                _change_all(top)
        cutter = Cutter(image, read_trace(scratch / "trace"), rng)
        check_cuts(
            disk.kind,
            cutter,
            cutter.random_cuts(CUTS),
            scratch,
            where,
            lambda _cut: _look(place, content, findings),
        )
    return findings


def _look(place: Place, content: dict[str, bytes], findings: Findings) -> None:
    with place.mounted() as top:
        assert place.left_in_work() == []
        for name, lower in content.items():
            found = (top / name).read_bytes()
            copied = (place.upper / name).exists()
            findings.states["copied" if copied else "lower"] += 1
            if not _is_whole(_change_of(name), found, lower):
                findings.broken.append(name)
            link = top / f"{name}-link"
            if link.exists() and link.read_bytes() != found:
                findings.broken.append(link.name)


@pytest.mark.parametrize("disk", DISKS)
def test_a_copy_has_its_data_whenever_the_power_is_cut(
    disk: Disk, commands: Commands, tmp_path: Path
) -> None:
    findings = _cut(disk, commands, tmp_path)
    assert findings.broken == []
    assert min(findings.states["copied"], findings.states["lower"]) > 0, "cuts at other moments"


@pytest.mark.parametrize(
    "disk", [pytest.param(Disk(_ext4()), id="ext4"), pytest.param(Disk(XFS), id="xfs", marks=_XFS)]
)
def test_these_cuts_find_a_copy_that_nobody_waited_for(
    disk: Disk, commands: Commands, tmp_path: Path
) -> None:
    """Without this, the test above would prove nothing."""
    assert _cut(disk, commands, tmp_path, "volatile").broken != []
