"""Where the configuration of containers/image is: the user's files, or else the machine's."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.system.home import home_of

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM = Path("/etc/containers")
"""The directory of the machine's configuration."""


def user_directory(environment: Mapping[str, str]) -> Path:
    """Return ``~/.config/containers``; XDG_CONFIG_HOME does not count, as in containers/image."""
    return home_of(environment) / ".config" / "containers"


def policy_file(environment: Mapping[str, str], system: Path = SYSTEM) -> Path | None:
    """Return the policy.json that counts; None if there is none. It may be no valid file."""
    return _users_or_machines("policy.json", environment, system)


def registries_directory(environment: Mapping[str, str], system: Path = SYSTEM) -> Path | None:
    """Return the registries.d that counts; None if there is none. It may be no directory."""
    return _users_or_machines("registries.d", environment, system)


def _users_or_machines(name: str, environment: Mapping[str, str], system: Path) -> Path | None:
    """Return the user's file of a name, or else the machine's.

    A home that the user may not search is somebody else's (after "su", say), so the machine's file
    counts, as in containers/image.
    """
    own = user_directory(environment) / name
    with suppress(PermissionError):
        if _is_there(own):
            return own
    return system / name if _is_there(system / name) else None


def _is_there(path: Path) -> bool:
    """Return whether something has this name; raise OSError if that cannot be found out."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
