"""The home directory of the user."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_HOME = Path("/nonexistent")
"""The home of users who have none; no such directory exists, which is Debian's convention, too."""


def home_of(environment: Mapping[str, str]) -> Path:
    """Return ``HOME`` if it is an absolute path, else the home in the password database.

    A container may run as a user whom its database does not list. That user has NO_HOME, and so no
    files of configuration.
    """
    said = environment.get("HOME", "")
    if said.startswith("/"):
        return Path(said)
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir or NO_HOME)
    except KeyError:
        return NO_HOME
