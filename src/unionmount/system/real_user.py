"""The user on whose behalf this process works, also in the user namespace that podman makes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "_CONTAINERS_ROOTLESS_UID"
"""What podman and buildah set in their namespace, where that user is called root."""

_DIGITS = 10  # of the greatest user ID


def real_user(environment: Mapping[str, str]) -> int:
    """Return the ID of the user whose stores, settings and logins are used."""
    text = environment.get(VARIABLE, "")
    is_id = text.isascii() and text.isdecimal() and len(text) <= _DIGITS
    return int(text) if is_id else os.geteuid()
