"""What indexing a layer may take of memory, held against what the kernel gives a process."""

from __future__ import annotations

import os
import resource
import tarfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from support.users import call_as

from unionmount import core
from unionmount.errors import LimitExceeded, UsageError
from unionmount.images.reference import Digest
from unionmount.store.layer_import import MAX_LAYER_SIZE, Expected, ImportLimits, LayerImport
from unionmount.store.store import Store
from unionmount.system.files import FileRange

pytestmark = pytest.mark.slow

MIB = 1 << 20
# Beside the tables: the parser's buffers, a scan's window, what is written, and malloc's own.
SLACK = 24 * MIB


def member(name: str, kind: bytes = b"0", payload: bytes = b"", link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(payload), link
    return info.tobuf(tarfile.USTAR_FORMAT) + payload + b"\0" * (-len(payload) % 512)


def pax(records: dict[str, bytes]) -> bytes:
    payload = b""
    for key, value in records.items():
        body = b" " + key.encode() + b"=" + value + b"\n"
        size = len(body)
        while len(str(size)) + len(body) != size:
            size = len(str(size)) + len(body)
        payload += str(size).encode() + body
    return member("pax", b"x", payload)


def xattrs(count: int, size: int) -> Iterator[bytes]:
    for number in range(count):
        value = b"%08d" % number * (size // 8)
        yield pax({"SCHILY.xattr.user.a": value}) + member(f"f{number}")


def many_xattrs(count: int) -> Iterator[bytes]:
    """Sets that are all different, of records without values."""
    for number in range(count):
        names = {f"SCHILY.xattr.user.{number}.{one}": b"" for one in range(200)}
        yield pax(names) + member(f"f{number}")


def files(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield member(f"{number:07}")


def deep(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield member("/".join(f"{number:x}" for _ in range(40)))


def links(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield member(f"{number:07}", b"1", link=f"none{number}" * 8)


def whiteouts(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield member(f".wh.{number:07}")


def sparse(count: int) -> Iterator[bytes]:
    runs = ",".join(f"{at * 4},1" for at in range(8000)).encode()
    records = {"GNU.sparse.size": b"40000", "GNU.sparse.map": runs}
    for number in range(count):
        yield pax(records) + member(f"{number}", payload=b"x" * 8000)


def limit_address_space(more: int) -> None:
    """Let this process have ``more`` bytes than it has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    allowed = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def index(pieces: Callable[[], Iterator[bytes]], limit: int, place: Path) -> str:
    """Index a layer with only so much memory, in a process of its own; what came of it."""

    def work() -> str:
        spool, written = (os.open(place, os.O_TMPFILE | os.O_RDWR, 0o600) for _ in range(2))
        limit_address_space(limit + SLACK)
        size = 0
        try:
            with core.Indexer("it", core.IndexLimits(max_memory=limit), spool) as indexer:
                for piece in chain(pieces(), [b"\0" * 1024]):
                    indexer.feed(piece)
                    size += len(piece)
                indexer.finish(size, written)
        except LimitExceeded as error:
            return str(error)
        return "done"

    result = call_as(os.geteuid(), work)
    assert isinstance(result, str)
    return result


@pytest.mark.parametrize(
    ("kind", "count"),
    [(files, 40_000), (deep, 1000), (links, 30_000), (whiteouts, 50_000), (sparse, 30)],
)
def test_what_does_not_fit_is_refused_before_memory_ends(
    kind: Callable[[int], Iterator[bytes]], count: int, tmp_path: Path
) -> None:
    limit = 4 * MIB
    text = index(lambda: kind(count), limit, tmp_path)
    assert f"more than {limit} bytes of memory" in text
    assert "UNIONMOUNT_MAX_INDEX_MEMORY changes it" in text
    assert index(lambda: kind(count), 4 * limit, tmp_path) == "done"


def test_many_small_xattrs_are_bounded(tmp_path: Path) -> None:
    text = index(lambda: many_xattrs(2000), 4 * MIB, tmp_path)
    assert "bytes of memory" in text


def test_large_xattrs_take_no_memory(tmp_path: Path) -> None:
    assert index(lambda: xattrs(1500, 60_000), 4 * MIB, tmp_path) == "done"


def test_the_limit_comes_from_the_environment() -> None:
    limits = ImportLimits.from_environment({core.MEMORY_VARIABLE: "64M"})
    assert (limits.core.max_memory, limits.max_layer_size) == (64 * MIB, MAX_LAYER_SIZE)
    assert ImportLimits.from_environment({}) == ImportLimits()
    with pytest.raises(UsageError, match=core.MEMORY_VARIABLE):
        ImportLimits.from_environment({core.MEMORY_VARIABLE: "much"})


def take(layer: LayerImport, data: bytes) -> None:
    layer.write(data)
    layer.finish()


def test_a_layer_that_needs_too_much_is_named(tmp_path: Path) -> None:
    data = b"".join(files(3000)) + b"\0" * 1024
    diff_id = Digest.of(data)
    store = Store(tmp_path / "store", ImportLimits(core=core.IndexLimits(max_memory=256 * 1024)))
    what = rf"layer {diff_id}: .*262144 bytes of memory.*{core.MEMORY_VARIABLE}"
    with (
        store.import_layer(Expected(diff_id, f"layer {diff_id}")) as layer,
        pytest.raises(LimitExceeded, match=what),
    ):
        take(layer, data)
    assert list(store.directory.layers()) == []
    assert list((store.root / "tmp").iterdir()) == []
    path = tmp_path / "layer.tar"
    path.write_bytes(data)
    with path.open("rb") as file, pytest.raises(LimitExceeded, match=what):
        store.index_in_place(FileRange(file.fileno(), 0, len(data)), f"layer {diff_id}")


def test_a_limit_below_what_an_empty_layer_takes() -> None:
    text = "it: its index would need more than 512 bytes of memory .*UNIONMOUNT_MAX_INDEX_MEMORY"
    with pytest.raises(LimitExceeded, match=text):
        core.Indexer("it", core.IndexLimits(max_memory=512))


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    data = b"".join(files(3)) + b"\0" * 1024
    diff_id = Digest.of(data)
    path = tmp_path / "layer.tar"
    path.write_bytes(data)
    store = Store(tmp_path / "store")
    before = descriptors()
    with store.import_layer(Expected(diff_id, "it")) as layer:
        take(layer, data)
    store.rebuild_index(diff_id)
    with path.open("rb") as file:
        made = store.index_in_place(FileRange(file.fileno(), 0, len(data)), "it")
    for mode in (0o600, 0o666):  # mapped, and copied
        os.fchmod(made, mode)
        with core.Index(made, "it") as index:
            assert index.info.files == 3
    os.close(made)
    assert descriptors() == before
