"""How much a test does: a short form in every run, and the long one of `make test-long`.

The short form has each kind of thing that the long one has, and fewer repetitions of it.
"""

from __future__ import annotations

import os

LONG = os.environ.get("UNIONMOUNT_TEST_LONG", "") not in {"", "0"}


def amount(short: int, long: int) -> int:
    """A number of repetitions."""
    return long if LONG else short


def examples(short: int, long: int) -> int:
    """A number of examples for Hypothesis; UNIONMOUNT_EXAMPLES=… overrides it."""
    return int(os.environ.get("UNIONMOUNT_EXAMPLES") or amount(short, long))
