"""The writable directory of a mount: opened, locked for one mount, and put on a tree.

On disk an upper is one of overlayfs (docs/explanation/upper.md); the core changes it. Here is
decided what its file system can hold for this user, found by trying it out in the work directory,
and whether what the core recorded of lower layers is about the layers it is mounted on.

``open_upper`` takes a lock (flock) on both directories, which ends with the process: so two mounts
of one upper are refused, and a crash leaves nothing to clean up but what the core recovers.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Literal

from unionmount import core
from unionmount.errors import MountError
from unionmount.mounting.namespace import (
    Namespace,
    is_marked,
    marked_namespace,
    record_namespace,
    recorded_namespace,
)
from unionmount.system.access import is_closed
from unionmount.system.closing import Closing
from unionmount.system.os_errors import raising
from unionmount.system.text import printable
from unionmount.system.trust import has_identity, is_ours, is_own, reads_trusted

_LOWERS = "overlay.unionmount.lowers"
_OVERRIDE = "user.containers.override_stat"
_PROBE = "overlay.unionmount.probe"
_PREFIXES = ("trusted.", "user.")

_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
# what mode 0600 says: user rw, group and others nothing
_MINIMAL_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, 0xFFFFFFFF)
    for tag, permissions in ((0x01, 6), (0x04, 0), (0x20, 0))
)

_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

_REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class UpperPlan:
    """Which directories make a mount writable, and how."""

    upper: Path
    work: Path
    lowers: str  # names the lower layers: numbers recorded in the upper are about these
    adopt_root: bool = False  # an upper never used becomes a copy of the root below
    volatile: bool = False  # nothing is synced
    user_marks: bool = False  # marks that any user may set, and none that lead elsewhere
    follow_namespace: bool = False  # marks are those that an upper used before has
    leads: bool = True  # redirects and metacopies are followed
    redirects: bool = True  # redirects are written
    metacopy: bool = True  # files are copied up without their data, where that is enough
    container: str = ""
    # Whether others may get to the directories on disk: not at all; not where they would gain what
    # the mount promises that they do not (``open_upper``); or it is accepted.
    others: Literal["refused", "powerless", "accepted"] = "powerless"
    accepting: str = ""  # the option that accepts it
    # The directory stays as closed as it is, whatever the mount's root shows.
    own_root: bool = False
    root_mode: int | None = None  # what that shows where there is no root below
    ended: Callable[[], None] | None = None  # called when everything is closed


class Counted(Enum):
    """Whose access times change when somebody reads through the mount, by the rules of relatime."""

    NOTHING = "noatime"
    FILES = "relatime,nodiratime"
    ALL = "relatime"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the file system of an upper can hold for the user who mounts."""

    trusted: bool  # extended attributes that other users can't see
    owners: bool  # files of other users
    acls: bool


class OpenUpper(Closing):
    """An upper in use by this process: owns the locks, both directories and the core's part."""

    def __init__(self, plan: UpperPlan, abilities: Abilities, fd: int, core_part: core.Upper):
        """To be made by ``open_upper``; takes over ``core_part``."""
        self.plan = plan
        self.abilities = abilities
        self.fd = fd
        self.core = core_part
        self._resources = ExitStack()

    def own(self, resources: ExitStack) -> None:
        """Take over what is to be closed after the core's part."""
        self._resources = resources

    def close(self) -> None:
        """Close everything, the locks last; a second call does nothing."""
        self.core.close()
        self._resources.close()


def open_upper(
    plan: UpperPlan,
    tree: core.Tree,
    directories: Sequence[Path] = (),
    *,
    promises: bool = True,
    counted: Counted = Counted.NOTHING,
) -> OpenUpper:
    """Put the upper on ``tree`` and recover what a killed mount left half done.

    ``directories`` are the lower layers that are live directories. ``promises``: set-user-ID
    programs or devices in the mount shall have no power. Then nothing that has any gets onto a disk
    where others can reach it: owners, modes and devices are kept in attributes there. Raise
    MountError if the upper is in use, cannot be one, or others reach it and that was not accepted.
    """
    with ExitStack() as stack:
        fds = (
            stack.enter_context(_directory(plan.upper, "upper")),
            stack.enter_context(_directory(plan.work, "work")),
        )
        _check_places(plan, fds, directories)
        for fd in fds:
            _lock(fd, plan.upper)
        with raising(MountError, f"upper directory {plan.upper}"):
            private = stack.enter_context(_private(plan, fds, counted))
            abilities = _probe(fds[1])
            is_open = _check_others(plan, fds, gains=promises and abilities.owners)
            place = _UpperPlace(
                *(private or fds),
                shown=fds[0],
                private=private is not None,
                closed=all(is_ours(fd) for fd in fds),
                powerless=is_open and promises,
                frozen=_is_closed_alone(fds[0]) and promises and abilities.owners,
            )
            opened = _open(plan, tree, place, abilities, counted)
        opened.own(stack.pop_all())
        return opened


def name_directories(directories: Sequence[Path]) -> str:
    """Return a name of a stack of directories: another one for other directories, or another order.

    File systems are told apart by their ID, which mostly is the same after a reboot; the numbers of
    their devices are not.
    """
    digest = hashlib.sha256()
    for path in directories:
        status = path.stat()
        digest.update(b"%d:%d:%s\0" % (os.statvfs(path).f_fsid, status.st_ino, os.fsencode(path)))
    return f"directories:{digest.hexdigest()}"


def recorded_lowers(upper: Path) -> str | None:
    """Return the lower layers that an upper was used on (``UpperPlan.lowers``), where that is
    known.
    """
    with _directory(upper, "upper") as fd:
        recorded = _recorded_lowers(fd, recorded_namespace(fd), closed=is_ours(fd))
    return recorded.decode("ascii", "replace") if recorded else None


@contextmanager
def _directory(path: Path, what: str) -> Iterator[int]:
    with raising(MountError, f"{what} directory {path}"):
        fd = _open_quietly(path)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_quietly(path: Path) -> int:
    """Return a directory, open so that reading it changes no access time, unless it is another
    user's.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


def _check_places(plan: UpperPlan, fds: tuple[int, int], directories: Sequence[Path]) -> None:
    """Refuse directories that would show themselves, or change what they stand on."""
    upper, work = (printable(str(path)) for path in (plan.upper, plan.work))
    if os.fstat(fds[0]).st_dev != os.fstat(fds[1]).st_dev:
        raise MountError(f"upper {upper} and work directory {work} are on two file systems")
    places = [("upper", plan.upper), ("work directory", plan.work)]
    places += [("lower", path) for path in directories]
    for number, (what, path) in enumerate(places[:2]):
        for other_what, other in places[number + 1 :]:
            # one that lies in a lower is not shown there (OpenDirectories, hidden)
            inside = path.samefile(other) if other_what == "lower" else _is_within(path, other)
            if inside or _is_within(other, path):
                names = f"{what} {printable(str(path))} and {other_what} {printable(str(other))}"
                raise MountError(f"{names}: one is inside of the other")


def _is_within(path: Path, directory: Path) -> bool:
    """Return whether ``path`` is ``directory`` or below it, by whatever way it is reached."""
    outer = directory.stat()
    path = path.resolve()
    return any(os.path.samestat(place.stat(), outer) for place in (path, *path.parents))


@contextmanager
def _private(
    plan: UpperPlan, fds: tuple[int, int], counted: Counted
) -> Iterator[tuple[int, int] | None]:
    """Both directories on one mount of their own, as a rename needs it; None: not to be had.

    That is a copy of the mount below the directory which both are in.
    """
    paths = [os.fsencode(path.resolve()) for path in (plan.upper, plan.work)]
    above = os.path.commonpath(paths)
    with ExitStack() as stack:
        # only passed through: who may not list it may have both directories below it
        fd = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        private = stack.enter_context(
            core.private_directory(
                fd,
                read_only=False,
                atime=counted is not Counted.NOTHING,
                diratime=counted is Counted.ALL,
            )
        )
        found: list[int] = []
        if private is not None:
            for path in paths:
                with suppress(OSError):  # something is mounted between the two
                    found.append(core.open_beneath(private, os.path.relpath(path, above)))
                    stack.callback(os.close, found[-1])
        same = [os.path.sameopenfile(*pair) for pair in zip(found, fds, strict=False)]
        yield (found[0], found[1]) if same == [True, True] else None


def _check_others(plan: UpperPlan, fds: tuple[int, int], *, gains: bool) -> bool:
    """Return whether others get to one of the directories; raise MountError if they must not."""
    places = (("upper", plan.upper), ("work", plan.work))
    reached = [place for place, fd in zip(places, fds, strict=True) if not is_closed(fd)]
    if reached and (plan.others == "refused" or (plan.others == "powerless" and gains)):
        what, path = reached[0]
        if plan.own_root:
            _keep_root(fds[0])
        accept = f", or accept it with {plan.accepting}" if plan.accepting else ""
        raise MountError(
            f"{what} directory {printable(str(path))}: other users can reach it, past the mount; "
            f"{_how_to_close(path)}{accept}"
        )
    return bool(reached)


def _is_closed_alone(fd: int) -> bool:
    """Return whether a directory's own owner and mode keep others out, and nothing above it does."""
    return is_closed(fd) and not is_closed(fd, above=True)


def _how_to_close(path: Path) -> str:
    name, owner = printable(str(path)), path.stat().st_uid
    if owner in (0, os.geteuid()):
        return f"'chmod 700 {name}' keeps them out"
    return (
        f"it belongs to user {owner}: 'chown {os.geteuid()} {name}' and 'chmod 700 {name}' "
        "keep them out"
    )


def _keep_root(fd: int) -> None:
    """Let the root of an upper that was used before show the same once its directory is closed."""
    with suppress(OSError):
        recorded = _recorded_lowers(fd, recorded_namespace(fd), closed=False)
        if recorded is not None and _OVERRIDE not in os.listxattr(fd):
            now = os.fstat(fd)
            shown = f"{now.st_uid}:{now.st_gid}:{stat.S_IMODE(now.st_mode):04o}:dir"
            os.setxattr(fd, _OVERRIDE, shown.encode())


def _lock(fd: int, upper: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        where = printable(str(upper))
        raise MountError(f"upper directory {where} is in use by another mount") from None


# ---- what the file system can hold ---------------------------------------------------------------


def _probe(work: int) -> Abilities:
    """Try it out in the work directory."""
    name = (
        f"#probe-{secrets.token_hex(8)}"  # what a crash leaves of it is removed at the next mount
    )
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=work)
    try:
        trusted = _allowed(lambda: os.setxattr(fd, _PREFIXES[0] + _PROBE, b"y"))
        in_user = _allowed(lambda: os.setxattr(fd, _PREFIXES[1] + _PROBE, b"y"))
        acls = _allowed(lambda: os.setxattr(fd, _ACLS[0], _MINIMAL_ACL))
        owners = _allowed(lambda: os.fchown(fd, 1, 1))
    finally:
        os.close(fd)
        os.unlink(name, dir_fd=work)
    if not in_user and not (trusted and owners):
        raise OSError(errno.EOPNOTSUPP, "its file system has no extended attributes for this user")
    _check_devices(work, name)
    return Abilities(trusted=trusted, owners=owners, acls=acls and owners)


def _check_devices(work: int, name: str) -> None:
    """Whether names can be hidden, which is done with a device 0:0."""
    try:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=work)
    except OSError as error:
        raise OSError(error.errno, f"making a device 0:0: {error.strerror}") from None
    os.unlink(name, dir_fd=work)


def _allowed(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except OSError as error:
        if error.errno in _REFUSALS:
            return False
        raise
    return True


# ---- on the tree ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _UpperPlace:
    """Where an upper is: its directories, open, and who gets there."""

    upper: int
    work: int
    shown: int  # the upper as others see it
    private: bool  # nobody can mount anything below the two
    closed: bool  # nobody else gets there
    powerless: bool  # others do, and nothing there shall have any power
    frozen: bool  # others would, if its mode became what users of the mount can make it


def _open(
    plan: UpperPlan, tree: core.Tree, place: _UpperPlace, abilities: Abilities, counted: Counted
) -> OpenUpper:
    with os.scandir(place.upper) as names:
        fresh = next(names, None) is None
    namespace = _namespace(plan, place, abilities, fresh=fresh)
    trusted = namespace == "trusted"
    recorded = _recorded_lowers(place.upper, namespace, closed=place.closed)
    flags = core.UpperFlags(
        trusted=trusted,
        override=place.powerless or not abilities.owners,
        open=place.powerless and abilities.owners,
        closed_root=plan.own_root or place.frozen,
        volatile=plan.volatile,
        # an upper that no mount of ours has changed holds no numbers
        strange=not fresh and recorded is not None and recorded != plan.lowers.encode(),
        private=place.private,
        plain=not plan.leads
        or (not trusted and (plan.user_marks or reads_trusted() or not has_identity())),
        closed=place.closed,
        stay=not plan.redirects,
        atime=counted is not Counted.NOTHING,
    )
    if plan.own_root:
        _shut_writers_out(place.upper)
    upper = core.Upper(tree, place.upper, place.work, flags, place.shown, metacopy=plan.metacopy)
    try:
        upper.recover()
        if fresh and recorded is None:
            _begin_root(plan, tree, upper)
        record_namespace(place.upper, namespace)
        if not flags.strange and recorded != plan.lowers.encode():
            _record_lowers(place.upper, plan.lowers, namespace)
        if not plan.volatile:
            os.fsync(place.upper)
    except BaseException:
        upper.close()
        raise
    return OpenUpper(plan, abilities, place.upper, upper)


def _namespace(
    plan: UpperPlan, place: _UpperPlace, abilities: Abilities, *, fresh: bool
) -> Namespace:
    """Return which prefix the marks have; raise MountError if it is not the one that they had
    before.

    What was hidden by the others would show again, and what users set would become marks.
    """
    wanted: Namespace = "trusted" if abilities.trusted and not plan.user_marks else "user"
    if fresh and not is_marked(place.upper, wanted):
        return wanted
    other: Namespace = "user" if wanted == "trusted" else "trusted"
    recorded = recorded_namespace(place.upper)
    if recorded is None and reads_trusted():
        recorded = marked_namespace(place.upper)
    if recorded in (None, wanted):
        return wanted
    if plan.follow_namespace and other == "user":
        return other
    raise MountError(
        f"upper directory {printable(str(plan.upper))}: its marks are {other}.overlay. attributes, "
        f"and here they would be {wanted}.overlay.: what it hides would show again; "
        + _how_to_agree(plan, other)
    )


def _how_to_agree(plan: UpperPlan, namespace: Namespace) -> str:
    if namespace == "user":
        return "mount it with -o userxattr"
    if plan.user_marks and reads_trusted():
        return "mount it without -o userxattr"
    return "only root can mount it"


def _recorded_lowers(fd: int, namespace: Namespace | None, *, closed: bool) -> bytes | None:
    """What is recorded; empty, which names no layers, where the directory is somebody else's.

    Who else may write to it could do worse; and of what is recorded only numbers depend.
    """
    trusted, user = (_attribute(fd, prefix + _LOWERS) for prefix in _PREFIXES)
    if user is not None and not closed and not is_own(os.fstat(fd)):
        user = b""
    if namespace == "user":  # earlier versions wrote the other one, too
        return trusted if user is None else user
    return user if trusted is None and namespace is None else trusted


def _attribute(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError:
        return None


def _record_lowers(fd: int, lowers: str, namespace: Namespace) -> None:
    os.setxattr(fd, f"{namespace}.{_LOWERS}", lowers.encode())


def _shut_writers_out(fd: int) -> None:
    """Let nobody else write to the directory: only then what it says of the root is believed."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & _WRITTEN_BY_OTHERS:
        with suppress(PermissionError):  # it is somebody else's, and keeps the root that it is
            os.fchmod(fd, mode & ~_WRITTEN_BY_OTHERS)


def _begin_root(plan: UpperPlan, tree: core.Tree, upper: core.Upper) -> None:
    """What the root of a new upper shows."""
    with suppress(PermissionError):  # as above
        if plan.adopt_root:
            _adopt_root(tree, upper)
        elif plan.root_mode is not None:
            upper.setattr(core.ROOT, core.SetAttr(mode=plan.root_mode))


def _adopt_root(tree: core.Tree, upper: core.Upper) -> None:
    """Let the root look like the one below."""
    below = tree.getattr(core.ROOT)
    upper.setattr(
        core.ROOT, core.SetAttr(mode=stat.S_IMODE(below.mode), uid=below.uid, gid=below.gid)
    )
    names = tree.listxattr(core.ROOT)
    for name in _ACLS:
        if name not in names:  # it may have inherited some
            with suppress(OSError):
                upper.removexattr(core.ROOT, name)
    for name in names:
        try:
            upper.setxattr(core.ROOT, name, tree.getxattr(core.ROOT, name))
        except OSError as error:
            if error.errno not in _REFUSALS:  # as copy-up, what the disk can't hold is left out
                raise
    times = core.SetAttr(atime_ns=below.atime_ns, mtime_ns=below.mtime_ns)
    upper.setattr(core.ROOT, times)
