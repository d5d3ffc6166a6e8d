"""Damaged and hostile inputs, full disks, sudden death: a typed error, and a store as before.

Each test ends with the same question: is the store as it was, and does the next run work?
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from support.image_files import (
    OCI_LAYER,
    SMALL_TREE,
    Compress,
    Members,
    blob_path,
    descriptor,
    docker_archive,
    flip,
    gzipped,
    index_of,
    manifest_of,
    named_descriptor,
    oci_layout,
    plain,
    sha256,
    small_image,
    tar,
    tree_of,
    write_directory,
    write_tar,
    zstd_frames,
)
from support.store_worker import start_worker

from unionmount.core import Index, IndexLimits
from unionmount.errors import FormatError, LimitExceeded, StoreError, UnionmountError
from unionmount.store.layer_import import ImportLimits
from unionmount.store.store import Store
from unionmount.transfer.check_image import check_image
from unionmount.transfer.load import load, open_image

pytestmark = pytest.mark.slow

IMAGE = small_image()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def assert_untouched(store: Store) -> None:
    """Nothing partial is visible, and nothing is left that is not."""
    assert list((store.root / "tmp").iterdir()) == []
    assert list((store.root / "layers/sha256").iterdir()) == []
    assert store.list_images() == []


def assert_whole(store: Store) -> None:
    """Every layer in the store is complete, whatever happened."""
    for path in (store.root / "layers/sha256").iterdir():
        data = (path / "layer.tar").read_bytes()
        assert sha256(data)[7:] == path.name
        with (path / "layer.idx").open("rb") as file, Index(file.fileno(), "it") as index:
            index.verify()
            assert index.info.layer_size == len(data)
    for path in (store.root / "blobs/sha256").iterdir():
        assert sha256(path.read_bytes())[7:] == path.name
    for stored in store.list_images():
        assert all(map(store.has_layer, store.read_image(stored).diff_ids))


def tree_or_message(store: Store, path: Path) -> dict[bytes, bytes] | str:
    try:
        with open_image(store, str(path), verify=True) as image:
            return tree_of(image)
    except UnionmountError as error:
        return str(error)


# -- truncated and flipped


@pytest.mark.parametrize("compress", [plain, gzipped, zstd_frames])
@pytest.mark.parametrize("form", [docker_archive, oci_layout])
def test_a_truncated_archive(store: Store, tmp_path: Path, form: type, compress: Compress) -> None:
    members: Members = form(IMAGE, compress=compress)
    whole = tar(members)
    end = len(whole.rstrip(b"\0"))
    path = tmp_path / "a.tar"
    for size in range(0, end, max(end // 40, 1)):
        path.write_bytes(whole[:size])
        with pytest.raises(UnionmountError, match=r"a\.tar"):
            load(store, str(path))
    assert_whole(store)
    path.write_bytes(whole)
    load(store, str(path))
    with open_image(store, "example.org/made:1", verify=True) as image:
        assert tree_of(image) == SMALL_TREE


@pytest.mark.parametrize("compress", [plain, gzipped, zstd_frames])
@pytest.mark.parametrize("form", [docker_archive, oci_layout])
def test_a_flipped_bit_anywhere(
    store: Store, tmp_path: Path, form: type, compress: Compress
) -> None:
    """It is an error that names the file, or it was in something that does not count."""
    whole = tar(form(IMAGE, compress=compress))
    path = tmp_path / "a.tar"
    outcomes = []
    for at in range(100, len(whole), 997):
        path.write_bytes(flip(whole, at))
        outcomes.append(tree_or_message(store, path))
    messages = [one for one in outcomes if isinstance(one, str)]
    assert len(messages) > 3
    assert all("a.tar" in message for message in messages)
    assert all(one == SMALL_TREE for one in outcomes if not isinstance(one, str))
    assert_whole(store)


@pytest.mark.parametrize("compress", [gzipped, zstd_frames])
def test_a_flipped_bit_in_a_layer_names_digest_and_file(
    store: Store, tmp_path: Path, compress: Compress
) -> None:
    members = oci_layout(IMAGE, compress=compress)
    blob = compress(IMAGE.layers[0])
    members[blob_path(blob)] = flip(blob, len(blob) // 2)
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(FormatError) as caught:
        load(store, str(path))
    assert sha256(blob) in str(caught.value)
    assert "a.tar" in str(caught.value)
    assert_untouched(store)


# -- numbers


@pytest.mark.parametrize("size", [0, 1, 10**18, 2**63 - 1])
def test_descriptors_with_wrong_sizes(store: Store, tmp_path: Path, size: int) -> None:
    members = oci_layout(IMAGE)
    document = json.loads(manifest_of(IMAGE))
    document["layers"][0]["size"] = size
    manifest = json.dumps(document).encode()
    members |= {blob_path(manifest): manifest}
    members["index.json"] = index_of([descriptor(manifest, document["mediaType"])])
    with pytest.raises(FormatError, match=f"{IMAGE.diff_ids[0]}.*expected {size}"):
        load(store, f"oci:{write_directory(tmp_path / 'x', members)}")
    assert_untouched(store)


def test_a_manifest_with_too_many_layers(store: Store, tmp_path: Path) -> None:
    layer = descriptor(IMAGE.layers[0], OCI_LAYER)
    document = json.loads(manifest_of(IMAGE)) | {"layers": [layer] * 5000}
    manifest = json.dumps(document).encode()
    members = oci_layout(IMAGE) | {blob_path(manifest): manifest}
    members["index.json"] = index_of([descriptor(manifest, document["mediaType"])])
    with pytest.raises(LimitExceeded, match="5000 elements, more than 4096"):
        load(store, f"oci:{write_directory(tmp_path / 'x', members)}")
    assert_untouched(store)


def test_a_document_that_is_too_large_is_not_read(store: Store, tmp_path: Path) -> None:
    path = write_directory(tmp_path / "x", oci_layout(IMAGE))
    with (path / "index.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(LimitExceeded, match=r"index\.json"):
        load(store, f"oci:{path}")


def test_a_member_that_claims_exabytes(store: Store, tmp_path: Path) -> None:
    info = tarfile.TarInfo("manifest.json")
    info.size = 2**62
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(FormatError, match=r"a\.tar"):
        load(store, str(tmp_path / "a.tar"))
    assert_untouched(store)


def test_more_entries_than_a_limit_allows(store: Store, tmp_path: Path) -> None:
    layer = tar({f"file{n}": b"" for n in range(300)})
    image = small_image().__class__((layer,), ("many:1",))
    path = write_tar(tmp_path / "a.tar", docker_archive(image, compress=gzipped))
    limited = Store(store.root, ImportLimits(core=IndexLimits(max_entries=100)))
    with pytest.raises(LimitExceeded, match=image.diff_ids[0]):
        load(limited, str(path))
    assert_untouched(store)
    load(store, str(path))


# -- bombs


def gzip_writer(buffer: io.BytesIO) -> BinaryIO:
    return cast("BinaryIO", gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0))


def xz_writer(buffer: io.BytesIO) -> BinaryIO:
    return cast("BinaryIO", lzma.LZMAFile(buffer, "wb", preset=0))


def bzip2_writer(buffer: io.BytesIO) -> BinaryIO:
    return cast("BinaryIO", bz2.BZ2File(buffer, "wb"))


Writer = Callable[[io.BytesIO], BinaryIO]


def bomb(size: int, writer: Writer) -> bytes:
    """A compressed stream of one tar member of zeros."""
    buffer = io.BytesIO()
    info = tarfile.TarInfo("zeros")
    info.size = size
    with writer(buffer) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    return buffer.getvalue()


BOMB_PROGRAM = """
import resource, sys
from pathlib import Path
from unionmount.errors import LimitExceeded
from unionmount.store.layer_import import ImportLimits
from unionmount.transfer.load import load
from unionmount.store.store import Store
store = Store(Path(sys.argv[1]), ImportLimits(16 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load(store, sys.argv[2])
except LimitExceeded as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


@pytest.mark.parametrize(
    ("writer", "size"), [(gzip_writer, 1 << 30), (xz_writer, 256 << 20), (bzip2_writer, 256 << 20)]
)
def test_a_decompression_bomb_costs_neither_memory_nor_disk(
    store: Store, tmp_path: Path, writer: Writer, size: int
) -> None:
    data = bomb(size, writer)
    assert len(data) < 2 << 20
    members = docker_archive(IMAGE)
    members[IMAGE.diff_ids[0][7:] + "/layer.tar"] = data
    path = write_tar(tmp_path / "a.tar", members)
    done = subprocess.run(
        [sys.executable, "-c", BOMB_PROGRAM, store.root, path],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    kilobytes, _, message = done.stdout.partition(" ")
    assert int(kilobytes) < 40_000
    assert "more than 16777216 bytes" in message
    assert IMAGE.diff_ids[0] in message
    assert_untouched(store)


# -- full disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "unionmount-test", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.needs("root")
@pytest.mark.parametrize("compress", [plain, gzipped])
def test_a_disk_that_fills_up(small_disk: Path, tmp_path: Path, compress: Compress) -> None:
    store = Store(small_disk / "store")
    layer = tar({f"file{n}": os.urandom(1 << 16) for n in range(64)})
    large = IMAGE.__class__((layer,), ("large:1",))
    path = write_tar(tmp_path / "a.tar", docker_archive(large, compress=compress))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"disk/store.*No space left on device"):
            load(store, str(path))
        assert_untouched(store)
    load(store, str(write_tar(tmp_path / "b.tar", docker_archive(IMAGE))))
    with open_image(store, "example.org/made:1") as image:
        assert tree_of(image) == SMALL_TREE


@pytest.mark.needs("root")
def test_a_disk_that_is_full_when_the_rest_is_written(small_disk: Path, tmp_path: Path) -> None:
    """Less and less room, so that every kind of file is the one that does not fit."""
    store = Store(small_disk / "store")
    path = write_tar(tmp_path / "a.tar", docker_archive(IMAGE, compress=gzipped))
    ballast = small_disk / "ballast"
    failed = 0
    for free in range(0, 200_000, 8192):
        with ballast.open("wb") as file:
            room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
            os.posix_fallocate(file.fileno(), 0, max(room - free, 1))
        failed += load_on_a_full_disk(store, path)
        assert_whole(store)
        assert list((store.root / "tmp").iterdir()) == []
    assert failed > 2
    ballast.unlink()
    load(store, str(path))
    assert list(check_image(store, "example.org/made:1")) == []


def load_on_a_full_disk(store: Store, path: Path) -> bool:
    """Whether it was too full; any error but the right one is a failure."""
    try:
        load(store, str(path))
    except StoreError as error:
        if "No space left on device" not in str(error):
            raise
        return True
    return False


@pytest.mark.needs("root")
def test_a_disk_too_small_for_an_index_in_place(small_disk: Path, tmp_path: Path) -> None:
    store = Store(small_disk / "store")
    path = write_tar(tmp_path / "a.tar", docker_archive(IMAGE))
    with (small_disk / "ballast").open("wb") as file:
        room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        os.posix_fallocate(file.fileno(), 0, room - 4096)
    with pytest.raises(StoreError, match=r"disk/store.*No space left on device"):
        open_image(store, str(path))
    assert_untouched(store)
    (small_disk / "ballast").unlink()
    open_image(store, str(path)).close()


def test_a_file_size_limit(store: Store, tmp_path: Path) -> None:
    """The system refuses a write in the middle: EFBIG (Python ignores SIGXFSZ)."""
    layer = tar({"file": os.urandom(1 << 20)})
    path = write_tar(
        tmp_path / "a.tar", docker_archive(IMAGE.__class__((layer,)), compress=gzipped)
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, hard))
    try:
        with pytest.raises(StoreError, match="File too large"):
            load(store, str(path))
        assert_untouched(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    load(store, str(path))


# -- sudden death


def test_killed_at_every_step_of_an_import(tmp_path: Path) -> None:
    """Kill the process before each step that others could see; every time the next run works."""
    image = small_image(names=("example.org/made:1",))
    source = write_tar(tmp_path / "a.tar", docker_archive(image, compress=gzipped))
    seen = set()
    step = 0
    while True:
        root = tmp_path / f"store{step}"
        with start_worker("load", str(root), str(source), str(step)) as worker:
            assert worker.stdout is not None
            line = worker.stdout.readline().split()
            worker.kill()
        if line[0] == "loaded":
            break
        seen.add(line[1])
        store = Store(root)
        assert list((root / "tmp").iterdir()) == []
        assert_whole(store)
        assert [str(one.id) for one in load(store, str(source))] == [image.id]
        assert list(check_image(store, "example.org/made:1")) == []
        step += 1
    assert step > 30
    assert {"open", "os.rename", "os.mkdir", "fcntl.flock", "progress"} <= seen


def test_what_a_dead_process_left_is_not_in_the_way_of_a_live_one(tmp_path: Path) -> None:
    """A process that is only slow keeps what it has, while others come and go."""
    source = write_tar(tmp_path / "a.tar", docker_archive(IMAGE, compress=gzipped))
    root = tmp_path / "store"
    for step in range(200):
        with start_worker("load", str(root), str(source), str(step)) as worker:
            assert worker.stdout is not None
            assert worker.stdin is not None
            line = worker.stdout.readline().split()
            if line[:2] != ["stopped", "progress"]:
                worker.kill()
                continue
            held = set((root / "tmp").iterdir())
            assert held
            load(Store(root), str(source))
            assert set((root / "tmp").iterdir()) == held
            worker.stdin.close()
            assert worker.stdout.readline() == "loaded 1\n"
            assert worker.wait() == 0
        break
    assert list((root / "tmp").iterdir()) == []
    assert list(check_image(Store(root), "example.org/made:1")) == []


def test_names_in_messages_are_escaped(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\n.tar"
    members = docker_archive(IMAGE)
    items = json.loads(members["manifest.json"])
    items[0]["Layers"][0] = "x\x1b[2J\r\n"
    path.write_bytes(tar(members | {"manifest.json": json.dumps(items).encode()}))
    with pytest.raises(FormatError) as caught:
        load(store, str(path))
    assert str(caught.value).isprintable()
    assert "a\\x1b[31m\\n.tar" in str(caught.value)
    assert named_descriptor(IMAGE)["annotations"]
