"""The options of ``mount.unionmount``: those of fstab, taken apart.

mount(8) acts itself on some of the words that it hands to a helper (``nofail``, ``_netdev``,
``user``); these are dropped. Words of our own say which container or directory takes the changes;
without one the mount is read-only. Everything else is an option of ``unionmount mount -o``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from unionmount.errors import UsageError
from unionmount.mounting.options import NAMES, is_known, refusal
from unionmount.system.nearest import did_you_mean, did_you_mean_option
from unionmount.system.text import printable

_OPTION = re.compile(r'(?:[^,"]|"[^"]*")+')
_DROPPED = re.compile(
    r"auto|noauto|nofail|_netdev|defaults|nouser|remount|"
    r"(?:user|users|owner|group)(?:=.*)?|comment=.*|[xX]-.*"
)
_WITH_VALUE = (
    *("name", "upper", "work", "pull", "platform", "layer", "store", "authfile"),
    "fsname",
)
# mount(8) does not hand on suid and dev, which are its defaults; so they have names of their own.
_FLAGS = ("ephemeral", "volatile", "upper_open", "verify", "allow_suid", "allow_dev")
_POLICIES = ("always", "missing", "never")


@dataclass(slots=True)
class HelperOptions:
    """What ``-o`` said: of the image and its changes, of the mount, and what mount(8) is to do."""

    values: dict[str, str] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    mount: list[str] = field(default_factory=list)
    remount: bool = False

    @property
    def keeps_changes(self) -> bool:
        """Whether a place for changes is named."""
        return bool({"name", "upper"} & self.values.keys() or "ephemeral" in self.flags)

    @property
    def said(self) -> str:
        """The options about the image in one fixed order, to be compared at a remount."""
        return ",".join(sorted([*(f"{k}={v}" for k, v in self.values.items()), *self.flags]))


def parse_helper_options(texts: Iterable[str], *, sloppy: bool = False) -> HelperOptions:
    """Read the values of ``-o``; UsageError for what is not known, unless ``sloppy``."""
    options = HelperOptions()
    words = [word for text in texts for word in _OPTION.findall(text)]
    options.remount = "remount" in words
    for word in words:
        if not _DROPPED.fullmatch(word):
            _take(options, word, sloppy=sloppy)
    if "volatile" in options.flags and not (options.keeps_changes or options.remount):
        raise UsageError("volatile needs a place for changes: name=, upper= or ephemeral")
    return options


def _take(options: HelperOptions, word: str, *, sloppy: bool) -> None:
    name, equals, value = word.partition("=")
    value = value.replace('"', "")
    if name in _WITH_VALUE:
        if not value:
            raise UsageError(f"option {name} needs a value: {name}=…")
        options.values[name] = _checked(name, value)
    elif not equals and name in _FLAGS:
        options.flags.add(name)
    elif options.remount or is_known(word):
        options.mount.append(word)
    elif (why := refusal(word)) is not None:
        raise UsageError(f"option {printable(word)} is refused: {why}")
    elif not sloppy:
        raise UsageError(_unknown(word))


def _checked(name: str, value: str) -> str:
    if name == "layer" and not value.isdecimal():
        raise UsageError(f"option layer: '{printable(value)}' is no number")
    if name == "pull" and value not in _POLICIES:
        raise UsageError(
            f"option pull: '{printable(value)}' is none of {', '.join(_POLICIES)}"
            f"{did_you_mean(value, _POLICIES)}"
        )
    return value


def _unknown(word: str) -> str:
    known = [*(f"{name}=" for name in _WITH_VALUE), *_FLAGS, *NAMES, "defaults", "nofail"]
    near = did_you_mean_option(word, known)
    return f"unknown option {printable(word)}{near or ' (see unionmount mount --help)'}"
