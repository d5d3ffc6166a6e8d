"""How long something may make no progress: the user's answer, or the usual one."""

from __future__ import annotations

import re
from collections.abc import Mapping

from unionmount.errors import UsageError
from unionmount.system.text import printable

TIMEOUT_VARIABLE = "UNIONMOUNT_TIMEOUT"
HOW_TO_WAIT = f"{TIMEOUT_VARIABLE} changes it"
"""What a message says where somebody was not waited for any longer."""

USUAL_TIMEOUT = 60.0


def timeout_of(environment: Mapping[str, str]) -> float:
    """Seconds without progress after which something ends; raise UsageError for what is no number."""
    text = environment.get(TIMEOUT_VARIABLE, "")
    if not text:
        return USUAL_TIMEOUT
    if not re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,3})?", text) or float(text) == 0:
        raise UsageError(f"{TIMEOUT_VARIABLE}: no number of seconds: '{printable(text[:200])}'")
    return float(text)
