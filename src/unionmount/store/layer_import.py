"""One layer: from its blob to a verified ``layer.tar`` with its index, and open for reading.

``LayerImport`` takes the bytes of a blob as they come and overlaps hashing, decompressing, writing
and indexing on threads (all of which release the GIL). Nothing is visible in the store before
every digest and size agreed and everything is on the disk: then one rename publishes it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import resource
import secrets
import threading
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from unionmount import core
from unionmount.errors import (
    DigestMismatch,
    FormatError,
    LimitExceeded,
    NotFoundError,
    SizeMismatch,
    StoreError,
    UsageError,
)
from unionmount.formats.compression import MAGIC_SIZE, Compression, decompressor, sniff
from unionmount.images.reference import Digest, printable
from unionmount.mount.namespace import recorded_namespace
from unionmount.system.closing import Closing
from unionmount.system.remove_tree import remove_tree
from unionmount.system.trust import OverrideStat, has_identity, is_ours, reads_trusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from unionmount.images.manifest import Image

TAR_NAME = "layer.tar"
INDEX_NAME = "layer.idx"
BLOB_NAME = "blob"
SPOOL_NAME = "spool"

MAX_LAYER_SIZE = 64 << 30
MAX_COPIED = 1 << 30  # bytes of all indexes of an image that others can change
LIMIT_VARIABLE = "UNIONMOUNT_MAX_LAYER_SIZE"
THREADS = "layer import"  # how the names of the threads of an import begin
_LARGEST = (1 << 63) - 1
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_INPUT_STEP = 256 * 1024
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
    core: core.Limits = field(default_factory=core.Limits)

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
            core.Limits(max_memory=memory or 0),
        )


def _size(environment: Mapping[str, str], variable: str) -> int | None:
    text = environment.get(variable)
    if not text:
        return None
    match = re.fullmatch(r"([0-9]{1,18})([KMGT]?)", text.strip().upper())
    if match is None:
        raise UsageError(f"{variable}: not a size: '{printable(text)}'")
    return min(int(match[1]) << _UNITS[match[2]], _LARGEST)


@dataclass(frozen=True, slots=True)
class FileRange:
    """Some bytes of an open file; the descriptor is borrowed."""

    fd: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells whether an open file is still the one that was looked at."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, fd: int) -> FileIdentity:
        """The identity of the file behind a descriptor."""
        return cls.of_status(os.fstat(fd))

    @classmethod
    def of_status(cls, status: os.stat_result) -> FileIdentity:
        """The identity of a file of which that is known."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    def check(self, fd: int, what: str) -> None:
        """FormatError where the file changed since."""
        if FileIdentity.of(fd) != self:
            raise FormatError(f"{what}: changed while it was read")


def reason_of(error: OSError) -> str:
    """What the operating system says, and the limit where that is what ran out."""
    if error.errno == errno.EMFILE:
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"{os.strerror(error.errno)} (the limit is {allowed}, see ulimit -n)"
    # OSErrors of the core carry their own text instead of a plain strerror
    return os.strerror(error.errno) if error.errno else str(error)


@contextmanager
def storing(where: Path | str) -> Iterator[None]:
    """Turn what the operating system refuses into StoreError that says where."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{printable(str(where))}: {reason_of(error)}") from error


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Name what was read where the operating system refuses."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, reason_of(error), what) from error


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Staging(Closing):
    """A temporary directory of the store that belongs to this process while it is open.

    It is held by a flock, which dies with the process: a directory that nobody holds is garbage,
    and ``clean`` removes it. What is published leaves it by one rename.
    """

    def __init__(self, tmp: Path) -> None:
        self.path = tmp / secrets.token_hex(16)
        with storing(tmp), _lock_directory(tmp, fcntl.LOCK_SH):
            # the lock on tmp keeps cleaners away until ours is taken
            self.path.mkdir(0o700)
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._fd, fcntl.LOCK_EX)

    def create(self, name: str) -> int:
        """A new file in here, open for reading and writing; the caller closes it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with storing(self.path):
            return os.open(self.path / name, flags, 0o600)

    def nameless(self) -> int:
        """A new file in the store that vanishes when it is closed; the caller closes it."""
        fd = self.create(SPOOL_NAME)
        with storing(self.path):
            (self.path / SPOOL_NAME).unlink()
        return fd

    @contextmanager
    def spool(self) -> Iterator[int]:
        """A nameless file for the length of a block."""
        fd = self.nameless()
        try:
            yield fd
        finally:
            os.close(fd)

    def publish(self, target: Path) -> bool:
        """Rename the whole directory to ``target``; False where there is one already."""
        with storing(target):
            os.fsync(self._fd)
            try:
                self.path.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
                return False
            fsync_directory(target.parent)
        return True

    def publish_file(self, name: str, target: Path) -> None:
        """Rename one file to ``target``, in place of what is there."""
        with storing(target):
            (self.path / name).replace(target)
            fsync_directory(target.parent)

    def keep_lock(self) -> int:
        """A descriptor that holds the lock on the directory also after it was published."""
        return os.dup(self._fd)

    def close(self) -> None:
        """Remove what was not published, and let go."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):  # what stays is removed by a later ``clean``
                remove_tree(self.path)
            os.close(fd)

    @staticmethod
    def clean(tmp: Path) -> None:
        """Remove what processes left that are dead."""
        with suppress(BlockingIOError), _lock_directory(tmp, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for path in tmp.iterdir():
                with suppress(OSError), _lock_directory(path, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    remove_tree(path)


@contextmanager
def _lock_directory(path: Path, operation: int) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, operation)
        yield
    finally:
        os.close(fd)


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


class LayerImport:
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def abort(self) -> None:
        """Stop all threads and remove what is not published; may be called again."""
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
            for start in range(0, len(data), _INPUT_STEP):
                self._blob.put(data[start : start + _INPUT_STEP])
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
    for done, piece in pieces_of(data, what):
        hasher.update(piece)
        if progress is not None:
            progress(str(digest), done, data.length)
    if hasher.hexdigest() != digest.hex:
        raise DigestMismatch(what, str(digest), f"{digest.algorithm}:{hasher.hexdigest()}")


def pieces_of(data: FileRange, what: str) -> Iterator[tuple[int, bytes]]:
    """The bytes of a range, with the number of bytes up to the end of each piece."""
    done = 0
    while done < data.length:
        with reading(what):
            piece = os.pread(data.fd, min(_INPUT_STEP * 4, data.length - done), data.offset + done)
        if not piece:
            raise SizeMismatch(what, data.length, done)
        done += len(piece)
        yield done, piece


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``, in as many steps as it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


@dataclass(slots=True)
class OpenLayer:
    """Open descriptors of one layer; owned, and valid after the files lost their names."""

    diff_id: Digest
    data_fd: int
    offset: int
    length: int
    index_fd: int

    def close(self) -> None:
        """Close both descriptors; a second call does nothing."""
        self.close_index()
        fd, self.data_fd = self.data_fd, -1
        if fd >= 0:
            os.close(fd)

    def close_index(self) -> None:
        """Close the descriptor of the index, which a mapping does not need."""
        fd, self.index_fd = self.index_fd, -1
        if fd >= 0:
            os.close(fd)


class OpenImage(Closing):
    """An image whose layers are open, lowest first; owns them and the tree made of them."""

    def __init__(self, image: Image, name: str, layers: tuple[OpenLayer, ...]) -> None:
        self.image = image
        self.name = name
        self.layers = layers
        self._indexes: list[core.Index] = []
        self._tree: core.Tree | None = None

    @property
    def indexes(self) -> tuple[core.Index, ...]:
        """The indexes of the layers, opened; they live as long as this."""
        if not self._indexes:
            with ExitStack() as stack:
                opened = [stack.enter_context(self._open_index(layer)) for layer in self.layers]
                if sum(index.copied for index in opened) > MAX_COPIED:
                    raise LimitExceeded(
                        f"{self.name}: indexes of more than {MAX_COPIED} bytes that others can "
                        "change: have the image in a store of your own ('save', 'load')"
                    )
                stack.pop_all()
            self._indexes = opened
            for layer in self.layers:
                layer.close_index()
        return tuple(self._indexes)

    def _open_index(self, layer: OpenLayer) -> core.Index:
        return core.Index(layer.index_fd, f"{self.name}: index of layer {layer.diff_id}")

    def cut(self, number: int) -> None:
        """Let go of the layers above ``number``, before anything is made of them."""
        if number >= len(self.layers):
            has = len(self.layers)
            raise NotFoundError(f"{self.name}: there is no layer {number}, the image has {has}")
        for layer in self.layers[number + 1 :]:
            layer.close()
        self.layers = self.layers[: number + 1]

    def tree(self) -> core.Tree:
        """The layers as one tree; the same object at every call, closed with this."""
        if self._tree is None:
            layers = [
                core.TreeLayer(index, layer.data_fd, layer.offset, layer.length)
                for index, layer in zip(self.indexes, self.layers, strict=True)
            ]
            try:
                self._tree = core.Tree(layers)
            except OSError as error:
                if error.errno != errno.EBADMSG:
                    raise
                raise FormatError(
                    f"{self.name}: the index of a layer is damaged ('unionmount check' tells which)"
                ) from None
        return self._tree

    def close(self) -> None:
        """Close tree, indexes and descriptors, in this order; a second call does nothing."""
        tree, self._tree = self._tree, None
        if tree is not None:
            tree.close()
        for index in self._indexes:
            index.close()
        self._indexes = []
        for layer in self.layers:
            layer.close()


class OpenDirectory(Closing):
    """A live directory as a layer; owns its descriptors.

    ``fd`` is the directory on a read-only mount of its own where this user can have one
    (``private``). The one that it was opened by stays open, too, so that its file system is in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as stack, reading(printable(str(path))):
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, self.fd)
            self.shown = self.fd
            self.closed = is_ours(self.fd)  # told by the way to it, which a private mount has not
            self.namespace = recorded_namespace(self.fd)
            private = stack.enter_context(core.private_directory(self.fd, read_only=True))
            self.private = private is not None
            if private is not None:
                self.fd = core.open_beneath(private, b".")
                stack.callback(os.close, self.fd)
            self._resources = stack.pop_all()

    def close(self) -> None:
        """Close the descriptors; a second call does nothing."""
        self.fd = -1
        self._resources.close()


class OpenDirectories(Closing):
    """Live directories as the layers of one tree, lowest first; owns them and the tree."""

    def __init__(
        self,
        paths: Sequence[Path],
        name: str,
        *,
        leads: bool = True,
        override_stat: OverrideStat = OverrideStat.OWN,
        hidden: Sequence[Path] = (),
    ) -> None:
        """``paths`` are absolute, the lowest one first; OSError names the one that can't be had.

        Without ``leads`` no redirect and no metacopy is followed, as the kernel has it with
        ``userxattr``. ``override_stat``: whose is believed. Of ``hidden``, the directories that
        take the changes, the layers show nothing where they lie in one.
        """
        self._hidden = tuple((status.st_dev, status.st_ino) for status in map(Path.stat, hidden))
        self.name = name
        self._leads = leads
        self._override_stat = override_stat
        with ExitStack() as stack:
            self.layers = tuple([stack.enter_context(OpenDirectory(path)) for path in paths])
            stack.pop_all()
        self._tree: core.Tree | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the directories are, lowest first."""
        return tuple(layer.path for layer in self.layers)

    def tree(self) -> core.Tree:
        """The directories as one tree; the same object at every call, closed with this."""
        if self._tree is None:
            self._tree = core.Tree(
                [
                    core.DirectoryLayer(
                        *(layer.fd, layer.private, layer.shown, self._belief_in(layer)),
                        hidden=self._hidden,
                    )
                    for layer in self.layers
                ]
            )
        return self._tree

    def _belief_in(self, layer: OpenDirectory) -> core.Belief:
        """Which of the marks in a directory are believed."""
        trusted, known = reads_trusted(), has_identity()
        return core.Belief(
            trusted=self._leads and trusted,
            own=self._leads and known and not trusted,
            stat=self._override_stat is OverrideStat.OWN and known,
            any_stat=self._override_stat is OverrideStat.ALWAYS,
            closed=layer.closed,
            no_user=layer.namespace == "trusted",
        )

    def close(self) -> None:
        """Close tree and descriptors, in this order; a second call does nothing."""
        tree, self._tree = self._tree, None
        if tree is not None:
            tree.close()
        for layer in self.layers:
            layer.close()
