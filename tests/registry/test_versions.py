"""The order of tags."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from unionmount.registry.versions import in_order

# As Docker Hub has them for several images, in the order in which a person would put them.
ORDERED = [
    "0.9.1",
    "1",
    "1-alpine",
    "1.9",
    "1.9.0-rc.2",
    "1.9.0-rc.10",
    "1.9.0",
    "1.9.0-alpine3.9",
    "1.9.0-alpine3.18",
    "1.9.10",
    "1.10-dev",
    "1.10a2",
    "1.10b1",
    "1.10rc1",
    "1.10",
    "v1.11.0-alpha.1",
    "v1.11.0-beta",
    "v1.11.0",
    "2.0",
    "12",
    "12-slim",
    "20240904",
    "20240904-slim",
    "3f2a9c",
    "bookworm",
    "bookworm-9",
    "bookworm-10",
    "latest",
    "stable",
]


def test_versions_are_in_their_order() -> None:
    shuffled = ORDERED[:]
    random.Random(4).shuffle(shuffled)
    assert in_order(shuffled) == ORDERED


@given(st.lists(st.text(max_size=12) | st.text(alphabet="v019.-arc", max_size=8)))
def test_any_tags_have_one_order(tags: list[str]) -> None:
    ordered = in_order(tags)
    assert sorted(ordered) == sorted(set(tags))
    assert in_order(reversed(tags)) == ordered


def test_a_number_may_have_any_length() -> None:
    long = "9" * 100_000
    assert in_order(["1" + long, long, "2"]) == ["2", long, "1" + long]
