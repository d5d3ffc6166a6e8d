"""What the benchmark makes of what it has timed."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.servers.listening import ListeningServer

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))

from bench import chart, disk, results, tables  # noqa: E402 - it lives beside the tests
from bench.distant import DistantLink  # noqa: E402 - likewise
from bench.measuring import (  # noqa: E402 - likewise
    COLD,
    Latencies,
    Measurement,
    Notebook,
    Scene,
    Step,
    UnableError,
    each,
)
from bench.results import Row  # noqa: E402 - likewise
from bench.subjects import BASE, READING, Choice, Places, Subject  # noqa: E402 - likewise

OURS = "unionmount, image"


@contextmanager
def _no_mount(subject: Subject, places: Places) -> Iterator[Path]:
    yield places.lower


def _subjects(*names: str) -> list[Subject]:
    return Choice(names).among(READING)


def _measurement(tmp_path: Path, choice: Choice) -> Measurement:
    return Measurement(Places.below(tmp_path), choice, Notebook(), mount=_no_mount)


def _choice(*rows: str, passes: int = 1) -> Choice:
    return Choice(rows=rows or ("",), passes=passes, drop_caches=False)


@pytest.mark.parametrize(
    ("percent", "microseconds"), [(50.0, 0.5), (99.0, 0.99), (99.9, 0.999), (100.0, 1.0)]
)
def test_percentile_is_the_nearest_rank(percent: float, microseconds: float) -> None:
    assert Latencies(range(1000, 0, -1)).percentile(percent) == microseconds


def test_percentile_of_one() -> None:
    assert Latencies([7000]).percentile(99.9) == 7


def test_every_call_is_timed() -> None:
    done: list[int] = []
    found = each([lambda: done.append(1)] * 3)
    assert len(found) == len(done) == 3
    assert min(found) >= 0


def test_subjects_by_name_and_pattern() -> None:
    assert [one.name for one in _subjects("fuse-overlayfs")] == ["fuse-overlayfs"]
    assert [one.name for one in _subjects("unionmount*")] == [OURS, "unionmount, writable"]
    assert _subjects("unionmount") == []


def test_row_alone_does_those_before_it_and_none_after(tmp_path: Path) -> None:
    done: list[str] = []
    steps = [Step(what, lambda what=what: done.append(what)) for what in "abc"]  # type: ignore[misc]
    scene = Scene("some", lambda _: steps)
    found = list(_measurement(tmp_path, _choice("b")).take([scene], _subjects(BASE)))
    assert done == ["a", "b"]
    assert [row.what for row in found] == ["b"]


def test_scene_without_a_wanted_row_is_not_mounted(tmp_path: Path) -> None:
    scene = Scene("some", lambda _: [Step("a", pytest.fail)])
    assert list(_measurement(tmp_path, _choice("b")).take([scene], _subjects(BASE))) == []


def test_subjects_take_turns(tmp_path: Path) -> None:
    turns: list[str] = []

    @contextmanager
    def mount(subject: Subject, places: Places) -> Iterator[Path]:
        turns.append(subject.name)
        yield places.lower

    taking = Measurement(Places.below(tmp_path), _choice(passes=2), Notebook(), mount=mount)
    (row,) = taking.take([Scene("some", lambda _: [Step("a", int)])], _subjects(BASE, OURS))
    assert turns == [BASE, OURS] * 2
    assert {name: len(taken) for name, taken in row.taken.items()} == {BASE: 2, OURS: 2}


def test_what_a_subject_cannot_do_is_named(tmp_path: Path) -> None:
    def unable() -> None:
        raise UnableError("no such thing")

    taking = _measurement(tmp_path, _choice())
    scene = Scene("some", lambda _: [Step("a", unable), Step("b", int)])
    assert [row.what for row in taking.take([scene], _subjects(BASE))] == ["b"]
    assert list(taking.notes.missing) == [f"a ({BASE}): no such thing"]


def test_latencies_become_percentiles(tmp_path: Path) -> None:
    scene = Scene("some", lambda _: [Step("a", lambda: Latencies([1000, 2000, 3000]))])
    found = list(_measurement(tmp_path, _choice()).take([scene], _subjects(BASE)))
    assert [(row.what, row.unit, row.taken[BASE]) for row in found] == [
        ("a, p50", "µs", [2.0]),
        ("a, p99", "µs", [3.0]),
        ("a, p99.9", "µs", [3.0]),
    ]


def test_row_has_median_and_spread() -> None:
    row = Row.of("fastpath", "a", [3.0, 1.0, 2.0], "s")
    assert (row.value, row.spread) == (2.0, (1.0, 3.0))
    assert row.is_unsteady
    assert not Row.of("fastpath", "a", [2.0, 2.1], "s").is_unsteady


def test_table_has_a_column_for_each_subject(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Row("fastpath", "a", 1.0, "s", subject=BASE, ratio=1.0, table=COLD),
        Row("fastpath", "a", 2.0, "s", subject=OURS, ratio=2.0, table=COLD),
        Row("fastpath", "b", 3.0, "s", subject=OURS, table=COLD),
    ]
    tables.show(rows, {BASE: "1"})
    assert capsys.readouterr().out.splitlines()[1:5] == [
        f"| fastpath, cold, s | {BASE} | {OURS} |",
        "|---|---:|---:|",
        "| a | 1.000 | 2.000 (x 2.0) |",
        "| b |  | 3.000 |",
    ]


def test_numbers_are_kept_a_line_each(tmp_path: Path) -> None:
    rows = [
        Row.of("writing", "untar", [1.0, 1.0000004, 3.0], "s", "< 2"),
        Row("fastpath", "a", 0.0, "s", subject=OURS, ratio=2.0, table=COLD),
    ]
    results.write(tmp_path / "kept.json", {"machine": {"cores": "2"}, "missing": []}, rows)
    facts, found = results.read(tmp_path / "kept.json")
    assert facts == {"machine": {"cores": "2"}, "missing": []}
    assert found == [replace(rows[0], value=1.0), rows[1]]
    assert len((tmp_path / "kept.json").read_text(encoding="utf-8").splitlines()) == 8


@pytest.mark.parametrize("name", ["fastpath", "pull", "results", "writing"])
def test_what_is_kept_is_as_it_would_be_written(name: str, tmp_path: Path) -> None:
    kept = PROJECT / f"bench/{name}.json"
    results.write(tmp_path / "again.json", *results.read(kept))
    assert (tmp_path / "again.json").read_text(encoding="utf-8") == kept.read_text(encoding="utf-8")


def test_chart_draws_what_is_kept() -> None:
    _, rows = results.read(PROJECT / "bench/fastpath.json")
    found = chart.ratios(rows, "fastpath")
    assert chart.chart("fastpath", found).count("<rect") > len(found)


def test_without_a_disk_of_its_own_the_part_has_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk, "_obstacle", lambda _work, _size: "not root")
    notes = Notebook()
    with disk.place_for("writing", tmp_path, disk.GIGABYTE, notes) as place:
        (place / "left").touch()
    assert list(tmp_path.iterdir()) == []
    assert list(notes.missing) == ["a disk of its own (part writing): not root"]
    assert notes.file_systems == {"writing": disk.describe(tmp_path)}
    assert capsys.readouterr().err == f"writing: on {disk.describe(tmp_path)}\n"


def test_disk_is_not_made_where_there_is_no_room(tmp_path: Path) -> None:
    with (
        pytest.raises(UnableError, match=r"not root|no |are free"),
        disk.journalled(tmp_path, 1 << 60),
    ):
        pytest.fail("there is a disk")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs("backing-ext4")
def test_disk_has_a_journal_and_goes_after_an_interruption(tmp_path: Path) -> None:
    def interrupted() -> None:
        with disk.journalled(tmp_path, disk.GIGABYTE // 8) as place:
            assert disk.describe(place).startswith("ext4 with a journal, on a loop device with")
            (place / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in Path("/proc/mounts").read_text(encoding="utf-8")
    backings = Path("/sys/block").glob("loop*/loop/backing_file")
    assert not any(str(tmp_path) in path.read_text(encoding="utf-8") for path in backings)


def test_interruptions_wait_while_the_disk_is_removed() -> None:
    done = []

    def interrupted() -> None:
        with disk._undisturbed():
            signal.raise_signal(signal.SIGINT)
            done.append("removed")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["removed"]


class _Echo(ListeningServer):
    """Answers what it was sent once all of it is there, and ends."""

    def serve(self, connection: socket.socket) -> None:
        got = b""
        while data := connection.recv(65536):
            got += data
        connection.sendall(got)


def test_the_distant_link_forwards_all_bytes_of_each_connection() -> None:
    sent = [bytes([number]) * 700_001 for number in range(4)]
    with (
        _Echo("127.0.0.1", 30) as server,
        DistantLink(server.address, rate=20e6, round_trip=0.005) as link,
    ):
        host, _, port = link.address.rpartition(":")
        connections = [socket.create_connection((host, int(port)), 30) for _ in sent]
        for connection, data in zip(connections, sent, strict=True):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        for connection, data in zip(connections, sent, strict=True):
            with connection, connection.makefile("rb") as answer:
                assert answer.read() == data


def test_the_distant_link_ends_with_its_server_and_its_client() -> None:
    with _Echo("127.0.0.1", 30) as server:
        with DistantLink(server.address, rate=1e9, round_trip=0.0) as link:
            host, _, port = link.address.rpartition(":")
            left = socket.create_connection((host, int(port)), 30)
            left.sendall(b"never answered")
        with left, suppress(ConnectionResetError):
            assert left.recv(1) == b""
