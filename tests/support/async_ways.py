"""The three ways to use a block of the API: without a library, under trio, under asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

import unionmount

WAYS = ("blocking", "trio", "asyncio")


def run_in(way: str, work: Callable[[], Awaitable[None]]) -> None:
    """Run a function to its end, under a library or under none."""

    async def coroutine() -> None:
        await work()

    if way == "trio":
        trio.run(coroutine)
    elif way == "asyncio":
        asyncio.run(coroutine())
    else:
        running = coroutine()
        try:
            running.send(None)
        except StopIteration:
            return
        running.close()
        raise AssertionError("it waited for a library that is not there")


@asynccontextmanager
async def entered(way: str, block: unionmount.MountBlock) -> AsyncIterator[unionmount.Mounted]:
    """Enter a block by ``with`` or by ``async with``."""
    if way == "blocking":
        with block as mounted:
            yield mounted
    else:
        async with block as mounted:
            yield mounted
