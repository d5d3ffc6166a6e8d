"""The search for lines in the files of images, in as many threads as there are processors.

The threads search batches of files. Results are yielded in the order of the walk, so they do not
depend on the number of threads. A few batches are in work at a time, and a file whose output is
large is searched when its turn comes: so memory does not grow with the image or the output.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Semaphore, Thread

from unionmount import core
from unionmount.system.attentive_wait import wait_for
from unionmount.system.text import printable

_MOST_THREADS = 8
_PIECES = 4  # of the output of a large file that wait to be written
_WAITING = 3  # batches for each thread that are in work or done, but not yet yielded


@dataclass(frozen=True, slots=True)
class Origin:
    """Where files come from: an image, and with --all-layers one of its layers."""

    image: str
    layer: int | None = None
    diff_id: str = ""

    def prefix(self, *, with_image: bool) -> bytes:
        """Return what is printed before paths."""
        image = f"{printable(self.image)}:" if with_image else ""
        layer = "" if self.layer is None else f"{self.layer}:{self.diff_id}:"
        return (image + layer).encode()


class _Task:
    """A batch that a thread searches."""

    def __init__(self, origin: Origin, batch: core.SearchBatch) -> None:
        self.origin = origin
        self.batch = batch
        self.done = Event()
        self.failure: BaseException | None = None

    def run(self, searcher: core.Searcher) -> None:
        """Search the batch; what goes wrong is raised when the result is taken."""
        try:
            searcher.run(self.batch)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self.failure = error
        self.done.set()


class _Stream:
    """The output of one large file, from a thread of its own: so the taker can be interrupted."""

    def __init__(self, search: Callable[[Callable[[bytes], object]], core.SearchEvent]) -> None:
        self._search = search
        self._pieces: SimpleQueue[bytes | None] = SimpleQueue()
        self._room = Semaphore(_PIECES)
        self._ended = False
        self._event: core.SearchEvent | None = None
        self._failure: BaseException | None = None
        self._began = False
        self._done = Event()

    def take(self, write: Callable[[bytes], object]) -> core.SearchEvent:
        """Write the pieces as they come, and return the event."""
        self._began = True
        Thread(target=self._run, daemon=True).start()
        while (piece := self._pieces.get()) is not None:
            self._room.release()
            write(piece)
        if self._failure is not None:
            raise self._failure
        assert self._event is not None
        return self._event

    def end(self, seconds: float) -> bool:
        """Take no more pieces, wait so long for the thread, and return whether it ended."""
        self._ended = True
        self._room.release()
        return not self._began or self._done.wait(seconds)

    def _run(self) -> None:
        try:
            self._event = self._search(self._put)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self._failure = error
        self._done.set()
        self._pieces.put(None)

    def _put(self, piece: bytes) -> None:
        self._room.acquire()
        if self._ended:
            self._room.release()  # for the next piece
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        self._pieces.put(piece)


@dataclass(frozen=True, slots=True)
class Result:
    """What was found in files of ``origin``; ``stream`` writes the output of a large one."""

    origin: Origin
    event: core.SearchEvent
    stream: Callable[[Callable[[bytes], object], bool], core.SearchEvent]


class LineSearch:
    """A search with one setup; ends its threads at ``stop``.

    Raise UsageError if an expression is wrong.
    """

    def __init__(self, setup: core.SearchSetup, threads: int | None = None) -> None:
        self._setup = setup
        self._cancel = core.Cancellation()
        self._searcher = core.Searcher(setup, self._cancel)  # of streams, one at a time
        self._wanted = threads or min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        self._threads: list[Thread] = []
        self._searchers: list[core.Searcher] = []
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._pending: deque[_Task] = deque()
        self._streaming: _Stream | None = None

    def results(self, walks: Iterable[tuple[Origin, core.SearchWalk]]) -> Iterator[Result]:
        """Yield what is found in the files of walks, in their order.

        A walk must stay open until all its results were taken.
        """
        for origin, walk in walks:
            for batch in walk.batches():
                self._give(_Task(origin, batch))
                while len(self._pending) >= _WAITING * self._wanted:
                    yield from self._take()
            while self._pending:
                yield from self._take()

    def stop(self, seconds: float) -> bool:
        """Stop what is in work, and wait so long for its end.

        Return False if a thread is still busy: the C library may take hours for one line. Then
        nothing of the image may be closed.
        """
        self._cancel.set()
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + seconds
        ended = self._streaming is None or self._streaming.end(seconds)
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0))
        if not ended or any(thread.is_alive() for thread in self._threads):
            return False
        self._threads, self._streaming = [], None
        for task in self._pending:
            task.batch.close()
        self._pending.clear()
        for searcher in (*self._searchers, self._searcher):
            searcher.close()
        return True

    def _give(self, task: _Task) -> None:
        if len(self._threads) < min(self._wanted, len(self._pending) + 1):
            self._add_thread()
        self._pending.append(task)
        self._tasks.put(task)

    def _add_thread(self) -> None:
        searcher = core.Searcher(self._setup, self._cancel)
        self._searchers.append(searcher)
        thread = Thread(target=self._work, args=(searcher,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, searcher: core.Searcher) -> None:
        while (task := self._tasks.get()) is not None:
            task.run(searcher)

    def _take(self) -> Iterator[Result]:
        """Yield the results of the first batch."""
        task = self._pending[0]
        wait_for(task.done)
        try:
            if task.failure is not None:
                raise task.failure
            for event in task.batch.events():
                yield Result(task.origin, event, self._stream(task.batch, event))
        finally:
            if self._streaming is None and task in self._pending:  # else stop() closes the batch
                self._pending.remove(task)
                task.batch.close()

    def _stream(
        self, batch: core.SearchBatch, event: core.SearchEvent
    ) -> Callable[[Callable[[bytes], object], bool], core.SearchEvent]:
        def search(write: Callable[[bytes], object], groups: bool) -> core.SearchEvent:
            return self._searcher.stream(batch, event.file, write, groups=groups)

        def stream(write: Callable[[bytes], object], groups: bool) -> core.SearchEvent:
            if self._setup.find is not None:  # only the main thread can interrupt Python's re
                return search(write, groups)
            self._streaming = _Stream(lambda put: search(put, groups))
            found = self._streaming.take(write)
            self._streaming = None
            return found

        return stream
