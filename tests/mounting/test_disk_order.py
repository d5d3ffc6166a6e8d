"""Which file systems count as keeping the order of data and names: on disks that are mounted so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from faults.power import BTRFS, EXT4, XFS, Kind, loop_device, make_image, mounted, run

from unionmount.mounting.disk_order import keeps_order

pytestmark = pytest.mark.needs("root", "backing-ext4", "losetup")

_XFS = pytest.mark.needs("backing-xfs")
_BTRFS = pytest.mark.needs("backing-btrfs")


@dataclass(frozen=True, slots=True)
class Case:
    """A file system that is mounted with ``options``, and the answer."""

    kind: Kind
    options: str
    ordered: bool


def _ext4(options: str, *, ordered: bool) -> Case:
    return Case(EXT4, options, ordered)


_WITHOUT_JOURNAL = replace(EXT4, make=("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal"))
_EXT3 = replace(EXT4, make=("mkfs.ext3", "-q", "-F", "-b", "4096"))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(_ext4("", ordered=True), id="ext4"),
        pytest.param(_ext4("data=journal", ordered=True), id="ext4-journal"),
        pytest.param(_ext4("data=writeback", ordered=False), id="ext4-writeback"),
        pytest.param(_ext4("nobarrier", ordered=False), id="ext4-nobarrier"),
        pytest.param(
            _ext4("data=journal,journal_async_commit", ordered=False), id="ext4-async-commit"
        ),
        pytest.param(Case(_WITHOUT_JOURNAL, "", ordered=False), id="ext4-without-journal"),
        pytest.param(Case(_EXT3, "", ordered=True), id="ext3"),
        pytest.param(Case(XFS, "", ordered=True), id="xfs", marks=_XFS),
        pytest.param(Case(BTRFS, "", ordered=False), id="btrfs", marks=_BTRFS),
    ],
)
def test_what_a_mounted_file_system_keeps(case: Case, tmp_path: Path) -> None:
    words = ",".join(filter(None, (case.kind.options, case.options)))
    with _on_a_disk(replace(case.kind, options=words), tmp_path) as where:
        assert _keeps_order(where) == case.ordered


def test_an_ext4_whose_journal_is_on_another_disk_keeps_none(tmp_path: Path) -> None:
    with _second_disk(tmp_path, 8) as journal:
        run("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "journal_dev", journal)
        make = ("mkfs.ext4", "-q", "-F", "-b", "4096", "-J", f"device={journal}")
        with _on_a_disk(replace(EXT4, make=make), tmp_path) as where:
            assert not _keeps_order(where)


@pytest.mark.needs("backing-xfs")
def test_an_xfs_whose_log_is_on_another_disk_keeps_none(tmp_path: Path) -> None:
    with _second_disk(tmp_path, 64) as log:
        make = ("mkfs.xfs", "-q", "-f", "-K", "-l", f"logdev={log},size=64m")
        kind = replace(XFS, make=make, options=f"{XFS.options},logdev={log}")
        with _on_a_disk(kind, tmp_path) as where:
            assert not _keeps_order(where)


def test_a_file_system_in_memory_keeps_none() -> None:
    assert not _keeps_order(Path("/dev/shm"))


def test_nothing_counts_where_the_kernel_shows_nothing(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not keeps_order(fd, proc=tmp_path, sys=tmp_path)
    finally:
        os.close(fd)


@contextmanager
def _second_disk(scratch: Path, megabytes: int) -> Iterator[Path]:
    image = scratch / "second"
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    with loop_device(image) as device:
        yield device


@contextmanager
def _on_a_disk(kind: Kind, scratch: Path) -> Iterator[Path]:
    """A new file system, mounted for a while."""
    where, image = scratch / "disk", scratch / "image"
    where.mkdir()
    make_image(kind, image)
    with loop_device(image) as device, mounted(kind, device, where):
        yield where


def _keeps_order(place: Path) -> bool:
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return keeps_order(fd)
    finally:
        os.close(fd)
