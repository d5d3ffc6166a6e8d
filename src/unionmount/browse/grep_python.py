"""Lines and matches by regular expressions of Python, for ``grep -P``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from unionmount.errors import UsageError

Places = Callable[[memoryview, int], tuple[int, int] | None]


def python_find(
    patterns: Sequence[bytes], *, icase: bool, words: bool, lines: bool, nul_data: bool
) -> Places:
    """Return the function that a search asks for lines and matches (see ``core.Find``).

    Text is UTF-8; a byte that is not becomes one of U+DC80 to U+DCFF. Several patterns are
    alternatives. Raise UsageError if one is wrong.
    """
    compiled = _compile(patterns, icase=icase, words=words, lines=lines)
    end = b"\0" if nul_data else b"\n"

    def find(buffer: memoryview, start: int) -> tuple[int, int] | None:
        data = bytes(buffer)
        if start >= 0:
            return _match(compiled, data[:-1], start)
        at = 0
        for line in _lines(data, end):
            if compiled.search(line.decode("utf-8", "surrogateescape")):
                return at, len(line) + 1
            at += len(line) + 1
        return None

    return find


def _compile(
    patterns: Sequence[bytes], *, icase: bool, words: bool, lines: bool
) -> re.Pattern[str]:
    flags = re.IGNORECASE if icase else re.NOFLAG
    texts = []
    for pattern in patterns:
        text = pattern.decode("utf-8", "surrogateescape")
        try:
            re.compile(text, flags)
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"the expression is not valid: {error}") from error
        texts.append(f"(?:{text})" if len(patterns) > 1 or words or lines else text)
    whole = "|".join(texts)
    if lines:
        whole = rf"\A(?:{whole})\Z"
    elif words:
        whole = rf"(?<!\w)(?:{whole})(?!\w)"
    try:
        return re.compile(whole, flags)
    except re.error as error:  # such as a group that two patterns have
        raise UsageError(f"the expressions cannot be combined: {error}") from error


def _lines(data: bytes, end: bytes) -> Iterator[bytes]:
    """Yield lines without their ends; the data ends with one."""
    at = 0
    while at < len(data):
        stop = data.index(end, at)
        yield data[at:stop]
        at = stop + 1


def _match(compiled: re.Pattern[str], line: bytes, start: int) -> tuple[int, int] | None:
    text = line.decode("utf-8", "surrogateescape")
    skipped = len(line[:start].decode("utf-8", "surrogateescape"))
    found = compiled.search(text, skipped)
    if found is None:
        return None
    before = _size(text[: found.start()])
    return before, _size(found[0])


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
