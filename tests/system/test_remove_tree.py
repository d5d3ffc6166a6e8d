"""Removing trees that resist: unwritable directories, deep ones, links, what is mounted in them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unionmount.system.remove_tree import remove_tree

ORDINARY_USER = 65534


def test_what_links_lead_to_stays(tmp_path: Path) -> None:
    (tmp_path / "outside/inner").mkdir(parents=True)
    (tmp_path / "outside/file").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "link").symlink_to(tmp_path / "outside")
    (tree / "a/link").symlink_to("../../outside/inner")
    (tree / "a/hard").hardlink_to(tmp_path / "outside/file")
    os.mkfifo(tree / "a/b/fifo")
    remove_tree(tree)
    assert not tree.exists()
    assert (tmp_path / "outside/file").read_text() == "kept"
    assert (tmp_path / "outside/inner").is_dir()


def test_a_link_is_no_tree(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("directory")
    with pytest.raises(OSError, check=lambda error: error.filename == str(tmp_path / "link")):
        remove_tree(tmp_path / "link")
    assert (tmp_path / "directory").is_dir()


def test_deeper_than_a_path_is_long(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=fd)
        inner = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(os.open("file", os.O_CREAT, dir_fd=inner))
        os.close(fd)
        fd = inner
    os.close(fd)
    remove_tree(tree)
    assert not tree.exists()


def test_a_removal_that_was_interrupted(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("removed-0", "removed-0-0", "a/removed-0", "a/removed-0-0/b"):
        (tree / name).mkdir(parents=True)
    remove_tree(tree)
    assert not tree.exists()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        remove_tree(tmp_path / "tree")


def test_directories_that_may_not_be_changed(public_tmp: Path) -> None:
    tree = public_tmp / "tree"
    for mode in (0o000, 0o111, 0o444, 0o555):
        inner = tree / f"{mode:o}" / f"{mode:o}"
        inner.mkdir(parents=True)
        (inner / "file").write_text("")
        inner.chmod(mode)
        inner.parent.chmod(mode)
    tree.chmod(0o555)
    if os.geteuid() == 0:
        for path in (public_tmp, *public_tmp.rglob("*")):
            os.chown(path, ORDINARY_USER, ORDINARY_USER, follow_symlinks=False)
    assert remove_as_ordinary_user(tree) == ""
    assert not tree.exists()


def remove_as_ordinary_user(tree: Path) -> str:
    """Run ``remove_tree`` in a process without root's powers; what it complains of."""
    code = f"""
import os, pathlib, sys
from unionmount.system.remove_tree import remove_tree
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({ORDINARY_USER}); os.setuid({ORDINARY_USER})
remove_tree(pathlib.Path(sys.argv[1]))
"""
    command = [sys.executable, "-c", code, str(tree)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.needs("root")
@pytest.mark.parametrize("place", ["mounted", "a/mounted"])
def test_what_is_mounted_in_it_stays(tmp_path: Path, place: str) -> None:
    mounted = tmp_path / "tree" / place
    mounted.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", mounted], check=True)
    try:
        (mounted / "file").write_text("kept")
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EBUSY):
            remove_tree(tmp_path / "tree")
        assert (mounted / "file").read_text() == "kept"
    finally:
        subprocess.run(["umount", mounted], check=True)
    remove_tree(tmp_path / "tree")
