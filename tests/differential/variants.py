"""The mounts that are compared: who serves them, for whom, and what they are stacked of."""

from __future__ import annotations

import os
import stat

from differential import lowers, maps
from differential.deviations import Case
from differential.maps import Maps
from differential.run import MEMBER, ROOT, USER, Variant
from differential.sides import (
    NO_DEVICES_NO_SETUID,
    FuseOverlayfs,
    KernelOverlay,
    Unionmount,
    UnionmountImage,
    as_user,
)
from differential.worker import Identity

_UID = USER.uid
# The one whose mount it is; no one else can reach it, not even root.
_OWNER = Identity("owner", _UID, _UID)
_OWNER_AGAIN = Identity("again", _UID, _UID)
_OWNER_OBSERVER = Identity("observer", _UID, _UID, observer=True)
_WITH_DEVICES = ",dev,suid"
# Without it, an ordinary user may do in his mount what root may.
_CHECKED = ",default_permissions"


def _users_limits(case: Case) -> bool:
    """What an ordinary user's daemon can't keep on disk (docs/explanation/upper.md)."""
    if case.field == "ino":  # it can't mark these with their origin
        return not (stat.S_ISREG(case.kind) or stat.S_ISDIR(case.kind))
    if case.field in ("uid", "gid"):
        return stat.S_ISLNK(case.kind)
    return _privileged_xattrs(case)


def _privileged_xattrs(case: Case) -> bool:
    """Attributes that only root may set are lost when an ordinary user's file is copied up."""
    if case.field == "xattrs":
        return bool(
            case.kernel == tuple(pair for pair in case.plain if not _is_privileged(pair[0]))
        )
    if case.operation == "listxattr":  # and where they are kept they are listed, to anyone
        lists = [one for kind, one in (case.kernel, case.plain) if kind == "ok"]
        mine = [[name for name in one if not _is_privileged(os.fsencode(name))] for one in lists]
        return len(mine) == 2 and mine[0] == mine[1]
    name = str(case.arguments.get("name", ""))
    return case.operation.endswith("getxattr") and _is_privileged(name.encode())


def _is_privileged(name: bytes) -> bool:
    return name.startswith((b"trusted.", b"security."))


DIRECTORIES = Variant("directories", lambda: Unionmount(options=_WITH_DEVICES))
IMAGE = Variant("image", lambda: UnionmountImage(options=_WITH_DEVICES), image=True)
REFERENCE = Variant(
    "without-router",
    lambda: Unionmount(options=f"{_WITH_DEVICES},nofastpath"),
    nameless=False,
)
ONE_THREAD = Variant(
    "one-thread", lambda: UnionmountImage(options=f"{_WITH_DEVICES},threads=1"), image=True
)
# The kernel reads and writes the upper's files itself.
PASSTHROUGH = Variant(
    "passthrough", lambda: Unionmount(options=f"{_WITH_DEVICES},relatime,passthrough")
)
AUFS = Variant("aufs-whiteouts", lambda: Unionmount(options=_WITH_DEVICES), marks=lowers.AUFS_MARKS)
# Where others reach the upper, nothing in it has power on disk; the mount shows it all the same.
POWERLESS = Variant(
    "powerless", lambda: Unionmount(options=",upper_open"), mount_flags=NO_DEVICES_NO_SETUID
)
# Owners and modes are in attributes, for fuse-overlayfs to read.
STAT_MARKS = Variant(
    "stat-marks",
    lambda: Unionmount(options=f"{_WITH_DEVICES},xattr_permissions=2,redirect_dir=on,metacopy=on"),
)
PRIVILEGED_STAT_MARKS = Variant(
    "privileged-stat-marks",
    lambda: Unionmount(options=f"{_WITH_DEVICES},xattr_permissions=1,redirect_dir=on,metacopy=on"),
)
USERS_IMAGE = Variant(
    "users-image",
    lambda: UnionmountImage(as_user(_UID), _CHECKED),
    identities=(_OWNER, _OWNER_AGAIN),
    observer=_OWNER_OBSERVER,
    owner=_UID,
    image=True,
    mount_flags=NO_DEVICES_NO_SETUID,
    acls=False,
    excuse=_users_limits,
)
USERS_DIRECTORIES = Variant(
    "users-directories",
    lambda: Unionmount(as_user(_UID), _CHECKED),
    identities=(_OWNER, _OWNER_AGAIN),
    observer=_OWNER_OBSERVER,
    owner=_UID,
    marks=lowers.USER_MARKS,
    owned_lowers=True,
    mount_flags=NO_DEVICES_NO_SETUID,
    acls=False,
    excuse=_users_limits,
)

# What IDs are drawn from is in differential/machine.py: 0, 100, 1000, 4242, 65534.
_MAPS = {
    "shifted": Maps("100000:0:65536", "200000:0:65536"),
    "several": Maps("7:0:1:5000:100:5000:90000:65534:1", "8:0:101:90000:1000:9000:150:65534:1"),
    "hole": Maps("100000:0:4242:104243:4243:61294", "200000:0:100:200101:101:65436"),
    # as podman's --userns=keep-id has them
    "keep-id": Maps("1:0:1000:0:1000:1:1001:1001:64536", "1:0:1000:0:1000:1:1001:1001:64536"),
    "without-root": Maps("0:1000:1:1:4242:1:2:65534:1", "0:1000:1:1:100:1:2:4242:1:3:65534:1"),
}


def _mapped(name: str, ids: Maps, *, router: bool) -> Variant:
    options = _WITH_DEVICES + ids.options() + ("" if router else ",nofastpath")
    return Variant(
        f"ids-{name}" + ("" if router else "-python"),
        lambda: Unionmount(options=options),
        # Root that is not shown creates files of the stored root (docs/reference/options.md).
        identities=(ROOT, USER, MEMBER) if ids.has_root() else (USER, MEMBER),
        nameless=router,
        maps=ids,
        deviations=maps.DEVIATIONS,
        excuse=maps.excuse,
    )


MAPPED = tuple(
    _mapped(name, ids, router=router) for name, ids in _MAPS.items() for router in (True, False)
)

VARIANTS = {
    one.name: one
    for one in (
        *(DIRECTORIES, PASSTHROUGH, IMAGE, REFERENCE, ONE_THREAD, AUFS, POWERLESS),
        *(STAT_MARKS, PRIVILEGED_STAT_MARKS),
        *(USERS_IMAGE, USERS_DIRECTORIES, *MAPPED),
    )
}

# For the machinery itself: overlayfs agrees with itself, and mistakes of others are found.
ORACLES = Variant("overlayfs", KernelOverlay, identities=(ROOT, USER), excuse=lambda _case: True)
OTHERS = Variant("fuse-overlayfs", FuseOverlayfs)


def is_users(variant: Variant) -> bool:
    """Whether an ordinary user mounts, who needs /dev/fuse."""
    return variant.owner != os.geteuid()
