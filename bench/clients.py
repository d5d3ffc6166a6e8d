"""Several clients of a mount at the same time, each a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from multiprocessing import get_context

from bench.measuring import UnableError

Work = tuple[Callable[..., object], tuple[object, ...]]


def at_once(works: Sequence[Work]) -> None:
    """Call functions in processes that start together; those left end when one is interrupted."""
    context = get_context("fork")
    running = [context.Process(target=function, args=words) for function, words in works]
    try:
        for one in running:
            one.start()
        for one in running:
            one.join()
    finally:
        for one in running:
            if one.is_alive():
                one.kill()
    if any(one.exitcode for one in running):
        raise UnableError("a process failed")
