"""The options of a mount (``-o``), parsed into one value.

Options are those of mount(8) that make sense for a FUSE file system, and ``xattrs=layers``,
``threads=N``, ``nofastpath`` and ``io_uring`` (docs/explanation/router.md). An option that would
change the meaning of the mount is carried out or refused, never ignored, because callers of a mount
program only see its exit status. ``WITHOUT_EFFECT`` lists what is accepted without an effect,
``REFUSED`` what is refused with a reason; docs/reference/options.md has both. By default set-user-
ID bits and device nodes of the image have no effect (``nosuid,nodev``), as an image is not trusted.

``default_permissions`` lets the kernel check owners and modes. It always does so for root's mounts,
for read-only mounts, and if other users have access. In a writable mount of an ordinary user
without access for others, the user may do everything, like root in a container; with ``-o
default_permissions``, modes are checked there, too.

``atime`` is relatime: reading files of the upper changes access times by its rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from unionmount.errors import MountError
from unionmount.system.id_map import AS_STORED, IdMap
from unionmount.system.nearest import did_you_mean_option
from unionmount.system.text import printable


@dataclass(frozen=True, slots=True)
class MountView:
    """How a mount shows what is stored, and for how long the kernel may believe it."""

    users: IdMap = AS_STORED
    groups: IdMap = AS_STORED
    seconds: float | None = None  # that the kernel keeps names and attributes; None: for good
    static_nlink: bool = False  # every directory has one link
    acls: bool = True  # obeyed and inherited; they are shown in any case
    xattrs: bool = True


DISK_VIEW = MountView()


@dataclass(frozen=True, slots=True)
class MountOptions:
    """The options of a mount; ``allow_other`` None means "True for root, False for others"."""

    dev: bool = False
    suid: bool = False
    exec: bool = True
    atime: bool = False  # like relatime; without it, reading changes no access time
    diratime: bool = True  # with atime: for directories, too
    symfollow: bool = True
    fsname: str = ""  # the source in mount tables; if empty, the name of the image
    allow_other: bool | None = None
    list_layers: bool = False
    ro: bool = False
    default_permissions: bool = False
    passthrough: bool = False  # the kernel reads and writes files of the upper on the disk
    fastpath: bool = True  # whether C answers requests if possible
    threads: int | None = None  # of the fast path; None: one for each processor
    io_uring: bool | None = None  # whether requests come through io_uring (mounting/transport.py)
    view: MountView = DISK_VIEW
    labels: tuple[str, ...] = ()  # of SELinux for all files: NAME="LABEL"
    engine: bool = False  # nosuid and nodev are not relied on: uppers are accepted as by overlayfs

    @property
    def promises(self) -> bool:
        """Whether the mount promises that set-user-ID programs or devices have no power."""
        return not self.engine and not (self.suid and self.dev)

    def for_others(self, *, root: bool) -> bool:
        """Return whether users other than the mounting one have access."""
        return root if self.allow_other is None else self.allow_other

    def checks_permissions(self, *, root: bool, writable: bool) -> bool:
        """Return whether the kernel checks owners and modes."""
        return root or not writable or self.default_permissions or self.for_others(root=False)


_Change = Callable[[MountOptions], MountOptions]

_CHANGES: dict[str, _Change] = {
    "ro": lambda options: replace(options, ro=True),
    "rw": lambda options: replace(options, ro=False),
    "default_permissions": lambda options: replace(options, default_permissions=True),
    "dev": lambda options: replace(options, dev=True),
    "nodev": lambda options: replace(options, dev=False),
    "suid": lambda options: replace(options, suid=True),
    "nosuid": lambda options: replace(options, suid=False),
    "exec": lambda options: replace(options, exec=True),
    "noexec": lambda options: replace(options, exec=False),
    "atime": lambda options: replace(options, atime=True),
    "relatime": lambda options: replace(options, atime=True),
    "diratime": lambda options: replace(options, diratime=True),
    "nodiratime": lambda options: replace(options, diratime=False),
    "symfollow": lambda options: replace(options, symfollow=True),
    "nosymfollow": lambda options: replace(options, symfollow=False),
    # mount(8) decides what these permit; what they forbid is forbidden.
    "user": lambda options: replace(options, dev=False, suid=False, exec=False),
    "users": lambda options: replace(options, dev=False, suid=False, exec=False),
    "owner": lambda options: replace(options, dev=False, suid=False),
    "group": lambda options: replace(options, dev=False, suid=False),
    "noatime": lambda options: replace(options, atime=False),
    "allow_other": lambda options: replace(options, allow_other=True),
    "noallow_other": lambda options: replace(options, allow_other=False),
    "fastpath": lambda options: replace(options, fastpath=True),
    "nofastpath": lambda options: replace(options, fastpath=False),
    "passthrough": lambda options: replace(options, passthrough=True),
    "nopassthrough": lambda options: replace(options, passthrough=False),
    "io_uring": lambda options: replace(options, io_uring=True),
    "noio_uring": lambda options: replace(options, io_uring=False),
    "xattrs=layers": lambda options: replace(options, list_layers=True),
}


_FOR_MOUNT = "meant for mount(8) and systemd"
_IS_SO = "describes the only behaviour"

# Accepted without an effect, by name or by name and value, with the reasons.
WITHOUT_EFFECT: dict[str, str] = {
    "defaults": "names the defaults: rw,nosuid,nodev,exec,noatime",
    "async": _IS_SO,
    "nodirsync": _IS_SO,
    "nostrictatime": _IS_SO,
    "norelatime": "Linux has no other behaviour since 2.6.30",
    "nolazytime": _IS_SO,
    "lazytime": "times are written at once, so that none is lost",
    "nomand": _IS_SO,
    "noiversion": _IS_SO,
    "silent": "the mount prints nothing to the kernel's log",
    "loud": "the mount prints nothing to the kernel's log",
    "auto": _FOR_MOUNT,
    "noauto": _FOR_MOUNT,
    "nofail": _FOR_MOUNT,
    "nouser": _FOR_MOUNT,
    "_netdev": _FOR_MOUNT,
    "nonempty": "any directory may be a mount point",
}
# The same, by prefix.
COMMENTS: dict[str, str] = dict.fromkeys(
    ("comment=", "x-", "X-"), "a comment (except x-mount.… and X-mount.…)"
)

_BY_MOUNT = "mount(8) carries these out; call mount -t fuse.unionmount"

# Refused, by name with any value, with the alternative or the reason.
REFUSED: dict[str, str] = {
    "strictatime": "reads that the kernel answers from its cache cannot be counted; use relatime",
    "sync": "not every change would be synced; use O_SYNC, fsync(2) or sync(8)",
    "dirsync": "changes of names are not synced one by one; use fsync(2) of the directory",
    "mand": "Linux has no mandatory locks",
    "iversion": "changes are not counted",
    "remount": "use mount -o remount, which changes ro, rw, exec and noexec",
    "bind": "use mount --bind on the mount point",
    "rbind": "use mount --rbind on the mount point",
    "move": "use mount --move on the mount point",
    "seclabel": "SELinux labels are those of the files; use context=LABEL for another one",
    "allow_root": "use allow_other, or nothing",
    "auto_unmount": "a mount stays when its process is killed; use umount",
    "subtype": "the subtype is always unionmount",
    "blkdev": "no block device is mounted",
    "blksize": "no block device is mounted",
    "max_read": "the daemon chooses the sizes of reads",
    "debug": "use --debug; overlay accepts it, as -d",
}


_LABELS = tuple(f"{name}context" for name in ("", "fs", "def", "root"))
_WITH_VALUE = tuple(f"{name}=…" for name in ("fsname", "threads", *_LABELS))
# What these take; asked only about options whose value is wrong.
_VALUES = {"threads": "give a number, 1 or more"} | dict.fromkeys(_LABELS, "give a label")
NAMES = (*_CHANGES, *WITHOUT_EFFECT, *(name.rstrip("…") for name in _WITH_VALUE))
"""The known options, those with any value as ``NAME=``."""

THREADS_MAX = 32  # the limit of the core
_THREADS = re.compile(r"threads=([1-9][0-9]{0,3})")
_FSNAME = "fsname="
# One option of a list; a label may have commas, in quotes.
_OPTION = re.compile(r'(?:fs|def|root)?context="[^"]*"|[^,]+')
_LABEL = re.compile(r'((?:fs|def|root)?context)=(?:"([^",]+(?:,[^",]+)*)"|([^",]+))', re.DOTALL)


def is_without_effect(option: str) -> bool:
    """Return whether an option is accepted without an effect."""
    if option.lower().startswith("x-mount."):
        return False
    return option in WITHOUT_EFFECT or option.startswith(tuple(COMMENTS))


def refusal(option: str) -> str | None:
    """Return the reason why a known option is refused; None if it is not."""
    if option.lower().startswith("x-mount."):
        return _BY_MOUNT
    name = option.partition("=")[0]
    return REFUSED.get(name) or _VALUES.get(name)


def is_known(option: str) -> bool:
    """Return whether an option is carried out, or accepted without an effect."""
    written = _THREADS.fullmatch(option) or _LABEL.fullmatch(option) or option.startswith(_FSNAME)
    done = option in _CHANGES or written
    return bool(done) or is_without_effect(option)


def check_known(options: Iterable[str], known: Iterable[str] = ()) -> None:
    """Raise MountError for options that are refused or not known, not even in ``known``."""
    strange = [option for option in options if not is_known(option)]
    for option in strange:
        if (why := refusal(option)) is not None:
            raise MountError(f"mount option {printable(option)} is refused: {why}")
    if not strange:
        return
    names = {name.rstrip("…"): name for name in (*_CHANGES, *WITHOUT_EFFECT, *_WITH_VALUE, *known)}
    shown = printable(", ".join(strange))
    for option in strange:
        if near := did_you_mean_option(option, names):
            raise MountError(f"unknown mount option {shown}{near}")
    raise MountError(
        f"unknown mount option {shown}; use one of {', '.join(sorted(names.values()))}"
    )


def parse_options(texts: Iterable[str]) -> MountOptions:
    """Parse the values of ``-o``: comma-separated options, of which the last one of a pair wins."""
    return apply_options(name for text in texts for name in _OPTION.findall(text))


def apply_options(
    names: Iterable[str],
    default: MountOptions = MountOptions(),
) -> MountOptions:
    """Parse single options; raise MountError for those that are refused or unknown."""
    names = list(names)
    check_known(names)
    options = default
    for name in names:
        if threads := _THREADS.fullmatch(name):
            options = replace(options, threads=min(int(threads[1]), THREADS_MAX))
        elif name.startswith(_FSNAME):
            options = replace(options, fsname=name.removeprefix(_FSNAME))
        elif label := _LABEL.fullmatch(name):
            written = f'{label[1]}="{label[2] or label[3]}"'
            options = replace(options, labels=(*options.labels, written))
        elif name in _CHANGES:
            options = _CHANGES[name](options)
    return options
