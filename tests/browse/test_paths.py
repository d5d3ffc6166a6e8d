"""Paths inside an image: as the kernel resolves them for who has the image as its root."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.archives import Layer
from support.trees import tree_of

from unionmount.browse.paths import follow, split_operand
from unionmount.core import Tree

# ---- IMAGE[:PATH] --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operand", "image", "path"),
    [
        ("nginx", "nginx", None),
        ("nginx:1.25", "nginx:1.25", None),
        ("nginx:/etc", "nginx", b"/etc"),
        ("nginx:1.25:/etc", "nginx:1.25", b"/etc"),
        ("localhost:5000/a/b:1:/etc", "localhost:5000/a/b:1", b"/etc"),
        ("name@sha256:ab:/etc", "name@sha256:ab", b"/etc"),
        ("docker-archive:/x/y.tar", "docker-archive:/x/y.tar", None),
        ("docker-archive:/x/y.tar:/etc", "docker-archive:/x/y.tar", b"/etc"),
        ("oci:/dir:tag:/etc/motd", "oci:/dir:tag", b"/etc/motd"),
        ("docker://host/name:1:/etc", "docker://host/name:1", b"/etc"),
        ("container:box:/etc", "container:box", b"/etc"),
        ("./a.tar:/", "./a.tar", b"/"),
        ("/x/a.tar:/b:/c", "/x/a.tar", b"/b:/c"),
        ("x:/caf\udce9", "x", b"/caf\xe9"),
        (":/etc", ":/etc", None),
    ],
)
def test_operands(operand: str, image: str, path: bytes | None) -> None:
    assert split_operand(operand) == (image, path)


# ---- following -----------------------------------------------------------------------------------

_SYS_OPENAT2 = 437  # of all architectures
_RESOLVE_IN_ROOT = 0x10


def kernel(top: Path, path: bytes, *, last: bool) -> tuple[int, int] | int:
    """Device and inode that openat2 finds in ``top`` as a root directory, or its errno."""
    flags = os.O_PATH | os.O_CLOEXEC | (0 if last else os.O_NOFOLLOW)
    how = struct.pack("=QQQ", flags, 0, _RESOLVE_IN_ROOT)
    libc = ctypes.CDLL(None, use_errno=True)
    directory = os.open(top, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = libc.syscall(_SYS_OPENAT2, directory, path, how, len(how))
        if fd < 0:
            return ctypes.get_errno()
    finally:
        os.close(directory)
    found = os.fstat(fd)
    os.close(fd)
    return found.st_dev, found.st_ino


def image(tree: Tree, top: Path, path: bytes, *, last: bool) -> tuple[int, int] | int:
    """The same from the tree, as what stands at the path that it finds."""
    try:
        found = follow(tree, path, last=last)
    except OSError as error:
        return error.errno or 0
    status = os.lstat(os.path.join(os.fsencode(top), found.path))  # noqa: PTH118 - bytes
    assert stat.S_IFMT(status.st_mode) == stat.S_IFMT(found.attributes.mode)
    return status.st_dev, status.st_ino


@contextmanager
def both(links: dict[str, str]) -> Iterator[tuple[Tree, Path]]:
    """A tree of directories, files and these symlinks, as an image and on the disk."""
    layer = Layer().directory("a").directory("a/b").directory("a/b/c").file("f").file("a/f")
    top = Path(tempfile.mkdtemp())
    try:
        (top / "a/b/c").mkdir(parents=True)
        for name in ("f", "a/f"):
            (top / name).touch()
        for name, target in links.items():
            layer.symlink(name, target)
            (top / name).symlink_to(target)
        with tree_of([layer.data()]) as tree:
            yield tree, top
    finally:
        shutil.rmtree(top)


_part = st.sampled_from(["a", "b", "c", "f", "l", "m", "..", ".", "", "x"])
_path = st.builds(
    lambda slash, parts, end: slash + "/".join(parts) + end,
    st.sampled_from(["", "/"]),
    st.lists(_part, min_size=1, max_size=6),
    st.sampled_from(["", "/"]),
)
_links = st.dictionaries(
    st.sampled_from(["l", "m", "a/l", "a/m", "a/b/l", "a/b/c/m"]), _path.filter(bool), max_size=6
)


@settings(max_examples=150, deadline=None)
@given(_links, st.lists(_path, min_size=1, max_size=20))
def test_paths_mean_what_the_kernel_says(links: dict[str, str], paths: list[str]) -> None:
    with both(links) as (tree, top):
        for path in paths:
            for last in (True, False):
                if path == "":
                    continue  # the kernel has no such path
                wanted = kernel(top, path.encode(), last=last)
                assert image(tree, top, path.encode(), last=last) == wanted, (path, last)


def test_links_that_go_round_and_round() -> None:
    with both({"l": "m", "m": "l"}) as (tree, _), pytest.raises(OSError, match="symbolic") as error:
        follow(tree, b"/l")
    assert error.value.errno == errno.ELOOP


def test_links_that_lead_out_stay_in() -> None:
    with both({"l": "../../../f", "m": "/../a/../../f"}) as (tree, _):
        assert follow(tree, b"/l").path == follow(tree, b"m").path == b"f"
        assert follow(tree, b"/../..").path == b""
        assert follow(tree, b"").path == b""
