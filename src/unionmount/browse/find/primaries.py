"""The words of an expression: what each takes, and the node that it makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unionmount.browse.find import tests
from unionmount.browse.find.actions import Print, PrintDetails, Prune, Quit
from unionmount.browse.find.expression import ExpressionError, Predicate
from unionmount.browse.find.numbers import number_up_to
from unionmount.browse.find.printf import FormatParser
from unionmount.browse.find.times import Clock, parse_date
from unionmount.browse.paths import follow
from unionmount.core.path_regex import SYNTAXES
from unionmount.system.os_errors import reason_of
from unionmount.system.text import printable

if TYPE_CHECKING:
    from unionmount.browse.accounts import Accounts
    from unionmount.core import Attributes, BrowsableTree

_MAX_DEPTH = 2**31 - 1


@dataclass(slots=True)
class ParseContext:
    """What primaries read, and what they change for those behind them or for the whole search."""

    files: BrowsableTree
    accounts: Accounts
    now: int
    of_layers: bool = False
    clock: Clock = field(init=False)
    syntax: str = "emacs"
    least: int = 0
    most: int | None = None
    post_order: bool = False
    has_printf: bool = False
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start the clock."""
        self.clock = Clock(self.now)

    def attributes_at(self, text: str) -> Attributes:
        """Return the attributes of a path of the image; a symlink at its end is not followed."""
        path = text.encode("utf-8", "surrogateescape")
        try:
            return follow(self.files, path, last=False).attributes
        except OSError as error:
            message = f"find: '{printable(text)}': {reason_of(error)}"
            raise ExpressionError(message) from error


_Make = Callable[[ParseContext, str, str], "Predicate | None"]


@dataclass(frozen=True, slots=True)
class Primary:
    """A word: whether it takes an argument, and the function that makes its node, if any."""

    make: _Make
    takes_argument: bool = True


def _bytes_of(word: str, text: str) -> bytes:
    if "\0" in text:
        raise tests.invalid(word, text)
    return text.encode("utf-8", "surrogateescape")


# ---- options -------------------------------------------------------------------------------------


def _depth_limit(context: ParseContext, word: str, text: str) -> Predicate:
    depth = number_up_to(_MAX_DEPTH, text) if text.isascii() and text.isdigit() else None
    if depth is None:
        raise ExpressionError(
            f"find: Expected a positive decimal integer argument to {word}, "
            f"but got '{printable(text)}'"
        )
    if word == "-maxdepth":
        context.most = depth
    else:
        context.least = depth
    return tests.TRUE


def _depth(context: ParseContext, _word: str, _text: str) -> Predicate:
    context.post_order = True
    return tests.TRUE


def _daystart(context: ParseContext, _word: str, _text: str) -> None:
    """Change the clock; unlike other options, it is no operand, so operators skip it."""
    context.clock = Clock(context.now, daystart=True)


def _regextype(context: ParseContext, _word: str, text: str) -> Predicate:
    if text not in SYNTAXES:
        known = ", ".join(f"'{one}'" for one in SYNTAXES)
        raise ExpressionError(
            f"find: Unknown regular expression type '{printable(text)}'; valid types are {known}."
        )
    context.syntax = text
    return tests.TRUE


# ---- tests ---------------------------------------------------------------------------------------


def _pattern(make: Callable[..., Predicate], *, fold: bool = False) -> Primary:
    return Primary(lambda _, word, text: make(_bytes_of(word, text), fold=fold))


def _numbers(make: Callable[[tuple[int, int]], Predicate]) -> Primary:
    return Primary(lambda _, word, text: make(tests.bounds_of(word, text)))


def _age(which: str, unit: str) -> Primary:
    def make(context: ParseContext, word: str, text: str) -> Predicate:
        clock = context.clock
        window = clock.days(text) if unit == "days" else clock.minutes(text)
        if window is None:
            raise tests.invalid(word, text)
        return tests.time_test(which, window)

    return Primary(make)


def _newer(which: str) -> Primary:
    return Primary(
        lambda context, _, text: tests.newer_test(which, context.attributes_at(text).mtime_ns)
    )


def newer_primary(context: ParseContext, word: str, rest: list[str]) -> Predicate:
    """Make the node of -newerXY: time X of the file is later than Y of a path, or date Y."""
    if len(word) != len("-newerXY"):
        raise ExpressionError(f"find: unknown predicate `{printable(word)}'")
    which, than = word[6:7], word[7:8]
    if "B" in (which, than):
        raise ExpressionError(
            f"find: '{printable(word)}' is not supported: a layer has no birth times"
        )
    if which not in "acm" or than not in "acmt":
        raise ExpressionError(f"find: invalid predicate `{printable(word)}'")
    if not rest:
        raise ExpressionError(f"find: The '{word}' test needs an argument")
    text = rest.pop()
    if than == "t":
        reference = parse_date(text, context.now)
        if reference is None:
            raise ExpressionError(
                f"find: I cannot figure out how to interpret '{printable(text)}' as a date or time"
            )
        return tests.newer_test(which, reference)
    found = context.attributes_at(text)
    of = {"a": found.atime_ns, "c": found.ctime_ns, "m": found.mtime_ns}
    return tests.newer_test(which, of[than])


def _regex(*, fold: bool = False) -> Primary:
    return Primary(
        lambda context, word, text: tests.regex_test(
            _bytes_of(word, text), context.syntax, fold=fold
        )
    )


def _user(context: ParseContext, _word: str, text: str) -> Predicate:
    number = context.accounts.user_named(text)
    if number is None and not (text.isascii() and text.isdigit()):
        if not text:
            raise ExpressionError("find: The argument to -user should not be empty")
        raise ExpressionError(f"find: '{printable(text)}' is not the name of a known user")
    return tests.uid_test(_range_of(number, text))


def _group(context: ParseContext, _word: str, text: str) -> Predicate:
    number = context.accounts.group_named(text)
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    if number is None and digits != text and digits:
        raise ExpressionError(
            f"find: '{printable(text)}' is not the name of an existing group and it does not look "
            f"like a numeric group ID because it has the unexpected suffix "
            f"'{printable(text[len(digits) :])}'"
        )
    if number is None and not digits:
        if not text:
            raise ExpressionError("find: argument to -group is empty, but should be a group name")
        raise ExpressionError(f"find: '{printable(text)}' is not the name of an existing group")
    return tests.gid_test(_range_of(number, text))


def _range_of(number: int | None, digits: str) -> tuple[int, int]:
    """Return the range of one ID, that of a name or else in digits; none if it is too large."""
    if number is None:
        number = number_up_to(2**64 - 1, digits)
    return (1, 0) if number is None else (number, number)


def _permissions(context: ParseContext, _word: str, text: str) -> Predicate:
    node, is_odd = tests.permission_test(text)
    if is_odd:
        context.warnings.append(
            f"you have specified a mode pattern {printable(text)} (which is equivalent to /000). "
            "The meaning of -perm /000 has now been changed to be consistent with -perm -000; that "
            "is, while it used to match no files, it now matches all files."
        )
    return node


def _path(*, fold: bool = False) -> Primary:
    def make(context: ParseContext, word: str, text: str) -> Predicate:
        if text.endswith("/") and text != "/":
            context.warnings.append(
                f"{word} {printable(text)} will not match anything because it ends with /."
            )
        return tests.path_test(_bytes_of(word, text), fold=fold)

    return Primary(make)


def _of_whole_image(make: _Make) -> _Make:
    def checked(context: ParseContext, word: str, text: str) -> Predicate | None:
        _refuse_for_layers(context, word)
        return make(context, word, text)

    return checked


def _refuse_for_layers(context: ParseContext, word: str) -> None:
    if context.of_layers:
        raise ExpressionError(
            f"find: '{word}' cannot be combined with --all-layers: a layer by itself has "
            "neither links across layers nor all their targets"
        )


def _samefile(context: ParseContext, _word: str, text: str) -> Predicate:
    node = context.attributes_at(text).node
    return tests.inode_test((node, node))


def _xtype(_context: ParseContext, _word: str, text: str) -> Predicate:
    return tests.target_type_test(text)


# ---- actions -------------------------------------------------------------------------------------


def _printf(context: ParseContext, _word: str, text: str) -> Predicate:
    parser = FormatParser(text)
    node = parser.parse()
    if parser.follows:
        _refuse_for_layers(context, "%Y")
    context.warnings += parser.warnings
    context.has_printf = True
    return node


def _node(node: Predicate) -> Primary:
    return Primary(lambda _context, _word, _text: node, takes_argument=False)


def _option(make: _Make) -> Primary:
    return Primary(make, takes_argument=False)


PRIMARIES: dict[str, Primary] = {
    "-amin": _age("a", "minutes"),
    "-anewer": _newer("a"),
    "-atime": _age("a", "days"),
    "-cmin": _age("c", "minutes"),
    "-cnewer": _newer("c"),
    "-ctime": _age("c", "days"),
    "-d": _option(_depth),
    "-daystart": _option(_daystart),
    "-depth": _option(_depth),
    "-empty": Primary(lambda *_: tests.empty_test(), takes_argument=False),
    "-false": _node(tests.FALSE),
    "-gid": _numbers(tests.gid_test),
    "-group": Primary(_group),
    "-ignore_readdir_race": _node(tests.TRUE),
    "-ilname": _pattern(tests.link_name_test, fold=True),
    "-iname": _pattern(tests.name_test, fold=True),
    "-inum": _numbers(tests.inode_test),
    "-ipath": _path(fold=True),
    "-iregex": _regex(fold=True),
    "-iwholename": _path(fold=True),
    "-links": _numbers(tests.links_test),
    "-lname": _pattern(tests.link_name_test),
    "-ls": _node(PrintDetails()),
    "-maxdepth": Primary(_depth_limit),
    "-mindepth": Primary(_depth_limit),
    "-mmin": _age("m", "minutes"),
    "-mount": _node(tests.TRUE),
    "-mtime": _age("m", "days"),
    "-name": _pattern(tests.name_test),
    "-newer": _newer("m"),
    "-nogroup": Primary(lambda *_: tests.no_group_test(), takes_argument=False),
    "-noignore_readdir_race": _node(tests.TRUE),
    "-noleaf": _node(tests.TRUE),
    "-nouser": Primary(lambda *_: tests.no_user_test(), takes_argument=False),
    "-nowarn": _node(tests.TRUE),
    "-path": _path(),
    "-perm": Primary(_permissions),
    "-print": _node(Print()),
    "-print0": _node(Print(b"\0")),
    "-printf": Primary(_printf),
    "-prune": _node(Prune()),
    "-quit": _node(Quit()),
    "-regex": _regex(),
    "-regextype": Primary(_regextype),
    "-samefile": Primary(_of_whole_image(_samefile)),
    "-size": Primary(lambda _context, _word, text: tests.size_test(text)),
    "-true": _node(tests.TRUE),
    "-type": Primary(
        lambda context, _word, text: tests.type_test(text, with_whiteouts=context.of_layers)
    ),
    "-uid": _numbers(tests.uid_test),
    "-used": Primary(lambda _context, _word, text: tests.used_test(text)),
    "-user": Primary(_user),
    "-warn": _node(tests.TRUE),
    "-wholename": _path(),
    "-xattr": Primary(lambda _, word, text: tests.xattr_test(_bytes_of(word, text))),
    "-xdev": _node(tests.TRUE),
    "-xtype": Primary(_of_whole_image(_xtype)),
}

_RUN = "mount the image and run find(1) there, or pipe -print0 to 'xargs -0'"
_WRITE = "redirect the output: find … >FILE"
_ACCESS = "the answer depends on a user; use -perm"
REFUSED: dict[str, str] = {  # with the advice for each
    "-context": "an image has no SELinux contexts of its own",
    "-delete": "an image does not change; mount it with a container, and delete there",
    "-exec": _RUN,
    "-execdir": _RUN,
    "-executable": f"{_ACCESS} /111",
    "-files0-from": "give the paths as operands",
    "-fls": _WRITE.replace("find …", "find … -ls"),
    "-follow": "symlinks are not followed; mount the image and run find(1) there",
    "-fprint": _WRITE,
    "-fprint0": _WRITE.replace("find …", "find … -print0"),
    "-fprintf": _WRITE.replace("find …", "find … -printf FORMAT"),
    "-fstype": "an image is in no file system",
    "-ok": _RUN,
    "-okdir": _RUN,
    "-readable": f"{_ACCESS} /444",
    "-writable": f"{_ACCESS} /222",
}
