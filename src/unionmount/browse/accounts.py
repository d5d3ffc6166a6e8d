"""The users and groups of an image: the names in its /etc/passwd and /etc/group."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from unionmount.browse.paths import follow
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.core import BrowsableTree

_MAX_SIZE = 4 * 1024 * 1024  # bytes that are read of each file


class Accounts:
    """Users and groups by number and by name; with ``numbers``, all are known by number alone."""

    def __init__(self, files: BrowsableTree, *, numbers: bool = False) -> None:
        self._users = {} if numbers else _read(files, b"/etc/passwd")
        self._groups = {} if numbers else _read(files, b"/etc/group")

    def user(self, number: int) -> str:
        """Return a user's name, or the number if there is none."""
        return self._users.get(number, str(number))

    def group(self, number: int) -> str:
        """Return a group's name, or the number if there is none."""
        return self._groups.get(number, str(number))

    def has_user(self, number: int) -> bool:
        """Return whether a user has a name."""
        return number in self._users

    def has_group(self, number: int) -> bool:
        """Return whether a group has a name."""
        return number in self._groups

    def user_named(self, name: str) -> int | None:
        """Return the number of a user; None if there is no such name."""
        return _number(self._users, name)

    def group_named(self, name: str) -> int | None:
        """Return the number of a group; None if there is no such name."""
        return _number(self._groups, name)


def _number(names: dict[int, str], wanted: str) -> int | None:
    return next((number for number, name in names.items() if name == wanted), None)


def _read(files: BrowsableTree, path: bytes) -> dict[int, str]:
    """Read names by number: the first entry of a number counts, malformed lines are skipped."""
    found: dict[int, str] = {}
    try:
        attributes = follow(files, path).attributes
        if not stat.S_ISREG(attributes.mode):
            return {}
        data = files.read(attributes.node, 0, min(attributes.size, _MAX_SIZE))
    except OSError:
        return {}
    for line in data.split(b"\n"):
        name, _, rest = line.partition(b":")
        number = rest.partition(b":")[2].partition(b":")[0]
        if name and number.isdigit() and len(number) <= 10:
            found.setdefault(int(number), printable(name))
    return found
