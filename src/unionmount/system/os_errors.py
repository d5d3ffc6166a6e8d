"""Errors of the operating system, with the names of the files that they are about."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unionmount.errors import StoreError, UnionmountError
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path


def reason_of(error: OSError) -> str:
    """Return the text of an error, with the limit if the process has too many open files."""
    if error.errno == errno.EMFILE:
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"{os.strerror(error.errno)} (the limit is {allowed}, see ulimit -n)"
    return error.strerror or str(error)


@contextmanager
def naming(where: Path | str) -> Iterator[None]:
    """Make an OSError in the block name ``where``; a broken pipe is not an error of the file."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, reason_of(error), str(where)) from error


@contextmanager
def raising(kind: type[UnionmountError], where: Path | str) -> Iterator[None]:
    """Turn an OSError in the block into an error of ``kind`` that names ``where``."""
    try:
        yield
    except OSError as error:
        raise kind(f"{printable(str(where))}: {reason_of(error)}") from error


def storing(where: Path | str) -> AbstractContextManager[None]:
    """Turn an OSError in the block into a StoreError that names ``where``."""
    return raising(StoreError, where)
