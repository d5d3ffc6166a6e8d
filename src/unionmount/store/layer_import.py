"""The import of a layer: from its blob to a verified ``layer.tar`` with its index.

``LayerImport`` takes the bytes of a blob as they arrive, and hashes, decompresses, writes and
indexes them in parallel threads (all of which release the GIL). Nothing appears in the store before
every digest and size is verified and everything is on disk; then one rename publishes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Protocol, Self

from unionmount import core
from unionmount.errors import (
    DigestMismatch,
    FormatError,
    LimitExceeded,
    SizeMismatch,
    UsageError,
)
from unionmount.formats.compression import MAGIC_SIZE, Compression, decompressor, sniff
from unionmount.images.reference import Digest
from unionmount.system.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

from unionmount.store.staging import Staging
from unionmount.system.closing import Closing
from unionmount.system.files import FileRange, pieces_of, write_all
from unionmount.system.os_errors import storing

TAR_NAME = "layer.tar"
INDEX_NAME = "layer.idx"
BLOB_NAME = "blob"

MAX_LAYER_SIZE = 64 << 30
LIMIT_VARIABLE = "UNIONMOUNT_MAX_LAYER_SIZE"
THREADS = "layer import"  # prefix of the names of the threads
_BLOB_STEP = 256 * 1024  # bytes that are handed to the decoder at once
_LARGEST = (1 << 63) - 1
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_DEPTH = 8  # chunks that may wait between two threads
_WRITEBACK_STEP = 32 * 1024 * 1024


class Progress(Protocol):
    """A callback for progress on a layer, in the thread that feeds it."""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Report that ``done`` of ``total`` bytes of ``what`` were read; None if unknown."""


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """The limits of the size of a layer and of its index."""

    max_layer_size: int = MAX_LAYER_SIZE  # uncompressed bytes
    core: core.IndexLimits = field(default_factory=core.IndexLimits)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Return the defaults, or the values of the environment (bytes, or 512M, 10G).

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
        raise UsageError(f"{variable} must be a size such as 512M, not '{printable(text)}'")
    return min(int(match[1]) << _UNITS[match[2]], _LARGEST)


class _BrokenChannel(Exception):
    """A signal between threads that the other side has given up."""


class _Handover:
    """A bounded queue of chunks between two threads, which either side can break."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()  # guarded by _changed, like the flags
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
        """Announce the end of the chunks."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Wake up both sides and make them stop."""
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
    """The expected digests and size of a layer.

    ``diff_id`` is None if the layer is being made. ``digest`` and ``size`` are those of the blob as
    it is transported, if they are known; ``what`` names the layer in messages. ``literal``: the tar
    is a root file system, and is refused if it has names that are whiteouts in a layer. ``among``
    are the diff_ids that a layer may have if it is not known which of them it is.
    """

    diff_id: Digest | None
    what: str
    digest: Digest | None = None
    size: int | None = None
    literal: bool = False
    among: frozenset[Digest] | None = None


Inspect = Callable[[int, FileRange], None]
"""A check of a complete index and its tar before they appear in the store; it may raise."""


class LayerImport(Closing):
    """A running import: ``write`` the bytes of the blob, then ``finish``.

    Leaving the context manager before ``finish`` has returned leaves nothing behind. It is not for
    use by several threads at once. The caller's thread hashes the blob; three more decompress, hash
    the tar, and write and index it. An error in one of them is raised by the next ``write`` or by
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
        inspect: Inspect | None = None,
    ) -> None:
        """Create an import; ``publish`` finds a kept blob in the staging directory.

        ``keep_blob`` keeps the blob as it came, unless it is not compressed and so equal to the
        layer.
        """
        self._staging = staging
        self._publish = publish
        self._expected = expected
        self._limits = limits
        self._keep_blob = keep_blob
        self._inspect = inspect
        self._kept = (
            -1
        )  # descriptor of the kept blob; used by the unpacking thread until it is joined
        self._received = 0
        # A plain layer is its own diff_id, which is hashed anyway.
        digest = expected.digest if expected.digest != expected.diff_id else None
        self._blob_hash = digest.hasher() if digest is not None else None
        self._algorithm = expected.diff_id.algorithm if expected.diff_id else "sha256"
        self._diff_hash = hashlib.new(self._algorithm)
        self._size = 0  # of the tar; written by the unpacking thread, read after it is joined
        self._failure: BaseException | None = None  # the first failure; guarded by _failed
        self._failed = threading.Lock()
        self._blob, self._hashing, self._writing = _Handover(), _Handover(), _Handover()
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
                core.Indexer(
                    self._expected.what, self._limits.core, spool, literal=self._expected.literal
                )
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
        """Verify everything and publish the layer; return the size of the tar."""
        self._blob.close()
        self._join()
        self._check_blob()
        self._raise_failure()
        if self._expected.diff_id is not None:
            self._check("diff_id", self._expected.diff_id, self._diff_hash.hexdigest())
        among = self._expected.among
        if among is not None and self.diff_id not in among:
            raise FormatError(
                f"{self._expected.what}: is no layer of the image: its diff_id is {self.diff_id}"
            )
        index = self._staging.create(INDEX_NAME)
        try:
            self._complete(index)
        finally:
            os.close(index)
        self._publish(self._staging, self.diff_id)
        self._resources.close()
        return self._size

    @property
    def diff_id(self) -> Digest:
        """The digest of the layer, once ``finish`` has returned."""
        return Digest(self._algorithm, self._diff_hash.hexdigest())

    def _check_blob(self) -> None:
        """Verify the blob as it came; its failure explains all others."""
        if self._expected.size is not None and self._received != self._expected.size:
            raise SizeMismatch(self._expected.what, self._expected.size, self._received)
        if self._expected.digest is not None and self._blob_hash is not None:
            self._check("blob", self._expected.digest, self._blob_hash.hexdigest())

    def _check(self, part: str, expected: Digest, actual: str) -> None:
        if expected.hex != actual:
            what = self._expected.what
            if not self._expected.literal:
                what += f" ({part})"
            raise DigestMismatch(what, str(expected), f"{expected.algorithm}:{actual}")

    def _complete(self, index: int) -> None:
        with storing(self._staging.path):
            self._indexer.finish(self._size, index)
        if self._inspect is not None:
            self._inspect(index, FileRange(self._tar, 0, self._size))
        refuse_marks(self._expected.what, *self._indexer.marks())
        with storing(self._staging.path):
            os.fsync(index)
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
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            with self._failed:
                self._failure = self._failure or error
            self._abandon()

    def _raise_failure(self) -> None:
        with self._failed:
            failure = self._failure
        if failure is not None:
            raise failure

    def _unpack(self) -> None:
        """Decompress and count bytes, in a thread."""
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
        """Compute the diff_id, in a thread."""
        for chunk in self._hashing:
            self._diff_hash.update(chunk)

    def _write(self) -> None:
        """Write the file and its index, in a thread."""
        for chunk in self._writing:
            with storing(self._staging.path):
                write_all(self._tar, chunk)
                self._indexer.feed(chunk)


def refuse_marks(what: str, count: int, names: Sequence[bytes]) -> None:
    """Raise FormatError if there are names that a layer cannot hold, since they are whiteouts."""
    if count == 0:
        return
    shown = ", ".join(f"'{printable(name)}'" for name in names)
    more = f" and {count - len(names)} more" if count > len(names) else ""
    prefix = core.whiteout_name(b"").decode("ascii")
    raise FormatError(
        f"{what}: no image can hold {shown}{more}: in a layer, names that begin with '{prefix}' "
        "and devices 0:0 delete other files; leave them out, or mount the tar with --ro, which "
        "shows them"
    )


def check_digest(
    data: FileRange, digest: Digest, what: str, progress: Progress | None = None
) -> None:
    """Hash a range; raise DigestMismatch if it does not have the digest."""
    hasher = digest.hasher()
    done = 0
    for piece in pieces_of(data, what):
        hasher.update(piece)
        done += len(piece)
        if progress is not None:
            progress(str(digest), done, data.length)
    if hasher.hexdigest() != digest.hex:
        raise DigestMismatch(what, str(digest), f"{digest.algorithm}:{hasher.hexdigest()}")
