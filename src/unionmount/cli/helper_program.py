"""Exit statuses and one-line messages of the helpers of mount(8) and umount(8)."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from unionmount.cli import open_standard_streams
from unionmount.errors import UnionmountError, UsageError
from unionmount.system.text import printable

USAGE, SYSTEM, SOFTWARE, INTERRUPTED, FAILED = 1, 2, 4, 8, 32  # as mount(8) has them

_SYSTEM_ERRORS = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)


def run_helper(action: Callable[[], int]) -> int:
    """Return the exit status that ``action`` returns, or that of its error, which is told."""
    open_standard_streams()
    try:
        return action()
    except UsageError as error:
        return _complain(str(error), USAGE)
    except UnionmountError as error:
        return _complain(str(error), FAILED)
    except MemoryError:
        return _complain("out of memory", SYSTEM)
    except OSError as error:
        where = f"{printable(os.fsdecode(error.filename))}: " if error.filename else ""
        status = SYSTEM if error.errno in _SYSTEM_ERRORS else FAILED
        return _complain(where + (error.strerror or str(error)), status)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort of the program
        return _complain(f"internal error: {type(error).__name__}: {error}", SOFTWARE)


def program_name() -> str:
    """Return the name under which mount(8) found this program."""
    return Path(sys.argv[0]).name


def _complain(text: str, status: int) -> int:
    line = "".join(c if c.isprintable() else printable(c) for c in text)
    print(f"{program_name()}: {line}", file=sys.stderr)
    return status
