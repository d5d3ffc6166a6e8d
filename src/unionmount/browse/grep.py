"""The search for lines in the files of images, in as many threads as there are processors.

The threads search batches of files. Results are yielded in the order of the walk, so they do not
depend on the number of threads. A few batches are in work at a time, and a file whose output is
large is searched when its turn comes: so memory does not grow with the image or the output.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread

from unionmount import core
from unionmount.system.closing import Closing
from unionmount.system.text import printable

_MOST_THREADS = 8
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


@dataclass(frozen=True, slots=True)
class Result:
    """What was found in files of ``origin``; ``stream`` writes the output of a large one."""

    origin: Origin
    event: core.SearchEvent
    stream: Callable[[Callable[[bytes], object], bool], core.SearchEvent]


class LineSearch(Closing):
    """A search with one setup; ends its threads when it is closed.

    Raise UsageError if an expression is wrong.
    """

    def __init__(self, setup: core.SearchSetup, threads: int | None = None) -> None:
        self._setup = setup
        self._cancel = core.Cancellation()
        self._searcher = core.Searcher(setup, self._cancel)  # of the thread that takes the results
        self._wanted = threads or min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        self._threads: list[Thread] = []
        self._searchers: list[core.Searcher] = []
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._pending: deque[_Task] = deque()

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

    def close(self) -> None:
        """Stop what is in work, and wait for its end; a second call does nothing."""
        self.stop(None)

    def stop(self, seconds: float | None) -> bool:
        """Stop what is in work, and wait so long for its end.

        Return False if a thread is still busy: the C library may take hours for one line. Then
        nothing of the image may be closed.
        """
        self._cancel.set()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(seconds)
        if any(thread.is_alive() for thread in self._threads):
            return False
        self._threads = []
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
        task.done.wait()
        self._pending.popleft()
        with task.batch:
            if task.failure is not None:
                raise task.failure
            for event in task.batch.events():
                yield Result(task.origin, event, self._stream(task.batch, event))

    def _stream(
        self, batch: core.SearchBatch, event: core.SearchEvent
    ) -> Callable[[Callable[[bytes], object], bool], core.SearchEvent]:
        return lambda write, groups: self._searcher.stream(batch, event.file, write, groups=groups)
