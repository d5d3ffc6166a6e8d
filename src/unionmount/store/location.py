"""The locations of the default store and of additional stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unionmount.errors import StoreError
from unionmount.system.home import NO_HOME, home_of
from unionmount.system.real_user import real_user

if TYPE_CHECKING:
    from collections.abc import Mapping


ADDITIONAL_VARIABLE = "UNIONMOUNT_ADDITIONAL_STORES"


def default_root(environment: Mapping[str, str]) -> Path:
    """Return the location of the user's default store."""
    if chosen := environment.get("UNIONMOUNT_ROOT"):
        return Path(chosen)
    if real_user(environment) == 0:
        return Path("/var/lib/unionmount")
    data = environment.get("XDG_DATA_HOME", "")
    base = Path(data) if data.startswith("/") else _home(environment) / ".local/share"
    return base / "unionmount"


def additional_stores(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the read-only stores in ``UNIONMOUNT_ADDITIONAL_STORES``, a list with colons."""
    text = environment.get(ADDITIONAL_VARIABLE, "")
    return tuple(Path(part) for part in text.split(":") if part)


def _home(environment: Mapping[str, str]) -> Path:
    home = home_of(environment)
    if home == NO_HOME:
        raise StoreError(
            "no place for the store: this user has no home directory; choose one with --root DIR"
        )
    return home
