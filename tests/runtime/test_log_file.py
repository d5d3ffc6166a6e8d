"""The log of a container: one JSON object a line, as docker's json-file driver writes it."""

from __future__ import annotations

import json
import re
import resource
import tempfile
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.running import read_log

from unionmount.runtime.log_file import LogReader, LogWriter

STREAMS = ("stdout", "stderr")
# Go's time.RFC3339Nano, which readers of docker's logs parse.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def written(path: Path, *parts: tuple[str, bytes]) -> list[tuple[str, bytes]]:
    with LogWriter(path) as log:
        for stream, data in parts:
            log.write(stream, data)
    return [(one.stream, one.text) for one in read_log(path)]


def test_the_form_is_that_of_docker(tmp_path: Path) -> None:
    written(tmp_path / "log", ("stdout", b"one\ntwo \xc3\xa9\n"), ("stderr", b"err\n"))
    rows = [json.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [(row["log"], row["stream"]) for row in rows] == [
        *(("one\n", "stdout"), ("two é\n", "stdout"), ("err\n", "stderr")),
    ]
    for row in rows:
        assert set(row) == {"log", "stream", "time"}
        assert _TIME.fullmatch(row["time"])
        assert datetime.fromisoformat(row["time"]).utcoffset() is not None


def test_lines_of_two_streams_stay_whole(tmp_path: Path) -> None:
    parts = [("stdout", b"be"), ("stderr", b"er"), ("stdout", b"gin\nrest"), ("stderr", b"ror\n")]
    assert written(tmp_path / "log", *parts) == [
        *(("stdout", b"begin\n"), ("stderr", b"error\n"), ("stdout", b"rest")),
    ]


def test_a_long_line_is_continued(tmp_path: Path) -> None:
    long = b"x" * 40_000 + b"\n"
    found = written(tmp_path / "log", ("stdout", long))
    assert [len(text) for _, text in found] == [16384, 16384, 7233]
    assert b"".join(text for _, text in found) == long


def test_a_full_disk_costs_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "log"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with LogWriter(path) as log:
        log.write("stdout", b"first\n")
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))  # Python ignores SIGXFSZ
        try:
            log.write("stdout", b"lost\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.stat().st_size == size
        log.write("stdout", b"last\n")
    assert [one.text for one in read_log(path)] == [b"first\n", b"last\n"]


def test_a_log_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_log(path) == []
    with LogWriter(path) as log, LogReader(path) as reader:
        assert list(reader.lines()) == []
        log.write("stdout", b"one\ntwo")
        assert [one.text for one in reader.lines()] == [b"one\n"]
        with path.open("ab") as file:
            file.write(b'{"log": "half')
        assert list(reader.lines()) == []
        with path.open("ab") as file:
            file.write(b' line\\n", "stream": "stdout", "time": "t"}\n')
        assert [one.text for one in reader.lines()] == [b"half line\n"]


data = st.binary(max_size=60) | st.sampled_from([b"\n", b"\xff\xfe", "é".encode()[:1], b"\x00"])


@given(st.lists(st.tuples(st.sampled_from(STREAMS), data), max_size=12))
def test_all_bytes_are_kept(parts: list[tuple[str, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        found = written(Path(place, "log"), *parts)
    for stream in STREAMS:
        expected = b"".join(text for name, text in parts if name == stream)
        assert b"".join(text for name, text in found if name == stream) == expected


def test_damaged_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "log"
    written(path, ("stdout", b"good\n"))
    with path.open("ab") as file:
        file.write(b"nonsense\n[]\n{}\n\xff\n" + b'{"log": "cut')
    assert [one.text for one in read_log(path)] == [b"good\n"]


def test_a_log_grows(tmp_path: Path) -> None:
    written(tmp_path / "log", ("stdout", b"one\n"))
    assert written(tmp_path / "log", ("stdout", b"two\n")) == [
        *(("stdout", b"one\n"), ("stdout", b"two\n")),
    ]
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    (tmp_path / "log").symlink_to("victim")
    with pytest.raises(OSError, match="symbolic links"):
        LogWriter(tmp_path / "log")
