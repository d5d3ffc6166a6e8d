"""A daemon that ends late: what it served is unmounted, and something else has its number."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.commands import Commands
from support.mounting import is_mounted

from faults.killed import Killable
from unionmount.mounting.records import MountTable, Record

pytestmark = pytest.mark.needs("fuse", "root")

_TRIES = 5  # somebody else may mount something at the wrong moment
_libc = ctypes.CDLL(None, use_errno=True)


def _record(mountpoint: Path) -> Record:
    return next(one.record for one in MountTable.of_user().all() if one.record.path == mountpoint)


def _umount(place: Path) -> None:
    subprocess.run(["umount", place], check=True)


@contextmanager
def _lower_numbers_taken(top: Path, device: str) -> Iterator[None]:
    """No number below that of a device is free: once that one is, it is the next to be used."""
    with ExitStack() as stack:
        for number in range(1000):
            place = top / str(number)
            place.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
            stack.callback(_umount, place)
            if place.stat().st_dev > os.makedev(*map(int, device.split(":"))):
                break
        yield


def _ends_late(commands: Commands, archive: Path, top: Path) -> bool:
    """Whether a second mount got the number of the first; it has survived the first's daemon."""
    first, second = top / "first", top / "second"
    for path in (first, second):
        path.mkdir(parents=True)
    commands.run("mount", "--ro", archive, first)
    record = _record(first)
    with Killable(record.pid) as daemon, _lower_numbers_taken(top / "taken", record.device):
        os.kill(record.pid, signal.SIGSTOP)
        try:
            assert _libc.umount2(os.fsencode(first), 0) == 0
            commands.run("mount", "--ro", archive, second)
        finally:
            os.kill(record.pid, signal.SIGCONT)
        daemon.wait()
    same = _record(second).device == record.device
    assert is_mounted(second), "it was unmounted by the daemon of another mount"
    assert (second / "file").read_bytes() == b"x"
    commands.run("umount", second)
    return same


def test_it_leaves_the_other_mount_alone(commands: Commands, tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "image.tar", [Layer().file("file", b"x")])
    assert any(_ends_late(commands, archive, tmp_path / str(number)) for number in range(_TRIES))


def test_one_that_was_aborted_is_unmounted(commands: Commands, tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "image.tar", [Layer().file("file", b"x")])
    control, top = tmp_path / "control", tmp_path / "mnt"
    for path in (control, top):
        path.mkdir()
    commands.run("mount", "--ro", archive, top)
    record = _record(top)
    subprocess.run(["mount", "-t", "fusectl", "fusectl", control], check=True)
    try:
        with Killable(record.pid) as daemon:
            (control / record.device.partition(":")[2] / "abort").write_text("1")
            daemon.wait()
    finally:
        subprocess.run(["umount", control], check=True)
    assert not is_mounted(top)
