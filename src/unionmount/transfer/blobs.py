"""The transfer of blobs between registries, files and the store, shared by pull, push and copy."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import trio

from unionmount.errors import (
    DigestMismatch,
    LimitExceeded,
    NotFoundError,
    RegistryError,
    SizeMismatch,
)
from unionmount.images.reference import Digest, Reference
from unionmount.store.layer_import import LIMIT_VARIABLE
from unionmount.system.files import FileRange, pieces_of, write_all
from unionmount.system.os_errors import storing

if TYPE_CHECKING:
    from unionmount.images.manifest import Descriptor
    from unionmount.registry import RegistryClient
    from unionmount.store.layer_import import Progress
    from unionmount.store.store import Store

T = TypeVar("T")

_PARALLEL = 4  # blobs that are transferred at once
_STEP = 1024 * 1024  # bytes that are handed to another thread at once
_LOOK_AGAIN = 0.05  # seconds between two looks at a task that another process works on


async def in_parallel(
    items: Sequence[T], work: Callable[[T], Awaitable[bool]], limit: int = _PARALLEL
) -> None:
    """Run ``work`` on all items in order, at most ``limit`` at a time.

    It is repeated for an item while it returns False. The first error cancels all others, and is
    raised as it is.
    """
    pending = deque(items)
    failures: list[Exception] = []

    async def worker(scope: trio.CancelScope) -> None:
        while pending:
            item = pending.popleft()
            try:
                done = await work(item)
            except Exception as error:  # noqa: BLE001 - raised below, alone
                failures.append(error)
                scope.cancel()
                return
            if not done:
                pending.append(item)
                await trio.sleep(_LOOK_AGAIN)

    async with trio.open_nursery() as nursery:
        for _ in range(min(limit, len(items))):
            nursery.start_soon(worker, nursery.cancel_scope)
    if failures:
        raise failures[0]


async def hand_on(chunks: AsyncIterator[bytes], take: Callable[[bytes, int], None]) -> None:
    """Pass the chunks to ``take`` in a thread, in large pieces, since each switch of threads costs.

    ``take`` also gets the number of bytes so far.
    """
    waiting: list[bytes] = []
    size, done = 0, 0
    async for chunk in chunks:
        waiting.append(chunk)
        size += len(chunk)
        if size >= _STEP:
            done += size
            await trio.to_thread.run_sync(take, b"".join(waiting), done)
            waiting, size = [], 0
    if waiting:
        await trio.to_thread.run_sync(take, b"".join(waiting), done + size)


def cancelling(progress: Progress | None) -> Progress:
    """Wrap a progress callback so that a trio thread ends when its task is cancelled."""

    def told(what: str, done: int, total: int | None) -> None:
        trio.from_thread.check_cancelled()
        if progress is not None:
            progress(what, done, total)

    return told


def check_size(store: Store, descriptor: Descriptor, what: str) -> None:
    """Raise LimitExceeded if a compressed blob is larger than a layer may be."""
    limit = store.limits.max_layer_size
    if descriptor.size > limit:
        raise LimitExceeded(
            f"{what}: {descriptor.size} bytes, more than {limit} (the limit; {LIMIT_VARIABLE} "
            "changes it)"
        )


def repository_of(ref: Reference) -> Reference:
    """Return the name without tag and digest."""
    return replace(ref, tag=None, digest=None)


class Checked:
    """A check of the bytes of a blob against its descriptor while they are transferred."""

    def __init__(self, descriptor: Descriptor, what: str) -> None:
        self._descriptor = descriptor
        self._what = what
        self._hash = descriptor.digest.hasher()
        self._size = 0

    def take(self, data: bytes) -> None:
        """Count and hash the next bytes; raise SizeMismatch if they are too many."""
        self._size += len(data)
        if self._size > self._descriptor.size:
            raise SizeMismatch(self._what, self._descriptor.size, self._size, at_least=True)
        self._hash.update(data)

    def finish(self) -> None:
        """Raise SizeMismatch or DigestMismatch if the bytes were not those of the blob."""
        expected = self._descriptor.digest
        if self._size != self._descriptor.size:
            raise SizeMismatch(self._what, self._descriptor.size, self._size)
        actual = Digest(expected.algorithm, self._hash.hexdigest())
        if actual != expected:
            raise DigestMismatch(self._what, str(expected), str(actual))


@asynccontextmanager
async def fetched(
    store: Store,
    client: RegistryClient,
    ref: Reference,
    descriptor: Descriptor,
    progress: Progress | None = None,
) -> AsyncIterator[FileRange]:
    """Fetch a blob of a registry into a nameless file of the store, and verify it."""
    what = f"{ref}: blob {descriptor.digest}"
    check_size(store, descriptor, what)
    spool = store.spool()
    try:
        checked = Checked(descriptor, what)

        def take(data: bytes, done: int) -> None:
            checked.take(data)
            with storing(store.root):
                write_all(spool, data)
            if progress is not None:
                progress(descriptor.digest.short, done, descriptor.size)

        async with client.blob(ref, descriptor) as chunks:
            await hand_on(chunks, take)
        checked.finish()
        yield FileRange(spool, 0, descriptor.size)
    finally:
        os.close(spool)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that blobs are sent to; ``others`` may have them already."""

    client: RegistryClient
    ref: Reference
    others: Sequence[Reference] = ()
    progress: Progress | None = None

    async def has_or_mounts(self, descriptor: Descriptor) -> bool:
        """Return whether a blob is there, or could be mounted from another repository."""
        if await self.client.has_blob(self.ref, descriptor.digest):
            return True
        near = [one.repository for one in self.others if one.registry == self.ref.registry]
        for repository in dict.fromkeys(near):
            if repository == self.ref.repository:
                continue
            try:
                if await self.client.mount_blob(self.ref, descriptor.digest, repository):
                    return True
            except (NotFoundError, RegistryError):  # it may not be readable or mountable
                continue
        return False

    async def upload(self, descriptor: Descriptor, data: FileRange) -> None:
        """Send a blob from a file."""
        what = f"{self.ref}: blob {descriptor.digest}"
        await self.send(descriptor, lambda: pieces_of(data, what))

    async def send(self, descriptor: Descriptor, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Send a blob; each call of ``chunks`` starts at its beginning."""

        def tell(done: int) -> None:
            if self.progress is not None:
                self.progress(descriptor.digest.short, done, descriptor.size)

        await self.client.upload_blob(self.ref, descriptor.digest, descriptor.size, chunks, tell)
