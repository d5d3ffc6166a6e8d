"""The columns of -ls, which grow with the widest value so far."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionmount.browse.accounts import Accounts

_MAX_KEPT = 65536


class Columns:
    """The widths of the columns, as those of find(1) at the start.

    Many files have the same mode, links and owners: what they print is kept until a column grows.
    """

    def __init__(self) -> None:
        self._accounts: Accounts | None = None  # of the image of the last line
        self._inode, self._blocks, self._links, self._size = 9, 6, 3, 8
        self._wider = 10**9, 10**6, 10**8  # the least inode, blocks and size that widen a column
        self._user = self._group = 8
        self._major = self._minor = 3
        self._kept: dict[tuple[int, ...], bytes] = {}

    def use(self, accounts: Accounts) -> None:
        """Take names from these accounts from now on."""
        if accounts is not self._accounts:
            self._accounts = accounts
            self._kept.clear()

    def left(self, raw: tuple[int, ...]) -> bytes:
        """Return the columns up to the size of a file, given as ``Visit.raw``."""
        node, mode, _links, _uid, _gid, _major, _minor, size, blocks = raw[:9]
        blocks = -(-blocks // 2)  # of 1024 bytes
        middle = self._kept.get(raw[1:5])
        if middle is None:
            middle = self._middle(*raw[1:5])
            self._kept[raw[1:5]] = middle
        is_device = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
        if is_device:
            last = self._device(*raw[5:7])
            line = b"%*d %*d %b%b" % (self._inode, node, self._blocks, blocks, middle, last)
        else:
            values = self._inode, node, self._blocks, blocks, middle, self._size, size
            line = b"%*d %*d %b%*d" % values
        wide_inode, wide_blocks, wide_size = self._wider
        if node >= wide_inode or blocks >= wide_blocks or (size >= wide_size and not is_device):
            self._widen(node, blocks, 0 if is_device else size)
        return line

    def _widen(self, node: int, blocks: int, size: int) -> None:
        """Let the columns be as wide as these numbers."""
        self._inode = max(self._inode, len(str(node)))
        self._blocks = max(self._blocks, len(str(blocks)))
        self._size = max(self._size, len(str(size)))
        self._wider = 10**self._inode, 10**self._blocks, 10**self._size

    def _middle(self, mode: int, links: int, uid: int, gid: int) -> bytes:
        """Return mode, links and owners, and forget other such texts if a column grows."""
        accounts = self._accounts
        assert accounts is not None
        before = self._links, self._user, self._group
        group = accounts.group(gid)
        self._links = max(self._links, len(str(links)))
        self._group = max(self._group, len(group))
        owner = self._owner(accounts.user(uid), uid)
        if before != (self._links, self._user, self._group) or len(self._kept) > _MAX_KEPT:
            self._kept.clear()
        shown = stat.filemode(mode)
        return f"{shown} {links:>{self._links}} {owner} {group:<{self._group}} ".encode()

    def _owner(self, user: str, number: int) -> str:
        """Return the owner; as in find, numbers do not use the width of longer names."""
        if user != str(number):
            self._user = max(self._user, len(user))
            return user.ljust(self._user)
        text = user.ljust(8)
        self._user = max(self._user, len(text) + 1)
        return text

    def _device(self, major: int, minor: int) -> bytes:
        """Return the numbers of a device, which do not widen the column of sizes."""
        text = f"{major:>{self._major}}, {minor:>{self._minor}}"
        self._major = max(self._major, len(str(major)))
        self._minor = max(self._minor, len(str(minor)))
        return text.encode("ascii")
