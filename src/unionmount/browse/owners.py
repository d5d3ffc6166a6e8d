"""The owners of the files that an ordinary user's container has made, as they are in it."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, NamedTuple

from unionmount.system.id_map import IdRange, stored_id

if TYPE_CHECKING:
    from unionmount.core import Attributes


class Owners(NamedTuple):
    """Maps of users and groups: those of a container are stored, those of the disk shown."""

    users: tuple[IdRange, ...]
    groups: tuple[IdRange, ...]

    def owned(self, found: Attributes) -> Attributes:
        """Return the attributes with the owner in the container, if they have that on disk.

        Files and directories have the owner in an attribute, or belong to nobody else.
        """
        if stat.S_ISREG(found.mode) or stat.S_ISDIR(found.mode):
            return found
        uid, gid = stored_id(self.users, found.uid), stored_id(self.groups, found.gid)
        return found._replace(uid=uid, gid=gid)
