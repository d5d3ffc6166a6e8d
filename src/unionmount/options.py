"""The options of a mount: what ``-o`` may say, as one value.

Options are those of mount(8), where they mean something for a FUSE file system, plus
``xattrs=layers`` of our own. Without any, set-user-ID bits and device nodes of the image have no
effect (``nosuid,nodev``): an image is somebody else's file system. Of our own are ``threads=N`` and
``nofastpath``, too: who answers the kernel (docs/explanation/router.md).

``default_permissions`` lets the kernel check owners and modes. That is always so for root's mounts,
for read-only ones, and where other users get in. A writable mount of an ordinary user, who alone
gets in, goes without: there, who mounts may do everything, as root may in a container. With
``-o default_permissions`` modes are checked there, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from unionmount.errors import UsageError


@dataclass(frozen=True, slots=True)
class MountOptions:
    """How a file system is mounted; ``allow_other`` None stands for "root: yes, others: no"."""

    dev: bool = False
    suid: bool = False
    exec: bool = True
    atime: bool = False
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
    "nonempty": lambda options: options,  # always allowed
    "relatime": lambda options: options,  # access times are those of the layers, or of the upper
    "dev": lambda options: replace(options, dev=True),
    "nodev": lambda options: replace(options, dev=False),
    "suid": lambda options: replace(options, suid=True),
    "nosuid": lambda options: replace(options, suid=False),
    "exec": lambda options: replace(options, exec=True),
    "noexec": lambda options: replace(options, exec=False),
    "atime": lambda options: replace(options, atime=True),
    "noatime": lambda options: replace(options, atime=False),
    "allow_other": lambda options: replace(options, allow_other=True),
    "noallow_other": lambda options: replace(options, allow_other=False),
    "fastpath": lambda options: replace(options, fastpath=True),
    "nofastpath": lambda options: replace(options, fastpath=False),
    "xattrs=layers": lambda options: replace(options, list_layers=True),
}


THREADS_MAX = 32  # the core takes no more
_THREADS = re.compile(r"threads=([1-9][0-9]{0,3})")


def parse_options(texts: Iterable[str]) -> MountOptions:
    """Read the values of ``-o``: comma-separated options, the last one of a pair wins."""
    options = MountOptions()
    names = [name for text in texts for name in text.split(",") if name]
    unknown = [name for name in names if name not in _CHANGES and not _THREADS.fullmatch(name)]
    if unknown:
        known = ", ".join(sorted((*_CHANGES, "threads=N")))
        raise UsageError(f"unknown mount option {', '.join(unknown)} (known: {known})")
    for name in names:
        if threads := _THREADS.fullmatch(name):
            options = replace(options, threads=min(int(threads[1]), THREADS_MAX))
        else:
            options = _CHANGES[name](options)
    return options
