"""The columns of -ls, which grow with the widest value so far."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionmount.browse.accounts import Accounts
    from unionmount.core.scan import Visit

_MAX_KEPT = 65536


class Columns:
    """The widths of the columns, as those of find(1) at the start.

    Many files have the same mode, links and owners: what they print is kept until a column grows.
    """

    def __init__(self) -> None:
        self._accounts: Accounts | None = None  # of the image of the last line
        self._inode, self._blocks, self._links, self._size = 9, 6, 3, 8
        self._user = self._group = 8
        self._major = self._minor = 3
        self._kept: dict[tuple[int, ...], str] = {}

    def left(self, visit: Visit, accounts: Accounts) -> str:
        """Return the columns before the size."""
        if accounts is not self._accounts:
            self._accounts = accounts
            self._kept.clear()
        number, blocks = str(visit.node), str(-(-visit.blocks // 2))
        self._inode = max(self._inode, len(number))
        self._blocks = max(self._blocks, len(blocks))
        key = visit.mode_and_owners
        middle = self._kept.get(key)
        if middle is None:
            middle = self._middle(accounts, *key)
            self._kept[key] = middle
        return f"{number:>{self._inode}} {blocks:>{self._blocks}} {middle}"

    def _middle(self, accounts: Accounts, mode: int, links: int, uid: int, gid: int) -> str:
        """Return mode, links and owners, and forget other such texts if a column grows."""
        before = self._links, self._user, self._group
        group = accounts.group(gid)
        self._links = max(self._links, len(str(links)))
        self._group = max(self._group, len(group))
        owner = self._owner(accounts.user(uid), uid)
        if before != (self._links, self._user, self._group) or len(self._kept) > _MAX_KEPT:
            self._kept.clear()
        shown = stat.filemode(mode)
        return f"{shown} {links:>{self._links}} {owner} {group:<{self._group}} "

    def _owner(self, user: str, number: int) -> str:
        """Return the owner; as in find, numbers do not use the width of longer names."""
        if user != str(number):
            self._user = max(self._user, len(user))
            return user.ljust(self._user)
        text = user.ljust(8)
        self._user = max(self._user, len(text) + 1)
        return text

    def size(self, size: int) -> str:
        """Return the size."""
        text = str(size)
        self._size = max(self._size, len(text))
        return text.rjust(self._size)

    def device(self, major: int, minor: int) -> str:
        """Return the numbers of a device."""
        text = f"{major:>{self._major}}, {minor:>{self._minor}}"
        self._major = max(self._major, len(str(major)))
        self._minor = max(self._minor, len(str(minor)))
        return text
