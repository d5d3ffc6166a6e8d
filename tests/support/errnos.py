"""Errors of system calls, as tests expect them."""

from __future__ import annotations

import pytest


def failing(*codes: int) -> pytest.RaisesExc[OSError]:
    """A context that must end in an OSError with one of these errnos."""
    return pytest.raises(OSError, check=lambda error: error.errno in codes)
