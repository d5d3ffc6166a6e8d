"""The options of a mount: what ``-o`` may say, as one value.

Options are those of mount(8), where they mean something for a FUSE file system, plus
``xattrs=layers`` of our own. One that would change what the mount means is carried out or
refused, never ignored: whoever calls a mount program looks at its exit status alone. What is
accepted without an effect is in ``WITHOUT_EFFECT``, what is refused for a reason in ``REFUSED``;
docs/reference/options.md has both. Without any option, set-user-ID bits and device nodes of the
image have no effect (``nosuid,nodev``): an image is somebody else's file system. Of our own are
``threads=N`` and ``nofastpath``, too: who answers the kernel (docs/explanation/router.md).

``default_permissions`` lets the kernel check owners and modes. That is always so for root's mounts,
for read-only ones, and where other users get in. A writable mount of an ordinary user, who alone
gets in, goes without: there, who mounts may do everything, as root may in a container. With
``-o default_permissions`` modes are checked there, too.

``atime`` stands for relatime: reading what is in the upper changes access times by its rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from unionmount.errors import MountError
from unionmount.system.text import printable


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How a file system is mounted; ``allow_other`` None stands for "root: yes, others: no"."""

    dev: bool = False
    suid: bool = False
    exec: bool = True
    atime: bool = False  # as relatime; without it reading changes no access time
    diratime: bool = True  # with atime: of directories, too
    symfollow: bool = True
    fsname: str = ""  # what tables of mounts show as the source; empty: the name of the image
    allow_other: bool | None = None
    list_layers: bool = False
    ro: bool = False
    default_permissions: bool = False
    fastpath: bool = True  # requests are answered in C where that is possible
    threads: int | None = None  # of the fast path; None: as many as there are processors

    @property
    def promises(self) -> bool:
        """Whether set-user-ID programs or devices in the mount are promised to have no power."""
        return not (self.suid and self.dev)

    def for_others(self, *, root: bool) -> bool:
        """Whether users other than the one who mounts get in."""
        return root if self.allow_other is None else self.allow_other

    def checks_permissions(self, *, root: bool, writable: bool) -> bool:
        """Whether the kernel checks owners and modes."""
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
    # what these let do, mount(8) decides; what they forbid is forbidden
    "user": lambda options: replace(options, dev=False, suid=False, exec=False),
    "users": lambda options: replace(options, dev=False, suid=False, exec=False),
    "owner": lambda options: replace(options, dev=False, suid=False),
    "group": lambda options: replace(options, dev=False, suid=False),
    "noatime": lambda options: replace(options, atime=False),
    "allow_other": lambda options: replace(options, allow_other=True),
    "noallow_other": lambda options: replace(options, allow_other=False),
    "fastpath": lambda options: replace(options, fastpath=True),
    "nofastpath": lambda options: replace(options, fastpath=False),
    "xattrs=layers": lambda options: replace(options, list_layers=True),
}


_FOR_MOUNT = "for mount(8) and systemd, before and after the mount"
_IS_SO = "that is how it is"

# Accepted without an effect, by name or by name and value; each with the reason.
WITHOUT_EFFECT: dict[str, str] = {
    "defaults": "what goes without saying here: rw,nosuid,nodev,exec,noatime",
    "async": _IS_SO,
    "nodirsync": _IS_SO,
    "nostrictatime": _IS_SO,
    "norelatime": "Linux has known nothing but relatime in its place since 2.6.30",
    "nolazytime": _IS_SO,
    "nomand": _IS_SO,
    "noiversion": _IS_SO,
    "silent": "nothing is printed to the kernel's log in any case",
    "loud": "nothing is printed to the kernel's log in any case",
    "auto": _FOR_MOUNT,
    "noauto": _FOR_MOUNT,
    "nofail": _FOR_MOUNT,
    "nouser": _FOR_MOUNT,
    "_netdev": _FOR_MOUNT,
    "nonempty": "any directory may be mounted on",
}
# The same, by how they begin.
COMMENTS: dict[str, str] = {"comment=": "a comment", "x-": "a comment", "X-": "a comment"}

_LABELS = "labels of SELinux are those of the files"
_BY_MOUNT = "mount(8) carries it out; call it as mount -t fuse.unionmount"

# Refused, by name, whatever the value; each with what to do instead, or why.
REFUSED: dict[str, str] = {
    "strictatime": "reads that the kernel answers from its cache are not counted; use relatime",
    "lazytime": "times are written at once; leave it out",
    "sync": "not every change would be synced; use O_SYNC or fsync(2), or sync(8)",
    "dirsync": "changes of names are not synced one by one; use fsync(2) of the directory",
    "mand": "there are no mandatory locks on Linux",
    "iversion": "changes are not counted",
    "remount": "use mount -o remount, which changes ro, rw, exec and noexec",
    "bind": "use mount --bind on the mount point",
    "rbind": "use mount --rbind on the mount point",
    "move": "use mount --move on the mount point",
    "context": _LABELS,
    "fscontext": _LABELS,
    "defcontext": _LABELS,
    "rootcontext": _LABELS,
    "seclabel": _LABELS,
    "allow_root": "use allow_other, or nothing",
    "auto_unmount": "the mount stays when its process is killed; use umount",
    "subtype": "it always is unionmount",
    "blkdev": "no block device is mounted",
    "blksize": "no block device is mounted",
    "max_read": "the sizes of reads are chosen by the daemon",
    "debug": "use --debug",
}


NAMES = (*_CHANGES, *WITHOUT_EFFECT, "fsname=", "threads=")
"""The options that there are."""

THREADS_MAX = 32  # the core takes no more
_THREADS = re.compile(r"threads=([1-9][0-9]{0,3})")
_FSNAME = "fsname="


def is_without_effect(option: str) -> bool:
    """Whether an option is accepted and changes nothing."""
    if option.lower().startswith("x-mount."):
        return False
    return option in WITHOUT_EFFECT or option.startswith(tuple(COMMENTS))


def refusal(option: str) -> str | None:
    """Why an option that is known is refused; None where it is not."""
    if option.lower().startswith("x-mount."):
        return _BY_MOUNT
    return REFUSED.get(option.partition("=")[0])


def is_known(option: str) -> bool:
    """Whether an option is carried out, or accepted without an effect."""
    done = option in _CHANGES or _THREADS.fullmatch(option) or option.startswith(_FSNAME)
    return bool(done) or is_without_effect(option)


def check_known(options: Iterable[str], known: Iterable[str] = ()) -> None:
    """Refuse what is neither carried out nor known to change nothing; ``known`` is known, too."""
    strange = [option for option in options if not is_known(option)]
    for option in strange:
        if (why := refusal(option)) is not None:
            raise MountError(f"mount option {printable(option)} is refused: {why}")
    if strange:
        names = ", ".join(sorted((*_CHANGES, *WITHOUT_EFFECT, "fsname=NAME", "threads=N", *known)))
        shown = printable(", ".join(strange))
        raise MountError(f"unknown mount option {shown} (known: {names})")


def parse_options(texts: Iterable[str]) -> MountOptions:
    """Read the values of ``-o``: comma-separated options, the last one of a pair wins."""
    return apply_options(name for text in texts for name in text.split(",") if name)


def apply_options(names: Iterable[str]) -> MountOptions:
    """Options that are taken apart, as one value; MountError for what is not known or refused."""
    names = list(names)
    check_known(names)
    options = MountOptions()
    for name in names:
        if threads := _THREADS.fullmatch(name):
            options = replace(options, threads=min(int(threads[1]), THREADS_MAX))
        elif name.startswith(_FSNAME):
            options = replace(options, fsname=name.removeprefix(_FSNAME))
        elif name in _CHANGES:
            options = _CHANGES[name](options)
    return options
