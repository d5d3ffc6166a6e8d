"""The exit status of commands whose status 1 is an answer, such as ``grep`` and ``diff``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from unionmount.errors import UnionmountError
from unionmount.system.text import printable


@contextmanager
def failing_with(status: int) -> Iterator[None]:
    """Make the command exit with ``status`` if the block raises an error, but for a broken pipe."""
    try:
        yield
    except UnionmountError as error:
        error.exit_code = status
        raise
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{printable(os.fsdecode(error.filename))}: " if error.filename else ""
        trouble = UnionmountError(where + (error.strerror or str(error)))
        trouble.exit_code = status
        raise trouble from error
