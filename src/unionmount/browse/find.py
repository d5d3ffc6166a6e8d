"""The tests, operators and the walk of find(1) for the tree of an image.

Expressions have the meaning that POSIX and GNU give them. Printing is the only action. An
unsupported test is an error that names it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unionmount import core
from unionmount.browse.paths import follow
from unionmount.errors import UsageError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.paths import Found
    from unionmount.core import Attributes, BrowsableTree

_TYPES = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "b": stat.S_IFBLK,
    "c": stat.S_IFCHR,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
}
_UNITS = {"": 512, "b": 512, "c": 1, "w": 2, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_NUMBER = re.compile(r"([+-]?)([0-9]{1,18})")
_SIZE = re.compile(r"([+-]?)([0-9]{1,18})([bcwkMG]?)")
_PERM = re.compile(r"([-/]?)([0-7]{1,5})")
_MAX_NESTING = 100  # parentheses and negations
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Visit:
    """One path of a search."""

    files: BrowsableTree
    path: bytes  # as it is printed
    name: bytes  # the last component
    attributes: Attributes


@dataclass(slots=True)
class _Outcome:
    """The effects of an expression on a path, apart from its truth."""

    printed: list[bytes] = field(default_factory=list)  # the ends of lines: newline or NUL
    pruned: bool = False


_Test = Callable[[Visit, _Outcome], bool]


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression; ``least`` and ``most`` are -mindepth and -maxdepth."""

    test: _Test
    least: int
    most: int | None

    def search(
        self, files: BrowsableTree, start: Found, shown: bytes
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield the paths to print, each with the end of its line.

        ``shown`` is the printed form of the starting point.
        """
        name = shown.rstrip(b"/").rpartition(b"/")[2] or b"/"
        pending = [(Visit(files, shown, name, start.attributes), 0)]
        while pending:
            visit, depth = pending.pop()
            outcome = _Outcome()
            if depth >= self.least:
                self.test(visit, outcome)
                yield from ((visit.path, end) for end in outcome.printed)
            is_directory = stat.S_ISDIR(visit.attributes.mode)
            if is_directory and not outcome.pruned and (self.most is None or depth < self.most):
                pending += [(inner, depth + 1) for inner in reversed(list(_inside(visit)))]
            elif isinstance(files, core.View) and depth:
                files.forget(visit.attributes.node)


def _inside(visit: Visit) -> Iterator[Visit]:
    prefix = visit.path if visit.path.endswith(b"/") else visit.path + b"/"
    cookie, node = 0, visit.attributes.node
    while entries := visit.files.list(node, cookie, _BATCH):
        for entry in entries:
            yield Visit(visit.files, prefix + entry.name, entry.name, entry.attributes)
        cookie = entries[-1].next


# ---- parsing -------------------------------------------------------------------------------------


def parse_expression(words: Sequence[str], files: BrowsableTree) -> Expression:
    """Parse an expression; -newer looks into ``files``. Raise UsageError if it is not valid."""
    return _ExpressionParser(words, files).parse()


class _ExpressionParser:
    """A recursive-descent parser: or, and, not, primary."""

    def __init__(self, words: Sequence[str], files: BrowsableTree) -> None:
        self._words = list(words)
        self._at = 0
        self._files = files
        self._prints = False
        self._nesting = 0
        self._least = 0
        self._most: int | None = None

    def parse(self) -> Expression:
        test: _Test = _always
        if self._words:
            test = self._alternatives()
            if self._at < len(self._words):
                raise UsageError(f"find: '{printable(self._words[self._at])}' is not expected here")
        if not self._prints:
            test = _both(test, _print)
        return Expression(test, self._least, self._most)

    def _peek(self) -> str | None:
        return self._words[self._at] if self._at < len(self._words) else None

    def _take(self, of: str) -> str:
        word = self._peek()
        if word is None:
            raise UsageError(f"find: '{of}' needs an argument")
        self._at += 1
        return word

    def _alternatives(self) -> _Test:
        test = self._sequence()
        while self._peek() in ("-o", "-or"):
            self._at += 1
            test = _either(test, self._sequence())
        return test

    def _sequence(self) -> _Test:
        test = self._negation()
        while (word := self._peek()) not in (None, "-o", "-or", ")"):
            if word in ("-a", "-and"):
                self._at += 1
            test = _both(test, self._negation())
        return test

    def _negation(self) -> _Test:
        word = self._peek()
        if word not in ("!", "-not"):
            return self._primary()
        self._at += 1
        with_inner = self._nested(self._negation)
        return lambda visit, outcome: not with_inner(visit, outcome)

    def _nested(self, parse: Callable[[], _Test]) -> _Test:
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            raise UsageError("find: the expression is nested too deeply")
        test = parse()
        self._nesting -= 1
        return test

    def _primary(self) -> _Test:
        word = self._peek()
        if word is None:
            raise UsageError("find: the expression ends too early")
        self._at += 1
        if word == "(":
            test = self._nested(self._alternatives)
            if self._peek() != ")":
                raise UsageError("find: a ')' is missing")
            self._at += 1
            return test
        if word in _ACTIONS:
            self._prints = self._prints or word in ("-print", "-print0")
            return _ACTIONS[word]
        if word in ("-maxdepth", "-mindepth"):
            return self._depth(word)
        if word == "-newer":
            return self._newer(self._take(word))
        if word in _TESTS:
            return _TESTS[word](word, self._take(word))
        known = ", ".join(sorted([*_TESTS, *_ACTIONS, "-maxdepth", "-mindepth", "-newer"]))
        raise UsageError(f"find: '{printable(word)}' is not supported; use {known}")

    def _depth(self, word: str) -> _Test:
        text = self._take(word)
        if not text.isdecimal() or len(text) > 9:
            raise UsageError(f"find: {word} takes a number, not '{printable(text)}'")
        if word == "-maxdepth":
            self._most = int(text)
        else:
            self._least = int(text)
        return _always

    def _newer(self, text: str) -> _Test:
        path = text.encode("utf-8", "surrogateescape")
        limit = follow(self._files, path, last=False).attributes.mtime_ns
        return lambda visit, _: visit.attributes.mtime_ns > limit


# ---- tests ---------------------------------------------------------------------------------------


def _always(_visit: Visit, _outcome: _Outcome) -> bool:
    return True


def _never(_visit: Visit, _outcome: _Outcome) -> bool:
    return False


def _both(first: _Test, second: _Test) -> _Test:
    return lambda visit, outcome: first(visit, outcome) and second(visit, outcome)


def _either(first: _Test, second: _Test) -> _Test:
    return lambda visit, outcome: first(visit, outcome) or second(visit, outcome)


def _print(_visit: Visit, outcome: _Outcome) -> bool:
    outcome.printed.append(b"\n")
    return True


def _print0(_visit: Visit, outcome: _Outcome) -> bool:
    outcome.printed.append(b"\0")
    return True


def _prune(_visit: Visit, outcome: _Outcome) -> bool:
    outcome.pruned = True
    return True


def _empty(visit: Visit, _outcome: _Outcome) -> bool:
    if stat.S_ISDIR(visit.attributes.mode):
        return not visit.files.list(visit.attributes.node, 0, 1)
    return stat.S_ISREG(visit.attributes.mode) and visit.attributes.size == 0


def _name(word: str, text: str) -> _Test:
    pattern, fold = _pattern(word, text), word == "-iname"
    return lambda visit, _: core.matches(pattern, visit.name, fold_case=fold)


def _path(word: str, text: str) -> _Test:
    pattern, fold = _pattern(word, text), word == "-ipath"
    return lambda visit, _: core.matches(pattern, visit.path, fold_case=fold)


def _pattern(word: str, text: str) -> bytes:
    if "\0" in text:
        raise UsageError(f"find: a pattern of {word} has a NUL in it")
    return text.encode("utf-8", "surrogateescape")


def _type(word: str, text: str) -> _Test:
    letters = text.split(",")
    if not all(letter in _TYPES for letter in letters):
        raise UsageError(f"find: {word} takes {','.join(_TYPES)}, not '{printable(text)}'")
    wanted = frozenset(_TYPES[letter] for letter in letters)
    return lambda visit, _: stat.S_IFMT(visit.attributes.mode) in wanted


def _is_within(sign: str, limit: int, value: int) -> bool:
    """Compare a number: ``+N`` is more than N, ``-N`` less, ``N`` exactly that."""
    return value > limit if sign == "+" else value < limit if sign == "-" else value == limit


def _size(word: str, text: str) -> _Test:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"find: {word} takes [+-]N[bcwkMG], not '{printable(text)}'")
    sign, limit, unit = match[1], int(match[2]), _UNITS[match[3]]
    return lambda visit, _: _is_within(sign, limit, -(-visit.attributes.size // unit))


def _perm(word: str, text: str) -> _Test:
    match = _PERM.fullmatch(text)
    if match is None or int(match[2], 8) > 0o7777:
        raise UsageError(f"find: {word} takes [-/]MODE in octal, not '{printable(text)}'")
    sign, wanted = match[1], int(match[2], 8)

    def test(visit: Visit, _: _Outcome) -> bool:
        mode = visit.attributes.mode & 0o7777
        if sign == "-":
            return mode & wanted == wanted
        return bool(mode & wanted) or not wanted if sign == "/" else mode == wanted

    return test


def _numeric(value_of: Callable[[Attributes], int]) -> Callable[[str, str], _Test]:
    def parse(word: str, text: str) -> _Test:
        match = _NUMBER.fullmatch(text)
        if match is None:
            raise UsageError(f"find: {word} takes [+-]N, not '{printable(text)}'")
        sign, limit = match[1], int(match[2])
        return lambda visit, _: _is_within(sign, limit, value_of(visit.attributes))

    return parse


_TESTS: dict[str, Callable[[str, str], _Test]] = {
    "-name": _name,
    "-iname": _name,
    "-path": _path,
    "-wholename": _path,
    "-ipath": _path,
    "-type": _type,
    "-size": _size,
    "-perm": _perm,
    "-uid": _numeric(lambda attributes: attributes.uid),
    "-gid": _numeric(lambda attributes: attributes.gid),
    "-links": _numeric(lambda attributes: attributes.nlink),
    "-inum": _numeric(lambda attributes: attributes.node),
}
_ACTIONS: dict[str, _Test] = {
    "-print": _print,
    "-print0": _print0,
    "-prune": _prune,
    "-empty": _empty,
    "-true": _always,
    "-false": _never,
}
