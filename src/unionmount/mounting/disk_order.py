"""Whether the disk of an upper keeps the order of data and names over a power cut.

If it does, a copy-up waits until the data of the copy is written, and for no flush of the disk
(docs/explanation/upper.md, "What a copy-up waits for"). ext4 and XFS do so under conditions that
are read from what the kernel shows of the mounted file system, since most of them are not in the
table of mounts. What can't be found out, and every other file system, counts as keeping no order.

Source: ``ext4_seq_options_show()`` in fs/ext4/super.c, ``jbd2_journal_init_inode()`` in
fs/jbd2/journal.c, ``xfs_fs_show_options()`` in fs/xfs/xfs_super.c.
"""

from __future__ import annotations

import os
from pathlib import Path

from unionmount.system.mountinfo import MountedAt, mounts

# Data is written before the journal refers to it, or is in the journal itself.
_ORDERED = frozenset({"data=ordered", "data=journal"})
_UNORDERED = "journal_async_commit"  # the end of a transaction may be there without its beginning
_SEPARATE = ("logdev=", "rtdev=")  # a flush of the journal's disk says nothing of the data's


def keeps_order(fd: int, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> bool:
    """Return whether the file system of ``fd`` never shows a name without data written before it.

    ``proc`` and ``sys`` are the kernel's, other directories in tests.
    """
    number = os.fstat(fd).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    try:
        found = next(
            (one for one in mounts(proc / "thread-self/mountinfo") if one.device == device), None
        )
        if found is None:
            return False
        if found.file_system == "xfs":
            return _xfs_keeps_order(found)
        if found.file_system in ("ext4", "ext3"):
            name = (sys / "dev/block" / device).readlink().name
            return _ext4_keeps_order(name, proc / "fs")
    except (OSError, ValueError):
        return False  # in a sandbox without /proc or /sys
    return False


def _xfs_keeps_order(mount: MountedAt) -> bool:
    return not any(option.startswith(_SEPARATE) for option in mount.options)


def _ext4_keeps_order(name: str, proc_fs: Path) -> bool:
    """Return it for the file system on the block device ``name``.

    ``options`` lists all options, those that are the default as well. Without a journal none of
    them begins with ``data=``. The name of a journal that is in the file system ends with its inode
    number; the journal of a disk of its own has the name of that disk.
    """
    options = frozenset((proc_fs / "ext4" / name / "options").read_text("ascii").split())
    return (
        "barrier" in options
        and bool(options & _ORDERED)
        and _UNORDERED not in options
        and any((proc_fs / "jbd2").glob(f"{name}-*"))
    )
