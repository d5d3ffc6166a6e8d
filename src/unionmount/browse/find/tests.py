"""The tests of find(1), each as a node."""

from __future__ import annotations

import errno
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass

from unionmount import core
from unionmount.browse.find.expression import ExpressionError, Fixed, Predicate, Run, Simple
from unionmount.browse.find.modes import parse_mode
from unionmount.browse.find.times import ALWAYS, window_of_use
from unionmount.browse.layer_states import is_whiteout
from unionmount.browse.paths import follow
from unionmount.core.path_regex import PathRegex
from unionmount.core.scan import ScanTest, Visit
from unionmount.errors import FormatError
from unionmount.system.text import printable

TYPES = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "b": stat.S_IFBLK,
    "c": stat.S_IFCHR,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
}
WHITEOUT = "w"  # with --all-layers
_UNITS = {"b": 512, "c": 1, "w": 2, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_NUMBER = re.compile(r"([+-]?)([0-9]{1,20})")
_MAX = 2**64 - 1
_NEVER = (1, 0)
_LOOPED = (errno.ELOOP, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


def invalid(word: str, text: str) -> ExpressionError:
    """Return the error for an argument that is not valid."""
    return ExpressionError(f"find: invalid argument `{printable(text)}' to `{printable(word)}'")


@dataclass(frozen=True, slots=True)
class _Check:
    """A test that needs the file alone."""

    function: Callable[[Visit], bool]

    def holds(self, visit: Visit, run: Run) -> bool:  # noqa: ARG002
        """Return whether the file passes the test."""
        return self.function(visit)


@dataclass(frozen=True, slots=True)
class _LongCheck:
    """A test that asks the tree."""

    function: Callable[[Visit, Run], bool]

    def holds(self, visit: Visit, run: Run) -> bool:
        """Return whether the file passes the test; report an error of the tree."""
        try:
            return self.function(visit, run)
        except OSError as error:
            run.out.error(visit.path, error.errno or errno.EIO)
            return False


# ---- numbers -------------------------------------------------------------------------------------


def bounds_of(word: str, text: str) -> tuple[int, int]:
    """Return the least and the greatest number that N, +N or -N stands for."""
    match = _NUMBER.fullmatch(text)
    if match is None or int(match[2]) > _MAX:
        raise invalid(word, text)
    sign, number = match[1], int(match[2])
    if sign == "+":
        return (number + 1, _MAX) if number < _MAX else _NEVER
    if sign == "-":
        return (0, number - 1) if number else _NEVER
    return number, number


def _between(what: str, bounds: tuple[int, int], value_of: Callable[[Visit], int]) -> Predicate:
    low, high = bounds
    return Simple(
        ScanTest(what, low=low, high=high), _Check(lambda visit: low <= value_of(visit) <= high)
    )


def uid_test(bounds: tuple[int, int]) -> Predicate:
    """Test the number of the owner."""
    return _between("UID", bounds, lambda visit: visit.uid)


def gid_test(bounds: tuple[int, int]) -> Predicate:
    """Test the number of the group."""
    return _between("GID", bounds, lambda visit: visit.gid)


def links_test(bounds: tuple[int, int]) -> Predicate:
    """Test the number of hard links."""
    return _between("LINKS", bounds, lambda visit: visit.links)


def inode_test(bounds: tuple[int, int]) -> Predicate:
    """Test the inode number."""
    return _between("NODE", bounds, lambda visit: visit.node)


def size_test(text: str) -> Predicate:
    """Test the size in units, rounded up."""
    if not text:
        raise ExpressionError("find: invalid null argument to -size")
    unit = 512 if text[-1].isdigit() else _UNITS.get(text[-1], 0)
    if not unit:
        raise ExpressionError(f"find: invalid -size type `{printable(text[-1])}'")
    digits = text if text[-1].isdigit() else text[:-1]
    try:
        low, high = bounds_of("-size", digits)
    except ExpressionError:
        message = f"find: Invalid argument `{printable(text)}' to -size"
        raise ExpressionError(message) from None
    if (low, high) != _NEVER:  # the sizes that are rounded up to these numbers of units
        low = (low - 1) * unit + 1 if low else 0
        high = min(high * unit, _MAX)
    bounds = (low, high) if low <= min(high, _MAX) else _NEVER
    return _between("SIZE", bounds, lambda visit: visit.size)


# ---- times ---------------------------------------------------------------------------------------

_TIME_OF: dict[str, Callable[[Visit], int]] = {
    "a": lambda visit: visit.atime_ns,
    "c": lambda visit: visit.ctime_ns,
    "m": lambda visit: visit.mtime_ns,
}


def time_test(which: str, window: tuple[int, int]) -> Predicate:
    """Test one of the times: ``a``, ``c`` or ``m``."""
    since, until = window
    value_of = _TIME_OF[which]
    return Simple(
        ScanTest(f"{which.upper()}TIME", since=since, until=until),
        _Check(lambda visit: since <= value_of(visit) <= until),
    )


def newer_test(which: str, than: int) -> Predicate:
    """Test whether a time is later."""
    return time_test(which, (than + 1, ALWAYS[1]))


def used_test(text: str) -> Predicate:
    """Test how many days after its last change a file was last read."""
    window = window_of_use(text)
    if window is None:
        raise ExpressionError(f"find: Invalid argument {printable(text)} to -used")
    since, until = window

    def check(visit: Visit) -> bool:
        return since <= visit.atime_ns - visit.ctime_ns <= until

    return _Check(check)


# ---- names ---------------------------------------------------------------------------------------


def name_test(pattern: bytes, *, fold: bool = False) -> Predicate:
    """Test the last component."""
    return Simple(
        ScanTest("INAME" if fold else "NAME", pattern=pattern),
        _Check(lambda visit: core.matches(pattern, visit.name, fold_case=fold)),
    )


def path_test(pattern: bytes, *, fold: bool = False) -> Predicate:
    """Test the path as it is printed."""
    return Simple(
        ScanTest("IPATH" if fold else "PATH", pattern=pattern),
        _Check(lambda visit: core.matches(pattern, visit.path, fold_case=fold)),
    )


def link_name_test(pattern: bytes, *, fold: bool = False) -> Predicate:
    """Test the target of a symlink."""

    def check(visit: Visit, run: Run) -> bool:
        if not stat.S_ISLNK(visit.mode):
            return False
        target = run.place.files.readlink(visit.node)
        return core.matches(pattern, target, fold_case=fold)

    return _LongCheck(check)


def regex_test(pattern: bytes, syntax: str, *, fold: bool = False) -> Predicate:
    """Test the whole path by a regular expression."""
    try:
        regex = PathRegex(pattern, syntax, fold_case=fold)
    except FormatError as error:
        raise ExpressionError(f"find: {error}") from error
    return Simple(ScanTest("REGEX", regex=regex), _Check(lambda visit: regex.matches(visit.path)))


# ---- types and permissions -----------------------------------------------------------------------


def _letters(word: str, text: str, known: str) -> frozenset[str]:
    if not text:
        raise ExpressionError(f"find: Arguments to {word} should contain at least one letter")
    found: list[str] = []
    for number, letter in enumerate(text):
        if number % 2 and letter != ",":
            raise ExpressionError(f"find: Must separate multiple arguments to {word} using: ','")
        if number % 2:
            continue
        if letter not in known:
            raise ExpressionError(f"find: Unknown argument to {word}: {printable(letter)}")
        if letter in found:
            raise ExpressionError(
                f"find: Duplicate file type '{letter}' in the argument list to {word}."
            )
        found.append(letter)
    if text.endswith(","):
        raise ExpressionError(
            f"find: Last file type in list argument to {word} is missing, "
            "i.e., list is ending on: ','"
        )
    return frozenset(found)


def type_test(text: str, *, with_whiteouts: bool) -> Predicate:
    """Test the type; in layers by themselves, ``w`` is a whiteout, and ``c`` is not."""
    letters = _letters("-type", text, "".join(TYPES) + (WHITEOUT if with_whiteouts else ""))
    modes = frozenset(TYPES[letter] for letter in letters if letter != WHITEOUT)
    if with_whiteouts and letters & {"c", WHITEOUT}:
        return _Check(
            lambda visit: (
                WHITEOUT in letters
                if is_whiteout(visit.attributes)
                else stat.S_IFMT(visit.mode) in modes
            )
        )
    bits = sum(1 << (mode >> 12) for mode in modes)
    return Simple(
        ScanTest("TYPE", low=bits), _Check(lambda visit: stat.S_IFMT(visit.mode) in modes)
    )


def target_type_test(text: str) -> Predicate:
    """Test the type of what a symlink leads to inside the image, or of the symlink itself."""
    letters = _letters("-xtype", text, "".join(TYPES))
    modes = frozenset(TYPES[letter] for letter in letters)

    def check(visit: Visit, run: Run) -> bool:
        mode, code = target_mode(visit, run)
        if code not in (0, errno.ENOENT, errno.ENOTDIR):
            run.out.error(visit.path, code)
            return False
        return stat.S_IFMT(mode) in modes

    return _LongCheck(check)


def target_mode(visit: Visit, run: Run) -> tuple[int, int]:
    """Return the mode of what a file leads to, or its own mode and the errno of a symlink."""
    if not stat.S_ISLNK(visit.mode):
        return visit.mode, 0
    try:
        return follow(run.place.files, visit.path).attributes.mode, 0
    except OSError as error:
        if error.errno not in _LOOPED:
            raise
        return visit.mode, error.errno or 0


def permission_test(text: str) -> tuple[Predicate, bool]:
    """Test permissions; return also whether the mode is ``/000``, which find warns of."""
    prefix = text[:1] if text[:1] in ("-", "/") else ""
    wanted = parse_mode(text[len(prefix) :])
    if wanted is None or (text[:1] == "+" and text[1:2].isdigit()):
        raise ExpressionError(f"find: invalid mode '{printable(text)}'")
    of_file, of_directory = wanted
    what = {"-": "PERM_ALL", "/": "PERM_ANY", "": "PERM_IS"}[prefix]

    def check(visit: Visit) -> bool:
        mode = visit.mode & 0o7777
        bits = of_directory if stat.S_ISDIR(visit.mode) else of_file
        if prefix == "-":
            return mode & bits == bits
        return (not bits or bool(mode & bits)) if prefix else mode == bits

    test = Simple(ScanTest(what, low=of_file, high=of_directory), _Check(check))
    return test, prefix == "/" and not of_file and not of_directory


# ---- the rest ------------------------------------------------------------------------------------


def empty_test() -> Predicate:
    """Test whether a regular file or a directory is empty."""

    def check(visit: Visit, run: Run) -> bool:
        if stat.S_ISDIR(visit.mode):
            return not run.place.files.list(visit.node, 0, 1)
        return stat.S_ISREG(visit.mode) and visit.size == 0

    return Simple(ScanTest("EMPTY"), _LongCheck(check))


def no_user_test() -> Predicate:
    """Test whether /etc/passwd of the image lacks the owner."""
    return _LongCheck(lambda visit, run: not run.place.accounts.has_user(visit.uid))


def no_group_test() -> Predicate:
    """Test whether /etc/group of the image lacks the group."""
    return _LongCheck(lambda visit, run: not run.place.accounts.has_group(visit.gid))


def xattr_test(pattern: bytes) -> Predicate:
    """Test whether an extended attribute has a name that matches a pattern."""

    def check(visit: Visit, run: Run) -> bool:
        names = run.place.files.listxattr(visit.node)
        return any(core.matches(pattern, name) for name in names)

    return _LongCheck(check)


TRUE = Fixed(value=True)
FALSE = Fixed(value=False)
