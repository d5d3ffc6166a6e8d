"""Where the configuration of containers/image is: the user's files, or else the machine's."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SYSTEM = Path("/etc/containers")
"""The directory of the machine's configuration."""


def user_directory(environment: Mapping[str, str]) -> Path:
    """Return ``~/.config/containers``; XDG_CONFIG_HOME does not count, as in containers/image."""
    home = environment.get("HOME")
    return (Path(home) if home else Path.home()) / ".config" / "containers"


def policy_file(environment: Mapping[str, str], system: Path = SYSTEM) -> Path | None:
    """Return the policy.json that counts; None if there is none. It may be no valid file.

    A home that the user may not search is somebody else's (after "su", say), so the machine's file
    counts, as in containers/image.
    """
    own = user_directory(environment) / "policy.json"
    with suppress(PermissionError):
        if is_there(own):
            return own
    return system / "policy.json" if is_there(system / "policy.json") else None


def is_there(path: Path) -> bool:
    """Return whether something has this name; raise OSError if that cannot be found out."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
