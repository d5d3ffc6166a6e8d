"""``unionmount overlay``: the command line of overlayfs and of fuse-overlayfs."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import unionmount.cli.declared as click
from unionmount.cli.options import root_option
from unionmount.errors import MountError, NotFoundError, UsageError
from unionmount.mounting.options import MountOptions, MountView, apply_options, check_known
from unionmount.system.id_map import AS_STORED, IDS_END, IdMap, IdRange, parse_id_ranges
from unionmount.system.nearest import did_you_mean
from unionmount.system.text import printable
from unionmount.system.trust import OverrideStat

if TYPE_CHECKING:
    from unionmount.cli.settings import Settings
    from unionmount.mounting.directories import OpenDirectories
    from unionmount.mounting.upper_directory import UpperPlan

_OPTION = re.compile(r'(?:fs|def|root)?context="[^"]*"|(?:[^\\,]|\\.)+', re.DOTALL)
_COLON = re.compile(r"((?:[^\\:]|\\.)*)(:|\Z)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", re.ASCII)
_SECONDS_MAX = 10**9  # for good
_DENIALS = frozenset({"nosuid", "nodev", "user", "users", "owner", "group"})
_SOURCE = "overlay"  # shown in tables of mounts


@dataclass(slots=True)
class OverlayOptions:
    """The parsed values of ``-o``."""

    lower: tuple[str, ...] = ()  # topmost first
    upper: str = ""
    work: str = ""
    volatile: bool = False
    user_xattrs: bool = False
    mount: tuple[str, ...] = ()  # options of every file system, for ``apply_options``
    useless: tuple[str, ...] = ()  # options that have no effect without an upper
    upper_open: bool = False
    debug: bool = False
    redirect_dir: str = ""  # as given; empty if it was not
    metacopy: str = ""
    index: str = ""
    override_stat: OverrideStat = OverrideStat.OWN
    whole: bool = False  # ``lowerdir`` gave the whole list
    users: IdMap = AS_STORED
    groups: IdMap = AS_STORED
    squash_to_root: bool = False
    seconds: float | None = None
    static_nlink: bool = False
    acls: bool = True
    xattrs: bool = True

    @property
    def leads(self) -> bool:
        """Whether redirects and metacopies are followed."""
        return not self.user_xattrs and self.redirect_dir != "nofollow"

    @property
    def redirects(self) -> bool:
        """Whether redirects are written: fuse-overlayfs reads none, so not where it is to read."""
        return self.redirect_dir == "on" or not (self.redirect_dir or self.override_stat.in_uppers)

    @property
    def copies_apart(self) -> bool:
        """Whether a file may be copied up without its data, which fuse-overlayfs cannot read."""
        return self.metacopy == "on" or not (self.metacopy or self.override_stat.in_uppers)

    @property
    def view(self) -> MountView:
        """How what is stored is shown; an ID of its own takes precedence over squash_to_root."""
        users, groups = self.users, self.groups
        if self.squash_to_root:
            users, groups = _squashed_to_root(users), _squashed_to_root(groups)
        return MountView(
            users, groups, self.seconds, self.static_nlink, acls=self.acls, xattrs=self.xattrs
        )


def parse_overlay(texts: Iterable[str]) -> OverlayOptions:
    r"""Read the values of ``-o`` as overlayfs does.

    Commas separate options, colons the directories of ``lowerdir``; a backslash takes the next
    character as it is, but for ``lowerdir+``, whose value is a name as it stands. Of an option that
    is repeated the last one counts, but for ``lowerdir+``, of which each adds one directory, colons
    and all, below the others; it cannot follow ``lowerdir``.
    """
    options = OverlayOptions()
    found = [one for text in texts for one in _OPTION.findall(_without_loose_end(text))]
    strange = [_plain(one) for one in found if not _is_known(one)]
    check_known(strange, (*KNOWN, *SAME_HERE, *(f"{name}=…" for name in NUMBERS_HERE)))
    for option in found:
        _take(options, option)
    _check(options)
    return options


def _is_known(option: str) -> bool:
    name, equals, value = option.partition("=")
    if equals and name in REFUSED_HERE:
        why = REFUSED_HERE[name].get(value, REFUSED_HERE[name].get("*"))
        if why is not None:
            raise MountError(f"mount option {printable(option)} is refused: {why}")
    if equals and name in _WITH_VALUE:
        return True
    if not equals and (why := REFUSED_HERE.get(name, {}).get("")) is not None:
        raise MountError(f"mount option {printable(option)} is refused: {why}")
    return option in _FLAGS or option in SAME_HERE or _is_number(name, value)


def _is_number(name: str, value: str) -> bool:
    return name in NUMBERS_HERE and value.isdecimal()


def _take(options: OverlayOptions, option: str) -> None:
    name, equals, value = option.partition("=")
    if equals and name in _WITH_VALUE:
        _WITH_VALUE[name](options, value)
    elif option in _FLAGS:
        _FLAGS[option](options)
    elif name == "index":
        options.index = value
    elif option not in SAME_HERE and not _is_number(name, value):
        options.mount += (_plain(option),)


def _set_lower(options: OverlayOptions, value: str) -> None:
    parts = _split_at_colons(value)
    if len(parts) > 1 and "" in parts:
        raise MountError(
            "-o lowerdir: a name is empty ('::' begins data-only layers, which are not supported)"
        )
    options.lower = tuple(_plain(one) for one in parts if one)
    options.whole = bool(options.lower)


def _add_lower(options: OverlayOptions, value: str) -> None:
    if options.whole:
        raise MountError(
            "-o lowerdir+ cannot follow lowerdir: use one of the two for all directories"
        )
    if not value:
        raise MountError("-o lowerdir+: the name is empty")
    options.lower += (value,)


def _set_upper(options: OverlayOptions, value: str) -> None:
    options.upper = _plain(value)


def _set_work(options: OverlayOptions, value: str) -> None:
    options.work = _plain(value)


def _set_fsname(options: OverlayOptions, value: str) -> None:
    options.mount += (f"fsname={_plain(value)}",)


def _set_redirect_dir(options: OverlayOptions, value: str) -> None:
    options.redirect_dir = _one_of("redirect_dir", value, ("on", "off", "follow", "nofollow"))


def _set_metacopy(options: OverlayOptions, value: str) -> None:
    options.metacopy = _one_of("metacopy", value, ("on", "off"))


def _set_fsync(options: OverlayOptions, value: str) -> None:
    if _one_of("fsync", value, ("volatile", "auto", "0", "1")) in ("volatile", "0"):
        options.volatile = True


def _set_override_stat(options: OverlayOptions, value: str) -> None:
    options.override_stat = OverrideStat(_one_of("xattr_permissions", value, ("0", "1", "2")))


def _one_of(name: str, value: str, values: tuple[str, ...]) -> str:
    if value not in values:
        known, near = ", ".join(values), did_you_mean(value, values)
        raise MountError(f"-o {name}: '{printable(value)}' is not one of {known}{near}")
    return value


def _set_users(options: OverlayOptions, value: str) -> None:
    options.users = replace(options.users, ranges=_ranges_of("uidmapping", value))


def _set_groups(options: OverlayOptions, value: str) -> None:
    options.groups = replace(options.groups, ranges=_ranges_of("gidmapping", value))


def _ranges_of(name: str, value: str) -> tuple[IdRange, ...]:
    try:
        return parse_id_ranges(value)
    except ValueError as error:
        raise MountError(
            f"-o {name}={printable(value)}: {error}; give STORED:SHOWN:SIZE[:STORED:SHOWN:SIZE…]"
        ) from None


def _squashed_to_root(ids: IdMap) -> IdMap:
    return ids if ids.squashed is not None else replace(ids, squashed=0)


def _set_squashed_user(options: OverlayOptions, value: str) -> None:
    options.users = replace(options.users, squashed=_id_of("squash_to_uid", value))


def _set_squashed_group(options: OverlayOptions, value: str) -> None:
    options.groups = replace(options.groups, squashed=_id_of("squash_to_gid", value))


def _id_of(name: str, value: str) -> int:
    if not value.isdecimal() or int(value) >= IDS_END:
        raise MountError(f"-o {name}: '{printable(value)}' is no ID; give a number below {IDS_END}")
    return int(value)


def _set_timeout(options: OverlayOptions, value: str) -> None:
    seconds = float(value) if _SECONDS.fullmatch(value) else math.inf
    if not seconds <= _SECONDS_MAX:
        raise MountError(
            f"-o timeout: '{printable(value)}' is no time; give seconds, such as 1.5, up to"
            f" {_SECONDS_MAX}"
        )
    options.seconds = seconds


def _set_xattrs(options: OverlayOptions, value: str) -> None:
    options.xattrs = _one_of("noxattrs", value, ("0", "1")) == "0"


def _set_static_nlink(options: OverlayOptions) -> None:
    options.static_nlink = True


def _set_no_acls(options: OverlayOptions) -> None:
    options.acls = False


def _squash_to_root(options: OverlayOptions) -> None:
    options.squash_to_root = True


def _set_volatile(options: OverlayOptions) -> None:
    options.volatile = True


def _set_user_xattrs(options: OverlayOptions) -> None:
    options.user_xattrs = True


def _set_upper_open(options: OverlayOptions) -> None:
    options.upper_open = True


def _set_debug(options: OverlayOptions) -> None:
    options.debug = True


_FLAGS: dict[str, Callable[[OverlayOptions], None]] = {
    "volatile": _set_volatile,
    "userxattr": _set_user_xattrs,
    "upper_open": _set_upper_open,
    "debug": _set_debug,
    "squash_to_root": _squash_to_root,
    "static_nlink": _set_static_nlink,
    "noacl": _set_no_acls,
}

_WITH_VALUE: dict[str, Callable[[OverlayOptions, str], None]] = {
    "lowerdir": _set_lower,
    "lowerdir+": _add_lower,
    "upperdir": _set_upper,
    "workdir": _set_work,
    "redirect_dir": _set_redirect_dir,
    "metacopy": _set_metacopy,
    "fsync": _set_fsync,
    "fsname": _set_fsname,
    "xattr_permissions": _set_override_stat,
    "timeout": _set_timeout,
    "noxattrs": _set_xattrs,
    "uidmapping": _set_users,
    "gidmapping": _set_groups,
    "squash_to_uid": _set_squashed_user,
    "squash_to_gid": _set_squashed_group,
}

KNOWN = (*(f"{name}=…" for name in _WITH_VALUE), *_FLAGS)

_NUMBERS = "inode numbers always belong to one device and are stable"
_SPEED = "only affects performance"
_LINKS = "hard links always stay links, and an upper in use is always refused"
_ONLY = "describes the only behaviour"
_FSID = "the file system ID is always that of the mount"
_RIGHTS = "directories are always accessed with the rights of the user who mounts"

# Options of overlayfs and fuse-overlayfs that change nothing here, with the reasons.
SAME_HERE: dict[str, str] = {
    "index=on": _LINKS,
    "index=off": _LINKS,
    "nfs_export=off": _ONLY,
    "xino=on": _NUMBERS,
    "xino=off": _NUMBERS,
    "xino=auto": _NUMBERS,
    "verity=off": _ONLY,
    "uuid=off": _FSID,
    "uuid=null": _FSID,
    "uuid=auto": _FSID,
    "override_creds": _RIGHTS,
    "fast_ino=0": _NUMBERS,
    "fast_ino=1": _NUMBERS,
    "fast_ino_check=0": _NUMBERS,
    "fast_ino_check=1": _NUMBERS,
    "threaded=0": _SPEED,
    "threaded=1": _SPEED,
    "writeback=0": _SPEED,
    "writeback=1": _SPEED,
    "clone_fd": _SPEED,
    "splice_read": _SPEED,
    "splice_write": _SPEED,
    "splice_move": _SPEED,
    "kernel_cache": _SPEED,
}
# The same, with any number as value.
NUMBERS_HERE: dict[str, str] = {
    "max_threads": _SPEED,
    "max_idle_threads": _SPEED,
    "max_write": _SPEED,
}

# Options of the two that are refused, with the reasons by value: "*" is any, "" none.
REFUSED_HERE: dict[str, dict[str, str]] = {
    "datadir+": {"*": "data-only layers are not supported; use lowerdir+"},
    "nfs_export": {"on": "file handles are not valid after the mount"},
    "verity": {
        "on": "fs-verity digests are not checked",
        "require": "fs-verity digests are not checked",
    },
    "uuid": {"on": "the upper stores no file system ID"},
    "nooverride_creds": {"": _RIGHTS},
    "plugins": {"*": "there are no plugins"},
    "fsync": {"strict": "copy-up does not sync attributes"},
    "ino32_t": {"": "inode numbers have 64 bits"},
}

LOWERS_MAX = 500  # the limit of overlayfs


def _check(options: OverlayOptions) -> None:
    if not options.lower:
        raise UsageError("-o: lowerdir is missing")
    if len(options.lower) > LOWERS_MAX:
        raise MountError(
            f"-o: {len(options.lower)} lower directories, at most {LOWERS_MAX} are possible"
        )
    _check_leading(options)
    if options.upper and not options.work:
        raise UsageError("-o: upperdir needs a workdir on the same file system")
    if options.work and not options.upper:
        options.useless += (f"workdir={options.work}",)
        options.work = ""


def _check_leading(options: OverlayOptions) -> None:
    redirect = options.redirect_dir
    if options.user_xattrs and (redirect not in ("", "nofollow") or options.metacopy == "on"):
        other = "metacopy=on" if redirect in ("", "nofollow") else f"redirect_dir={redirect}"
        raise MountError(
            f"-o userxattr and {other}: with attributes that the owner of a file can"
            " set, redirects and metacopies are not followed; leave one of the two out"
        )
    without = ("nofollow",) if not options.upper else ("nofollow", "off", "follow")
    if options.metacopy == "on" and redirect in without:
        raise MountError(
            f"-o metacopy=on and redirect_dir={redirect}: a file without its data needs a redirect"
            " when it is renamed; leave one of the two out"
        )


def _split_at_colons(value: str) -> list[str]:
    parts = []
    for match in _COLON.finditer(value):
        parts.append(match[1])
        if not match[2]:
            break
    return parts


def _without_loose_end(text: str) -> str:
    """Return the text without a last backslash that escapes nothing."""
    loose = (len(text) - len(text.rstrip("\\"))) % 2
    return text[:-1] if loose else text


def _plain(value: str) -> str:
    return _ESCAPED.sub(r"\1", value)


@click.command("overlay")
@click.option(
    "-o",
    "options",
    metavar="OPT,…",
    multiple=True,
    help="lowerdir=A:B:…,upperdir=U,workdir=W and mount options.",
)
@click.option("-f", "foreground", is_flag=True, help="Serve in the foreground; Ctrl-C unmounts.")
@click.option("-d", "--debug", "debug", is_flag=True, help="The same, with tracebacks of errors.")
@click.option("-s", "single", is_flag=True, help="Answer with one thread, as with -o threads=1.")
@root_option
@click.argument("words", metavar="[SOURCE] MOUNTPOINT", nargs=-1, required=True)
@click.pass_obj
def command(
    settings: Settings,
    options: tuple[str, ...],
    foreground: bool,
    debug: bool,
    single: bool,
    words: tuple[str, ...],
) -> None:
    """Mount directories on top of each other, as overlayfs and fuse-overlayfs do.

    \b
    lowerdir=A:B:…    layers, topmost first; write \\: and \\, in names
    lowerdir+=A       one more layer, below the others
    upperdir=U        the directory that takes the changes; without it the mount is read-only
    workdir=W         a directory on the file system of U, for upperdir alone
    volatile          sync nothing; a crash of the system may lose all changes
    userxattr         keep marks in user.overlay. attributes, also as root; then no redirect and
                      no metacopy is followed or written
    xattr_permissions=N  1, 2: owners and modes of U are in attributes, for fuse-overlayfs to read;
                      those of lower directories are never (0) or always (2) believed; default
                      and 1: on files that are yours or root's alone
    upper_open        accept U and W where other users can reach them; see below

    Root's mounts are nodev unless -o dev says otherwise, those of others are nosuid,nodev. As root,
    set-user-ID programs and devices are stored below U as such, and have power there for every user
    who can reach them. So with -o nosuid or nodev U and W are refused if others can reach them,
    unless upper_open is given: owners, modes, capabilities and devices are then kept in extended
    attributes.

    \b
    uidmapping=STORED:SHOWN:SIZE[:…]  show user IDs, and store those of callers, by this map
    gidmapping=…      the same for groups
    squash_to_root    show all files as root's; squash_to_uid=N, squash_to_gid=N: as N's
    noacl             do not obey ACLs; noxattrs=1: have no extended attributes
    static_nlink      show one link for every directory
    timeout=SECONDS   let the kernel forget names and attributes after this time

    redirect_dir=X    on: renaming a lower directory leaves a redirect; off, follow: it fails with
                      EXDEV; nofollow: redirects and metacopies are not followed, either
    metacopy=X        off: files are always copied up with their data
    fsync=X           volatile or 0: as volatile; auto or 1
    fsname=NAME       what tables of mounts show; or give SOURCE

    Other options are those of mount -o. An option that is unknown or not supported is an error.
    docs/reference/options.md lists all options, and those without an effect.
    """  # noqa: D301 - \\b is for click
    flags = [*(["threads=1"] if single else []), *(["debug"] if debug else [])]
    wanted = parse_overlay((*options, *flags))
    settings.debug |= wanted.debug
    _mount(settings, wanted, words, foreground=foreground or wanted.debug)


def _mount(
    settings: Settings, wanted: OverlayOptions, words: tuple[str, ...], *, foreground: bool
) -> None:
    from unionmount.cli.start_mount import MountStarter, check_place
    from unionmount.mounting.records import overlay_source

    *names, mountpoint = words
    if len(names) > 1:
        raise click.UsageError(f"more than one mount point: '{printable(' '.join(words[1:]))}'")
    # as overlayfs and fuse-overlayfs do: the directories belong to the one who mounts them
    root = os.geteuid() == 0
    engine = root and _DENIALS.isdisjoint(wanted.mount)
    mount_options = apply_options(wanted.mount, MountOptions(suid=root, engine=engine))
    fsname = mount_options.fsname or "".join(names)
    mount_options = replace(mount_options, fsname=fsname, view=wanted.view)
    start = MountStarter(settings, mount_options, check_place(mountpoint), foreground=foreground)
    if wanted.useless:
        useless = printable(", ".join(wanted.useless))
        print(f"unionmount: {useless} has no effect without an upperdir", file=sys.stderr)
    with _open_lower(wanted) as layers:
        source = overlay_source(layers.paths[::-1])
        start.run(layers, source, _plan(wanted, layers), lambda _: None)


def _open_lower(wanted: OverlayOptions) -> OpenDirectories:
    from unionmount.mounting.directories import OpenDirectories

    paths = [_resolved(name, "lower") for name in wanted.lower]
    own = ((wanted.upper, "upper"), (wanted.work, "work"))
    hidden = [_resolved(name, what) for name, what in own if wanted.upper]
    return OpenDirectories(
        paths[::-1],
        _SOURCE,
        leads=wanted.leads,
        override_stat=wanted.override_stat,
        hidden=hidden,
    )


def _plan(wanted: OverlayOptions, layers: OpenDirectories) -> UpperPlan | None:
    from unionmount.mounting.upper_directory import UpperPlan, name_directories

    if not wanted.upper:
        return None
    return UpperPlan(
        _resolved(wanted.upper, "upper"),
        _resolved(wanted.work, "work"),
        lowers=name_directories(layers.paths),
        volatile=wanted.volatile,
        user_marks=wanted.user_xattrs,
        leads=wanted.leads,
        redirects=wanted.redirects,
        metacopy=wanted.copies_apart,
        acls=wanted.acls,
        override_stat=wanted.override_stat,
        others="accepted" if wanted.upper_open else "powerless",
        accepting="-o upper_open",
    )


def _resolved(name: str, what: str) -> Path:
    """Resolve the name of a directory; raise an error that says which one it is."""
    shown = f"{what} directory {printable(name)}"
    try:
        path = Path(name).resolve(strict=True)
    except FileNotFoundError:
        raise NotFoundError(f"{shown} does not exist") from None
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of symlinks
        raise NotFoundError(f"{shown}: {getattr(error, 'strerror', None) or error}") from None
    if not path.is_dir():
        raise NotFoundError(f"{shown} is not a directory")
    return path
