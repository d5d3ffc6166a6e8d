"""One layer: from its blob to a verified ``layer.tar`` with its index, and open for reading.

``LayerImport`` takes the bytes of a blob as they come and overlaps hashing, decompressing, writing
and indexing on threads (all of which release the GIL). Nothing is visible in the store before
every digest and size agreed and everything is on the disk: then one rename publishes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Protocol, Self

from unionmount import core
from unionmount.errors import (
    DigestMismatch,
    LimitExceeded,
    SizeMismatch,
    UsageError,
)
from unionmount.formats.compression import MAGIC_SIZE, Compression, decompressor, sniff
from unionmount.images.reference import Digest
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

from unionmount.store.staging import Staging
from unionmount.system.closing import Closing
from unionmount.system.files import FileRange, pieces_of, write_all
from unionmount.system.os_errors import storing

TAR_NAME = "layer.tar"
INDEX_NAME = "layer.idx"
BLOB_NAME = "blob"

MAX_LAYER_SIZE = 64 << 30
LIMIT_VARIABLE = "UNIONMOUNT_MAX_LAYER_SIZE"
THREADS = "layer import"  # how the names of the threads of an import begin
_BLOB_STEP = 256 * 1024  # bytes that are handed to the decoder at once
_LARGEST = (1 << 63) - 1
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_DEPTH = 8  # chunks that may wait between two threads
_WRITEBACK_STEP = 32 * 1024 * 1024


class Progress(Protocol):
    """Told how far the work on a layer is; called from the thread that feeds it."""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """``done`` of ``total`` bytes of ``what`` are read; None where the total is not known."""


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """What a layer may cost."""

    max_layer_size: int = MAX_LAYER_SIZE  # bytes, uncompressed
    core: core.IndexLimits = field(default_factory=core.IndexLimits)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """The defaults, or what the environment says (bytes, or 512M, 10G).

        ``UNIONMOUNT_MAX_LAYER_SIZE`` is ``max_layer_size``, ``UNIONMOUNT_MAX_INDEX_MEMORY`` is
        ``core.max_memory``.
        """
        size = _size(environment, LIMIT_VARIABLE)
        memory = _size(environment, core.MEMORY_VARIABLE)
        return cls(
            MAX_LAYER_SIZE if size is None else size,
            core.IndexLimits(max_memory=memory or 0),
        )


def _size(environment: Mapping[str, str], variable: str) -> int | None:
    text = environment.get(variable)
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,18})([KMGT]?)", text.strip().upper())
    if match is None:
        raise UsageError(f"{variable}: not a size: '{printable(text)}'")
    return min(int(match[1]) << _UNITS[match[2]], _LARGEST)


class _BrokenChannel(Exception):
    """The other side has given up; a signal between threads, never seen outside."""


class _Channel:
    """Chunks on their way from one thread to another; holds few, and can be broken."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()  # guarded by _changed, as the flags are
        self._changed = threading.Condition()
        self._closed = False
        self._broken = False

    def put(self, chunk: bytes) -> None:
        """Wait for room, then add a chunk."""
        with self._changed:
            while len(self._chunks) >= _DEPTH and not self._broken:
                self._changed.wait()
            if self._broken:
                raise _BrokenChannel
            self._chunks.append(chunk)
            self._changed.notify_all()

    def close(self) -> None:
        """Say that no more chunks come."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Wake both sides up and make them stop."""
        with self._changed:
            self._broken = True
            self._chunks.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self._get()) is not None:
            yield chunk

    def _get(self) -> bytes | None:
        with self._changed:
            while not self._chunks and not self._closed and not self._broken:
                self._changed.wait()
            if self._broken:
                raise _BrokenChannel
            if not self._chunks:
                return None
            self._changed.notify_all()
            return self._chunks.popleft()


@dataclass(frozen=True, slots=True)
class Expected:
    """What a layer must turn out to be.

    ``diff_id`` is None where the layer is being made, and nobody knows it. ``digest`` and ``size``
    are of the blob as it is transported, where something is said of it; ``what`` names the layer in
    messages.
    """

    diff_id: Digest | None
    what: str
    digest: Digest | None = None
    size: int | None = None


class LayerImport(Closing):
    """A blob on its way into the store: ``write`` its bytes, then ``finish``.

    A context manager; leaving it before ``finish`` returned leaves nothing behind. Not for use by
    several threads at once. Threads: the caller's hashes the blob; three more decompress, hash the
    tar, and write and index it. An error in one of them is raised by the next ``write`` or by
    ``finish``.
    """

    def __init__(
        self,
        staging: Staging,
        publish: Callable[[Staging, Digest], None],
        expected: Expected,
        limits: ImportLimits,
        *,
        keep_blob: bool = False,
    ) -> None:
        """``publish`` finds the blob as it came in the staging directory, where it is to be kept.

        That is so with ``keep_blob``, unless the blob is not compressed: then it is the layer.
        """
        self._staging = staging
        self._publish = publish
        self._expected = expected
        self._limits = limits
        self._keep_blob = keep_blob
        self._kept = -1  # the descriptor of the blob; of the unpacking thread until it was joined
        self._received = 0
        # a plain layer is its own diff_id, which is hashed anyway
        digest = expected.digest if expected.digest != expected.diff_id else None
        self._blob_hash = digest.hasher() if digest is not None else None
        self._algorithm = expected.diff_id.algorithm if expected.diff_id else "sha256"
        self._diff_hash = hashlib.new(self._algorithm)
        self._size = 0  # of the tar; written by the unpacking thread, read after it was joined
        self._failure: BaseException | None = None  # the first one; guarded by _failed
        self._failed = threading.Lock()
        self._blob, self._hashing, self._writing = _Channel(), _Channel(), _Channel()
        self._threads: list[threading.Thread] = []
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with self._resources as stack:
            stack.callback(self._staging.close)
            self._tar = self._staging.create(TAR_NAME)
            stack.callback(os.close, self._tar)
            stack.callback(self._close_kept)
            spool = stack.enter_context(self._staging.spool())
            self._indexer = stack.enter_context(
                core.Indexer(self._expected.what, self._limits.core, spool)
            )
            self._start()
            self._resources = stack.pop_all()
        return self

    def close(self) -> None:
        """Stop all threads and remove what is not published; a second call does nothing."""
        self._abandon()
        self._join()
        self._resources.close()

    def write(self, data: bytes) -> None:
        """Take the next bytes of the blob."""
        self._received += len(data)
        size = self._expected.size
        if size is not None and self._received > size:
            raise SizeMismatch(self._expected.what, size, self._received, at_least=True)
        if self._blob_hash is not None:
            self._blob_hash.update(data)
        try:
            for start in range(0, len(data), _BLOB_STEP):
                self._blob.put(data[start : start + _BLOB_STEP])
        except _BrokenChannel:
            self._raise_failure()

    def finish(self) -> int:
        """Check everything and publish the layer; returns the bytes of the tar."""
        self._blob.close()
        self._join()
        self._check_blob()
        self._raise_failure()
        if self._expected.diff_id is not None:
            self._check("diff_id", self._expected.diff_id, self._diff_hash.hexdigest())
        with storing(self._staging.path):
            self._complete()
        self._publish(self._staging, self.diff_id)
        self._resources.close()
        return self._size

    @property
    def diff_id(self) -> Digest:
        """What the layer is called; only when ``finish`` returned."""
        return Digest(self._algorithm, self._diff_hash.hexdigest())

    def _check_blob(self) -> None:
        """Compare the blob as it came; a failure of it explains other failures."""
        if self._expected.size is not None and self._received != self._expected.size:
            raise SizeMismatch(self._expected.what, self._expected.size, self._received)
        if self._expected.digest is not None and self._blob_hash is not None:
            self._check("blob", self._expected.digest, self._blob_hash.hexdigest())

    def _check(self, part: str, expected: Digest, actual: str) -> None:
        if expected.hex != actual:
            what = f"{self._expected.what} ({part})"
            raise DigestMismatch(what, str(expected), f"{expected.algorithm}:{actual}")

    def _complete(self) -> None:
        index = self._staging.create(INDEX_NAME)
        try:
            self._indexer.finish(self._size, index)
            os.fsync(index)
        finally:
            os.close(index)
        os.fsync(self._tar)
        if self._kept >= 0:
            os.fsync(self._kept)

    def _close_kept(self) -> None:
        fd, self._kept = self._kept, -1
        if fd >= 0:
            os.close(fd)

    def _start(self) -> None:
        for work in (self._unpack, self._hash, self._write):
            name = f"{THREADS}: {work.__name__.strip('_')}"
            thread = threading.Thread(target=self._guarded, args=(work,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _abandon(self) -> None:
        for channel in (self._blob, self._hashing, self._writing):
            channel.abandon()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except _BrokenChannel:
            pass
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            with self._failed:
                self._failure = self._failure or error
            self._abandon()

    def _raise_failure(self) -> None:
        with self._failed:
            failure = self._failure
        if failure is not None:
            raise failure

    def _unpack(self) -> None:
        """Thread: compressed bytes to plain bytes, counted."""
        head = b""
        chunks = iter(self._blob)
        while len(head) < MAGIC_SIZE and (chunk := next(chunks, None)) is not None:
            head += chunk
        compression = sniff(head, self._expected.what)
        stream = decompressor(compression, self._expected.what)
        if self._keep_blob and compression is not Compression.PLAIN:
            self._kept = self._staging.create(BLOB_NAME)
        for chunk in chain([head], chunks):
            if self._kept >= 0:
                with storing(self._staging.path):
                    write_all(self._kept, chunk)
            self._pass_on(stream.feed(chunk))
        stream.finish()
        self._hashing.close()
        self._writing.close()

    def _pass_on(self, pieces: Iterator[bytes]) -> None:
        for piece in pieces:
            self._size += len(piece)
            if self._size > self._limits.max_layer_size:
                raise LimitExceeded(
                    f"{self._expected.what}: more than {self._limits.max_layer_size} bytes "
                    f"uncompressed (the limit; {LIMIT_VARIABLE} changes it)"
                )
            self._hashing.put(piece)
            self._writing.put(piece)

    def _hash(self) -> None:
        """Thread: the diff_id."""
        for chunk in self._hashing:
            self._diff_hash.update(chunk)

    def _write(self) -> None:
        """Thread: the file and its index."""
        for chunk in self._writing:
            with storing(self._staging.path):
                write_all(self._tar, chunk)
                self._indexer.feed(chunk)


def check_digest(
    data: FileRange, digest: Digest, what: str, progress: Progress | None = None
) -> None:
    """Hash some bytes; DigestMismatch where they are not what their digest says."""
    hasher = digest.hasher()
    done = 0
    for piece in pieces_of(data, what):
        hasher.update(piece)
        done += len(piece)
        if progress is not None:
            progress(str(digest), done, data.length)
    if hasher.hexdigest() != digest.hex:
        raise DigestMismatch(what, str(digest), f"{digest.algorithm}:{hasher.hexdigest()}")
