"""Ordinary programs on a mount: they must find in it exactly what the image holds."""

from __future__ import annotations

import os
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive

pytestmark = [pytest.mark.needs("fuse", "root"), pytest.mark.quick]


def image_layers() -> list[Layer]:
    choose = random.Random(7)
    lower = Layer().directory("data").directory("data/deep").directory("data/gone")
    for number in range(60):
        content = choose.randbytes(choose.randrange(200_000))
        owner = (choose.randrange(2000), choose.randrange(2000))
        lower.file(f"data/deep/{number}", content, owner=owner, mode=0o640 + number % 8)
    lower.file("data/gone/x", b"x").file("needle", b"a needle in a haystack\n")
    lower.hard_link("data/needle-too", "needle").symlink("data/link", "../needle")
    lower.add("data/fifo", tarfile.FIFOTYPE).add("data/device", tarfile.CHRTYPE, device=(4, 66))
    upper = Layer().file("data/.wh.gone").file("data/deep/0", b"changed", xattrs={"user.a": b"b"})
    return [lower, upper]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, module_mount: Callable[..., Path]) -> Path:
    archive = docker_archive(tmp_path_factory.mktemp("image") / "image.tar", image_layers())
    return module_mount(archive)


@pytest.fixture(scope="module")
def copy(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Python reads of the mount, written with Python."""
    target = tmp_path_factory.mktemp("copy")
    packed = target.with_suffix(".tar")
    with tarfile.open(packed, "w") as tar:
        tar.add(root, ".")
    with tarfile.open(packed) as tar:
        # as an attribute, because Debian's Python 3.11 does not have the argument yet
        trusted = getattr(tarfile, "fully_trusted_filter", lambda member, _path: member)
        tar.extraction_filter = trusted
        tar.extractall(target)
    return target


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def facts(top: Path) -> list[str]:
    """Type, mode, owner, size, links, time and target of everything."""
    shown = run("find", top, "-printf", r"%P|%y|%m|%U|%G|%n|%T@|%l|\n").splitlines()
    sizes = run("find", top, "-type", "f", "-printf", r"%P %s\n").splitlines()
    return sorted(shown) + sorted(sizes)


def test_find_sees_the_image(root: Path) -> None:
    found = run("find", root, "-printf", r"%P\n").split()
    assert len(found) == 60 + 2 + 1 + 1 + 1 + 2
    assert not any("gone" in name for name in found)


@pytest.mark.needs("rsync")
def test_cp_rsync_and_tar_copy_all_of_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "tar").mkdir()
    run("cp", "-a", root, tmp_path / "cp")
    run("rsync", "-aHAX", f"{root}/", tmp_path / "rsync")
    pack = f"tar -C {root} --xattrs -c . | tar -C {tmp_path}/tar --xattrs -xp"
    run("sh", "-c", pack)
    expected = facts(root)
    for name in ("cp", "rsync", "tar"):
        assert facts(tmp_path / name) == expected
        run("diff", "-r", "--no-dereference", root / "data/deep", tmp_path / name / "data/deep")
        assert os.getxattr(tmp_path / name / "data/deep/0", "user.a") == b"b"


def test_diff_finds_no_difference(root: Path, copy: Path) -> None:
    assert run("diff", "-r", "--no-dereference", root / "data/deep", copy / "data/deep") == ""


def test_grep_finds_the_needle(root: Path) -> None:
    found = run("grep", "-rlI", "--devices=skip", "needle in a", root).split()
    assert sorted(found) == [f"{root}/data/needle-too", f"{root}/needle"]


def test_du_counts_hard_links_once(root: Path) -> None:
    sizes = {(s.st_dev, s.st_ino): s.st_blocks for s in map(Path.lstat, root.rglob("*"))}
    expected = sum(sizes.values()) + root.lstat().st_blocks
    assert int(run("du", "-s", "--block-size=512", root).split()[0]) == expected


def test_checksums_agree(root: Path, copy: Path) -> None:
    names = sorted(str(p.relative_to(root)) for p in (root / "data/deep").iterdir())
    sums = [run("sh", "-c", 'cd "$0" && sha256sum "$@"', top, *names) for top in (root, copy)]
    assert sums[0] == sums[1]
