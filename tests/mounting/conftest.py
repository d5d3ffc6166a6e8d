"""Tests of mounts run the command line often: without the start of an interpreter each time."""

from __future__ import annotations

import pytest
from support.commands import Commands, ForkedCommandLine


@pytest.fixture(scope="module")
def cli(server: Commands) -> ForkedCommandLine:
    """The command line."""
    return ForkedCommandLine(server)
