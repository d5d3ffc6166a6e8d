"""Fixtures of the tests of commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.rootless import ordinary_user
from support.running import Runner, running


@pytest.fixture(scope="module")
def many(make_public_tmp: Callable[[], Path]) -> Iterator[Runner]:
    """An ordinary user with ranges."""
    with ordinary_user(make_public_tmp(), ranges=True) as line, running(line):
        yield line


@pytest.fixture(scope="module")
def one(make_public_tmp: Callable[[], Path]) -> Iterator[Runner]:
    """An ordinary user without ranges."""
    with ordinary_user(make_public_tmp(), ranges=False) as line, running(line):
        yield line
