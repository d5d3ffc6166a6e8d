"""Handles of C objects, which are closed exactly once, and errors of C as exceptions."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from unionmount._core import ffi, lib
from unionmount.errors import FormatError, LimitExceeded
from unionmount.system.closing import Closing

MEMORY_VARIABLE = "UNIONMOUNT_MAX_INDEX_MEMORY"  # sets IndexLimits.max_memory (layer.ImportLimits)
_PATH_MAX = 4096

uncleared = ffi.new_allocator(should_clear_after_alloc=False)  # for buffers that C fills


class Owner(Closing):
    """An owned C object with an idempotent ``close``."""

    _handle: Any = None

    def close(self) -> None:
        """Release the C object; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            self._release(handle)

    def _release(self, handle: Any) -> None:
        raise NotImplementedError

    def __del__(self) -> None:
        self.close()


def fault_error(code: int, fault: Any, what: str) -> Exception:
    """Return the exception for an error of C in untrusted input, with position and reason."""
    text = ffi.string(fault.text).decode("ascii", "replace")
    reason = f"{text} (at byte {fault.offset})" if text else os.strerror(-code)
    where = f"{what}: {reason}"
    if -code in (errno.EFBIG, errno.E2BIG):
        return LimitExceeded(where)
    if -code == errno.ENOBUFS:
        return memory_error(where)
    if -code in (errno.EBADMSG, errno.ESTALE):
        return FormatError(where)
    return OSError(-code, reason, what)


def memory_error(text: str) -> LimitExceeded:
    """Return the exception for input that needs more memory than the limit allows."""
    return LimitExceeded(f"{text} (the limit; {MEMORY_VARIABLE} changes it)")


def check(code: int) -> int:
    """Turn a negative errno of C into OSError."""
    if code < 0:
        raise OSError(-code, os.strerror(-code))
    return code


def flag_bits(chosen: Any, prefix: str) -> int:
    """Sum the constants of C for the fields of a dataclass that are true.

    A field ``x`` stands for the constant ``PREFIX_X``.
    """
    names = (field.name for field in fields(chosen) if getattr(chosen, field.name))
    return sum(int(getattr(lib, prefix + name.upper())) for name in names)


def sized_text(function: Callable[[Any, int], int]) -> bytes:
    """Return the bytes that ``function`` copies into (buffer, size); size 0 asks for the size."""
    while True:
        size = check(function(ffi.NULL, 0))
        if size == 0:
            return b""
        value = uncleared("char[]", size)
        try:
            n = check(function(value, size))
        except OSError as error:
            if error.errno != errno.ERANGE:  # it has grown meanwhile
                raise
        else:
            return bytes(ffi.buffer(value, n))


def grown_text(function: Callable[[Any, int], int]) -> bytes:
    """Return the bytes that ``function``, which returns the size, copies into (buffer, size)."""
    size = _PATH_MAX
    while True:
        buffer = uncleared("char[]", size)
        n = check(function(buffer, size))
        if n <= size:
            return bytes(ffi.buffer(buffer, n))
        size = n


def take_text(memory: Any, size: int) -> bytes:
    """Copy bytes that C allocated, and free them."""
    try:
        return bytes(ffi.buffer(memory, size))
    finally:
        lib.um_free(memory)
