"""Users of an image: ``--user`` and the config's ``User``, looked up in its own files.

The rules are those of runc's ``libcontainer/user`` (``GetExecUser``), which Docker and podman use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from unionmount.errors import NotFoundError, UsageError
from unionmount.system.text import printable

MAX_FILE = 1024 * 1024
"""The bytes of /etc/passwd and /etc/group that are read."""
_MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class User:
    """The identity of a container's first process; ``groups`` are the supplementary ones."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True, slots=True)
class _UserEntry:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _GroupEntry:
    name: str
    gid: int
    members: tuple[str, ...]


def find_user(text: str, passwd: bytes, group: bytes) -> User:
    """Return the identity for ``USER[:GROUP]``, names or numbers; the empty text is root.

    A number needs no entry. Raise NotFoundError for a name without one, UsageError for a number out
    of range. Without GROUP, groups are those that list the user as a member.
    """
    user_word, colon, group_word = text.partition(":")
    account = _entry(user_word or "0", passwd)
    found = account or _UserEntry("", _number(user_word or "0", "user"), 0, "/")
    groups = list(_groups(group))
    if colon and group_word:
        return User(found.uid, _gid(group_word, groups), (), found.home)
    names = {found.name} if found.name else set()
    extra = [one.gid for one in groups if names & set(one.members)]
    return User(found.uid, found.gid, tuple(dict.fromkeys(extra)), found.home)


def _entry(word: str, passwd: bytes) -> _UserEntry | None:
    """Return the entry of a name or number; None if a number has none."""
    accounts = list(_accounts(passwd))
    for one in accounts:  # a name wins, even if it looks like a number
        if one.name == word:
            return one
    if not _is_number(word):
        raise NotFoundError(f"the image has no user '{printable(word)}' in /etc/passwd")
    number = _number(word, "user")
    return next((one for one in accounts if one.uid == number), None)


def _gid(word: str, groups: list[_GroupEntry]) -> int:
    for one in groups:
        if one.name == word:
            return one.gid
    if not _is_number(word):
        raise NotFoundError(f"the image has no group '{printable(word)}' in /etc/group")
    return _number(word, "group")


def _accounts(passwd: bytes) -> Iterator[_UserEntry]:
    for name, rest in _lines(passwd, 6):
        uid, gid = (_number_or_none(word) for word in rest[1:3])
        if uid is not None and gid is not None:
            yield _UserEntry(name, uid, gid, rest[4] or "/")


def _groups(group: bytes) -> Iterator[_GroupEntry]:
    for name, rest in _lines(group, 3):
        gid = _number_or_none(rest[1])
        if gid is not None:
            members = tuple(word for word in rest[2].split(",") if word) if len(rest) > 2 else ()
            yield _GroupEntry(name, gid, members)


def _lines(data: bytes, fields: int) -> Iterator[tuple[str, list[str]]]:
    """Yield name and other fields of the lines that have at least so many fields."""
    for line in data[:MAX_FILE].decode("utf-8", "surrogateescape").split("\n"):
        text = line.strip()
        name, *rest = text.split(":")
        if name and not text.startswith("#") and len(rest) + 1 >= fields:
            yield name, rest


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdecimal()


def _number_or_none(word: str) -> int | None:
    if not _is_number(word) or len(word) > 10 or int(word) > _MAX_ID:
        return None
    return int(word)


def _number(word: str, what: str) -> int:
    number = _number_or_none(word)
    if number is None:
        raise UsageError(f"{what} {printable(word)} is not between 0 and {_MAX_ID}")
    return number
