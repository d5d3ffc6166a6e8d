"""A blob arrives whole and in order, or there is an error that says why."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from support.image_files import zstd_frame
from support.registry_clients import (
    QUICK,
    configured,
    feed,
    fetch,
    make_client,
    reference,
    some_bytes,
)
from support.servers import DockerRegistry, FaultProxy
from support.servers.proxy import (
    Cut,
    Drip,
    Endless,
    Forward,
    Length,
    Redirect,
    Reply,
    Request,
    Response,
    Stall,
    no_ranges,
)

from unionmount.errors import (
    NotFoundError,
    RegistryError,
    SizeMismatch,
    TooManyRequests,
    TransferError,
)
from unionmount.images.manifest import Descriptor
from unionmount.images.reference import Reference
from unionmount.registry import RegistryClient

pytestmark = pytest.mark.needs("docker-registry")

SIZE = 3_000_000
DATA = some_bytes(SIZE)
REPOSITORY = "blobs/all"


@pytest.fixture(scope="module")
def blob(registry: DockerRegistry) -> Descriptor:
    return feed(registry.address, REPOSITORY, DATA)


@pytest.fixture
def ref(proxy: FaultProxy) -> Reference:
    return reference(proxy.address, REPOSITORY)


async def _take(client: RegistryClient, ref: Reference, blob: Descriptor, taken: bytearray) -> None:
    """Take what comes before the error."""
    async with client.blob(ref, blob) as chunks:
        async for chunk in chunks:
            taken += chunk


async def test_a_blob_is_one_request(proxy: FaultProxy, ref: Reference, blob: Descriptor) -> None:
    async with make_client() as client:
        assert await fetch(client, ref, blob) == DATA
    (seen,) = proxy.requests("blob")
    assert (seen.method, seen.status) == ("GET", 200)
    assert "range" not in seen.headers


async def test_an_empty_blob(registry: DockerRegistry) -> None:
    empty = feed(registry.address, REPOSITORY, b"")
    async with make_client() as client:
        assert await fetch(client, reference(registry.address, REPOSITORY), empty) == b""


async def test_a_cut_stream_goes_on_where_it_was(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(Cut(1_000_000), kind="blob", times=2)
    async with make_client() as client:
        assert await fetch(client, ref, blob) == DATA
    first, second, third = proxy.requests("blob")
    assert first.status == 200
    assert (second.status, third.status) == (206, 206)
    starts = [int(one.headers["range"].removeprefix("bytes=")[:-1]) for one in (second, third)]
    assert 0 < starts[0] <= 1_000_000 < starts[1] <= 2_000_000
    assert sum(one.sent for one in (first, second, third)) < SIZE + 500_000


async def test_progress_renews_the_attempts(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(Cut(200_000), kind="blob", times=14)
    async with make_client(limits=replace(QUICK, attempts=3, renewed_after=300_000)) as client:
        assert await fetch(client, ref, blob) == DATA


async def test_a_server_that_gives_a_little_each_time_has_an_end(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(Cut(10), kind="blob", times=1000)
    async with make_client() as client:
        with pytest.raises(TransferError, match=str(blob.digest)):
            await fetch(client, ref, blob)
    assert len(proxy.requests("blob")) == QUICK.attempts


async def test_a_server_without_ranges_is_passed_over(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(Cut(1_000_000), kind="blob")
    proxy.fault(no_ranges, kind="blob")
    async with make_client() as client:
        assert await fetch(client, ref, blob) == DATA
    assert [one.status for one in proxy.requests("blob")] == [200, 200]


@pytest.mark.parametrize(
    "content_range",
    ["", "bytes 0-2999999/3000000", "bytes 1-5/*", "bytes */3000000", "bytes x", "bytes 9-8/7"],
)
async def test_another_range_than_was_asked_for_is_refused(
    proxy: FaultProxy, ref: Reference, blob: Descriptor, content_range: str
) -> None:
    proxy.fault(Cut(1_000_000), kind="blob")

    def wrong(request: Request, forward: Forward) -> Response:
        return forward(request).with_header("Content-Range", content_range)

    proxy.fault(wrong, kind="blob")
    taken = bytearray()
    async with make_client() as client:
        with pytest.raises(TransferError, match="was asked for bytes from"):
            await _take(client, ref, blob, taken)
    assert bytes(taken) == DATA[: len(taken)]


@pytest.mark.parametrize("change", [-5, 5])
async def test_another_length_names_both(
    proxy: FaultProxy, ref: Reference, blob: Descriptor, change: int
) -> None:
    proxy.fault(Length(change), kind="blob", times=9)
    async with make_client() as client:
        with pytest.raises(SizeMismatch) as caught:
            await fetch(client, ref, blob)
    assert f"size is {SIZE + change} bytes, expected {SIZE}" in str(caught.value)
    assert str(blob.digest) in str(caught.value)


async def test_never_more_than_the_descriptor_says(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(Endless(), kind="blob", times=9)
    taken = bytearray()
    async with make_client() as client:
        with pytest.raises(SizeMismatch, match=f"expected {SIZE}"):
            await _take(client, ref, blob, taken)
    assert bytes(taken) == DATA[: len(taken)]


async def test_a_body_without_length_that_is_short(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    def short(request: Request, forward: Forward) -> Response:
        made = forward(request).with_header("Content-Length", None)
        return replace(made, body=iter([b"".join(made.body)[:1000]]))

    proxy.fault(short, kind="blob")
    async with make_client() as client:
        assert await fetch(client, ref, blob) == DATA
    assert [one.status for one in proxy.requests("blob")] == [200, 206]


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
async def test_failures_of_the_server_are_tried_again(
    proxy: FaultProxy, ref: Reference, blob: Descriptor, status: int
) -> None:
    proxy.fault(Reply(status), kind="blob", times=QUICK.attempts - 1)
    async with make_client() as client:
        assert await fetch(client, ref, blob) == DATA
        proxy.reset()
        proxy.fault(Reply(status), kind="blob", times=99)
        with pytest.raises(TransferError, match=f"answers {status}: as the test wants it"):
            await fetch(client, ref, blob)
    assert len(proxy.requests("blob")) == QUICK.attempts


async def test_retry_after_is_obeyed(proxy: FaultProxy, ref: Reference, blob: Descriptor) -> None:
    proxy.fault(Reply(429, (("Retry-After", "1"),)), kind="blob")
    async with make_client() as client:
        begin = trio.current_time()
        assert await fetch(client, ref, blob) == DATA
        assert trio.current_time() - begin >= 1
        proxy.fault(Reply(429, (("Retry-After", "4000"),)), kind="blob")
        with pytest.raises(TooManyRequests, match="requests a pause of 4000 s"):
            await fetch(client, ref, blob)
        proxy.fault(Reply(429), kind="blob", times=99)
        with pytest.raises(TooManyRequests, match="answers 429"):
            await fetch(client, ref, blob)


async def test_what_is_not_there_is_not_tried_again(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    other = replace(blob, digest=type(blob.digest).of(b"other"))
    async with make_client() as client:
        with pytest.raises(NotFoundError, match=r"answers 404: blob unknown to registry"):
            await fetch(client, ref, other)
    assert len(proxy.requests("blob")) == 1


async def test_a_stalled_stream_is_taken_up_again(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    stall = Stall(500_000, threading.Event())
    proxy.fault(stall, kind="blob")
    async with make_client(limits=replace(QUICK, silence=0.3)) as client:
        assert await fetch(client, ref, blob) == DATA
    stall.released.set()
    assert [one.status for one in proxy.requests("blob")] == [200, 206]


async def test_dripping_has_an_end(proxy: FaultProxy, ref: Reference, blob: Descriptor) -> None:
    proxy.fault(Drip(1, 0.02), kind="blob", times=99)
    limits = replace(QUICK, slow_window=0.2, slow_bytes=1000, attempts=2)
    async with make_client(limits=limits) as client:
        with pytest.raises(TransferError, match="is too slow: "):
            await fetch(client, ref, blob)


async def test_a_slow_taker_is_no_slow_server(ref: Reference, blob: Descriptor) -> None:
    limits = replace(QUICK, slow_window=0.2, slow_bytes=10**9, attempts=1)
    async with make_client(limits=limits) as client, client.blob(ref, blob) as chunks:
        taken = await anext(chunks)
        await trio.sleep(0.3)
        async for chunk in chunks:
            taken += chunk
    assert taken == DATA


async def test_a_compressed_answer_is_refused(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    def packed(request: Request, forward: Forward) -> Response:
        assert request.headers["accept-encoding"] == "identity"
        return forward(request).with_header("Content-Encoding", "gzip")

    proxy.fault(packed, kind="blob")
    async with make_client() as client:
        with pytest.raises(RegistryError, match="Content-Encoding 'gzip', which was not requested"):
            await fetch(client, ref, blob)


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("zstd", zstd_frame),
    ],
)
async def test_a_blob_may_be_what_the_answer_is_said_to_be_encoded_in(
    registry: DockerRegistry, proxy: FaultProxy, name: str, pack: Callable[[bytes], bytes]
) -> None:
    data = pack(DATA)
    blob = feed(registry.address, "blobs/encoded", data)

    def named(request: Request, forward: Forward) -> Response:
        return forward(request).with_header("Content-Encoding", name)

    def breaking(request: Request, forward: Forward) -> Response:
        return Cut(after=len(data) // 2)(request, forward).with_header("Content-Encoding", name)

    proxy.fault(breaking, kind="blob")
    proxy.fault(named, kind="blob", times=99)
    async with make_client() as client:
        assert await fetch(client, reference(proxy.address, "blobs/encoded"), blob) == data


@pytest.mark.parametrize("length", [True, False])
async def test_what_was_compressed_on_the_way_is_not_the_blob(
    proxy: FaultProxy, ref: Reference, blob: Descriptor, length: bool
) -> None:
    packed = gzip.compress(DATA)  # of random bytes, so it is longer
    headers = [("Content-Encoding", "gzip")]
    if length:
        headers.append(("Content-Length", str(len(packed))))
    answer = Response(200, headers, iter([packed]))
    proxy.fault(lambda _request, _forward: answer, kind="blob")
    async with make_client() as client:
        with pytest.raises(RegistryError, match="Content-Encoding 'gzip', which was not requested"):
            await fetch(client, ref, blob)


async def test_redirects_are_followed_a_few_times(
    registry: DockerRegistry, proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(Redirect(registry.url), kind="blob")
    async with make_client() as client:
        assert await fetch(client, ref, blob) == DATA
        proxy.fault(Redirect(f"http://{proxy.address}"), kind="blob", times=99)
        with pytest.raises(RegistryError, match=f"more than {QUICK.redirects} redirects"):
            await fetch(client, ref, blob)
    assert len(proxy.requests("blob")) == QUICK.redirects + 2


@pytest.mark.parametrize("to", ["ftp://x", "file:///etc", "http://[::1", "gopher://a"])
async def test_redirects_to_nowhere(
    proxy: FaultProxy, ref: Reference, blob: Descriptor, to: str
) -> None:
    proxy.fault(Redirect(to), kind="blob")
    async with make_client() as client:
        with pytest.raises(RegistryError, match="redirects to"):
            await fetch(client, ref, blob)


async def test_a_stream_that_is_left_leaves_nothing(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    """Unclosed connections and generators are warnings, and those are errors."""
    async with make_client() as client:
        async with client.blob(ref, blob) as chunks:
            assert await anext(chunks)
        stall = Stall(500_000, threading.Event())
        proxy.fault(stall, kind="blob")
        with trio.move_on_after(0.3) as scope:
            await fetch(client, ref, blob)
        assert scope.cancelled_caught
        stall.released.set()
        assert await fetch(client, ref, blob) == DATA


async def test_many_at_once(ref: Reference, blob: Descriptor) -> None:
    got = []

    async def one() -> None:
        got.append(await fetch(client, ref, blob))

    async with make_client() as client, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one)
    assert got == [DATA] * 8


async def test_another_endpoint_goes_on(
    registry: DockerRegistry, proxy: FaultProxy, blob: Descriptor, tmp_path: Path
) -> None:
    """A mirror that fails in the middle costs what it sent, not the whole blob."""
    registries = configured(
        tmp_path,
        f'[[registry]]\nprefix = "some.example"\nlocation = "{registry.address}"\n'
        f'[[registry.mirror]]\nlocation = "{proxy.address}"\n',
    )
    proxy.fault(Cut(1_000_000), kind="blob", times=99)
    async with make_client(
        registries=registries, limits=replace(QUICK, mirror_attempts=1)
    ) as client:
        assert await fetch(client, reference("some.example", REPOSITORY), blob) == DATA
    assert len(proxy.requests("blob")) == 1
