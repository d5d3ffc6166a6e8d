"""The entry points of the programs, which an interrupt ends without a word while Python imports.

Python turns SIGINT into KeyboardInterrupt from its own start on, and prints a traceback if that
arrives in the middle of an import. So SIGINT has its default action, which ends the process, from
the import of this module until the program can report an interruption; the scripts in
``programs/`` set it a little earlier. An ignored signal stays ignored. Nothing can be done about
the time before, in which Python starts. Nothing else is imported at first: that takes time.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # "signal" imports a lot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_INTERRUPTED = 130

_is_interruptible = _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN


def _end_at_interrupt() -> None:
    if _is_interruptible:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)


_end_at_interrupt()


def unionmount() -> NoReturn:
    """Run ``unionmount``."""
    from unionmount.cli import main  # noqa: PLC0415

    _run(main)


def overlay() -> NoReturn:
    """Run ``unionmount-overlay``."""
    from unionmount.cli import overlay as main  # noqa: PLC0415

    _run(main)


def mount_helper() -> NoReturn:
    """Run ``mount.unionmount``."""
    from unionmount.cli.mount_helper import main  # noqa: PLC0415

    _run(main)


def umount_helper() -> NoReturn:
    """Run ``umount.fuse.unionmount``."""
    from unionmount.cli.umount_helper import main  # noqa: PLC0415

    _run(main)


def _run(main: Callable[[], int]) -> NoReturn:
    """Run a program that reports interruptions itself, and end the process with its status."""
    from unionmount.cli import leave  # noqa: PLC0415

    status = _INTERRUPTED
    try:
        try:
            if _is_interruptible:
                _signal.signal(_signal.SIGINT, _signal.default_int_handler)
            status = main()
        finally:
            _end_at_interrupt()
    except KeyboardInterrupt:  # before or after the program's own handling
        pass
    leave(status)
