"""``unionmount overlay``: the command line of overlayfs and of fuse-overlayfs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unionmount.cli.options import root_option
from unionmount.errors import NotFoundError, UsageError
from unionmount.reference import printable
from unionmount.trust import OverrideStat

if TYPE_CHECKING:
    from unionmount.cli import Settings
    from unionmount.layer import OpenDirectories
    from unionmount.upper import UpperPlan

_OPTION = re.compile(r"(?:[^\\,]|\\.)+", re.DOTALL)
_COLON = re.compile(r"((?:[^\\:]|\\.)*)(:|\Z)", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_SOURCE = "overlay"  # what tables of mounts show


@dataclass(slots=True)
class OverlayOptions:
    """What ``-o`` says, taken apart."""

    lower: tuple[str, ...] = ()  # the top one first
    upper: str = ""
    work: str = ""
    volatile: bool = False
    user_xattrs: bool = False
    mount: tuple[str, ...] = ()  # options of any file system, for ``parse_options``
    ignored: tuple[str, ...] = ()
    upper_open: bool = False
    leading: tuple[str, ...] = ()  # what asks for redirects or metacopies
    override_stat: OverrideStat = OverrideStat.OWN


def parse_overlay(texts: Iterable[str]) -> OverlayOptions:
    r"""Read the values of ``-o`` as overlayfs does.

    Commas separate options, colons the directories of ``lowerdir``; a backslash takes the next
    character as it is. Of an option that is repeated the last one counts, but for ``lowerdir+``,
    of which each adds one directory, colons and all, below the others.
    """
    options = OverlayOptions()
    for text in texts:
        for option in _OPTION.findall(_without_loose_end(text)):
            _take(options, option)
    _check(options)
    return options


def _take(options: OverlayOptions, option: str) -> None:
    name, equals, value = option.partition("=")
    if equals and name in _WITH_VALUE:
        _WITH_VALUE[name](options, value)
    elif option == "volatile":
        options.volatile = True
    elif option == "userxattr":
        options.user_xattrs = True
    elif option == "upper_open":
        options.upper_open = True
    elif option in _LEADING:
        options.leading += (option,)
        options.ignored += (option,)  # they are there unless userxattr says otherwise
    elif _is_mount_option(option):
        options.mount += (option,)
    elif option != "defaults":
        options.ignored += (_plain(option),)


def _set_lower(options: OverlayOptions, value: str) -> None:
    options.lower = tuple(_plain(one) for one in _split_at_colons(value))


def _add_lower(options: OverlayOptions, value: str) -> None:
    options.lower += (_plain(value),)


def _set_upper(options: OverlayOptions, value: str) -> None:
    options.upper = _plain(value)


def _set_work(options: OverlayOptions, value: str) -> None:
    options.work = _plain(value)


def _set_override_stat(options: OverlayOptions, value: str) -> None:
    if value == "1":
        raise UsageError(
            "-o xattr_permissions=1: attributes security.fuseoverlayfs.override_stat are not read;"
            " use 2 for user.containers.override_stat, or leave the option out"
        )
    if value not in ("0", "2"):
        raise UsageError(f"-o xattr_permissions: '{printable(value)}' is neither 0 nor 2")
    options.override_stat = OverrideStat(value)


_LEADING = ("redirect_dir=on", "redirect_dir=follow", "metacopy=on")

_WITH_VALUE: dict[str, Callable[[OverlayOptions, str], None]] = {
    "lowerdir": _set_lower,
    "lowerdir+": _add_lower,
    "upperdir": _set_upper,
    "workdir": _set_work,
    "xattr_permissions": _set_override_stat,
}


def _is_mount_option(option: str) -> bool:
    from unionmount.options import parse_options

    try:
        parse_options([option])
    except UsageError:
        return False
    return True


def _check(options: OverlayOptions) -> None:
    if not options.lower:
        raise UsageError("-o: lowerdir is missing")
    if "" in options.lower:
        raise UsageError(
            "-o lowerdir: a name is empty ('::', for layers of data only, is not known)"
        )
    if options.user_xattrs and options.leading:
        raise UsageError(
            f"-o userxattr and {options.leading[0]}: with attributes that every owner of a file can"
            " set, redirects and metacopies are not followed; leave one of the two out"
        )
    if options.upper and not options.work:
        raise UsageError("-o: upperdir needs a workdir, on the same file system")
    if options.work and not options.upper:
        options.ignored += (f"workdir={options.work}",)
        options.work = ""


def _split_at_colons(value: str) -> list[str]:
    parts = []
    for match in _COLON.finditer(value):
        parts.append(match[1])
        if not match[2]:
            break
    return parts


def _without_loose_end(text: str) -> str:
    """The text without a last backslash that stands for nothing."""
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
@click.option("-f", "foreground", is_flag=True, help="Serve here; Ctrl-C unmounts.")
@click.option("-d", "debug", is_flag=True, help="The same, and tell of errors where they are.")
@root_option
@click.argument("words", metavar="[SOURCE] MOUNTPOINT", nargs=-1, required=True)
@click.pass_obj
def command(
    settings: Settings,
    options: tuple[str, ...],
    foreground: bool,
    debug: bool,
    words: tuple[str, ...],
) -> None:
    """Mount directories on top of each other, as overlayfs and fuse-overlayfs do.

    \b
    lowerdir=A:B:…    layers, the first one on top; \\: and \\, are in names
    lowerdir+=A       one more layer, below the others
    upperdir=U        the directory that takes the changes; without it the mount is read-only
    workdir=W         a directory on the file system of U, for upperdir alone
    volatile          sync nothing: a crash of the system may lose all
    userxattr         keep marks in user.overlay. attributes, also as root; then no redirect and
                      no metacopy is followed or written
    xattr_permissions=N  user.containers.override_stat of lower directories is believed never (0)
                      or always (2); without the option, on files that are yours or root's alone
    upper_open        accept U and W where other users can reach them; see below

    Mounts are nosuid,nodev unless -o suid,dev says otherwise. As root, set-user-ID programs and
    devices get onto the disk below U as such; so U and W are refused where other users can reach
    them, unless with upper_open: owners, modes, capabilities and devices are then kept in extended
    attributes. With suid,dev nothing is refused.

    Other options are those of mount -o. What is not known is named on standard error and ignored.
    SOURCE is ignored; mount(8) gives one.
    """  # noqa: D301 - \\b is for click
    from unionmount.cli.serving import Starting, check_place
    from unionmount.cli.targets import overlay_source
    from unionmount.options import parse_options

    if len(words) > 2:
        raise click.UsageError(f"one mount point, not '{printable(' '.join(words[1:]))}'")
    wanted = parse_overlay(options)
    mount_options = parse_options(wanted.mount)
    settings.debug |= debug
    start = Starting(
        settings, mount_options, check_place(words[-1]), foreground=foreground or debug
    )
    if wanted.ignored:
        print(f"unionmount: ignored: {printable(', '.join(wanted.ignored))}", file=sys.stderr)
    with _open_lower(wanted) as layers:
        source = overlay_source(layers.paths[::-1])
        start.run(layers, source, _plan(wanted, layers), lambda _: None)


def _open_lower(wanted: OverlayOptions) -> OpenDirectories:
    from unionmount.layer import OpenDirectories

    paths = [_resolved(name, "lower") for name in wanted.lower]
    return OpenDirectories(
        paths[::-1],
        _SOURCE,
        leads=not wanted.user_xattrs,
        override_stat=wanted.override_stat,
    )


def _plan(wanted: OverlayOptions, layers: OpenDirectories) -> UpperPlan | None:
    from unionmount.upper import UpperPlan, name_directories

    if not wanted.upper:
        return None
    return UpperPlan(
        _resolved(wanted.upper, "upper"),
        _resolved(wanted.work, "work"),
        lowers=name_directories(layers.paths),
        volatile=wanted.volatile,
        user_marks=wanted.user_xattrs,
        others="accepted" if wanted.upper_open else "powerless",
        accepting="-o upper_open",
    )


def _resolved(name: str, what: str) -> Path:
    """The directory of that name; an error that says which one it is."""
    shown = f"{what} directory {printable(name)}"
    try:
        path = Path(name).resolve(strict=True)
    except FileNotFoundError:
        raise NotFoundError(f"{shown} does not exist") from None
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise NotFoundError(f"{shown}: {getattr(error, 'strerror', None) or error}") from None
    if not path.is_dir():
        raise NotFoundError(f"{shown} is not a directory")
    return path
