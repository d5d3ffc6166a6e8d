"""The user on whose behalf this process works, also in the user namespace that podman makes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "_CONTAINERS_ROOTLESS_UID"
"""What podman and buildah set in their namespace, where that user is called root."""


def real_user(environment: Mapping[str, str]) -> int:
    """Return the ID of the user whose stores, settings and logins are used."""
    text = environment.get(VARIABLE, "")
    return int(text) if text.isascii() and text.isdecimal() else os.geteuid()
