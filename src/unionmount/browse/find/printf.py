"""-printf: a format, parsed once, and the values of its directives."""

from __future__ import annotations

import errno
import functools
import re
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unionmount.browse.find.expression import ExpressionError, Run
from unionmount.browse.find.numbers import number_up_to
from unionmount.browse.find.tests import target_mode
from unionmount.browse.find.times import local_time, parts_of
from unionmount.core.scan import Visit
from unionmount.system.text import printable

_ESCAPES = {
    "a": b"\a",
    "b": b"\b",
    "f": b"\f",
    "n": b"\n",
    "r": b"\r",
    "t": b"\t",
    "v": b"\v",
    "\\": b"\\",
}
_DIRECTIVE = re.compile(r"%([-+ #]*)([0-9]*)(?:\.([0-9]*))?")
_OCTAL = re.compile(r"[0-7]{1,3}")
_MAX_WIDTH = 65536  # a wider column is an error, not a request for memory
_TYPE_LETTERS = {
    stat.S_IFREG: b"f",
    stat.S_IFDIR: b"d",
    stat.S_IFLNK: b"l",
    stat.S_IFBLK: b"b",
    stat.S_IFCHR: b"c",
    stat.S_IFIFO: b"p",
    stat.S_IFSOCK: b"s",
}
_WITH_FRACTION = frozenset("STX@+")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_REFUSED = {
    "D": "an image has no device number",
    "F": "an image is in no file system",
    "Z": "an image has no SELinux contexts of its own",
}

Value = Callable[[Visit, Run], bytes]
Number = Callable[[Visit, Run], int]


@dataclass(frozen=True, slots=True)
class Printf:
    """-printf: a format of Python's for bytes, and the functions of its values."""

    form: bytes
    values: Sequence[Value | Number]

    def holds(self, visit: Visit, run: Run) -> bool:
        """Print the format for a file."""
        self.write((visit,), run)
        return True

    def write(self, visits: Sequence[Visit], run: Run) -> None:
        """Print the format for files."""
        form, values = self.form, self.values
        texts: list[bytes] = []
        try:
            texts.extend(form % tuple([value(visit, run) for value in values]) for visit in visits)
        finally:
            run.out.text(b"".join(texts))


# ---- values --------------------------------------------------------------------------------------


def _directory_name(visit: Visit, _: Run) -> bytes:
    path = visit.path.rstrip(b"/") or visit.path
    head, slash, _name = path.rpartition(b"/")
    return head if slash else b"."


def _below_start(visit: Visit, run: Run) -> bytes:
    if not visit.depth:
        return b""
    return visit.path[len(run.place.start) :].removeprefix(b"/")


def _base_name(visit: Visit, _: Run) -> bytes:
    if visit.depth:
        return visit.name
    path = visit.path
    end = len(path.rstrip(b"/"))
    return path[path.rfind(b"/", 0, end) + 1 :] if end else b"/"


def _target(visit: Visit, run: Run) -> bytes:
    if not stat.S_ISLNK(visit.mode):
        return b""
    return run.place.files.readlink(visit.node)


def _type(visit: Visit, _: Run) -> bytes:
    return _TYPE_LETTERS.get(stat.S_IFMT(visit.mode), b"U")


def _target_type(visit: Visit, run: Run) -> bytes:
    mode, code = target_mode(visit, run)
    if code:
        return {errno.ELOOP: b"L"}.get(code, b"N")
    return _TYPE_LETTERS.get(stat.S_IFMT(mode), b"U")


def _sparseness(visit: Visit) -> float:
    if not visit.size:
        return 1.0 if not visit.blocks else float("inf")
    return 512.0 * visit.blocks / visit.size


def _layer(visit: Visit, run: Run) -> bytes:
    number = visit.layer if run.place.layer is None else run.place.layer
    return b"%d" % number


def _mode_text(visit: Visit, _: Run) -> bytes:
    return _shown_mode(visit.mode)


@functools.lru_cache(maxsize=4096)
def _shown_mode(mode: int) -> bytes:
    return stat.filemode(mode).encode("ascii")


_NUMBERS: dict[str, Number] = {
    "b": lambda visit, _: visit.blocks,
    "G": lambda visit, _: visit.gid,
    "i": lambda visit, _: visit.node,
    "k": lambda visit, _: -(-visit.blocks // 2),
    "n": lambda visit, _: visit.links,
    "s": lambda visit, _: visit.size,
    "U": lambda visit, _: visit.uid,
}
_VALUES: dict[str, Value] = {
    "f": _base_name,
    "g": lambda visit, run: run.place.accounts.group(visit.gid).encode(),
    "h": _directory_name,
    "H": lambda _, run: run.place.start,
    "l": _target,
    "M": _mode_text,
    "p": lambda visit, _: visit.path,
    "P": _below_start,
    "u": lambda visit, run: run.place.accounts.user(visit.uid).encode(),
    "y": _type,
    "Y": _target_type,
}
_OWN: dict[str, Value] = {  # %{name}, which find reserves
    "layer": _layer,
    "state": lambda visit, run: str(run.place.file_state(visit)).encode("ascii"),
}
_TIMES: dict[str, Callable[[Visit], int]] = {
    "a": lambda visit: visit.atime_ns,
    "c": lambda visit: visit.ctime_ns,
    "t": lambda visit: visit.mtime_ns,
}


@functools.lru_cache(maxsize=65536)  # many files have the same time
def _ctime(ns: int) -> bytes:
    """Format a time like ctime(3), with a fraction."""
    seconds, nano = parts_of(ns)
    local = local_time(seconds)
    if local is None:
        return b"%d.%09d0" % (seconds, nano)
    day, month = _DAYS[local.tm_wday], _MONTHS[local.tm_mon - 1]
    clock = f"{local.tm_hour:02d}:{local.tm_min:02d}:{local.tm_sec:02d}.{nano:09d}0"
    return f"{day} {month} {local.tm_mday:2d} {clock} {local.tm_year:04d}".encode("ascii")


@functools.lru_cache(maxsize=65536)
def _date(ns: int, kind: str) -> bytes:
    """Format a part of a time as strftime(3), with a fraction behind seconds."""
    seconds, nano = parts_of(ns)
    fraction = f".{nano:09d}0" if kind in _WITH_FRACTION else ""
    local = local_time(seconds) if kind != "@" else None
    if local is None:
        return f"{seconds}{fraction}".encode("ascii")
    form = "%F+%T" if kind == "+" else f"%{kind}"
    text = time.strftime(form, local)
    if fraction:
        text = _with_fraction(text, form, local, fraction)
    return text.encode("utf-8", "surrogateescape")


def _with_fraction(text: str, form: str, local: time.struct_time, fraction: str) -> str:
    """Insert a fraction behind the seconds: the two digits that change with them."""
    second = local.tm_sec - 11 if local.tm_sec >= 11 else local.tm_sec + 11
    other = time.strftime(form, (*local[:5], second, *local[6:]))
    if len(other) != len(text):
        return text
    differing = [at for at, pair in enumerate(zip(text, other, strict=True)) if pair[0] != pair[1]]
    if len(differing) != 2 or differing[1] != differing[0] + 1:
        return text
    end = differing[1] + 1
    if text[end : end + 1].isdigit():
        return text
    return text[:end] + fraction + text[end:]


# ---- columns -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Column:
    """Flags, width and precision of a directive."""

    flags: str
    width: int
    precision: int | None

    def text(self, value: bytes) -> bytes:
        """Return a string in the column."""
        if self.precision is not None:
            value = value[: self.precision]
        return value.ljust(self.width) if "-" in self.flags else value.rjust(self.width)

    def around(self, value: Value) -> Value:
        """Return a function that puts its value in the column."""
        if not self.width and self.precision is None:
            return value
        return lambda visit, run: self.text(value(visit, run))

    def digits(self, text: str) -> bytes:
        """Return the digits of a number in the column, with an optional sign."""
        if self.precision is not None:
            text = "" if not self.precision and text == "0" else text.rjust(self.precision, "0")
        return self._sized(text, zeros=self.precision is None)

    def _sized(self, text: str, *, zeros: bool) -> bytes:
        if "-" in self.flags:
            return text.ljust(self.width).encode("ascii")
        if "0" in self.flags and zeros:
            return text.rjust(self.width, "0").encode("ascii")
        return text.rjust(self.width).encode("ascii")

    def decimal(self, value: int) -> bytes:
        """Return a number that is not negative as %d."""
        sign = "+" if "+" in self.flags else " " if " " in self.flags else ""
        digits = str(value)
        if self.precision is not None:
            digits = digits.rjust(self.precision, "0") if self.precision or value else ""
        elif "0" in self.flags and "-" not in self.flags:
            digits = digits.rjust(self.width - len(sign), "0")
        return self._sized(sign + digits, zeros=False)

    def octal(self, value: int) -> bytes:
        """Return a number as %o."""
        digits = f"{value:o}"
        if "#" in self.flags and value:
            digits = "0" + digits
        return self.digits(digits)

    def floating(self, value: float) -> bytes:
        """Return a number as %g."""
        form = f"%{self.flags}{self.width or ''}"
        form += f".{self.precision}g" if self.precision is not None else "g"
        return (form % value).encode("ascii")


_NO_COLUMN = _Column("", 0, None)

# ---- parsing -------------------------------------------------------------------------------------


class FormatParser:
    """A parser of formats, which collects warnings."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.follows = False  # a directive asks for the target of symlinks
        self._form = bytearray()
        self._values: list[Value | Number] = []
        self.warnings: list[str] = []

    def parse(self) -> Printf:
        """Return the action; raise ExpressionError if the format is not valid."""
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == "\\":
                if self._text.startswith("\\c", self._at):  # nothing after it is printed
                    break
                self._escape()
            elif character == "%":
                self._directive()
            else:
                self._literal(character)
                self._at += 1
        return Printf(bytes(self._form), tuple(self._values))

    def _literal(self, text: str) -> None:
        self._bytes(text.encode("utf-8", "surrogateescape"))

    def _bytes(self, data: bytes) -> None:
        self._form += data.replace(b"%", b"%%")

    def _value(self, value: Value | Number, conversion: bytes = b"%b") -> None:
        self._form += conversion
        self._values.append(value)

    def _escape(self) -> None:
        after = self._text[self._at + 1 : self._at + 2]
        octal = _OCTAL.match(self._text, self._at + 1)
        if octal is not None:
            self._bytes(bytes([int(octal[0], 8) & 0xFF]))
            self._at = octal.end()
        elif after in _ESCAPES:
            self._bytes(_ESCAPES[after])
            self._at += 2
        else:
            if after:
                self.warnings.append(f"unrecognized escape `\\{printable(after)}'")
            else:
                self.warnings.append("escape `\\' followed by nothing at all")
            self._literal("\\" + after)
            self._at += 2

    def _directive(self) -> None:
        if self._at + 1 == len(self._text):
            raise ExpressionError("find: error: % at end of format string")
        if self._text[self._at + 1] == "%":
            self._literal("%")
            self._at += 2
            return
        match = _DIRECTIVE.match(self._text, self._at)
        assert match is not None
        column, end = _column(match), match.end()
        letter = self._text[end : end + 1]
        if letter == "{":
            self._own(column, end)
            return
        length = 2 if letter and letter in "ABCT" else 1
        number = _plain_number(letter, column)
        if number is not None:
            self._value(*number)
        elif (value := _value(letter, self._text[end + 1 : end + 2], column)) is not None:
            self.follows = self.follows or letter == "Y"
            self._value(value)
        else:
            self._unknown(letter, end)
            return
        self._at = end + length

    def _own(self, column: _Column, brace: int) -> None:
        end = self._text.find("}", brace)
        value = _OWN.get(self._text[brace + 1 : end]) if end > 0 else None
        if value is None:
            known = ", ".join(f"%{{{name}}}" for name in _OWN)
            raise ExpressionError(
                "find: error: the format directive `%{' is reserved for future use; "
                f"unionmount has {known}"
            )
        self._value(column.around(value))
        self._at = end + 1

    def _unknown(self, letter: str, end: int) -> None:
        if letter and letter in "[(":
            message = f"find: error: the format directive `%{letter}' is reserved for future use"
            raise ExpressionError(message)
        shown = printable(letter)
        if letter and letter in "ABCT":
            self.warnings.append(
                f"format directive `%{shown}' should be followed by another character"
            )
        else:
            self.warnings.append(f"unrecognized format directive `%{shown}'")
        self._literal(self._text[self._at : end + 1])
        self._at = end + 1


def _column(match: re.Match[str]) -> _Column:
    flags, width = match[1], match[2]
    if width.startswith("0"):
        flags += "0"
    wide, precision = number_up_to(_MAX_WIDTH, width), number_up_to(_MAX_WIDTH, match[3] or "")
    if wide is None or precision is None:
        raise ExpressionError(f"find: a column of -printf is wider than {_MAX_WIDTH} characters")
    return _Column(flags, wide, None if match[3] is None else precision)


def _plain_number(letter: str, column: _Column) -> tuple[Number, bytes] | None:
    """Return the function and the conversion of a number without a column; None for the rest."""
    if column != _NO_COLUMN:
        return None
    if letter == "m":
        return lambda visit, _: visit.mode & 0o7777, b"%o"
    if letter == "d":
        return lambda visit, _: visit.depth, b"%d"
    return (_NUMBERS[letter], b"%d") if letter in _NUMBERS else None


def _value(letter: str, after: str, column: _Column) -> Value | None:
    """Return the function of a directive; None if there is no such directive."""
    if letter in _REFUSED:
        raise ExpressionError(f"find: '%{letter}' is not supported: {_REFUSED[letter]}")
    if letter == "d":
        return lambda visit, _: column.decimal(visit.depth)
    if letter == "m":
        return lambda visit, _: column.octal(visit.mode & 0o7777)
    if letter == "S":
        return lambda visit, _: column.floating(_sparseness(visit))
    if letter in _TIMES:
        time_of = _TIMES[letter]
        return column.around(lambda visit, _: _ctime(time_of(visit)))
    if letter and letter in "ABCT" and after:
        return _part_of_time(letter, after, column)
    number = _NUMBERS.get(letter)
    if number is not None:
        return column.around(lambda visit, run: b"%d" % number(visit, run))
    value = _VALUES.get(letter)
    return None if value is None else column.around(value)


def _part_of_time(letter: str, kind: str, column: _Column) -> Value:
    if letter == "B":
        raise ExpressionError("find: '%B' is not supported: a layer has no birth times")
    of = _TIMES["t" if letter == "T" else letter.lower()]
    return column.around(lambda visit, _: _date(of(visit), kind))
