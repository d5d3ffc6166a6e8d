"""The time-out for waiting without progress."""

from __future__ import annotations

import re
from collections.abc import Mapping

from unionmount.errors import UsageError
from unionmount.system.text import printable

TIMEOUT_VARIABLE = "UNIONMOUNT_TIMEOUT"
HOW_TO_WAIT = f"{TIMEOUT_VARIABLE} changes it"
"""The hint in messages about time-outs."""

USUAL_TIMEOUT = 60.0


def timeout_of(environment: Mapping[str, str]) -> float:
    """Return the permitted seconds without progress; raise UsageError for an invalid value."""
    text = environment.get(TIMEOUT_VARIABLE, "")
    if not text:
        return USUAL_TIMEOUT
    if not re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,3})?", text) or float(text) == 0:
        raise UsageError(
            f"{TIMEOUT_VARIABLE} must be a number of seconds, not '{printable(text[:200])}'"
        )
    return float(text)
