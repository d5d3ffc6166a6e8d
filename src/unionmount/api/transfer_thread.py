"""A transfer in a thread of its own, whose progress is told in the thread that waits for it.

Transfers run under trio. The thread that calls one may itself run trio or asyncio, or be a worker
of either, so the transfer gets a thread and an event loop of its own. The caller waits for it and
meanwhile calls the function for progress. So whatever interrupts the caller (Ctrl-C, or an
exception of that function) cancels the transfer, which removes its incomplete files; only then is
the interruption passed on.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import trio

    from unionmount.store.layer_import import Progress

T = TypeVar("T")

_LOOK = 0.1  # seconds between two looks at a thread that is to end


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """How much of a layer has arrived or was sent; the first digits of its digest name it.

    ``bytes`` counts from 0 to ``total``, which is None while it is not known. Several layers are
    transferred at once, and one that fails may begin again.
    """

    layer: str
    bytes: int
    total: int | None


class _StoppedError(Exception):
    """Ends a thread of a transfer whose caller was interrupted."""


class _Report:
    """A report, and whether the caller has taken it."""

    def __init__(self, report: TransferProgress) -> None:
        self.report = report
        self.taken: threading.Event = threading.Event()


class TransferThread(Generic[T]):
    """One transfer in a thread; ``tell`` gets its progress in the thread that calls ``run``."""

    def __init__(
        self,
        work: Callable[[Progress | None], Awaitable[T]],
        tell: Callable[[TransferProgress], object] | None,
    ) -> None:
        self._work = work
        self._tell = tell
        self._reports: queue.SimpleQueue[_Report | None] = queue.SimpleQueue()  # None at the end
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope: trio.CancelScope | None = None
        self._stopped = False
        self._values: list[T] = []
        self._failure: BaseException | None = None

    def run(self) -> T:
        """Run the transfer to its end; raise its error, or the one of ``tell``."""
        thread = threading.Thread(target=self._run, name="unionmount transfer")
        try:
            thread.start()
            while (told := self._next_report()) is not None:
                if self._tell is not None:
                    self._tell(told.report)
                told.taken.set()
        except BaseException:
            self._stop(thread)
            raise
        thread.join()
        if self._failure is not None:
            raise self._failure
        return self._values[0]

    # -- in the thread of the caller

    def _next_report(self) -> _Report | None:
        """Wait for a report; system/attentive_wait.py says why not in one piece."""
        while True:
            with suppress(queue.Empty):
                return self._reports.get(timeout=_LOOK)

    def _stop(self, thread: threading.Thread) -> None:
        """Cancel the transfer, and wait until it has removed what is incomplete."""
        self._stopped = True
        while thread.is_alive():
            with suppress(KeyboardInterrupt, queue.Empty):  # an interruption is raised already
                self._cancel()
                if (told := self._reports.get(timeout=_LOOK)) is not None:
                    told.taken.set()
        thread.join()

    def _cancel(self) -> None:
        import trio

        if self._token is not None and self._scope is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._scope.cancel)

    # -- in the thread of the transfer

    def _run(self) -> None:
        import trio

        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self._failure = error
        finally:
            self._reports.put(None)

    async def _main(self) -> None:
        import trio

        with trio.CancelScope() as self._scope:
            self._token = trio.lowlevel.current_trio_token()
            if self._stopped:
                self._scope.cancel()
            self._values.append(await self._work(None if self._tell is None else self._report))

    def _report(self, what: str, done: int, total: int | None) -> None:
        """Hand a report to the caller, in a thread of trio's, and wait until it was taken."""
        if not self._stopped:
            told = _Report(TransferProgress(what, done, total))
            self._reports.put(told)
            while not told.taken.wait(_LOOK) and not self._stopped:
                pass
        if self._stopped:
            raise _StoppedError
