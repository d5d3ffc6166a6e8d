"""Birth times: those of the disk, as the kernel's overlayfs shows them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.backing import backing
from support.mounting import CommandLine, is_mounted

pytestmark = [pytest.mark.needs("fuse"), pytest.mark.needs("statx-of-fuse")]

NONE = "-"


def born(path: Path) -> str:
    """As stat(1) shows it, which asks for everything else, too."""
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(
        ["stat", path], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.partition(" Birth: ")[2].strip()


def rest(path: Path) -> str:
    """What else comes with it."""
    form = "%f %h %u %g %s %b %t %T %x %y %z"
    done = subprocess.run(["stat", "-c", form, path], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.needs("overlayfs")
@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.needs(f"backing-{k}")) for k in ("ext4", "tmpfs")],
)
def test_birth_times_are_those_of_overlayfs(kind: str, cli: CommandLine) -> None:
    with backing(kind, 64) as disk:
        for name in ("low/merged", "mid", "up/merged", "work", "theirs", "ours"):
            (disk / name).mkdir(parents=True)
        for name in ("low/below", "low/merged/below", "mid/middle", "up/above"):
            (disk / name).write_bytes(b"x")
        (disk / "low/link").symlink_to("below")
        options = f"lowerdir={disk}/mid:{disk}/low,upperdir={disk}/up,workdir={disk}/work"
        names = (".", "below", "middle", "above", "merged", "merged/below", "link")
        theirs, ours = disk / "theirs", disk / "ours"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, theirs], check=True)
        expected = {name: born(theirs / name) for name in names}
        files = [name for name in names if not (theirs / name).is_dir()]  # those have deviations
        others = {name: rest(theirs / name) for name in files}
        subprocess.run(["umount", theirs], check=True)
        cli.run("overlay", "-o", f"{options},suid,dev", ours)
        try:
            assert {name: born(ours / name) for name in names} == expected
            assert {name: rest(ours / name) for name in files} == others
            assert NONE not in expected.values()
        finally:
            cli.run("umount", ours)


@pytest.fixture
def mount(cli: CommandLine, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that mounts an image, which has no birth times."""
    layer = Layer().file("file", b"x").directory("dir").symlink("link", "file").file("dir/file")
    image = docker_archive(tmp_path / "image.tar", [layer], name="birth-times:1")
    where = tmp_path / "mnt"
    where.mkdir()

    def mount_it(*options: str) -> Path:
        cli.run("mount", *options, image, where)
        return where

    yield mount_it
    if is_mounted(where):
        cli.run("umount", "--lazy", where)


def test_files_of_images_have_none(mount: Callable[..., Path]) -> None:
    root = mount("--ro")
    assert {born(root / name) for name in ("file", "dir", "link")} == {NONE}


def test_files_of_the_upper_have_that_of_the_disk(
    mount: Callable[..., Path], tmp_path: Path
) -> None:
    upper = tmp_path / "upper"
    root = mount("--upper", str(upper), "--work", str(tmp_path / "work"))
    assert {born(root / name) for name in ("file", "dir", "link")} == {NONE}
    (root / "new").write_bytes(b"x")
    (root / "made").symlink_to("new")
    (root / "file").write_bytes(b"copied up")  # the copy was born now, as on overlayfs
    (root / "dir/other").mkdir()
    for name in ("new", "made", "file", "dir", "dir/other"):
        assert born(root / name) == born(upper / name) != NONE
    assert {born(root / name) for name in ("link", "dir/file")} == {NONE}


def test_python_alone_has_none(mount: Callable[..., Path]) -> None:
    root = mount("--ephemeral", "--no-fastpath")
    (root / "new").write_bytes(b"x")
    assert born(root / "new") == NONE
