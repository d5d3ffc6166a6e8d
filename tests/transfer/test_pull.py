"""Pulling from a real registry, through a proxy that counts and goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
from support.image_files import OCI_LAYER, gzipped, manifest_of, sha256
from support.mounting import CommandLine
from support.registry_fixtures import PASSWORD, USER
from support.servers import Authority, DockerRegistry, FaultProxy, TokenServer
from support.servers.proxy import (
    Cut,
    Drip,
    Endless,
    Fault,
    Flip,
    Length,
    Redirect,
    Reply,
    Stall,
    no_ranges,
    refuse_token,
)
from support.transfers import (
    OCI_MANIFEST,
    Sender,
    assert_nothing_partial,
    blobs_of,
    command_line,
    image,
    layer,
    manifest_digest,
    new_client,
    parsed,
)

from unionmount.errors import (
    DigestMismatch,
    FormatError,
    LimitExceeded,
    NotAuthorized,
    NotFoundError,
    RegistryError,
    SizeMismatch,
    TooManyRequests,
    TransferError,
    UnionmountError,
)
from unionmount.images.platform import Platform
from unionmount.images.reference import Digest
from unionmount.registry import RegistryClient
from unionmount.store.layer_import import ImportLimits
from unionmount.store.store import Store
from unionmount.transfer.pull import pull

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

SMALL = image(layer("a", 300_000), layer("b", 200_000), layer("c", 1000))
RETRIED = 4  # attempts of the tests' clients


@pytest.fixture
async def client() -> AsyncIterator[RegistryClient]:
    async with new_client() as made:
        yield made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def name(registry: DockerRegistry, proxy: FaultProxy, sender: Sender) -> str:
    """The small image in the registry, by way of the proxy."""
    sender.send(SMALL, registry, "pull/small:1")
    return f"{proxy.address}/pull/small:1"


async def test_an_image_comes_as_it_was_sent(
    store: Store, client: RegistryClient, name: str, proxy: FaultProxy
) -> None:
    stored = await pull(store, client, parsed(name))
    assert str(stored.manifest) == manifest_digest(SMALL)
    assert str(stored.id) == SMALL.id
    assert stored.names == (name,)
    assert stored.digests == (f"{name.removesuffix(':1')}@{manifest_digest(SMALL)}",)
    assert_nothing_partial(store, set(SMALL.diff_ids))
    assert set(proxy.fetched()) == {SMALL.id, *blobs_of(SMALL)}
    assert store.open_blob(Digest.parse(blobs_of(SMALL)[0])) is None
    assert store.find_image(stored.digests[0]).id == stored.id


async def test_what_is_there_is_not_fetched(
    store: Store, client: RegistryClient, name: str, proxy: FaultProxy, sender: Sender
) -> None:
    await pull(store, client, parsed(name))
    proxy.reset()
    assert await pull(store, client, parsed(name)) == store.find_image(name)
    assert proxy.seen == []
    await pull(store, client, parsed(name), policy="always")
    assert proxy.fetched() == {}
    other = image(*SMALL.layers[:2], layer("d"))
    sender.send(other, proxy, "pull/other:1")
    proxy.reset()
    stored = await pull(store, client, parsed(f"{proxy.address}/pull/other:1"))
    assert str(stored.id) == other.id
    assert proxy.fetched() == {other.id: 1, blobs_of(other)[2]: 1}


async def test_policies(store: Store, client: RegistryClient, name: str, proxy: FaultProxy) -> None:
    with pytest.raises(NotFoundError, match="never"):
        await pull(store, client, parsed(name), policy="never")
    assert proxy.seen == []
    stored = await pull(store, client, parsed(name), policy="missing")
    proxy.reset()
    assert await pull(store, client, parsed(name), policy="never") == stored
    assert await pull(store, client, parsed(name), policy="missing") == stored
    assert proxy.seen == []
    with pytest.raises(NotFoundError, match="linux/arm64"):
        await pull(store, client, parsed(name), platform=Platform.parse("linux/arm64"))


async def test_an_image_by_its_digest(store: Store, client: RegistryClient, name: str) -> None:
    by_digest = f"{name.removesuffix(':1')}@{manifest_digest(SMALL)}"
    stored = await pull(store, client, parsed(by_digest))
    assert stored.names == ()
    assert stored.digests == (by_digest,)
    assert await pull(store, client, parsed(by_digest), policy="never") == stored


async def test_the_platform_of_an_index(
    store: Store, client: RegistryClient, registry: DockerRegistry, sender: Sender
) -> None:
    images = {
        "linux/amd64": image(layer("amd64"), architecture="amd64"),
        "linux/arm64": image(layer("arm64"), architecture="arm64"),
        "linux/arm/v6": image(layer("armv6"), architecture="arm", variant="v6"),
    }
    index = sender.send_index(images, registry, "pull/many:1")
    ref = parsed(f"{registry.address}/pull/many:1")
    arm = await pull(store, client, ref, platform=Platform.parse("linux/arm/v7"), policy="always")
    assert str(arm.id) == images["linux/arm/v6"].id
    assert arm.digests == (f"{registry.address}/pull/many@{index}",)
    assert b"manifests" in store.get_blob(Digest.parse(index))
    host = await pull(store, client, ref, platform=Platform.parse("linux/arm64"), policy="missing")
    assert str(host.id) == images["linux/arm64"].id
    with pytest.raises(NotFoundError, match=r"linux/s390x.*linux/arm64"):
        await pull(store, client, ref, platform=Platform.parse("linux/s390x"), policy="always")


async def test_blobs_are_kept_where_that_is_wanted(
    store: Store, client: RegistryClient, name: str, proxy: FaultProxy, registry: DockerRegistry
) -> None:
    await pull(store, client, parsed(name))
    proxy.reset()
    await pull(store, client, parsed(name), policy="always", keep_blobs=True)
    for digest in blobs_of(SMALL):
        kept = store.open_blob(Digest.parse(digest))
        assert kept is not None
        with kept:
            data = os.pread(kept.fd, kept.length, 0)
        assert data == registry.blob_path(digest).read_bytes()
    proxy.reset()
    await pull(store, client, parsed(name), policy="always", keep_blobs=True)
    assert proxy.fetched() == {}


async def test_two_pulls_at_once_fetch_a_layer_once(
    store: Store, client: RegistryClient, proxy: FaultProxy, sender: Sender
) -> None:
    shared, names = layer("shared", 400_000), []
    for number in range(3):
        made = image(shared, layer(f"own{number}"))
        sender.send(made, proxy, f"pull/parallel{number}:1")
        names.append(f"{proxy.address}/pull/parallel{number}:1")
    proxy.reset()
    async with trio.open_nursery() as nursery:
        for each in names:
            nursery.start_soon(pull, store, client, parsed(each))
    assert set(proxy.fetched().values()) == {1}
    assert len(store.list_images()) == 3
    assert_nothing_partial(store)


# -- faults: each is survived, or is the right error that leaves nothing behind

SURVIVED: dict[str, tuple[Fault, int]] = {
    "cut": (Cut(50_000), 1),
    "cut-three-times": (Cut(50_000), 3),
    "cut-at-once": (Cut(0), 1),
    "slow": (Drip(20_000, 0.005), 1),
    "500": (Reply(500), 2),
    "503": (Reply(503), 1),
    "429": (Reply(429, (("Retry-After", "0"),)), 2),
}


@pytest.mark.parametrize("fault", SURVIVED)
async def test_a_fault_of_a_blob_is_survived(
    fault: str, store: Store, client: RegistryClient, name: str, proxy: FaultProxy
) -> None:
    action, times = SURVIVED[fault]
    proxy.fault(action, kind="blob", reference=blobs_of(SMALL)[0], times=times)
    stored = await pull(store, client, parsed(name))
    assert str(stored.manifest) == manifest_digest(SMALL)
    assert_nothing_partial(store, set(SMALL.diff_ids))
    asked = [one for one in proxy.requests("blob") if one.reference == blobs_of(SMALL)[0]]
    assert len(asked) == 1 + (times if fault != "slow" else 0)


async def test_a_broken_blob_goes_on_where_it_was(
    store: Store, client: RegistryClient, name: str, proxy: FaultProxy
) -> None:
    digest = blobs_of(SMALL)[0]
    proxy.fault(Cut(50_000), kind="blob", reference=digest)
    await pull(store, client, parsed(name))
    first, second = (one for one in proxy.requests("blob") if one.reference == digest)
    assert second.headers["range"] == "bytes=50000-"
    assert first.sent + second.sent == len(_blob(digest))


async def test_a_server_that_knows_no_ranges(
    store: Store, client: RegistryClient, name: str, proxy: FaultProxy
) -> None:
    digest = blobs_of(SMALL)[0]
    proxy.fault(Cut(50_000), kind="blob", reference=digest)
    proxy.fault(no_ranges, kind="blob", reference=digest)
    await pull(store, client, parsed(name))
    assert_nothing_partial(store, set(SMALL.diff_ids))


def _blob(digest: str) -> bytes:
    return next(blob for blob in map(gzipped, SMALL.layers) if sha256(blob) == digest)


FATAL: dict[str, tuple[Fault, type[UnionmountError], str]] = {
    "flipped": (Flip(100_000), FormatError, ""),
    "longer": (Length(1000), SizeMismatch, ""),
    "shorter": (Length(-1000), SizeMismatch, ""),
    "always-cut": (Cut(10), TransferError, ""),
    "endless": (Endless(), UnionmountError, ""),
    "401": (Reply(401), NotAuthorized, ""),
    "403": (Reply(403), RegistryError, ""),
    "404": (Reply(404), NotFoundError, ""),
    "429-long": (Reply(429, (("Retry-After", "9999"),)), TooManyRequests, ""),
    "500": (Reply(500), RegistryError, ""),
    "redirects-in-circles": (Redirect(""), RegistryError, ""),
}


@pytest.mark.parametrize("fault", FATAL)
async def test_a_fault_of_a_blob_is_an_error(
    fault: str, store: Store, client: RegistryClient, name: str, proxy: FaultProxy
) -> None:
    action, kind, _ = FATAL[fault]
    digest = blobs_of(SMALL)[0]
    proxy.fault(action, kind="blob", reference=digest, times=1000)
    with pytest.raises(kind) as raised:
        await pull(store, client, parsed(name))
    assert "\n" not in str(raised.value)
    assert digest in str(raised.value)
    assert store.list_images() == []
    assert not store.has_layer(Digest.parse(SMALL.diff_ids[0]))
    assert_nothing_partial(store)
    proxy.reset()
    await pull(store, client, parsed(name))
    assert_nothing_partial(store, set(SMALL.diff_ids))


async def test_wrong_bytes_are_named_by_both_digests(
    store: Store, client: RegistryClient, name: str, proxy: FaultProxy
) -> None:
    digest = blobs_of(SMALL)[2]
    proxy.fault(Flip(-1), kind="blob")  # nothing: the config is fetched first
    wrong = bytearray(_blob(digest))
    wrong[4] ^= 0x10  # the time in the header of gzip, which no decompressor looks at
    proxy.fault(Flip(4), kind="blob", reference=digest)
    with pytest.raises(DigestMismatch) as raised:
        await pull(store, client, parsed(name))
    assert raised.value.expected == digest
    assert raised.value.actual == str(Digest.of(bytes(wrong)))


MANIFEST_FAULTS: dict[str, tuple[Fault, type[UnionmountError]]] = {
    "flipped": (Flip(40), FormatError),
    "oversized": (Endless(), LimitExceeded),
    "404": (Reply(404), NotFoundError),
    "401": (Reply(401), NotAuthorized),
    "not-json": (Reply(200, (("Content-Type", "application/json"),), b"{"), UnionmountError),
}


@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
async def test_a_fault_of_a_manifest_is_an_error(
    fault: str, store: Store, client: RegistryClient, name: str, proxy: FaultProxy
) -> None:
    action, kind = MANIFEST_FAULTS[fault]
    proxy.fault(action, kind="manifest", times=1000)
    with pytest.raises(kind):
        await pull(store, client, parsed(name))
    assert_nothing_partial(store, set())


async def test_a_config_that_is_another(
    store: Store, client: RegistryClient, name: str, proxy: FaultProxy
) -> None:
    proxy.fault(Flip(20), kind="blob", reference=SMALL.id, times=1000)
    with pytest.raises(DigestMismatch, match=SMALL.id):
        await pull(store, client, parsed(name))
    assert_nothing_partial(store, set())


async def test_a_layer_that_says_it_is_too_large_is_not_asked_for(
    tmp_path: Path, client: RegistryClient, name: str, proxy: FaultProxy
) -> None:
    store = Store(tmp_path / "small", ImportLimits(max_layer_size=250_000))
    with pytest.raises(LimitExceeded, match=blobs_of(SMALL)[0]):
        await pull(store, client, parsed(name))
    assert set(proxy.fetched()) == {SMALL.id}
    assert_nothing_partial(store, set())


async def test_a_foreign_layer_is_named_as_such(
    store: Store, client: RegistryClient, proxy: FaultProxy
) -> None:
    made = image(layer("foreign"))
    ref = parsed(f"{proxy.address}/pull/foreign:1")
    kind = f"{OCI_LAYER.replace('layer.v1', 'layer.nondistributable.v1')}+gzip"
    (digest,) = blobs_of(made)
    for name, data in ((made.id, made.config), (digest, gzipped(made.layers[0]))):
        await client.upload_blob(ref, Digest.parse(name), len(data), partial(_once, data))
    await client.put_manifest(ref, manifest_of(made, gzipped, kind), OCI_MANIFEST)
    proxy.fault(Reply(404), kind="blob", reference=digest, times=100)
    with pytest.raises(NotFoundError, match="foreign layer") as raised:
        await pull(store, client, ref)
    assert digest in str(raised.value)
    assert_nothing_partial(store, set())


def _once(data: bytes) -> Iterator[bytes]:
    yield data


# -- credentials


async def test_authorization_stays_with_its_registry(
    store: Store,
    registry: DockerRegistry,
    token_registry: DockerRegistry,
    sender: Sender,
    skopeo: Callable[..., str],
) -> None:
    layout = sender.layout(SMALL)
    skopeo("copy", "--dest-tls-verify=false", layout, f"docker://{registry.address}/secret:1")
    login = ("--dest-creds", f"{USER}:{PASSWORD}")
    target = f"docker://{token_registry.address}/secret:1"
    skopeo("copy", "--dest-tls-verify=false", *login, layout, target)
    with (
        FaultProxy(token_registry.address) as front,
        FaultProxy(registry.address, "127.0.0.2") as far,
    ):
        front.fault(Redirect(f"http://{far.address}"), kind="blob", times=1000)
        async with new_client(creds=(USER, PASSWORD)) as client:
            await pull(store, client, parsed(f"{front.address}/secret:1"))
        assert set(far.fetched()) == {SMALL.id, *blobs_of(SMALL)}
        assert all("authorization" not in one.headers for one in far.seen)
        assert all("authorization" in one.headers for one in front.requests("blob"))


async def test_a_token_that_expires_in_the_middle(
    store: Store,
    token_registry: DockerRegistry,
    token_server: TokenServer,
    sender: Sender,
    skopeo: Callable[..., str],
) -> None:
    target = f"docker://{token_registry.address}/expiring:1"
    login = ("--dest-creds", f"{USER}:{PASSWORD}")
    skopeo("copy", "--dest-tls-verify=false", *login, sender.layout(SMALL), target)
    with FaultProxy(token_registry.address) as front:
        front.fault(refuse_token, kind="blob", after=2, times=1)
        front.fault(Cut(1000), kind="blob", reference=blobs_of(SMALL)[0])
        before = len(token_server.asked)
        async with new_client() as client:
            await pull(store, client, parsed(f"{front.address}/expiring:1"))
        assert len(token_server.asked) - before == 2
        assert 401 in [one.status for one in front.requests("blob")]
    assert_nothing_partial(store, set(SMALL.diff_ids))


async def test_a_mirror_is_asked_first_and_need_not_have_all(
    store: Store, registry: DockerRegistry, sender: Sender, tmp_path: Path
) -> None:
    sender.send(SMALL, registry, "pull/mirrored:1")
    with FaultProxy(registry.address) as mirror, FaultProxy(registry.address) as origin:
        configuration = tmp_path / "registries.conf"
        configuration.write_text(
            f'[[registry]]\nlocation = "{origin.address}"\ninsecure = true\n'
            f'[[registry.mirror]]\nlocation = "{mirror.address}"\ninsecure = true\n'
        )
        mirror.fault(Reply(404), kind="blob", reference=blobs_of(SMALL)[1], times=1000)
        async with new_client(configuration=configuration) as client:
            stored = await pull(store, client, parsed(f"{origin.address}/pull/mirrored:1"))
        assert stored.names == (f"{origin.address}/pull/mirrored:1",)
        assert set(origin.fetched()) == {blobs_of(SMALL)[1]}
        assert set(mirror.fetched()) == {SMALL.id, *blobs_of(SMALL)} - {blobs_of(SMALL)[1]}


async def test_a_pull_through_mirror(
    store: Store,
    registry: DockerRegistry,
    start_registry: Callable[..., DockerRegistry],
    sender: Sender,
    client: RegistryClient,
) -> None:
    sender.send(SMALL, registry, "pull/through:1")
    mirror = start_registry(mirror_of=registry.url)
    stored = await pull(store, client, parsed(f"{mirror.address}/pull/through:1"))
    assert str(stored.manifest) == manifest_digest(SMALL)


# -- the command


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    return command_line(tmp_path / "store")


def test_the_command_prints_the_id(
    cli: CommandLine, name: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    done = cli.run("pull", name)
    assert (done.stdout, done.stderr) == (f"{SMALL.id}\n", "")
    done = cli.run("pull", "-q", f"docker://{name}")
    assert (done.stdout, done.stderr) == (f"{SMALL.id}\n", "")
    kept = Store(tmp_path / "store").open_blob(Digest.parse(blobs_of(SMALL)[0]))
    assert kept is None
    keeping = CommandLine(environment=cli.environment | {"UNIONMOUNT_KEEP_BLOBS": "1"})
    keeping.run("pull", "-q", name)
    kept = Store(tmp_path / "store").open_blob(Digest.parse(blobs_of(SMALL)[0]))
    assert kept is not None
    kept.close()
    assert "never" in cli.error("pull", "--policy", "never", f"{proxy.address}/pull/none:1")


def test_tls_and_a_password(
    cli: CommandLine,
    tls_registry: DockerRegistry,
    authority: Authority,
    sender: Sender,
    skopeo: Callable[..., str],
    tmp_path: Path,
) -> None:
    certificates = tmp_path / "certs"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(authority.own.certificate.read_bytes())
    name, login = f"{tls_registry.address}/pull/tls:1", f"{USER}:{PASSWORD}"
    words = ("--dest-cert-dir", certificates, "--dest-creds", login)
    skopeo("copy", *words, sender.layout(SMALL), f"docker://{name}")
    for tls in (("--cert-dir", certificates), ("--tls-verify=false",)):
        done = cli.run("pull", *tls, "--creds", login, name)
        assert done.stdout == f"{SMALL.id}\n"
    assert "401" in cli.error("pull", "--tls-verify=false", "--creds", "someone:wrong", name)
    assert "certificate" in cli.error("pull", "--tls-verify=true", "--creds", login, name).lower()


def test_a_name_without_a_version_gets_a_hint(
    cli: CommandLine, registry: DockerRegistry, sender: Sender
) -> None:
    sender.send(SMALL, registry, "pull/unversioned:latest")
    bare = f"{registry.address}/pull/unversioned"
    done = cli.run("pull", bare)
    assert done.stdout == f"{SMALL.id}\n"
    assert done.stderr == (
        f"hint: no tag was given, so this is {bare}:latest; "
        f"'unionmount tags {bare}' lists the others\n"
    )
    assert cli.run("pull", "-q", bare).stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_what_was_complete_and_nothing_else(
    number: signal.Signals, cli: CommandLine, name: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    digest = blobs_of(SMALL)[0]
    stall = Stall(100_000, threading.Event())
    last = Stall(0, threading.Event())
    proxy.fault(stall, kind="blob", reference=digest)
    proxy.fault(last, kind="blob", reference=digest)
    process = subprocess.Popen(
        [sys.executable, "-m", "unionmount", "pull", name],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert stall.reached.wait(30)
    store = Store(tmp_path / "store")
    _wait_for_layers(store, SMALL.diff_ids[1:], process)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    stall.released.set()
    assert process.returncode == 128 + number
    assert (out, err) == (b"", b"")
    assert_nothing_partial(store, set(SMALL.diff_ids[1:]))
    proxy.reset()
    cli.run("pull", name)
    assert set(proxy.fetched()) <= {SMALL.id, digest}


def _wait_for_layers(store: Store, diff_ids: list[str], process: subprocess.Popen[bytes]) -> None:
    """Wait until layers are there, as long as who fetches them is."""
    wanted = list(map(Digest.parse, diff_ids))
    while not all(map(store.has_layer, wanted)):
        assert process.poll() is None
        threading.Event().wait(0.01)


def test_two_processes_fetch_a_layer_once(
    cli: CommandLine, name: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    stall = Stall(100_000, threading.Event())
    proxy.fault(stall, kind="blob", reference=blobs_of(SMALL)[0])
    command = [sys.executable, "-m", "unionmount", "pull", "-q", name]
    first = subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE)
    assert stall.reached.wait(30)
    second = subprocess.Popen(command, env=cli.environment, stdout=subprocess.PIPE)
    proxy_saw_both = threading.Event()
    while len(proxy.requests("manifest")) < 2:
        proxy_saw_both.wait(0.01)
    stall.released.set()
    for process in (first, second):
        out, _ = process.communicate(timeout=30)
        assert (process.returncode, out.decode()) == (0, f"{SMALL.id}\n")
    fetched = proxy.fetched()
    assert {digest: fetched[digest] for digest in blobs_of(SMALL)} == dict.fromkeys(
        blobs_of(SMALL), 1
    )
