"""The writable directory of a mount: opened, locked for one mount, and put on a tree.

On disk an upper has the format of overlayfs (docs/explanation/upper.md), and the core changes it.
This module finds out what its file system can hold for this user, by trying it out in the work
directory, and whether the numbers of lower layers that it records belong to the layers of the
mount.

``open_upper`` takes a lock (flock) on both directories, which ends with the process: two mounts of
one upper are refused, and a crash leaves nothing to clean up but what the core recovers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unionmount import core
from unionmount.errors import MountError
from unionmount.mounting.disk_order import keeps_order
from unionmount.mounting.namespace import (
    Namespace,
    is_marked,
    marked_namespace,
    record_namespace,
    recorded_namespace,
)
from unionmount.mounting.stat_marks import StatName, record_stat, stat_name, upper_stat_name
from unionmount.system.access import is_closed
from unionmount.system.closing import Closing
from unionmount.system.os_errors import raising
from unionmount.system.sha256 import sha256
from unionmount.system.text import printable
from unionmount.system.trust import OverrideStat, has_identity, is_ours, is_own, reads_trusted

if TYPE_CHECKING:
    from unionmount.system.id_map import NamespaceIds

_LOWERS = "overlay.unionmount.lowers"
_PROBE = "overlay.unionmount.probe"
_PREFIXES = ("trusted.", "user.")

_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")
# The entries of mode 0600: user rw, group and others nothing.
_MINIMAL_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, 0xFFFFFFFF)
    for tag, permissions in ((0x01, 6), (0x04, 0), (0x20, 0))
)

_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH

_REFUSALS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class UpperPlan:
    """The directories that make a mount writable, and their options."""

    upper: Path
    work: Path
    lowers: str  # names the lower layers that numbers in the upper refer to
    adopt_root: bool = False  # a new upper becomes a copy of the root below
    volatile: bool = False  # nothing is synced
    user_marks: bool = (
        False  # the marks are in user., and those that lead elsewhere are not believed
    )
    follow_namespace: bool = False  # a used upper keeps the prefix of its marks
    leads: bool = True  # redirects and metacopies are followed
    redirects: bool = True  # redirects are written
    metacopy: bool = True  # files may be copied up without their data
    acls: bool = True  # new files inherit default ACLs
    # False: owners are kept in attributes even where the disk could have them. The disk's own mean
    # nothing then, since they are others in the user namespace of the daemon than outside.
    owners: bool = True
    override_stat: OverrideStat = OverrideStat.OWN  # whether every file has this attribute
    container: str = ""
    # Whether other users may reach the directories on disk: never; not if they would gain powers
    # that the mount denies (``open_upper``); or always.
    others: Literal["refused", "powerless", "accepted"] = "powerless"
    accepting: str = ""  # the option that accepts it
    # The directory keeps its mode, whatever the root of the mount shows.
    own_root: bool = False
    root_mode: int | None = (
        None  # the mode that the root of the mount shows if there is no root below
    )
    ids: NamespaceIds | None = None  # of the user namespace that the daemon enters later
    ended: Callable[[], None] | None = None  # called when everything is closed


class Counted(Enum):
    """The files whose access times change by reading through the mount, as relatime defines."""

    NOTHING = "noatime"
    FILES = "relatime,nodiratime"
    ALL = "relatime"


@dataclass(frozen=True, slots=True)
class Abilities:
    """The abilities of an upper's file system for the mounting user."""

    trusted: bool  # extended attributes that other users cannot see
    owners: bool  # files of other users
    acls: bool


class OpenUpper(Closing):
    """An upper in use by this process: owns the locks, both directories and the core's part."""

    def __init__(self, plan: UpperPlan, abilities: Abilities, fd: int, core_part: core.Upper):
        """Take over ``core_part``; only for ``open_upper``."""
        self.plan = plan
        self.abilities = abilities
        self.fd = fd
        self.core = core_part
        self._resources = ExitStack()

    def own(self, resources: ExitStack) -> None:
        """Take over resources that are closed after the core's part."""
        self._resources = resources

    def close(self) -> None:
        """Close everything, and release the locks last; a second call does nothing."""
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
    """Put the upper on ``tree``, and recover what a killed daemon left incomplete.

    ``directories`` are the lower layers that are live directories. ``promises``: set-user-ID
    programs or devices in the mount have no power. Then they get none on the disk if others can
    reach it: owners, modes and devices are kept in attributes. Raise MountError if the upper is in
    use or unusable, or if others can reach it and that was not accepted.
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
            abilities = _probe(fds[1], owners=plan.owners)
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
    """Return a name for a stack of directories, which depends on their order.

    File systems are told apart by their IDs, which usually survive a reboot, unlike device numbers.
    """
    digest = sha256()
    for path in directories:
        status = path.stat()
        digest.update(b"%d:%d:%s\0" % (os.statvfs(path).f_fsid, status.st_ino, os.fsencode(path)))
    return f"directories:{digest.hexdigest()}"


def recorded_lowers(upper: Path) -> str | None:
    """Return the lower layers that an upper was used on (``UpperPlan.lowers``), if known."""
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
    """Open a directory so that reading does not change its access time, if this user may do so."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


def _check_places(plan: UpperPlan, fds: tuple[int, int], directories: Sequence[Path]) -> None:
    """Refuse directories that contain each other, or that are below a layer."""
    upper, work = (printable(str(path)) for path in (plan.upper, plan.work))
    if os.fstat(fds[0]).st_dev != os.fstat(fds[1]).st_dev:
        raise MountError(
            f"upper {upper} and work directory {work} are on different file systems; use one "
            "file system"
        )
    places = [("upper", plan.upper), ("work directory", plan.work)]
    places += [("lower", path) for path in directories]
    for number, (what, path) in enumerate(places[:2]):
        for other_what, other in places[number + 1 :]:
            # Inside a lower directory they are hidden (OpenDirectories, hidden).
            inside = path.samefile(other) if other_what == "lower" else _is_within(path, other)
            if inside or _is_within(other, path):
                names = f"{what} {printable(str(path))} and {other_what} {printable(str(other))}"
                raise MountError(f"{names}: one contains the other")


def _is_within(path: Path, directory: Path) -> bool:
    """Return whether ``path`` is ``directory`` or below it, by any path."""
    outer = directory.stat()
    path = path.resolve()
    return any(os.path.samestat(place.stat(), outer) for place in (path, *path.parents))


@contextmanager
def _private(
    plan: UpperPlan, fds: tuple[int, int], counted: Counted
) -> Iterator[tuple[int, int] | None]:
    """Open both directories on one private mount, which renaming needs; yield None without one.

    It is a copy of the mount below the parent that both share.
    """
    paths = [os.fsencode(path.resolve()) for path in (plan.upper, plan.work)]
    above = os.path.commonpath(paths)
    with ExitStack() as stack:
        # It is only traversed: a user who cannot list it may own both directories.
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
    """Return whether others can reach one of the directories; raise MountError if they must not."""
    places = (("upper", plan.upper), ("work", plan.work))
    reached = [place for place, fd in zip(places, fds, strict=True) if not is_closed(fd)]
    if reached and (plan.others == "refused" or (plan.others == "powerless" and gains)):
        what, path = reached[0]
        if plan.own_root:
            _keep_root(fds[0])
        accept = f", or accept it with {plan.accepting}" if plan.accepting else ""
        raise MountError(
            f"{what} directory {printable(str(path))}: other users can reach it without the mount; "
            f"{_how_to_close(path)}{accept}"
        )
    return bool(reached)


def _is_closed_alone(fd: int) -> bool:
    """Return whether only a directory's own owner and mode keep others out."""
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
    """Keep the attributes that the root of a used upper shows, before closing its directory."""
    with suppress(OSError, MountError):
        recorded = _recorded_lowers(fd, recorded_namespace(fd), closed=False)
        if recorded is not None and stat_name(fd, closed=False) is None:
            record_stat(fd, StatName.CONTAINERS)


def _lock(fd: int, upper: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        where = printable(str(upper))
        raise MountError(f"upper directory {where} is in use by another mount") from None


# ---- what the file system can hold ---------------------------------------------------------------


def _probe(work: int, *, owners: bool) -> Abilities:
    """Try out the abilities in the work directory; those of ``owners`` only where wanted."""
    name = f"#probe-{os.urandom(8).hex()}"  # remains after a crash are removed at the next mount
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=work)
    try:
        trusted = _allowed(lambda: os.setxattr(fd, _PREFIXES[0] + _PROBE, b"y"))
        in_user = _allowed(lambda: os.setxattr(fd, _PREFIXES[1] + _PROBE, b"y"))
        acls = _allowed(lambda: os.setxattr(fd, _ACLS[0], _MINIMAL_ACL))
        owners = owners and _allowed(lambda: os.fchown(fd, 1, 1))
    finally:
        os.close(fd)
        os.unlink(name, dir_fd=work)
    if not in_user and not (trusted and owners):
        raise OSError(
            errno.EOPNOTSUPP, "its file system does not support extended attributes for this user"
        )
    _check_devices(work, name)
    return Abilities(trusted=trusted, owners=owners, acls=acls and owners)


def _check_devices(work: int, name: str) -> None:
    """Check that names can be hidden, which takes a device 0:0."""
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
    """The open directories of an upper, and who can reach them."""

    upper: int
    work: int
    shown: int  # the upper as others see it
    private: bool  # nobody can mount anything below the two
    closed: bool  # nobody else can reach them
    powerless: bool  # others can, so nothing in them may have any power
    frozen: bool  # others could, if its mode became one that users of the mount can set


def _open(
    plan: UpperPlan, tree: core.Tree, place: _UpperPlace, abilities: Abilities, counted: Counted
) -> OpenUpper:
    with os.scandir(place.upper) as names:
        fresh = next(names, None) is None
    namespace = _namespace(plan, place, abilities, fresh=fresh)
    recorded = _recorded_lowers(place.upper, namespace, closed=place.closed)
    name = upper_stat_name(
        *(place.upper, plan.override_stat),
        closed=place.closed,
        fresh=fresh,
        shown=printable(str(plan.upper)),
    )
    flags = _flags(plan, place, abilities, counted, (namespace, name))
    flags = replace(
        flags,
        # An upper that was never changed by unionmount holds no numbers.
        foreign=not fresh and recorded is not None and recorded != plan.lowers.encode(),
    )
    if flags.stat:
        record_stat(place.upper, name)
    if plan.own_root or flags.stat:
        _shut_writers_out(place.upper)
    upper = core.Upper(tree, place.upper, place.work, flags, place.shown, metacopy=plan.metacopy)
    try:
        upper.recover()
        if fresh and recorded is None:
            _begin_root(plan, tree, upper)
        record_namespace(place.upper, namespace)
        if not flags.foreign and recorded != plan.lowers.encode():
            _record_lowers(place.upper, plan.lowers, namespace)
        if not plan.volatile:
            os.fsync(place.upper)
    except BaseException:
        upper.close()
        raise
    return OpenUpper(plan, abilities, place.upper, upper)


def _flags(
    plan: UpperPlan,
    place: _UpperPlace,
    abilities: Abilities,
    counted: Counted,
    spelling: tuple[Namespace, StatName],
) -> core.UpperFlags:
    namespace, name = spelling
    trusted = namespace == "trusted"
    everywhere = plan.override_stat.in_uppers
    return core.UpperFlags(
        trusted=trusted,
        override=place.powerless or not abilities.owners,
        open=(place.powerless and abilities.owners) or (everywhere and not place.closed),
        stat=everywhere or not plan.owners,
        stat_fuse=name is StatName.FUSE,
        stat_security=name is StatName.SECURITY,
        closed_root=plan.own_root or place.frozen,
        volatile=plan.volatile,
        private=place.private,
        plain=not plan.leads
        or (not trusted and (plan.user_marks or reads_trusted() or not has_identity())),
        closed=place.closed,
        stay=not plan.redirects,
        atime=counted is not Counted.NOTHING,
        no_acls=not plan.acls,
        keeps_order=keeps_order(place.shown),
    )


def _namespace(
    plan: UpperPlan, place: _UpperPlace, abilities: Abilities, *, fresh: bool
) -> Namespace:
    """Return the prefix of the marks; raise MountError if the upper has the other one.

    Otherwise hidden files would show again, and attributes of users would become marks.
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
    """Return the recorded lower layers; empty (no layers) if others can write the record.

    Others who can write to the directory could do worse; only numbers depend on the record.
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
    """Deny others writing to the directory, so that its attributes of the root can be believed."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & _WRITTEN_BY_OTHERS:
        with suppress(PermissionError):  # another user's directory keeps its mode
            os.fchmod(fd, mode & ~_WRITTEN_BY_OTHERS)


def _begin_root(plan: UpperPlan, tree: core.Tree, upper: core.Upper) -> None:
    """Set the attributes that the root of a new upper shows."""
    with suppress(PermissionError):  # as above
        if plan.adopt_root:
            # Root is in the namespace already.
            _adopt_root(tree, upper, plan.ids if os.geteuid() else None)
        elif plan.root_mode is not None:
            upper.setattr(core.ROOT, core.SetAttr(mode=plan.root_mode))


def _adopt_root(tree: core.Tree, upper: core.Upper, ids: NamespaceIds | None) -> None:
    """Give the root the attributes of the root below, whose owner is seen in the namespace."""
    below = tree.getattr(core.ROOT)
    uid, gid = (below.uid, below.gid) if ids is None else ids.inside(below.uid, below.gid)
    upper.setattr(core.ROOT, core.SetAttr(mode=stat.S_IMODE(below.mode), uid=uid, gid=gid))
    names = tree.listxattr(core.ROOT)
    for name in _ACLS:
        if name not in names:  # inherited
            with suppress(OSError):
                upper.removexattr(core.ROOT, name)
    for name in names:
        try:
            upper.setxattr(core.ROOT, name, tree.getxattr(core.ROOT, name))
        except OSError as error:
            if error.errno not in _REFUSALS:  # like copy-up, skip what the disk cannot hold
                raise
    times = core.SetAttr(atime_ns=below.atime_ns, mtime_ns=below.mtime_ns)
    upper.setattr(core.ROOT, times)
