"""Store → docker daemon: an image as an archive of ``docker save`` that is never on disk."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import trio

from unionmount.engine import EngineClient, EngineEndpoint
from unionmount.transfer.blobs import cancelling
from unionmount.transfer.image_files import TarWriter
from unionmount.transfer.save import ImageToSave, save

if TYPE_CHECKING:
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import Store

_WAITING = 4  # pieces that the writing thread may be ahead of the connection


async def send(store: Store, wanted: ImageToSave, what: str, progress: Progress | None) -> None:
    """Send an image of a store, under its names, to the daemon of the environment.

    If the image cannot be read to its end, the request is broken off, so that the daemon keeps
    nothing.
    """
    sender, receiver = trio.open_memory_channel[bytes](_WAITING)
    failures: list[Exception] = []

    def write() -> None:
        writer = TarWriter(lambda data: trio.from_thread.run(sender.send, data))
        save(store, [wanted], writer, "docker-archive", progress=cancelling(progress))
        writer.finish()

    async def read(scope: trio.CancelScope) -> None:
        try:
            await trio.to_thread.run_sync(write)
            await sender.aclose()
        except trio.BrokenResourceError:  # the request has ended, and knows why
            return
        except Exception as error:  # noqa: BLE001 - raised below, out of the nursery
            failures.append(error)
            scope.cancel()

    async def body() -> AsyncGenerator[bytes, None]:
        async with receiver:
            async for piece in receiver:
                yield piece

    endpoint = EngineEndpoint.find(os.environ)
    async with EngineClient(endpoint, os.environ) as client, trio.open_nursery() as nursery:
        nursery.start_soon(read, nursery.cancel_scope)
        try:
            await client.load(body, what)
        except Exception as error:  # noqa: BLE001 - likewise
            failures.append(error)
        nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]
