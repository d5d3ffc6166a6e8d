"""Statistics of a mount as a document."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from unionmount.core import RouterStats, time_of_bucket
from unionmount.errors import MountError, NotFoundError
from unionmount.mounting.statistics import ask_stats, report

LOOKUP, READ, STRANGE = 1, 15, 63


def bucket_of(nanoseconds: int) -> int:
    return max(bucket for bucket in range(128) if time_of_bucket(bucket) <= nanoseconds)


def times(*nanoseconds: int) -> list[int]:
    row = [0] * 128
    for one in nanoseconds:
        row[bucket_of(one)] += 1
    return row


def test_buckets_begin_where_the_one_before_ends() -> None:
    begins = [time_of_bucket(bucket) for bucket in range(8, 128)]
    assert begins == sorted(set(begins))
    assert [time_of_bucket(bucket) for bucket in (8, 9, 10, 11, 12)] == [4, 5, 6, 7, 8]


def test_percentiles_are_those_of_the_times() -> None:
    found = [1000] * 50 + [10_000] * 40 + [1_000_000] * 10
    stats = RouterStats(
        {LOOKUP: 60, READ: 3}, {LOOKUP: 40, STRANGE: 1}, {LOOKUP: times(*found)}, {}
    )
    told = report(stats)["messages"]
    one = told["LOOKUP"]
    assert (one["fast"], one["forwarded"]) == (60, 40)
    for percent, expected in ((50, 1.0), (90, 10.0), (99, 1000.0)):
        assert one[f"p{percent}_us"] == pytest.approx(expected, rel=0.15)
    assert told["READ"] == {"fast": 3, "forwarded": 0, "p50_us": 0, "p90_us": 0, "p99_us": 0}
    assert told["OPCODE_63"]["forwarded"] == 1


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"^/mnt: no counters"):
        ask_stats(tmp_path / "none.stats", "/mnt")


@pytest.mark.parametrize("answer", [b"", b"{", b"[]", b"\xff"])
def test_an_answer_that_is_none(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def tell() -> None:
            with listener.accept()[0] as client:
                client.sendall(answer)

        teller = threading.Thread(target=tell)
        teller.start()
        with pytest.raises(MountError, match=r"^/mnt: its daemon did not answer"):
            ask_stats(tmp_path / "s", "/mnt")
        teller.join()


def test_an_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def tell() -> None:
            with listener.accept()[0] as client:
                client.sendall(json.dumps({"messages": {}}).encode())

        teller = threading.Thread(target=tell)
        teller.start()
        assert ask_stats(tmp_path / "s", "/mnt") == {"messages": {}}
        teller.join()
