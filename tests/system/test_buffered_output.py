"""Buffered writing: the bytes, wherever the pieces meet the end of the buffer, and the errors."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from unionmount.errors import SizeMismatch
from unionmount.system.buffered_output import BufferedOutput
from unionmount.system.files import FileRange

_MIB = 1 << 20


def write(out: BufferedOutput, source: Path) -> bytes:
    """Write pieces around the size of a buffer in every way; return what was to be written."""
    sizes = (1, 512, _MIB - 513, 1, 0, 3 * _MIB + 7, _MIB)
    made = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    source.write_bytes(b"before" + made[-2] + made[-1])
    for piece in made:
        out.add(piece)
    out.add_zeros(2 * _MIB + 5)
    size = len(made[-2]) + len(made[-1])
    with source.open("rb") as file:
        out.add_range(FileRange(file.fileno(), 6, size), "source")
    out.add(b"end")
    out.flush()
    out.flush()
    return b"".join(made) + bytes(2 * _MIB + 5) + made[-2] + made[-1] + b"end"


def test_a_file_has_all_bytes_in_their_order(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        wanted = write(BufferedOutput(file.fileno(), "out"), tmp_path / "source")
    assert (tmp_path / "out").read_bytes() == wanted


def test_a_pipe_has_all_bytes_in_their_order(tmp_path: Path) -> None:
    with (tmp_path / "copy").open("wb") as copy:
        reader = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=copy)
    with reader:
        assert reader.stdin is not None
        wanted = write(BufferedOutput(reader.stdin.fileno(), "pipe"), tmp_path / "source")
        reader.stdin.close()
    assert (tmp_path / "copy").read_bytes() == wanted


def test_an_error_names_the_file() -> None:
    with Path("/dev/null").open("rb") as file:
        out = BufferedOutput(file.fileno(), "here")
        out.add(b"1")
        with pytest.raises(OSError, match="here") as raised:
            out.flush()
    assert raised.value.errno == errno.EBADF


def test_a_source_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        out = BufferedOutput(file.fileno(), "out")
        with pytest.raises(OSError, match="source") as raised:
            out.add_range(FileRange(file.fileno(), 0, 1), "source")
    assert raised.value.errno == errno.EBADF


def test_a_source_that_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"1234")
    fd = os.open(tmp_path / "short", os.O_RDWR)
    try:
        out = BufferedOutput(fd, "out")
        with pytest.raises(SizeMismatch, match="short"):
            out.add_range(FileRange(fd, 0, 5), "short")
    finally:
        os.close(fd)
