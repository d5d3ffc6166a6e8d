"""Text, bytes, details and extraction of single files."""

from __future__ import annotations

import os
import stat
import subprocess
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from support.archives import Layer
from support.trees import tree_of

from unionmount.core import Tree
from unionmount.screen.extract import Extracting, Stopped, extract, failure
from unionmount.screen.preview import FileContent, details, hex_line, hex_width, text_row
from unionmount.screen.words import shown_line, shown_name


@contextmanager
def tree(*layers: Layer) -> Iterator[Tree]:
    with tree_of([layer.data() for layer in layers]) as made:
        yield made


# ---- words ---------------------------------------------------------------------------------------


_texts = st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace"))


@given(st.binary(max_size=40) | _texts)
def test_a_name_is_one_line_of_known_width(name: bytes) -> None:
    shown = shown_name(name)
    assert all(character.isprintable() for character in shown)
    categories = {unicodedata.category(character)[0] for character in shown if character != " "}
    assert not categories & {"C", "Z"}
    for character in shown:
        zero = cell_len(character) == 0
        assert not zero or unicodedata.combining(character)
    assert shown_line(name.replace(b"\n", b"")).isprintable()


def test_tabs_are_spaces_up_to_the_next_stop() -> None:
    for line in (b"\t", b"a\tb", b"1234567\tb", b"12345678\tb", b"\t\tx\ty"):
        assert shown_line(line) == line.decode().expandtabs(8)


def test_a_very_long_line_is_cut() -> None:
    assert len(text_row(b"x" * 10_000_000)) == 4097


# ---- bytes ---------------------------------------------------------------------------------------


@pytest.mark.needs("busybox")
@given(st.binary(min_size=1, max_size=70))
def test_bytes_are_shown_as_hexdump_does(data: bytes) -> None:
    done = subprocess.run(
        ["busybox", "hexdump", "-C", "-v"], input=data, capture_output=True, check=True
    )
    expected = done.stdout.decode().splitlines()[:-1]
    with tree(Layer().file("f", data)) as made:
        content = FileContent(made, made.resolve(b"f").node, len(data))
        assert [content.hex_row(row, 16) for row in range(content.hex_rows(16))] == expected


@pytest.mark.parametrize(("columns", "width"), [(200, 16), (80, 16), (79, 16), (60, 8), (40, 4)])
def test_lines_of_bytes_fit(columns: int, width: int) -> None:
    assert hex_width(columns) == width
    assert width == 4 or len(hex_line(0, bytes(width), width)) <= columns


def test_a_file_of_any_size_is_read_only_where_it_is_shown() -> None:
    sparse = Layer().add("f", content=b"x", pax={
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "f",
        "GNU.sparse.size": str(1 << 50), "GNU.sparse.map": "0,1",
    })  # fmt: skip
    with tree(sparse) as made:
        found = made.resolve(b"f")
        content = FileContent(made, found.node, found.size)
        assert content.hex_rows(16) == 1 << 46
        assert content.hex_row((1 << 46) - 1, 16).endswith("|" + "." * 16 + "|")
        assert content.is_cut
        assert content.looks_binary()
        assert sum(map(len, content.text_lines())) <= 1 << 20


def test_details_name_links_devices_and_attributes() -> None:
    layer = Layer().symlink("l", "no\nwhere").add("d", b"3", device=(1, 3))
    layer.file("f", b"12", xattrs={"user.a": b"text", "security.b": b"\0\1", "user.c": b"y" * 999})
    with tree(layer) as made:
        by_path = {
            path: list(details(made, path, made.resolve(path))) for path in (b"l", b"d", b"f")
        }
    assert ("target", r"no\nwhere") in by_path[b"l"]
    assert ("leads to", "nothing: No such file or directory") in by_path[b"l"]
    assert ("device", "1:3") in by_path[b"d"]
    assert ("xattr", "user.a = text") in by_path[b"f"]
    assert ("xattr", "security.b = 0x0001") in by_path[b"f"]
    assert ("xattr", "user.c = " + "y" * 256 + "… (999 bytes)") in by_path[b"f"]


# ---- extraction ----------------------------------------------------------------------------------


def image() -> Layer:
    layer = Layer().directory("top", mode=0o555).file("top/tool", b"#!", mode=0o6755)
    layer.file("top/zeros", bytes(3 << 20)).directory("top/deep").file("top/deep/f", b"deep")
    layer.symlink("top/out", "/etc/passwd").symlink("top/up", "../../..")
    layer.add("top/null", b"3", device=(1, 3)).add("top/fifo", b"6")
    return layer.file("top/new\nline", b"odd").file("top/locked", b"l", mode=0o000)


@pytest.mark.needs("tar")
def test_a_tree_is_what_tar_extracts(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(image().data())
    theirs, ours, done = tmp_path / "theirs", tmp_path / "ours", Extracting()
    theirs.mkdir()
    # tar's own defaults for ordinary users: no owners, no set-ID bits
    subprocess.run(
        ["tar", "-xf", tmp_path / "image.tar", "-C", theirs, "--no-same-owner",
         "--no-same-permissions", "--exclude=*/null", "--exclude=*/fifo"],
        check=True, umask=0,
    )  # fmt: skip
    with tree(image()) as made:
        extract(made, b"top", ours, done)
    assert listing(ours) == listing(theirs)
    assert len(done.skipped) == 2
    assert (ours / "top/zeros").stat().st_blocks == 0
    assert os.listdir(ours) == ["top"]  # noqa: PTH208


def listing(top: Path) -> list[tuple[str, int, int, bytes | str]]:
    found: list[tuple[str, int, int, bytes | str]] = []
    for path in sorted(top.rglob("*")):
        status = path.lstat()
        content: bytes | str = b""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)  # noqa: PTH115
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        # GNU tar gives a symlink no time of its own before all else is done; it does in the end
        mode = status.st_mode & ~0o7000
        found.append((str(path.relative_to(top)), mode, status.st_mtime_ns // 1000, content))
    return found


def test_nothing_is_written_through_a_link_or_over_a_file(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    (target / "top").symlink_to(outside)
    (target / "f").write_bytes(b"mine")
    with tree(image().file("f", b"theirs")) as made:
        for path in (b"top", b"f"):
            with pytest.raises(FileExistsError):
                extract(made, path, target, Extracting())
    assert list(outside.iterdir()) == []
    assert sorted(path.name for path in target.iterdir()) == ["f", "top"]
    assert (target / "f").read_bytes() == b"mine"


def test_a_stopped_extraction_leaves_nothing(tmp_path: Path) -> None:
    with tree(image()) as made, pytest.raises(Stopped):
        extract(made, b"top", tmp_path / "out", Extracting(stop=True))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_device_alone_is_left_out(tmp_path: Path) -> None:
    done = Extracting()
    with tree(image()) as made:
        extract(made, b"top/null", tmp_path / "out", done)
    assert list((tmp_path / "out").iterdir()) == []
    assert done.skipped == ["null: devices and sockets are left out"]


def test_a_failure_is_one_line() -> None:
    assert failure(b"a\nb", OSError(13, "Permission denied")) == r"/a\nb: Permission denied"
    named = OSError(28, "No space left on device", "/out/\x1b")
    assert failure(b"a", named) == r"/out/\x1b: No space left on device"


@pytest.mark.needs("mkfs.ext4", "root")
def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    disk, where = tmp_path / "disk", tmp_path / "mnt"
    where.mkdir()
    with disk.open("wb") as file:
        file.truncate(2 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, where], check=True)
    try:
        with tree(Layer().directory("d").file("d/f", b"1" * (4 << 20))) as made:
            with pytest.raises(OSError, match="No space") as caught:
                extract(made, b"d", where, Extracting())
            assert "No space" in failure(b"d", caught.value)
        assert {path.name for path in where.iterdir()} == {"lost+found"}
    finally:
        subprocess.run(["umount", where], check=True)
