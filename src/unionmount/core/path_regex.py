"""Regular expressions for whole paths, as find(1) has them (``base/path_regex.h``)."""

from __future__ import annotations

import errno
from typing import Any

from unionmount._core import ffi, lib
from unionmount.core.handle import Owner, check
from unionmount.errors import FormatError
from unionmount.system.attentive_wait import call_attentively
from unionmount.system.text import printable

SYNTAXES = (
    "findutils-default",
    "ed",
    "emacs",
    "gnu-awk",
    "grep",
    "posix-awk",
    "awk",
    "posix-basic",
    "posix-egrep",
    "egrep",
    "posix-extended",
    "posix-minimal-basic",
    "sed",
)
"""The values of -regextype."""


class PathRegex(Owner):
    """A compiled expression in one of ``SYNTAXES``; raise FormatError if it is not valid.

    The C library compiles some expressions for minutes; Ctrl-C ends that.
    """

    def __init__(self, pattern: bytes, syntax: str, *, fold_case: bool = False) -> None:
        out, message = ffi.new("struct um_path_regex **"), ffi.new("const char **")
        words = (syntax.encode("ascii"), pattern, len(pattern), fold_case, out, message)
        code = call_attentively(lambda: int(lib.um_path_regex_open(*words)))
        if code == -errno.EINVAL and message[0]:
            reason = printable(bytes(ffi.string(message[0])))
            raise FormatError(
                f"failed to compile regular expression '{printable(pattern)}': {reason}"
            )
        check(code)
        self._handle = out[0]

    def _release(self, handle: Any) -> None:
        lib.um_path_regex_close(handle)

    def matches(self, path: bytes) -> bool:
        """Return whether the expression matches the whole path."""
        return bool(lib.um_path_regex_matches(self._handle, path, len(path)))
