"""Pulls of layers that come in parts: the store, the progress and the end by a signal."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from support.image_files import OCI_LAYER, MadeImage, gzipped, manifest_of, plain
from support.mounting import CommandLine
from support.servers import DockerRegistry, FaultProxy
from support.servers.proxy import Cut, Fault, Flip, Forward, Reply, Request, Response, Stall
from support.transfers import (
    OCI_MANIFEST,
    QUICK,
    assert_nothing_partial,
    command_line,
    image,
    layer,
    new_client,
    parsed,
)

from unionmount.errors import DigestMismatch, TransferError
from unionmount.images.reference import Digest
from unionmount.store.store import Store
from unionmount.transfer.pull import PullOptions, pull, pull_as

pytestmark = pytest.mark.needs("docker-registry")

PART = 256 * 1024
PARTED = replace(QUICK, connections=4, parted_from=PART * 4, part_size=PART, parts_ahead=4)
LARGE = layer("parted", PART * 9 + 1000)
OTHER = layer("parted too", PART * 5)
LITTLE = layer("little", 20_000)
MADE = image(LARGE, OTHER, LITTLE)
USUAL_PART = 8 * 1024 * 1024

Compress = Callable[[bytes], bytes]


async def _send(registry: DockerRegistry, name: str, made: MadeImage, compress: Compress) -> None:
    """Put an image into a registry with layers as they are, which skopeo would compress."""
    ref = parsed(f"{registry.address}/{name}")
    media_type = OCI_LAYER if compress is plain else f"{OCI_LAYER}+gzip"
    async with new_client() as client:
        for blob in (made.config, *map(compress, made.layers)):
            await client.upload_blob(ref, Digest.of(blob), len(blob), partial(iter, [blob]))
        await client.put_manifest(ref, manifest_of(made, compress, media_type), OCI_MANIFEST)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
async def name(registry: DockerRegistry, proxy: FaultProxy) -> str:
    """An image with two layers in parts, plain, by way of the proxy."""
    await _send(registry, "pull-parts/plain:1", MADE, plain)
    return f"{proxy.address}/pull-parts/plain:1"


def _in_part(number: int, fault: Fault, data: bytes = LARGE) -> Fault:
    """A fault of all requests that begin in a part of one blob."""
    digest = str(Digest.of(data))

    def rule(request: Request, forward: Forward) -> Response:
        start = request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        ours = request.path.endswith(digest) and int(start) // PART == number
        return fault(request, forward) if ours else forward(request)

    return rule


async def test_layers_in_parts_are_what_was_sent(
    store: Store, name: str, proxy: FaultProxy, registry: DockerRegistry
) -> None:
    async with new_client(limits=PARTED) as client:
        stored = await pull(store, client, parsed(name))
        assert str(stored.id) == MADE.id
        assert_nothing_partial(store, set(MADE.diff_ids))
        asked = [one.reference for one in proxy.requests("blob") if one.status == 206]
        for data in (LARGE, OTHER):
            assert asked.count(str(Digest.of(data))) == -(-len(data) // PART)
        assert str(Digest.of(LITTLE)) not in asked
        await _send(registry, "pull-parts/gzip:1", MADE, gzipped)
        again = Store(store.root.parent / "again")
        await pull(again, client, parsed(f"{proxy.address}/pull-parts/gzip:1"), keep_blobs=True)
    assert_nothing_partial(again, set(MADE.diff_ids))
    kept = again.open_blob(Digest.of(gzipped(LARGE)))
    assert kept is not None
    kept.close()


@pytest.mark.parametrize("number", [0, 1, 4, 8, 9])
async def test_a_flipped_bit_of_any_part_is_found(
    store: Store, name: str, proxy: FaultProxy, number: int
) -> None:
    """Byte 1000 of each part is in the content of the file, which no checksum of tar covers."""
    proxy.fault(_in_part(number, Flip(1000)), kind="blob", times=999)
    at = number * PART + 1000
    wrong = bytearray(LARGE)
    wrong[at] ^= 0x10
    async with new_client(limits=PARTED) as client:
        with pytest.raises(DigestMismatch) as raised:
            await pull(store, client, parsed(name))
        assert raised.value.expected == str(Digest.of(LARGE))
        assert raised.value.actual == str(Digest.of(bytes(wrong)))
        assert store.list_images() == []
        assert not store.has_layer(Digest.of(LARGE))
        assert_nothing_partial(store)
        proxy.reset()
        await pull(store, client, parsed(name))
    assert_nothing_partial(store, set(MADE.diff_ids))


async def test_a_part_in_the_place_of_another_is_found(
    store: Store, name: str, proxy: FaultProxy
) -> None:
    """The head of the answer is right, and the bytes are those of the part before."""

    def shifted(request: Request, forward: Forward) -> Response:
        right = forward(request)
        headers = request.headers | {"range": f"bytes={4 * PART}-{5 * PART - 1}"}
        right.release()
        return replace(forward(replace(request, headers=headers)), headers=right.headers)

    proxy.fault(_in_part(5, shifted), kind="blob", times=999)
    async with new_client(limits=PARTED) as client:
        with pytest.raises(DigestMismatch):
            await pull(store, client, parsed(name))
    assert store.list_images() == []
    assert not store.has_layer(Digest.of(LARGE))
    assert_nothing_partial(store)


@pytest.mark.parametrize(
    "fault",
    [None, _in_part(3, Cut(50_000)), _in_part(4, Reply(429, (("Retry-After", "0"),)))],
    ids=["right", "cut", "429"],
)
async def test_the_progress_only_grows_and_ends_at_the_total(
    store: Store, name: str, proxy: FaultProxy, fault: Fault | None
) -> None:
    told: dict[str, list[tuple[int, int | None]]] = {}
    lock = threading.Lock()

    def progress(what: str, done: int, total: int | None) -> None:
        with lock:
            told.setdefault(what, []).append((done, total))

    if fault is not None:
        proxy.fault(fault, kind="blob", times=4)
    async with new_client(limits=PARTED) as client:
        await pull_as(store, client, parsed(name), PullOptions(progress=progress))
    assert set(told) == {Digest.of(data).short for data in MADE.layers}
    for data in MADE.layers:
        calls = told[Digest.of(data).short]
        counts = [done for done, _ in calls]
        assert counts == sorted(set(counts))
        assert counts[-1] == len(data)
        assert {total for _, total in calls} == {len(data)}


async def test_a_part_that_never_comes_leaves_nothing(
    store: Store, name: str, proxy: FaultProxy
) -> None:
    proxy.fault(_in_part(6, Reply(500)), kind="blob", times=999)
    async with new_client(limits=PARTED) as client:
        with pytest.raises(TransferError, match=str(Digest.of(LARGE))):
            await pull(store, client, parsed(name))
    assert store.list_images() == []
    assert not store.has_layer(Digest.of(LARGE))
    assert_nothing_partial(store)


async def test_a_pull_that_is_cancelled_ends_all_parts(
    store: Store, name: str, proxy: FaultProxy
) -> None:
    stall = Stall(1000, threading.Event())
    proxy.fault(_in_part(3, stall), kind="blob", times=999)
    async with new_client(limits=PARTED) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pull, store, client, parsed(name))
            assert await trio.to_thread.run_sync(stall.reached.wait, 30)
            nursery.cancel_scope.cancel()
        stall.released.set()
        assert not store.has_layer(Digest.of(LARGE))
        assert_nothing_partial(store)
        proxy.reset()
        await pull(store, client, parsed(name))
    assert_nothing_partial(store, set(MADE.diff_ids))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_pull_in_parts_and_leaves_nothing(
    number: signal.Signals, registry: DockerRegistry, proxy: FaultProxy, tmp_path: Path
) -> None:
    """All connections hang, and go on hanging until the command has ended."""
    large = layer("usual parts", USUAL_PART * 5)
    made = image(large)
    trio.run(_send, registry, "pull-parts/usual:1", made, plain)
    name = f"{proxy.address}/pull-parts/usual:1"
    stall = Stall(1000, threading.Event())
    proxy.fault(stall, kind="blob", reference=str(Digest.of(large)), times=99)
    cli: CommandLine = command_line(tmp_path / "store")
    process = subprocess.Popen(
        [sys.executable, "-m", "unionmount", "pull", name],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    parts = -(-len(large) // USUAL_PART)
    while sum(one.sent >= 1000 for one in proxy.requests("blob") if one.status == 206) < parts:
        assert process.poll() is None
        stall.released.wait(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    stall.released.set()
    assert process.returncode == 128 + number
    assert (out, err) == (b"", b"")
    assert_nothing_partial(Store(tmp_path / "store"), set())
    proxy.reset()
    assert cli.run("pull", name).stdout == f"{made.id}\n"
