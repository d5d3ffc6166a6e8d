"""Mounts for the duration of a block."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio
from support.mounting import is_mounted

import unionmount
from unionmount.errors import MountError, UnionmountError


@pytest.mark.needs("fuse")
async def test_a_mount_lasts_as_long_as_its_block(source: Path, place: Path) -> None:
    (place / "mnt").mkdir()
    async with unionmount.mount(str(source), place / "mnt") as mounted:
        assert mounted.path == place / "mnt"
        assert (mounted.path / "d/new").read_bytes() == b"new"
        with pytest.raises(OSError, match="Read-only"):
            (mounted.path / "x").touch()
    assert not is_mounted(place / "mnt")
    with pytest.raises(ProcessLookupError):
        os.kill(mounted.pid, 0)


@pytest.mark.needs("fuse")
async def test_an_error_unmounts_and_is_passed_on(source: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with unionmount.mount(str(source)) as mounted:
            _ = 1 / 0
    assert not mounted.path.exists()


@pytest.mark.needs("fuse")
async def test_cancellation_unmounts(source: Path) -> None:
    with trio.CancelScope() as scope:
        async with unionmount.mount(str(source)) as mounted:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not mounted.path.exists()


@pytest.mark.needs("fuse")
async def test_cancellation_before_it_is_mounted(source: Path, place: Path) -> None:
    (place / "mnt").mkdir()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with unionmount.mount(str(source), place / "mnt"):
            pytest.fail("it was cancelled")
    assert not is_mounted(place / "mnt")


@pytest.mark.needs("fuse")
async def test_changes_are_kept_where_that_was_asked_for(source: Path, place: Path) -> None:
    async with unionmount.mount(str(source), name="box") as mounted:
        (mounted.path / "made").write_text("made\n")
    async with unionmount.mount("box") as mounted:
        assert (mounted.path / "made").read_text() == "made\n"
        with pytest.raises(OSError, match="Read-only"):
            (mounted.path / "made").unlink()
    with unionmount.open_image("box") as image:
        assert image.tree.read("/made") == b"made\n"
        assert image.tree.lookup("/made").layer == 2
    async with unionmount.mount(str(source), upper=place / "upper", options="dev") as mounted:
        (mounted.path / "other").touch()
    assert (place / "upper/other").exists()


@pytest.mark.needs("fuse")
async def test_who_may_reach_the_changes(source: Path, public_tmp: Path) -> None:
    upper = public_tmp / "upper"
    upper.mkdir()
    upper.chmod(0o755)
    with pytest.raises(MountError, match="other users can reach it"):
        async with unionmount.mount(str(source), upper=upper):
            pytest.fail("it was mounted")
    async with unionmount.mount(str(source), upper=upper, upper_open=True) as mounted:
        (mounted.path / "made").touch()
    assert (upper / "made").exists()


@pytest.mark.needs("fuse")
async def test_layers_are_mounted(source: Path) -> None:
    async with unionmount.mount(str(source), layers=True) as mounted:
        assert sorted(os.listdir(mounted.path)) == ["0", "1"]
    async with unionmount.mount(str(source), layer=0) as mounted:
        assert not (mounted.path / "d/new").exists()


@pytest.mark.needs("fuse")
async def test_why_it_was_not_mounted(source: Path, place: Path) -> None:
    with pytest.raises(MountError, match="no such file or directory"):
        async with unionmount.mount("./nothing.tar"):
            pytest.fail("there is nothing to mount")
    with pytest.raises(UnionmountError, match="no layer 5"):
        async with unionmount.mount(str(source), layer=5):
            pytest.fail("there is no such layer")


@pytest.mark.needs("fuse")
async def test_it_may_be_unmounted_meanwhile(source: Path) -> None:
    async with unionmount.mount(str(source)) as mounted:
        await trio.run_process([sys.executable, "-m", "unionmount", "umount", str(mounted.path)])
    assert not mounted.path.exists()


@pytest.mark.needs("fuse")
async def test_no_module_is_imported_from_the_working_directory(
    source: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may write to the directory in which a program runs, such as /tmp."""
    planted = place / "planted"
    (planted / "unionmount").mkdir(parents=True)
    for name in ("unionmount/__init__", "unionmount/__main__", "trio", "click", "pyfuse3"):
        (planted / f"{name}.py").write_text(f"open({str(place / 'ran')!r}, 'w').close()\n")
    monkeypatch.chdir(planted)
    async with unionmount.mount(str(source)) as mounted:
        assert (mounted.path / "d/new").read_bytes() == b"new"
    assert not (place / "ran").exists()
