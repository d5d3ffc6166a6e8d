"""A large blob comes in parts over several connections; whatever fails, it arrives whole."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import trio
import trio.testing
from support.effort import amount
from support.registry_clients import (
    QUICK,
    configured,
    feed,
    fetch,
    make_client,
    reference,
    some_bytes,
)
from support.registry_fixtures import PASSWORD, USER
from support.servers import Authority, DockerRegistry, FaultProxy, TokenServer
from support.servers.proxy import (
    Cut,
    Fault,
    Forward,
    Redirect,
    Reply,
    Request,
    Response,
    Seen,
    Stall,
    no_ranges,
    refuse_token,
)

from unionmount.errors import (
    SizeMismatch,
    TooManyRequests,
    TransferError,
    UnionmountError,
    UsageError,
)
from unionmount.images.manifest import Descriptor
from unionmount.images.reference import Digest, Reference
from unionmount.registry import RegistryClient, RegistryLimits

pytestmark = pytest.mark.needs("docker-registry")

PART = 256 * 1024
COUNT = 12
SIZE = PART * (COUNT - 1) + 1000
DATA = some_bytes(SIZE)
REPOSITORY = "parts/all"
CONNECTIONS = 4
PARTED = replace(
    QUICK, connections=CONNECTIONS, parted_from=PART * 4, part_size=PART, parts_ahead=CONNECTIONS
)
ENOUGH = 30.0


@pytest.fixture(scope="module")
def blob(registry: DockerRegistry) -> Descriptor:
    return feed(registry.address, REPOSITORY, DATA)


@pytest.fixture
def ref(proxy: FaultProxy) -> Reference:
    return reference(proxy.address, REPOSITORY)


def ranges_of(requests: list[Seen]) -> list[str]:
    return [one.headers.get("range", "").removeprefix("bytes=") for one in requests]


ALL_RANGES = sorted(
    [f"{at * PART}-{(at + 1) * PART - 1}" for at in range(COUNT - 1)]
    + [f"{(COUNT - 1) * PART}-{SIZE - 1}"]
)


def with_mirror(tmp_path: Path, registry: DockerRegistry, proxy: FaultProxy) -> RegistryClient:
    """A client for which the proxy is a mirror of ``some.example``, which is the registry."""
    registries = configured(
        tmp_path,
        f'[[registry]]\nprefix = "some.example"\nlocation = "{registry.address}"\n'
        f'[[registry.mirror]]\nlocation = "{proxy.address}"\n',
    )
    return make_client(registries=registries, limits=replace(PARTED, mirror_attempts=1))


@dataclass
class Together:
    """Holds bodies back until ``wanted`` are sent at once; ``most`` is how many there ever were."""

    wanted: int
    active: int = 0
    most: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, request: Request, forward: Forward) -> Response:
        response = forward(request)

        def counted() -> Iterator[bytes]:
            with self.changed:
                self.active += 1
                self.most = max(self.most, self.active)
                self.changed.notify_all()
                assert self.changed.wait_for(lambda: self.most >= self.wanted, ENOUGH)
            try:
                yield from response.body
            finally:
                with self.changed:
                    self.active -= 1

        return replace(response, body=counted())


def at_part(number: int, fault: Fault) -> Fault:
    """A fault of the first request for a part."""
    left = [1]

    def rule(request: Request, forward: Forward) -> Response:
        if request.headers.get("range", "").startswith(f"bytes={number * PART}-") and left:
            left.clear()
            return fault(request, forward)
        return forward(request)

    return rule


async def test_each_part_is_asked_for_once(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA
    requests = proxy.requests("blob")
    assert [one.status for one in requests] == [206] * COUNT
    assert sorted(ranges_of(requests)) == ALL_RANGES
    assert sum(one.sent for one in requests) == SIZE


@pytest.mark.parametrize(
    "limits",
    [
        replace(PARTED, parted_from=SIZE + 1),
        replace(PARTED, connections=1),
    ],
    ids=["small", "one connection"],
)
async def test_others_are_one_request_as_ever(
    proxy: FaultProxy, ref: Reference, blob: Descriptor, limits: RegistryLimits
) -> None:
    async with make_client(limits=limits) as client:
        assert await fetch(client, ref, blob) == DATA
    (seen,) = proxy.requests("blob")
    assert "range" not in seen.headers


async def test_as_many_connections_as_allowed(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    together = Together(CONNECTIONS)
    proxy.fault(together, kind="blob", times=99)
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA
    assert together.most == CONNECTIONS


async def test_blobs_share_the_connections(
    registry: DockerRegistry, proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    """Each has one at once; what is ahead begins only while there are fewer than the limit."""
    others = [some_bytes(SIZE, seed) for seed in (2, 3)]
    blobs = [blob, *(feed(registry.address, REPOSITORY, data) for data in others)]
    together = Together(CONNECTIONS)
    proxy.fault(together, kind="blob", times=99)
    got: dict[int, bytes] = {}

    async def one(client: RegistryClient, number: int) -> None:
        got[number] = await fetch(client, ref, blobs[number])

    async with make_client(limits=PARTED) as client, trio.open_nursery() as nursery:
        for number in range(len(blobs)):
            nursery.start_soon(one, client, number)
    assert [got[number] for number in range(3)] == [DATA, *others]
    assert CONNECTIONS <= together.most < CONNECTIONS + len(blobs)
    assert len(proxy.requests("blob")) == COUNT * len(blobs)


async def test_a_slow_reader_bounds_what_is_ahead(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    async with make_client(limits=PARTED) as client, client.blob(ref, blob) as chunks:
        taken = await anext(chunks)
        with trio.fail_after(ENOUGH):
            while sum(one.complete for one in proxy.requests("blob")) < 1 + PARTED.parts_ahead:
                await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert len(proxy.requests("blob")) == 1 + PARTED.parts_ahead
        async for chunk in chunks:
            taken += chunk
    assert taken == DATA
    assert len(proxy.requests("blob")) == COUNT


async def test_a_slow_part_bounds_what_is_ahead(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    stall = Stall(1000, threading.Event())
    proxy.fault(at_part(1, stall), kind="blob", times=99)
    got: list[bytes] = []

    async def read(client: RegistryClient) -> None:
        got.append(await fetch(client, ref, blob))

    async with make_client(limits=PARTED) as client, trio.open_nursery() as nursery:
        nursery.start_soon(read, client)
        with trio.fail_after(ENOUGH):
            while sum(one.complete for one in proxy.requests("blob")) < PARTED.parts_ahead:
                await trio.testing.wait_all_tasks_blocked(0.01)
        await trio.testing.wait_all_tasks_blocked(0.1)
        # the first part, the slow one if the reader itself waits for it, and those ahead
        assert len(proxy.requests("blob")) <= 2 + PARTED.parts_ahead < COUNT
        stall.released.set()
    assert got == [DATA]
    assert len(proxy.requests("blob")) == COUNT


async def test_a_server_without_ranges_sends_everything_once(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(no_ranges, kind="blob", times=99)
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA
    (seen,) = proxy.requests("blob")
    assert (seen.status, seen.sent) == (200, SIZE)


async def test_a_whole_blob_for_a_later_part_ends_the_parts(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(no_ranges, kind="blob", after=3)
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA
    requests = proxy.requests("blob")
    assert [one.status for one in requests].count(200) == 1
    (rest,) = [one for one in ranges_of(requests) if one.endswith("-")]
    assert int(rest.rstrip("-")) % PART == 0
    assert len(requests) < COUNT


def _with_range(said: str) -> Callable[[Request, Forward], Response]:
    def wrong(request: Request, forward: Forward) -> Response:
        response = forward(request)
        if response.status != 206 or request.headers["range"].endswith("-"):
            return response
        return response.with_header("Content-Range", said)

    return wrong


@pytest.mark.parametrize(
    "said", ["", "bytes 1-5/*", f"bytes 0-{SIZE - 1}/{SIZE}", f"bytes */{SIZE}", "x"]
)
async def test_a_server_that_gives_other_parts_is_asked_for_everything(
    proxy: FaultProxy, ref: Reference, blob: Descriptor, said: str
) -> None:
    proxy.fault(_with_range(said), kind="blob", times=99)
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA
    assert [one.status for one in proxy.requests("blob")] == [206, 200]


async def test_other_parts_later_are_not_taken(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(_with_range("bytes 5-9/*"), kind="blob", after=2, times=99)
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA
    assert ranges_of(proxy.requests("blob"))[-1].endswith("-")


async def test_another_total_is_another_blob(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(_with_range(f"bytes 0-{PART - 1}/{SIZE + 1}"), kind="blob", times=99)
    async with make_client(limits=PARTED) as client:
        with pytest.raises(SizeMismatch, match=f"size is {SIZE + 1} bytes, expected {SIZE}"):
            await fetch(client, ref, blob)
    assert len(proxy.requests("blob")) == 1


@pytest.mark.parametrize(
    "fault",
    [
        _with_range("bytes 5-9/*"),
        _with_range(f"bytes 0-{PART - 1}/{SIZE + 1}"),
        Reply(416),
        Reply(404),
        Reply(500),
        Cut(100),
    ],
    ids=["range", "total", "416", "404", "500", "cut"],
)
@pytest.mark.parametrize("after", [0, 2])
async def test_the_next_endpoint_goes_on(
    registry: DockerRegistry,
    proxy: FaultProxy,
    blob: Descriptor,
    tmp_path: Path,
    fault: Callable[[Request, Forward], Response],
    after: int,
) -> None:
    proxy.fault(fault, kind="blob", after=after, times=99)
    async with with_mirror(tmp_path, registry, proxy) as client:
        assert await fetch(client, reference("some.example", REPOSITORY), blob) == DATA
    good = [one for one in proxy.requests("blob") if one.status == 206]
    assert len(good) >= after


async def test_unsatisfiable_parts_are_asked_for_in_one(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(Reply(416), kind="blob")
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA
        assert [one.status for one in proxy.requests("blob")] == [416, 200]
        proxy.reset()
        proxy.fault(Reply(416, (("Content-Range", "bytes */77"),)), kind="blob")
        with pytest.raises(SizeMismatch, match=f"size is 77 bytes, expected {SIZE}"):
            await fetch(client, ref, blob)


async def test_parts_of_two_versions_are_not_joined(
    registry: DockerRegistry, proxy: FaultProxy, ref: Reference, blob: Descriptor, tmp_path: Path
) -> None:
    """The rest is asked for in one, and its digest decides; another endpoint comes before that."""

    def changed(request: Request, forward: Forward) -> Response:
        return forward(request).with_header("ETag", '"another"')

    proxy.fault(changed, kind="blob", after=2, times=99)
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA
    assert ranges_of(proxy.requests("blob"))[-1].endswith("-")
    proxy.reset()
    proxy.fault(changed, kind="blob", after=2, times=99)
    async with with_mirror(tmp_path, registry, proxy) as client:
        assert await fetch(client, reference("some.example", REPOSITORY), blob) == DATA
    assert not [one for one in ranges_of(proxy.requests("blob")) if one.endswith("-")]


async def test_weak_versions_say_nothing(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    count = iter(range(99))

    def weak(request: Request, forward: Forward) -> Response:
        return forward(request).with_header("ETag", f'W/"{next(count)}"')

    proxy.fault(weak, kind="blob", times=99)
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA
    assert sorted(ranges_of(proxy.requests("blob"))) == ALL_RANGES


@pytest.mark.parametrize("number", [0, 1, 5, COUNT - 2])
async def test_a_part_that_breaks_goes_on_alone(
    proxy: FaultProxy, ref: Reference, blob: Descriptor, number: int
) -> None:
    proxy.fault(at_part(number, Cut(100_000)), kind="blob", times=99)
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA
    requests = proxy.requests("blob")
    assert len(requests) == COUNT + 1
    (again,) = set(ranges_of(requests)) - set(ALL_RANGES)
    start, _, end = again.partition("-")
    assert 0 < int(start) % PART <= 100_000
    assert int(end) == int(start) - int(start) % PART + PART - 1


async def test_a_part_that_hangs_goes_on_alone(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    stall = Stall(100_000, threading.Event())
    proxy.fault(at_part(3, stall), kind="blob", times=99)
    async with make_client(limits=replace(PARTED, silence=0.5)) as client:
        assert await fetch(client, ref, blob) == DATA
    stall.released.set()
    assert len(proxy.requests("blob")) == COUNT + 1


async def test_what_fails_ahead_is_left_to_the_reader(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    """A server that bears one connection is worth no error, as long as the reader gets on."""
    lock = threading.Lock()

    def only_one(request: Request, forward: Forward) -> Response:
        if not lock.acquire(blocking=False):
            return Reply(503)(request, forward)
        response = forward(request)

        def body() -> Iterator[bytes]:
            pieces = b"".join(response.body)
            lock.release()
            yield pieces

        return replace(response, body=body())

    proxy.fault(only_one, kind="blob", times=999)
    async with make_client(limits=replace(PARTED, attempts=3)) as client:
        assert await fetch(client, ref, blob) == DATA


FAULTS: tuple[Fault, ...] = (
    Cut(0),
    Cut(1),
    Cut(100_000),
    Cut(PART - 1),
    Reply(500),
    Reply(503, (("Retry-After", "0"),)),
    Reply(429, (("Retry-After", "0"),)),
    Reply(416),
    Reply(404),
    no_ranges,
    _with_range("bytes 5-9/*"),
    lambda request, forward: forward(request).with_header("ETag", '"another"'),
)


@pytest.mark.parametrize("seed", range(amount(12, 200)))
@pytest.mark.parametrize("alone", [False, True], ids=["mirror", "alone"])
async def test_faults_at_random(
    registry: DockerRegistry,
    proxy: FaultProxy,
    blob: Descriptor,
    tmp_path: Path,
    seed: int,
    alone: bool,
) -> None:
    """Bytes that arrive are right; with an endpoint that is right behind this one, all of them do.

    The next blob of the same client has all connections and all of the memory.
    """
    choice, lock = random.Random(seed), threading.Lock()
    share = choice.choice([0.1, 0.3, 0.9])

    def some(request: Request, forward: Forward) -> Response:
        with lock:
            fault = choice.choice(FAULTS) if choice.random() < share else None
        return fault(request, forward) if fault else forward(request)

    async def take(client: RegistryClient, ref: Reference) -> None:
        async with client.blob(ref, blob) as chunks:
            async for chunk in chunks:
                taken.extend(chunk)

    taken = bytearray()
    proxy.fault(some, kind="blob", times=9999)
    ref = reference(proxy.address if alone else "some.example", REPOSITORY)
    async with with_mirror(tmp_path, registry, proxy) as client:
        try:
            await take(client, ref)
        except UnionmountError:
            assert alone
            assert DATA.startswith(bytes(taken))
        else:
            assert taken == DATA
        proxy.reset()
        connections = client._session.connections
        assert connections.room.value == PARTED.parts_ahead
        assert {host._used for host in connections._hosts.values()} == {0}
        assert await fetch(client, ref, blob) == DATA


async def test_an_error_is_that_of_the_reader(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    """It is raised as it is, in no group; and what was right came before it."""
    proxy.fault(Reply(500), kind="blob", after=3, times=999)
    taken = bytearray()

    async def take(client: RegistryClient) -> None:
        nonlocal taken
        async with client.blob(ref, blob) as chunks:
            async for chunk in chunks:
                taken += chunk

    async with make_client(limits=PARTED) as client:
        with pytest.raises(TransferError, match="answers 500: as the test wants it"):
            await take(client)
    assert taken
    assert DATA.startswith(bytes(taken))


async def test_an_error_of_the_taker_is_raised_as_it_is(ref: Reference, blob: Descriptor) -> None:

    async def take(client: RegistryClient) -> None:
        async with client.blob(ref, blob) as chunks:
            await anext(chunks)
            raise ZeroDivisionError

    async with make_client(limits=PARTED) as client:
        with pytest.raises(ZeroDivisionError):
            await take(client)
        assert await fetch(client, ref, blob) == DATA


async def test_a_blob_that_is_left_leaves_nothing(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    """All connections may be used again; unclosed ones are warnings, and those are errors."""
    async with make_client(limits=PARTED) as client:
        for _ in range(CONNECTIONS + 1):
            async with client.blob(ref, blob) as chunks:
                assert await anext(chunks)
        for _ in range(CONNECTIONS + 1):
            stall = Stall(1000, threading.Event())
            proxy.fault(stall, kind="blob", after=2)
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fetch, client, ref, blob)
                    assert await trio.to_thread.run_sync(stall.reached.wait, ENOUGH)
                    scope.cancel()
            stall.released.set()
        proxy.reset()
        together = Together(CONNECTIONS)
        proxy.fault(together, kind="blob", times=99)
        assert await fetch(client, ref, blob) == DATA
    assert together.most == CONNECTIONS


async def test_a_pause_is_kept_and_fewer_connections_are_used(
    proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    proxy.fault(Reply(429, (("Retry-After", "1"),)), kind="blob", after=2)
    async with make_client(limits=PARTED) as client:
        begin = trio.current_time()
        assert await fetch(client, ref, blob) == DATA
        assert trio.current_time() - begin >= 1
        assert len(proxy.requests("blob")) == COUNT + 1
        proxy.reset()
        together = Together(CONNECTIONS // 2)
        proxy.fault(together, kind="blob", times=99)
        assert await fetch(client, ref, blob) == DATA
        assert together.most == CONNECTIONS // 2
        proxy.reset()
        proxy.fault(Reply(429, (("Retry-After", "4000"),)), kind="blob", times=99)
        with pytest.raises(TooManyRequests, match="requests a pause of 4000 s"):
            await fetch(client, ref, blob)


async def test_a_token_that_ends_midway_is_renewed_once(
    token_registry: DockerRegistry, token_server: TokenServer
) -> None:
    ended: set[str] = set()

    def end(request: Request, forward: Forward) -> Response:
        """From here on the tokens that were used before are worth nothing."""
        if not ended:
            ended.update(one.headers.get("authorization", "") for one in proxy.requests("blob"))
        if request.headers.get("authorization", "") in ended:
            return refuse_token(request, forward)
        return forward(request)

    with FaultProxy(token_registry.address) as proxy:
        ref = reference(proxy.address, REPOSITORY)
        async with make_client(login=(USER, PASSWORD)) as client:
            descriptor = Descriptor("application/octet-stream", Digest.of(DATA), SIZE)
            await client.upload_blob(ref, descriptor.digest, SIZE, lambda: iter([DATA]))
        token_server.asked.clear()
        proxy.reset()
        async with make_client(login=(USER, PASSWORD), limits=PARTED) as client:
            proxy.fault(end, kind="blob", after=4, times=99)
            assert await fetch(client, ref, descriptor) == DATA
    assert len(token_server.asked) == 2
    refused = [one for one in proxy.requests("blob") if one.status == 401]
    assert 2 <= len(refused) <= 1 + CONNECTIONS  # the first had no token


class _CountingProxy(FaultProxy):
    """A proxy that counts connections."""

    connections = 0

    def serve(self, connection: object) -> None:
        with self._lock:
            self.connections += 1
        super().serve(connection)  # type: ignore[arg-type]


async def test_each_part_asks_for_its_address(registry: DockerRegistry, blob: Descriptor) -> None:
    """A store behind a registry signs addresses that soon end; connections are used again."""
    used: set[str] = set()
    lock = threading.Lock()
    numbers = iter(range(1000))

    def once(request: Request, forward: Forward) -> Response:
        with lock:
            if request.target in used:
                return Reply(403)(request, forward)
            used.add(request.target)
        return forward(replace(request, target=request.path))

    def signed(request: Request, forward: Forward) -> Response:
        with lock:
            location = f"http://{cdn.address}{request.target}?signature={next(numbers)}"
        return Reply(307, (("Location", location),), b"<a>elsewhere</a>")(request, forward)

    with _CountingProxy(registry.address) as front, FaultProxy(registry.address) as cdn:
        front.fault(signed, kind="blob", times=99)
        cdn.fault(Cut(1000), kind="blob", after=3)
        cdn.fault(once, kind="blob", times=99)
        async with make_client(limits=PARTED) as client:
            assert await fetch(client, reference(front.address, REPOSITORY), blob) == DATA
        assert len(front.requests("blob")) == len(cdn.requests("blob")) == COUNT + 1
        assert front.connections <= CONNECTIONS + 1  # and the one that asked for /v2/


async def test_redirects_with_a_long_body_are_followed(
    registry: DockerRegistry, proxy: FaultProxy, ref: Reference, blob: Descriptor
) -> None:
    location = f"{registry.url}/v2/{REPOSITORY}/blobs/{blob.digest}"
    proxy.fault(Reply(307, (("Location", location),), bytes(5_000_000)), kind="blob", times=6)
    proxy.fault(Redirect(registry.url), kind="blob", times=99)
    async with make_client(limits=PARTED) as client:
        assert await fetch(client, ref, blob) == DATA


async def test_parts_over_tls(
    tls_registry: DockerRegistry, authority: Authority, tmp_path: Path
) -> None:
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(authority.own.certificate.read_bytes())
    ref = reference(tls_registry.address, REPOSITORY)
    lines: list[str] = []
    async with make_client(
        login=(USER, PASSWORD), limits=PARTED, cert_dir=certificates, debug=lines.append
    ) as client:
        descriptor = Descriptor("application/octet-stream", Digest.of(DATA), SIZE)
        await client.upload_blob(ref, descriptor.digest, SIZE, lambda: iter([DATA]))
        assert await fetch(client, ref, descriptor) == DATA
    answers = [line for line in lines if re.match(r"< 206 .*/blobs/sha256", line)]
    assert len(answers) == COUNT
    assert all("HTTP/1.1" in line for line in answers)  # no stream of a common connection


def test_the_number_of_connections_is_a_setting() -> None:
    assert RegistryLimits.from_environment({}).connections == 8
    assert RegistryLimits.from_environment({"UNIONMOUNT_CONNECTIONS": "1"}).connections == 1
    for wrong in ("0", "65", "x", "1.5", "-1", "999"):
        with pytest.raises(UsageError, match="UNIONMOUNT_CONNECTIONS must be a number from 1 to"):
            RegistryLimits.from_environment({"UNIONMOUNT_CONNECTIONS": wrong})
