"""Ranges of /etc/subuid and /etc/subgid, and the maps made of them."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionmount.runtime.subordinate_ids import SubordinateIds, lines
from unionmount.system.id_map import IDS_END, IdMap

UID = os.geteuid()
NAME = pwd.getpwuid(UID).pw_name


def ids_of(tmp_path: Path, text: str, groups: str | None = None) -> SubordinateIds:
    (tmp_path / "subuid").write_text(text, encoding="utf-8")
    (tmp_path / "subgid").write_text(text if groups is None else groups, encoding="utf-8")
    return SubordinateIds.of_user((tmp_path / "subuid", tmp_path / "subgid"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (f"{NAME}:100000:65536\n", [(1, 100000, 65536)]),
        (f"{UID}:100000:10\nother:5:5\n{NAME}:300:2", [(1, 100000, 10), (11, 300, 2)]),
        (
            f"{NAME}:100000:10\n{NAME}:100005:10\n{NAME}:200000:1",
            [(1, 100000, 10), (11, 200000, 1)],
        ),
        (f"# comment\n\n{NAME}:x:10\n{NAME}:5\n{NAME}:7:0\n{NAME}:8:9:1", []),
        (f"{NAME}:4294967290:10\n{NAME}:99999999999:1\n{NAME}:-1:2\n", []),
        (f"{NAME}:1000000:4294000000\n", []),
    ],
)
def test_ranges(tmp_path: Path, text: str, expected: list[tuple[int, int, int]]) -> None:
    found = ids_of(tmp_path, text)
    assert [tuple(one) for one in found.users] == [(0, UID, 1), *expected]
    assert [tuple(one) for one in found.groups] == [(0, os.getegid(), 1), *expected]
    assert found.complete == bool(expected)
    wanted = "\n".join(f"{a} {b} {c}" for a, b, c in [(0, UID, 1), *expected])
    assert lines(found.users) == wanted


def test_both_files_are_needed(tmp_path: Path) -> None:
    assert not ids_of(tmp_path, f"{NAME}:100000:65536\n", "").complete
    assert not SubordinateIds.of_user((tmp_path / "none", tmp_path / "none2")).complete


def test_a_range_with_the_own_id_is_not_mapped_twice(tmp_path: Path) -> None:
    found = ids_of(tmp_path, f"{NAME}:{UID}:10\n{NAME}:{UID + 1000}:10\n")
    assert [tuple(one) for one in found.users] == [(0, UID, 1), (1, UID + 1000, 10)]


numbers = st.integers(0, IDS_END + 5) | st.integers(0, 50)
rows = st.lists(st.tuples(numbers, numbers), max_size=6)


@given(rows)
def test_the_kernel_would_take_the_map(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int]]
) -> None:
    text = "".join(f"{NAME}:{first}:{count}\n" for first, count in rows)
    found = ids_of(tmp_path_factory.mktemp("ids"), text)
    IdMap(found.users)  # raises an error for ranges that overlap, or leave the IDs there are
    IdMap(found.groups)


def test_at_most_as_many_ranges_as_the_kernel_takes(tmp_path: Path) -> None:
    text = "".join(f"{NAME}:{100000 + 2 * one}:1\n" for one in range(1000))
    assert len(ids_of(tmp_path, text).users) <= 340  # user_namespaces(7)
