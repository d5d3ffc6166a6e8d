"""Numbers in the words of find, those with thousands of digits, too."""

from __future__ import annotations

from typing import Any

import pytest

from unionmount.browse.accounts import Accounts
from unionmount.browse.find.expression import ExpressionError
from unionmount.browse.find.numbers import number_up_to
from unionmount.browse.find.primaries import PRIMARIES, ParseContext
from unionmount.browse.find.printf import FormatParser

MANY = "1" * 5000


@pytest.fixture
def context() -> ParseContext:
    no_files: Any = None  # none is looked at
    return ParseContext(no_files, Accounts(no_files, numbers=True), now=0)


@pytest.mark.parametrize(
    ("digits", "wanted"),
    [("", 0), ("0", 0), ("007", 7), ("255", 255), ("256", None), ("1000", None), (MANY, None)],
)
def test_up_to(digits: str, wanted: int | None) -> None:
    assert number_up_to(255, digits) == wanted
    assert number_up_to(255, "0" * 5000 + digits) == wanted


@pytest.mark.parametrize("text", [f"%{MANY}p", f"%.{MANY}p"])
def test_columns(text: str) -> None:
    with pytest.raises(ExpressionError, match="wider than"):
        FormatParser(text).parse()


@pytest.mark.parametrize("word", ["-maxdepth", "-mindepth"])
def test_depths(word: str, context: ParseContext) -> None:
    with pytest.raises(ExpressionError, match="Expected a positive decimal integer"):
        PRIMARIES[word].make(context, word, MANY)


@pytest.mark.parametrize("word", ["-user", "-group"])
def test_ids(word: str, context: ParseContext) -> None:
    assert PRIMARIES[word].make(context, word, MANY) is not None
