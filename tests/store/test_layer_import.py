"""Decompressing and importing one layer; bombs, damage, abandoned imports."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import random
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.image_files import (
    bzip2_stream,
    bzip2_streams,
    flip,
    gzip_members,
    gzipped,
    plain,
    sha256,
    skippable,
    tar,
    xz_large_dictionary,
    xz_stream,
    xz_streams,
    zstd_frame,
    zstd_frames,
    zstd_long_window,
)

from unionmount.core import Index
from unionmount.errors import DigestMismatch, FormatError, LimitExceeded, SizeMismatch, UsageError
from unionmount.formats.compression import MAGIC_SIZE, Compression, compressor, decompressor, sniff
from unionmount.images.reference import Digest
from unionmount.store.layer_import import THREADS, Expected, ImportLimits, LayerImport
from unionmount.store.staging import Staging
from unionmount.store.store import Store

_RANDOM = random.Random(1)
TAR = tar({f"dir/file{n}": _RANDOM.randbytes(1000) * 3 for n in range(100)})
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": plain,
    "gzip": gzipped,
    "gzip members": gzip_members,
    "zstd": zstd_frame,
    "zstd frames": zstd_frames,
    "xz": xz_stream,
    "xz streams": xz_streams,
    "bzip2": bzip2_stream,
    "bzip2 streams": bzip2_streams,
}
FRAMES = [gzipped, zstd_frame, xz_stream, bzip2_stream]


def decompress(data: bytes, step: int = 1 << 20) -> bytes:
    stream = decompressor(sniff(data[:MAGIC_SIZE], "it"), "it")
    pieces = [data[i : i + step] for i in range(0, len(data), step)]
    result = b"".join(out for piece in pieces for out in stream.feed(piece))
    stream.finish()
    return result


# -- compression


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("step", [1, 7, 1000, 1 << 20])
def test_every_encoding_is_read_to_its_end(encoding: str, step: int) -> None:
    assert decompress(ENCODINGS[encoding](TAR[:50_000]), step) == TAR[:50_000]


@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(1, 400), st.sampled_from(FRAMES))
def test_any_split_into_frames_and_pieces(
    parts: list[bytes], step: int, compress: Callable[[bytes], bytes]
) -> None:
    data = b"".join(compress(part) for part in [b"first", *parts])
    assert decompress(data, step) == b"first" + b"".join(parts)


def gzip_with_fields(data: bytes, flags: int) -> bytes:
    """A gzip member with optional fields in its header (RFC 1952, 2.3)."""
    header = b"\x1f\x8b\x08" + bytes([flags]) + b"\0\0\0\0\0\x03"
    if flags & 4:
        header += (300).to_bytes(2, "little") + bytes(300)
    if flags & 8:
        header += b"a name\0"
    if flags & 16:
        header += b"a comment\0"
    if flags & 2:
        header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    deflate = zlib.compressobj(wbits=-15)
    trailer = zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")
    return header + deflate.compress(data) + deflate.flush() + trailer


@pytest.mark.parametrize("flags", range(0, 32, 2))
@pytest.mark.parametrize("step", [1, 2, 3, 11, 100, 1 << 20])
def test_gzip_headers_in_pieces(flags: int, step: int) -> None:
    member = gzip_with_fields(TAR[:2000], flags)
    assert gzip.decompress(member) == TAR[:2000]
    assert decompress(member * 2, step) == TAR[:2000] * 2
    for end in range(len(member) + 1, len(member) + 330, 7):
        with pytest.raises(FormatError, match="truncated"):
            decompress((member * 2)[:end], step)


def test_damaged_gzip_headers() -> None:
    member = gzip_with_fields(b"x", 2 | 8)
    for damaged, message in {
        flip(member, 12): "checksum of the header",
        member[:3] + b"\x80" + member[4:]: "unknown flags 0x80",
        member[:2] + b"\x07" + member[3:]: "no member begins here",
        member[:10] + b"n" * 200_000: "more than 131072 bytes",
    }.items():
        for step in (1000, 1 << 20):
            with pytest.raises(FormatError, match=message):
                decompress(damaged, step)


@pytest.mark.parametrize("encoding", [one for one in ENCODINGS if one != "plain"])
def test_truncation_anywhere_is_refused(encoding: str) -> None:
    data = ENCODINGS[encoding](TAR[:3000]).removesuffix(bytes(512))
    whole = decompress(data)
    for end in range(MAGIC_SIZE, len(data)):
        try:
            shorter = decompress(data[:end])
        except FormatError:
            continue
        # only the end of a whole frame may pass, and then the rest is missing
        assert len(shorter) < len(whole) or data[end:].startswith(b"\x5a\x2a\x4d\x18")


@pytest.mark.parametrize(
    "tail",
    [b"garbage", b"\x1f", b"\x1f\x8c" * 10, bytes(100) + b"x", bytes(100) + gzipped(b"more")],
)
def test_garbage_after_gzip_is_refused(tail: bytes) -> None:
    for step in (1, 1 << 20):
        with pytest.raises(FormatError):
            decompress(gzipped(TAR) + tail, step)


@pytest.mark.parametrize("tail", [b"garbage", bytes(512), b"\x28\xb5", skippable(b"12")[:-1]])
def test_garbage_after_zstd_is_refused(tail: bytes) -> None:
    with pytest.raises(FormatError):
        decompress(zstd_frame(TAR) + tail)


def test_a_huge_zstd_window_is_refused() -> None:
    with pytest.raises(FormatError, match="memory"):
        decompress(zstd_long_window(b"x" * 100))


@pytest.mark.parametrize("padding", [0, 4, 512, 70_000])
@pytest.mark.parametrize("step", [1, 3, 1 << 20])
def test_padding_of_xz_is_passed_over(padding: int, step: int) -> None:
    data = xz_stream(b"one") + bytes(padding) + xz_stream(b"two") + bytes(padding)
    assert decompress(data, step) == b"onetwo"


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        (b"garbage", "garbage after the xz data"),
        (bytes(4) + b"x", "garbage after the xz data"),
        (bytes(3), "3 bytes of padding"),
        (bytes(5) + xz_stream(b"more"), "5 bytes of padding"),
        (b"\xfd7", "truncated xz data"),
        (gzipped(b"more"), "garbage after the xz data"),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_garbage_after_xz_is_refused(tail: bytes, message: str, step: int) -> None:
    with pytest.raises(FormatError, match=message if step > 1 or tail[:1] != b"\xfd" else "xz"):
        decompress(xz_stream(TAR) + tail, step)


@pytest.mark.parametrize("tail", [b"garbage", b"BZ", bytes(4), gzipped(b"more")])
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_garbage_after_bzip2_is_refused(tail: bytes, step: int) -> None:
    with pytest.raises(FormatError, match="bzip2"):
        decompress(bzip2_stream(TAR) + tail, step)


@pytest.mark.parametrize("encoding", ["xz", "xz streams", "bzip2", "bzip2 streams"])
def test_changed_bytes_are_noticed(encoding: str) -> None:
    """Both formats have a checksum of their data.

    What is padding is not checked: the last bytes of xz streams, and up to seven bits of the last
    byte of a bzip2 stream, of which all bits are therefore changed.
    """
    data = ENCODINGS[encoding](TAR[:3000])
    for at in range(MAGIC_SIZE, len(data.rstrip(b"\0")), 41):
        changed = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        with pytest.raises(FormatError):
            decompress(changed)


def test_a_huge_xz_dictionary_is_refused() -> None:
    data = xz_large_dictionary(b"x" * 100)
    assert lzma.decompress(data) == b"x" * 100
    with pytest.raises(LimitExceeded, match="more than 130 MiB of memory"):
        decompress(data)


@pytest.mark.needs("xz", "bzip2")
@pytest.mark.parametrize(
    "command",
    [
        ["xz", "-9e"],
        ["xz", "-1", "--block-size=4096"],
        ["xz", "--check=none"],
        ["xz", "--check=sha256"],
        ["xz", "--delta=dist=4", "--lzma2=dict=128MiB"],
        ["bzip2", "-1"],
        ["bzip2", "-9"],
    ],
    ids=" ".join,
)
def test_what_the_tools_write_is_read(command: list[str]) -> None:
    for content in (TAR, b""):
        written = subprocess.run(
            [*command, "-c"], input=content, stdout=subprocess.PIPE, check=True
        )
        assert decompress(written.stdout * 2) == content * 2
    tool = [command[0], "-dc"]
    for sample in (ENCODINGS[command[0]](TAR), ENCODINGS[f"{command[0]} streams"](TAR)):
        assert subprocess.run(tool, input=sample, stdout=subprocess.PIPE, check=True).stdout == TAR


def test_other_compressions_are_named() -> None:
    with pytest.raises(FormatError, match="compressed with lz4, which is not supported"):
        sniff(b"\x04\x22\x4d\x18" + bytes(6), "it")


@pytest.mark.parametrize("name", ["BZh", "BZh9", "BZh91AY", "BZip"])
def test_a_tar_that_begins_with_such_a_name_is_plain(name: str) -> None:
    data = tar({name: b"x"})
    assert sniff(data[:MAGIC_SIZE], "it") is Compression.PLAIN
    assert decompress(data) == data


@pytest.mark.parametrize("kind", [Compression.PLAIN, Compression.XZ, Compression.BZIP2])
def test_what_is_not_written_is_refused(kind: Compression) -> None:
    with pytest.raises(UsageError, match=f"{kind.value} cannot be written"):
        compressor(kind)


def test_sniffing_looks_at_bytes_only() -> None:
    assert sniff(b"", "it") is Compression.PLAIN
    assert sniff(b"\x1f", "it") is Compression.PLAIN
    assert sniff(skippable(b"")[:4], "it") is Compression.ZSTD
    assert sniff(TAR[:6], "it") is Compression.PLAIN


@pytest.mark.parametrize("compress", FRAMES)
def test_output_comes_in_bounded_steps(compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(64 << 20))
    stream = decompressor(sniff(bomb[:MAGIC_SIZE], "it"), "it")
    tracemalloc.start()
    try:
        total = sum(len(piece) for piece in stream.feed(bomb))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 64 << 20
    assert peak < 4 << 20


# -- limits


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("16M", 16 << 20), ("2g", 2 << 30), ("1T", 1 << 40), ("", 64 << 30)],
)
def test_the_limit_comes_from_the_environment(text: str, size: int) -> None:
    limits = ImportLimits.from_environment({"UNIONMOUNT_MAX_LAYER_SIZE": text})
    assert limits.max_layer_size == size


@pytest.mark.parametrize("text", ["x", "-1", "1.5G", "1P", "9" * 30])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="UNIONMOUNT_MAX_LAYER_SIZE"):
        ImportLimits.from_environment({"UNIONMOUNT_MAX_LAYER_SIZE": text})


# -- importing


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


DIFF_ID = Digest.parse(sha256(TAR))


def expected(blob: bytes, layer: bytes = TAR) -> Expected:
    digest = Digest.parse(sha256(layer))
    return Expected(digest, "the layer", Digest.parse(sha256(blob)), len(blob))


def run_import(
    store: Store, blob: bytes, want: Expected, limit: int = 1 << 30, step: int = 10_000
) -> int:
    with Store(store.root, ImportLimits(limit)).import_layer(want) as layer:
        for start in range(0, len(blob), step):
            layer.write(blob[start : start + step])
        return layer.finish()


def assert_nothing_left(store: Store) -> None:
    assert list((store.root / "tmp").iterdir()) == []
    assert list((store.root / "layers/sha256").iterdir()) == []
    mine = [one for one in threading.enumerate() if one.name.startswith(THREADS)]
    assert mine == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_import_stores_the_tar_bit_for_bit(store: Store, encoding: str) -> None:
    blob = ENCODINGS[encoding](TAR)
    want = expected(blob)
    assert run_import(store, blob, want) == len(TAR)
    path = store.root / "layers/sha256" / DIFF_ID.hex
    assert (path / "layer.tar").read_bytes() == TAR
    with (path / "layer.idx").open("rb") as file, Index(file.fileno(), "it") as index:
        index.verify()
        assert index.info.files == 100
        assert index.info.layer_size == len(TAR)
    assert list((store.root / "tmp").iterdir()) == []


def test_sha512_names_are_verified_too(store: Store) -> None:
    blob = gzipped(TAR)
    want = Expected(Digest.of(TAR, "sha512"), "it", Digest.of(blob, "sha512"), len(blob))
    run_import(store, blob, want)
    assert store.has_layer(Digest.of(TAR, "sha512"))
    with pytest.raises(DigestMismatch):
        run_import(store, blob, Expected(Digest.of(b"", "sha512"), "it"))


def test_tiny_pieces_and_no_expectations_of_the_blob(store: Store) -> None:
    small = tar({"file": os.urandom(5000)})
    run_import(store, gzipped(small), Expected(Digest.parse(sha256(small)), "it"), step=1)
    assert store.has_layer(Digest.parse(sha256(small)))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_flipped_bit_is_noticed(store: Store, encoding: str) -> None:
    blob = ENCODINGS[encoding](TAR)
    want = expected(blob)
    for at in range(0, len(blob), len(blob) // 20):
        with pytest.raises(FormatError, match="the layer"):
            run_import(store, flip(blob, at), want)
    assert_nothing_left(store)


def test_a_digest_error_names_layer_and_digests(store: Store) -> None:
    other = tar({"other": b""})
    diff_id, blob_digest = Digest.parse(sha256(TAR)), Digest.parse(sha256(gzipped(TAR)))
    with pytest.raises(DigestMismatch) as caught:
        run_import(store, gzipped(other), Expected(diff_id, "the layer", blob_digest))
    assert (caught.value.expected, caught.value.actual) == (
        str(blob_digest),
        sha256(gzipped(other)),
    )
    with pytest.raises(DigestMismatch) as caught:
        run_import(store, gzipped(other), expected(gzipped(other), TAR))
    assert caught.value.expected == sha256(TAR)
    assert caught.value.actual == sha256(other)
    assert "the layer" in str(caught.value)
    assert_nothing_left(store)


def test_more_bytes_than_announced_stop_the_import_at_once(store: Store) -> None:
    blob = gzipped(TAR)
    want = expected(blob)
    with store.import_layer(want) as layer:
        layer.write(blob)
        with pytest.raises(SizeMismatch, match="at least"):
            layer.write(b"x")
    assert_nothing_left(store)


def test_fewer_bytes_than_announced(store: Store) -> None:
    blob = gzipped(TAR)
    with pytest.raises(SizeMismatch, match=rf"is {len(blob) - 9} bytes, expected {len(blob)}"):
        run_import(store, blob[:-9], expected(blob))
    with pytest.raises(FormatError, match="truncated gzip"):
        run_import(store, blob[:-9], Expected(Digest.parse(sha256(TAR)), "it"))
    assert_nothing_left(store)


def test_no_bytes_at_all(store: Store) -> None:
    with pytest.raises(DigestMismatch):
        run_import(store, b"", Expected(Digest.parse(sha256(TAR)), "it"))
    assert_nothing_left(store)


def test_a_damaged_tar_is_refused_though_its_digests_agree(store: Store) -> None:
    broken = flip(TAR, 5)
    with pytest.raises(FormatError, match="the layer"):
        run_import(store, gzipped(broken), expected(gzipped(broken), broken))
    cut = TAR[:10_000]
    with pytest.raises(FormatError, match="the layer"):
        run_import(store, gzipped(cut), expected(gzipped(cut), cut))
    assert_nothing_left(store)


def test_the_limit_on_the_tar_is_exact(store: Store) -> None:
    blob = gzipped(TAR)
    with pytest.raises(LimitExceeded, match="UNIONMOUNT_MAX_LAYER_SIZE"):
        run_import(store, blob, expected(blob), limit=len(TAR) - 1)
    assert_nothing_left(store)
    run_import(store, blob, expected(blob), limit=len(TAR))


def test_leaving_early_leaves_nothing(store: Store) -> None:
    blob = gzipped(TAR)
    with pytest.raises(KeyboardInterrupt):
        interrupted_import(store, blob)
    assert_nothing_left(store)
    with store.import_layer(expected(blob)):
        pass
    assert_nothing_left(store)


def interrupted_import(store: Store, blob: bytes) -> None:
    with store.import_layer(expected(blob)) as layer:
        layer.write(blob[:1000])
        raise KeyboardInterrupt


def test_a_failed_import_stays_failed(store: Store) -> None:
    blob = gzipped(TAR)
    with store.import_layer(Expected(Digest.parse(sha256(TAR)), "it")) as layer:
        write_until_error(layer, flip(blob, 3000), FormatError)
        for _ in range(2):
            with pytest.raises(FormatError):
                layer.finish()
    assert_nothing_left(store)


def write_until_error(layer: LayerImport, blob: bytes, error: type[Exception]) -> None:
    """An error of a thread comes with a later write."""
    with pytest.raises(error):
        write_forever(layer, blob)


def write_forever(layer: LayerImport, blob: bytes) -> None:
    while True:
        layer.write(blob)


def test_two_imports_of_one_layer_at_once(store: Store) -> None:
    blob = gzipped(TAR)
    want = expected(blob)
    other = Store(store.root)
    with store.import_layer(want) as one, other.import_layer(want) as two:
        one.write(blob)
        two.write(blob)
        assert one.finish() == two.finish() == len(TAR)
    assert store.has_layer(DIFF_ID)
    assert list((store.root / "tmp").iterdir()) == []


def test_staging_is_cleaned_only_when_nobody_holds_it(tmp_path: Path) -> None:
    held = Staging(tmp_path)
    (tmp_path / "dead").mkdir()
    (tmp_path / "dead" / "part").write_bytes(b"x")
    Staging.clean(tmp_path)
    assert list(tmp_path.iterdir()) == [held.path]
    held.close()
    held.close()
    assert list(tmp_path.iterdir()) == []


def test_published_staging_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    with Staging(tmp_path / "tmp") as staging:
        os.close(staging.create("file"))
        assert staging.publish(tmp_path / "target")
    assert (tmp_path / "target/file").exists()
    with Staging(tmp_path / "tmp") as staging:
        assert not staging.publish(tmp_path / "target")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_hashing_is_of_what_was_written(store: Store) -> None:
    """The file, not the stream, is what the name must fit."""
    blob = zstd_frames(TAR)
    want = expected(blob)
    run_import(store, blob, want)
    path = store.root / "layers/sha256" / DIFF_ID.hex / "layer.tar"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == DIFF_ID.hex
