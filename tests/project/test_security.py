"""The tables of SECURITY.md name tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[^`:]+)(?:::([^`]+))?`", TEXT)))
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "| must not" not in line]


def test_every_row_names_a_test() -> None:
    assert len(ROWS) > 30
    unproved = [row for row in ROWS if not re.search(r"`tests/[^`]+` *\|$|`tests/[^|]*\|$", row)]
    assert not unproved


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_it_is_there(path: str, name: str) -> None:
    source = (PROJECT / path).read_text(encoding="utf-8")
    assert not name or re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE)
