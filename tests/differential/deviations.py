"""Where the kernel's overlayfs is known not to do what POSIX says, and who is right.

Every operation is also done to a plain directory on the same file system. Where overlayfs and the
plain directory disagree, an entry of `KNOWN_DEVIATIONS` must say why, and whose answer the subject
has to give; a disagreement that none explains fails the test. Nothing is ignored: in each case the
subject is held to one of the two answers.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from differential.worker import Outcome

NOW = -1
"""In place of every time that is the run's own; explicit times are all far from it."""


@dataclass(frozen=True, slots=True)
class Case:
    """A disagreement: what was done, or which field of the tree it is, and both answers.

    `operation` is the operation's name, or "tree"; `field` a field of what stat or the snapshot
    tells, or "" for the whole outcome.
    """

    operation: str
    field: str
    arguments: dict[str, Any]
    kernel: Any
    plain: Any
    kind: int = 0
    """The type of the file, where the disagreement is about one field."""


@dataclass(frozen=True, slots=True)
class Either:
    """Two answers, both of them right."""

    answers: tuple[Any, Any]

    def __contains__(self, answer: object) -> bool:
        return answer in self.answers


@dataclass(frozen=True, slots=True)
class Deviation:
    """A known disagreement. ``right``: "plain", "kernel" or "either"; ``lasting``: from here on the
    two trees are different, so that overlayfs can't be asked any more in this run.
    """

    name: str
    reason: str
    applies: Callable[[Case], bool]
    right: str = "plain"
    lasting: bool = False


def _fails(outcome: Outcome, number: int) -> bool:
    return outcome == ("error", number)


def _link_count(case: Case) -> bool:
    return case.field == "nlink" and not stat.S_ISDIR(case.kind)


def _long_redirect(case: Case) -> bool:
    return case.operation == "rename" and not case.field and _fails(case.kernel, errno.EXDEV)


def _whiteout_made(case: Case) -> bool:
    return (
        case.operation == "mknod"
        and stat.S_ISCHR(case.arguments["mode"])
        and _fails(case.kernel, errno.EPERM)
    )


def is_not_empty(case: Case) -> bool:
    """Whether both say that a directory is not empty; overlayfs may not be asked any more."""
    numbers = (errno.ENOTEMPTY, errno.EEXIST)
    both = (numbers, numbers[::-1])
    return not case.field and any(
        _fails(case.kernel, one) and _fails(case.plain, other) for one, other in both
    )


def _time_of_fifo(case: Case) -> bool:
    return case.field in ("mtime", "mtime_ns") and stat.S_ISFIFO(case.kind)


def _time_of_moved_directory(case: Case) -> bool:
    return case.field in ("mtime", "mtime_ns") and stat.S_ISDIR(case.kind) and case.kernel == NOW


def _acl_removed(case: Case) -> bool:
    named = str(case.arguments.get("name", "")).startswith("system.posix_acl_")
    return (
        case.operation in ("removexattr", "setxattr", "fsetxattr")
        and named
        and _fails(case.kernel, errno.ENODATA)
    )


def _removed_file_changed(case: Case) -> bool:
    failed = any(_fails(case.kernel, one) for one in (errno.EEXIST, errno.ENOTEMPTY))
    # where there is a path, ENOENT may be about that
    failed |= "path" not in case.arguments and _fails(case.kernel, errno.ENOENT)
    return not case.field and "handle" in case.arguments and failed


def _trusted_listed(case: Case) -> bool:
    if case.operation != "listxattr" or not case.kernel[0] == case.plain[0] == "ok":
        return False
    shown = [name for name in case.plain[1] if not name.startswith("trusted.")]
    return bool(case.kernel[1] == shown)


KNOWN_DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "link-count-of-hidden-names",
        "the count of a file of a lower layer includes names that the mount does not show",
        _link_count,
    ),
    Deviation(
        "redirect-too-long",
        "redirects are bounded by the module's parameter redirect_max (256 bytes)",
        _long_redirect,
        lasting=True,
    ),
    Deviation(
        "change-of-a-removed-file",
        "with index=on, a file of a lower layer that is open and has lost its name can't be copied "
        "up: EEXIST, or ENOENT if its directory is gone as well; a directory in whose place is "
        "another one: ENOTEMPTY",
        _removed_file_changed,
        lasting=True,
    ),
    Deviation(
        "mapping-of-a-lower-file",
        "what was mapped before the file was copied up does not see what is written after",
        lambda case: case.operation == "map_read",
    ),
    Deviation(
        "no-whiteouts-made",
        "a character device 0:0 is a whiteout; making one through the mount is refused",
        _whiteout_made,
        lasting=True,
    ),
    Deviation(
        "open-directory-from-a-cache",
        "an open merged directory lists what it had when it was read first",
        lambda case: case.operation == "flist",
    ),
    Deviation(
        "not-empty",
        "rename(2) allows ENOTEMPTY and EEXIST; XFS says the second",
        is_not_empty,
        right="either",
    ),
    Deviation(
        "trusted-names-listed",
        "xattr(7) hides trusted.* from who may not read them; btrfs lists them to anyone",
        _trusted_listed,
        right="kernel",
    ),
    Deviation(
        "times-of-fifos",
        "what is written to a FIFO stays in the kernel, and so does its time",
        _time_of_fifo,
        right="either",
    ),
    Deviation(
        "times-of-moved-directories",
        "over a whiteout a directory is moved by RENAME_EXCHANGE, and XFS sets its mtime then",
        _time_of_moved_directory,
    ),
    Deviation(
        "no-acl-to-remove",
        "removing an ACL that is not there, or setting an empty one: removexattr(2) says ENODATA; "
        "ext4 and its kin have nothing against it",
        _acl_removed,
        right="either",
    ),
)


def explain(case: Case, known: Sequence[Deviation] = KNOWN_DEVIATIONS) -> Deviation | None:
    """The entry for a disagreement."""
    return next((one for one in known if one.applies(case)), None)
