"""The maps of the ordinary user who has run a container."""

from __future__ import annotations

from pathlib import Path

from unionmount.browse.owners import Owners
from unionmount.runtime.run_record import read_record
from unionmount.runtime.subordinate_ids import SubordinateIds
from unionmount.store.containers import is_there

_BELOW_STORE = 3  # containers/NAME/upper


def owners_of(upper: Path | None) -> Owners | None:
    """Return the maps of the user who has run a container; None if no ordinary user has.

    ``upper`` is the directory of its changes, or another one of the user.
    """
    if upper is None or len(upper.parents) < _BELOW_STORE:
        return None
    container, root = upper.parent, upper.parents[_BELOW_STORE - 1]
    if container.parent != root / "containers" or not is_there(root, container.name):
        return None  # a directory of the user
    record = read_record(container)
    if record is None or not record.rootless:
        return None
    status = upper.stat()
    ids = SubordinateIds.of_user(owner=(status.st_uid, status.st_gid))
    return Owners(ids.users, ids.groups)
