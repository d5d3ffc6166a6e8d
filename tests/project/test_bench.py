"""What the benchmark makes of what it has timed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from support.mounting import wait_for_mounts
from support.servers.listening import ListeningServer

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))

from bench import chart, digest, disk, interrupts, report, results, scale, subjects, tables  # noqa: E402 - it lives beside the tests
from bench.clients import at_once  # noqa: E402 - likewise
from bench.distant import DistantLink  # noqa: E402 - likewise
from bench.measuring import (  # noqa: E402 - likewise
    COLD,
    COSTS,
    Latencies,
    Measurement,
    Notebook,
    Scene,
    Step,
    UnableError,
    each,
    present,
)
from bench.results import Row  # noqa: E402 - likewise
from bench.subjects import BASE, READING, TABLE, Choice, Places, Subject  # noqa: E402 - likewise

OURS = "unionmount, image"
MOUNT, OVERLAY = "unionmount mount", "unionmount overlay"


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


def test_subjects_take_turns_and_each_begins_once(tmp_path: Path) -> None:
    turns: list[str] = []

    @contextmanager
    def mount(subject: Subject, places: Places) -> Iterator[Path]:
        turns.append(subject.name)
        yield places.lower

    taking = Measurement(Places.below(tmp_path), _choice(passes=2), Notebook(), mount=mount)
    (row,) = taking.take([Scene("some", lambda _: [Step("a", int)])], _subjects(BASE, OURS))
    assert turns == [BASE, OURS, OURS, BASE]
    assert {name: len(taken) for name, taken in row.taken.items()} == {BASE: 2, OURS: 2}


def test_what_a_subject_cannot_do_is_named(tmp_path: Path) -> None:
    def unable() -> None:
        raise UnableError("no such thing")

    taking = _measurement(tmp_path, _choice())
    scene = Scene("some", lambda _: [Step("a", unable), Step("b", int)])
    assert [row.what for row in taking.take([scene], _subjects(BASE))] == ["b"]
    assert list(taking.notes.missing) == [f"a ({BASE}): no such thing"]


def test_costs_are_of_a_whole_scene(tmp_path: Path) -> None:
    def unable() -> None:
        raise UnableError("no such thing")

    @contextmanager
    def mount(subject: Subject, places: Places) -> Iterator[Path]:
        """Who serves the mount has its name among its words."""
        words = [sys.executable, "-c", "input(input())", str(places.mountpoint)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(b"started\n")
            server.stdin.flush()
            assert server.stdout.read(7) == b"started"
            yield places.lower
            server.communicate(b"\n")

    for first, count in ((int, 2), (unable, 0)):
        steps = [Step("a", first), Step("b", int)]
        scene = Scene("some", lambda _, steps=steps: steps)  # type: ignore[misc]
        taking = Measurement(Places.below(tmp_path), _choice(), Notebook(), mount=mount)
        found = list(taking.take([scene], _subjects(OURS)))
        assert len([row for row in found if row.table == COSTS]) == count


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
    found = chart.bars(rows, {"fastpath"})
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
        with interrupts.undisturbed():
            signal.raise_signal(signal.SIGINT)
            done.append("removed")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == ["removed"]


# ---- subjects ------------------------------------------------------------------------------------


@pytest.mark.needs("fuse", "root")
def test_option_of_a_subject_is_tried() -> None:
    assert subjects._is_accepted("nofastpath")
    assert not subjects._is_accepted("no_such_option")


def test_subject_that_the_machine_lacks_says_why() -> None:
    (subject,) = Choice(("unionmount overlay, passthrough",)).among(TABLE)
    notes, absent = Notebook(), replace(subject, program=lambda: None)
    assert present(Choice(), [absent], notes) == []
    assert list(notes.missing) == [f"every row ({subject.name}): unionmount does not accept it"]


# ---- results that are compared -------------------------------------------------------------------


def test_another_result_than_overlayfs_has_is_no_number(tmp_path: Path) -> None:
    """The order of turns does not matter: in the second pass, another subject begins."""
    here: list[str] = []

    @contextmanager
    def mount(subject: Subject, places: Places) -> Iterator[Path]:
        here[:] = [subject.name]
        yield places.lower

    steps = [Step("a", int, result=lambda: here[0]), Step("b", int, result=lambda: "same")]
    taking = Measurement(Places.below(tmp_path), _choice(passes=2), Notebook(), mount=mount)
    rows = list(taking.take([Scene("some", lambda _: steps)], _subjects(BASE, OURS)))
    assert [(row.what, list(row.taken)) for row in rows] == [("a", [BASE]), ("b", [BASE, OURS])]
    assert taking.notes.wrong == [f"a ({OURS}): not the result of {BASE}"]


def test_result_that_changes_from_pass_to_pass_is_no_number(tmp_path: Path) -> None:
    changing = iter(range(10))
    steps = [Step("a", int, result=lambda: str(next(changing)))]
    taking = Measurement(Places.below(tmp_path), _choice(passes=2), Notebook(), mount=_no_mount)
    (row,) = taking.take([Scene("some", lambda _: steps)], _subjects(BASE))
    assert row.taken == {}
    assert taking.notes.wrong == [f"a ({BASE}): not the result of {BASE}"]


def test_percentiles_of_a_step_have_one_result(tmp_path: Path) -> None:
    steps = [Step("a", lambda: Latencies([1, 2]), result=lambda: "x")]
    taking = _measurement(tmp_path, _choice())
    rows = list(taking.take([Scene("some", lambda _: steps)], _subjects(BASE, OURS)))
    assert [sorted(row.taken) for row in rows] == [[BASE, OURS]] * 3
    assert taking.notes.wrong == []


def test_digest_sees_names_kinds_modes_and_contents(tmp_path: Path) -> None:
    def made(name: str) -> Path:
        top = tmp_path / name
        (top / "directory").mkdir(parents=True)
        (top / "directory/file").write_text("content")
        (top / "link").symlink_to("directory")
        (top / "left-out").write_text(name)
        return top

    def digest_of(top: Path) -> str:
        return digest.of_tree(top, ("*/left-out",))

    first = digest_of(made("first"))
    assert first.startswith("3 entries, ")
    assert digest_of(made("same")) == first
    changes: list[Callable[[Path], object]] = [
        lambda top: (top / "directory/file").write_text("Content"),
        lambda top: (top / "directory/file").chmod(0o600),
        lambda top: (top / "directory/file").rename(top / "directory/other"),
        lambda top: (top / "link").unlink(),
        lambda top: (top / "new").touch(),
    ]
    found = set()
    for number, change in enumerate(changes):
        top = made(str(number))
        change(top)
        found.add(digest_of(top))
    assert len(found | {first}) == len(changes) + 1


# ---- clients and load ----------------------------------------------------------------------------


def test_clients_work_at_the_same_time(tmp_path: Path) -> None:
    """Each waits for the other: one after the other they would not end."""
    barrier = get_context("fork").Barrier(2)

    def meet(name: str) -> None:
        barrier.wait(timeout=60)
        (tmp_path / name).touch()

    at_once([(meet, ("a",)), (meet, ("b",))])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_client_that_fails_is_told() -> None:
    with pytest.raises(UnableError, match="a process failed"):
        at_once([(int, ()), (sys.exit, (1,))])


def test_half_load_answers_every_call_and_times_the_second_half() -> None:
    answers: list[object] = []
    found = scale.at_half_load([partial(int, number) for number in range(10)], answers)
    assert answers == list(range(10))
    assert len(found) == 5
    assert found.percentiles == (50.0, 95.0, 99.0)


@pytest.mark.parametrize(
    ("load", "count"),
    [
        ({"before": 0.2, "after": 3.0, "others": 0.1}, 0),  # the load afterwards is our own
        ({"before": 0.6, "after": 3.0, "others": 0.1}, 1),
        ({"before": 0.6, "after": 3.0, "others": 0.7}, 2),
    ],
)
def test_disturbed_numbers_have_a_warning(load: dict[str, float], count: int) -> None:
    found = _report(load)
    assert found.table().count("**Warning") == count
    assert found.picture().count("the load was 0.6") == (count > 0)


# ---- the report ----------------------------------------------------------------------------------


def _report(load: dict[str, float]) -> report.Report:
    machine = {"processor": "P", "cores": "2", "kernel": "6.1", "date": "2026-01-01"}
    facts = {"machine": machine, "load": load, "versions": {BASE: "6.1"}, "missing": ["x: none"]}
    rows = [
        Row("work", "untar", 2.0, "s", subject=BASE, ratio=1.0, spread=(1.5, 2.5), table=COLD),
        Row("work", "untar", 3.0, "s", subject=MOUNT, ratio=1.5, spread=(2.9, 3.1), table=COLD),
        Row("work", "CPU seconds", 1.0, "s", subject=MOUNT, table=COSTS),
        Row("scale", "one, p50", 4321.0, "µs", subject=MOUNT, spread=(4000, 4400), table=COLD),
    ]
    return report.Report(facts, rows)


def test_report_has_one_table_with_the_spread() -> None:
    table = _report({}).table()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert lines == [
        f"| | unit | {BASE} (6.1) | {MOUNT} |",
        "|---|---|---:|---:|",
        "| **Real work** | | | |",
        "| untar | s | ~2 [1.5, 2.5] | 3 (1.5) [2.9, 3.1] |",
        "| **Scale** | | | |",
        "| one, p50 | µs |  | 4,321 [4,000, 4,400] |",
        "| **Cost of the server** | | | |",
        "| CPU seconds | s |  | 1 |",
    ]
    assert "- missing: x: none" in table


def test_report_is_one_line_a_row_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    first = _report({"before": 0.1, "after": 0.2, "others": 0.0})
    first.write(path)
    assert sum('"what"' in line for line in path.read_text(encoding="utf-8").splitlines()) == 3
    again = report.Report.read(path)
    assert again.facts == first.facts
    assert again.table() == first.table() == path.with_suffix(".md").read_text(encoding="utf-8")
    picture = path.with_suffix(".svg").read_text(encoding="utf-8")
    assert again.picture() == picture
    bars = [one for one in ET.fromstring(picture).iter() if one.tag.endswith("}title")]
    assert [bar.text for bar in bars] == [f"{MOUNT}: 1.50 (1.45 to 1.55)"]


# ---- the whole of it -----------------------------------------------------------------------------


def _bench(*words: str | Path, work: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *words]
    environment = {**os.environ, "TMPDIR": str(work)}
    return subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )


def test_quick_run_overwrites_nothing_that_is_kept(tmp_path: Path) -> None:
    kept = PROJECT / "bench/writing.json"
    before = kept.read_bytes()
    done = _bench("--quick", "--only", "writing", "--output", "bench/writing.json", work=tmp_path)
    assert (done.returncode, kept.read_bytes()) == (2, before)
    assert "a quick run is not worth keeping" in done.stderr


_QUICK_ROWS = {
    "mount and ls",
    "stat walk, cold",
    "create 200 files",
    "read 16 MB, again",
    "git clone",
    "pip install",
    "make -j2 of a C program",
    "SQLite: 20 inserts, a transaction each",
    "fio, random write of 4 KiB, 1 MB",
    "podman build of five steps",
    "create 200 files, 8 clients",
    "one read of 4 KiB at half load, p99",
    "walk of 2,000 files, cold",
    "read 256 files in 128 lower directories",
}


@pytest.mark.slow
@pytest.mark.needs("fuse", "overlayfs")
def test_quick_run_has_the_rows_of_the_table_and_leaves_nothing(tmp_path: Path) -> None:
    """Overlayfs and this program agree on every result; what the machine lacks is named."""
    output, work = tmp_path / "quick.json", tmp_path / "work"
    work.mkdir()
    done = _bench("--quick", "--subjects", BASE, MOUNT, OVERLAY, "--output", output, work=work)
    assert done.returncode == 0, done.stderr
    found = report.Report.read(output)
    assert "wrong" not in found.facts
    assert done.stdout == output.with_suffix(".md").read_text(encoding="utf-8") + "\n"
    taken: dict[str, set[str]] = {}
    for row in found.rows:
        taken.setdefault(row.what, set()).add(row.subject)
    named = [line for line in found.facts["missing"] if "not on this machine" in line]
    for what in _QUICK_ROWS:
        is_named = any(line.startswith(f"{what} (") for line in named)
        assert is_named or {BASE, OVERLAY} <= taken.get(what, set()), (what, done.stderr)
    _assert_nothing_is_left(work)


@pytest.mark.needs("fuse", "overlayfs")
def test_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of a terminal, while the mount is written to."""
    words = ("--only", "operations", "--rows", "append", "--subjects", OVERLAY, "--passes", "99")
    command = [sys.executable, "-m", "bench", "--quick", *words]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, cwd=PROJECT, env=environment, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stderr is not None
        wait_for_mounts(lambda: any("/mnt fuse" in line for line in _mounts_below(tmp_path)))
        os.killpg(process.pid, signal.SIGINT)
        told = process.stderr.readlines()
    assert process.returncode == 1
    assert told[-1] == b"bench: interrupted, nothing is kept\n"
    _assert_nothing_is_left(tmp_path)


def _mounts_below(place: Path) -> list[str]:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if f" {place}/" in line]


def _assert_nothing_is_left(place: Path) -> None:
    assert list(place.iterdir()) == []
    assert _mounts_below(place) == []
    backings = Path("/sys/block").glob("loop*/loop/backing_file")
    assert not any(str(place) in path.read_text(encoding="utf-8") for path in backings)


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
