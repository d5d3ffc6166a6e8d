"""A request that makes no progress ends, whatever it waits for, and says what that was."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from support.mounting import CommandLine
from support.registry_clients import described, fetch, make_client, reference, some_bytes
from support.servers import Connection, FaultProxy, RawServer
from support.servers.proxy import Redirect, Reply
from support.transfers import command_line

from unionmount.errors import RegistryError, TransferError, UsageError
from unionmount.registry import RegistryClient, RegistryLimits
from unionmount.system.waiting import timeout_of

pytestmark = pytest.mark.slow

N = 1.0
ALMOST = N * 0.3  # the pause of a server that always says something before the time is over
IMPATIENT = RegistryLimits(
    connect=20 * N,
    silence=N,
    answer=1.5 * N,
    patience=1.5 * N,
    slow_window=1.5 * N,
    slow_bytes=1000,
    attempts=1,
    mirror_attempts=1,
)
ENOUGH = 60.0  # a request that has not ended by now does not end
HASTY = replace(IMPATIENT, connect=N)
DATA = some_bytes(40_000_000)  # more than the kernel takes for somebody who does not read
HEAD = b"HTTP/1.1 200 OK\r\nX: "
MANIFEST = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
STARTED = b"HTTP/1.1 202 -\r\nLocation: /v2/a/blobs/uploads/1\r\nContent-Length: 0\r\n\r\n"

Wait = Callable[[Connection, str], None]


def silent(connection: Connection, head: str) -> None:
    connection.stall()


def dripped_head(connection: Connection, head: str) -> None:
    connection.drip(HEAD + b"x" * 10_000, ALMOST)


def dripped_document(connection: Connection, head: str) -> None:
    connection.send(MANIFEST)
    connection.drip(b" " * 10_000, ALMOST)


def dripped_lines(connection: Connection, head: str) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\n")
    for _ in range(10_000):
        connection.send(b"X: y\r\n")
        connection.pause(ALMOST)


def answers_that_are_none(connection: Connection, head: str) -> None:
    for _ in range(10_000):
        connection.send(b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n")
        connection.pause(ALMOST / 4)


def taking_nothing(connection: Connection, head: str) -> None:
    if head.startswith("POST"):
        connection.send(STARTED)
        head = connection.head()
    connection.stall()


def taking_bytes(connection: Connection, head: str) -> None:
    if head.startswith("POST"):
        connection.send(STARTED)
        head = connection.head()
    while connection.socket.recv(1):
        connection.pause(ALMOST)


def dripping_after_an_upload(connection: Connection, head: str) -> None:
    if head.startswith("POST"):
        connection.send(STARTED)
        head = connection.head()
    if not head:  # the upload comes over another connection
        return
    left = int(head.lower().partition("content-length: ")[2].split()[0])
    while left:
        data = connection.socket.recv(min(left, 1 << 20))
        if not data:
            return
        left -= len(data)
    connection.drip(b"HTTP/1.1 202 -\r\nX: " + b"x" * 10_000, ALMOST)


@pytest.fixture
def serve() -> Iterator[Callable[[Wait], RawServer]]:
    """A function that starts a registry in plain HTTP: it answers ``/v2/``, and then waits."""
    running: list[RawServer] = []

    def start(wait: Wait, receive: int = 0) -> RawServer:
        def behave(connection: Connection) -> None:
            head = connection.head()
            while head.split(" ")[1:2] == ["/v2/"]:
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                head = connection.head()
            if head:
                wait(connection, head)

        running.append(RawServer(behave, receive=receive).__enter__())
        return running[-1]

    yield start
    for server in running:
        server.stop()


async def ends(work: Callable[[RegistryClient], object], text: str, **options: object) -> None:
    """The work fails in bounded time, with a message that says how to wait longer."""
    async with make_client(limits=IMPATIENT, **options) as client:  # type: ignore[arg-type]
        with trio.fail_after(ENOUGH), pytest.raises(TransferError, match=text) as caught:
            await work(client)  # type: ignore[misc]
    assert str(caught.value).endswith("(UNIONMOUNT_TIMEOUT changes it)")


@pytest.mark.parametrize(
    ("wait", "text"),
    [
        (silent, "sent nothing for 1 s"),
        (dripped_head, "no answer in 1.5 s"),
        (dripped_lines, "no answer in 1.5 s"),
        (answers_that_are_none, "no answer in 1.5 s"),
        (dripped_document, "only [0-9] bytes of an answer in 1.5 s"),
    ],
)
async def test_documents(serve: Callable[..., RawServer], wait: Wait, text: str) -> None:
    ref = reference(serve(wait).address, "a")
    await ends(lambda client: client.manifest(ref), text)
    await ends(lambda client: client.tags(ref), text)


@pytest.mark.parametrize(
    ("wait", "text"),
    [
        (silent, "sent nothing for 1 s"),
        (dripped_head, "no answer in 1.5 s"),
        (dripped_document, "is too slow: [0-9]+ bytes in "),
    ],
)
async def test_blobs(serve: Callable[..., RawServer], wait: Wait, text: str) -> None:
    ref = reference(serve(wait).address, "a")
    small = described(bytes(100_000))
    await ends(lambda client: fetch(client, ref, small), text)


@pytest.mark.parametrize(
    ("wait", "text"),
    [
        (silent, "sent nothing for 1 s"),
        (taking_nothing, "takes (nothing for|less than 64 KiB in) 1 s"),
        (taking_bytes, "takes (nothing for|less than 64 KiB in) 1 s"),
        (dripping_after_an_upload, "no answer in 1.5 s"),
    ],
)
async def test_uploads(serve: Callable[..., RawServer], wait: Wait, text: str) -> None:
    ref = reference(serve(wait, receive=4096).address, "a")
    data = DATA[:100_000] if wait is dripping_after_an_upload else DATA
    blob = described(data)

    def chunks() -> Iterator[bytes]:
        return iter([data])

    await ends(lambda client: client.upload_blob(ref, blob.digest, blob.size, chunks), text)


@pytest.mark.parametrize(
    "hello", [b"", b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc"], ids=["nothing", "byte by byte"]
)
async def test_handshakes(hello: bytes) -> None:
    def behave(connection: Connection) -> None:
        if hello:
            connection.drip(hello + bytes(10_000), ALMOST)
        connection.stall()

    with RawServer(behave) as running:
        ref = reference(running.address, "a")
        async with make_client(limits=HASTY, tls_verify=True) as client:
            with trio.fail_after(ENOUGH), pytest.raises(RegistryError) as caught:
                await client.manifest(ref)
    assert "the TLS handshake in 1 s (UNIONMOUNT_TIMEOUT changes it)" in str(caught.value)


async def test_connections_that_nobody_accepts() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):  # the queue is full
            ref = reference(f"127.0.0.1:{listener.getsockname()[1]}", "a")
            async with make_client(limits=HASTY, tls_verify=True) as client:
                with trio.fail_after(ENOUGH), pytest.raises(RegistryError) as caught:
                    await client.manifest(ref)
    assert "does not accept a connection in 1 s (UNIONMOUNT_TIMEOUT changes it)" in str(
        caught.value
    )


@pytest.mark.parametrize("wait", [silent, dripped_head, dripped_document])
async def test_token_servers_and_where_a_redirect_leads(
    serve: Callable[..., RawServer], wait: Wait
) -> None:
    slow = serve(wait)
    with FaultProxy("127.0.0.1:9") as proxy:
        proxy.fault(Reply(200), kind="ping", times=99)
        challenge = ("WWW-Authenticate", f'Bearer realm="http://{slow.address}/token"')
        proxy.fault(Reply(401, (challenge,)), kind="manifest", times=99)
        proxy.fault(Redirect(f"http://{slow.address}"), kind="tags", times=99)
        ref = reference(proxy.address, "a")
        await ends(lambda client: client.manifest(ref), slow.address)
        await ends(lambda client: client.tags(ref), slow.address)


async def test_all_redirects_of_a_request_share_one_limit() -> None:
    def behave(connection: Connection) -> None:
        while head := connection.head():
            if head.startswith("GET /v2/ "):
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                continue
            connection.pause(ALMOST)
            connection.send(b"HTTP/1.1 307 -\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n")

    with RawServer(behave) as running:
        ref = reference(running.address, "a")
        await ends(lambda client: client.manifest(ref), "no answer in 1.5 s")


# ---- what the user says


def test_the_environment_scales_all_times() -> None:
    usual, quick = RegistryLimits(), RegistryLimits.from_environment({"UNIONMOUNT_TIMEOUT": "6"})
    for name in ("connect", "silence", "answer", "patience", "slow_window"):
        assert getattr(quick, name) == pytest.approx(getattr(usual, name) / 10)
    rate = usual.slow_bytes / usual.slow_window
    assert quick.slow_bytes / quick.slow_window == pytest.approx(rate)
    assert RegistryLimits.from_environment({}) == RegistryLimits.from_environment(
        {"UNIONMOUNT_TIMEOUT": ""}
    )


@pytest.mark.parametrize("text", ["0", "0.0", "-1", "1e3", "x", "1" * 20, "٣", "nan", "1s"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="UNIONMOUNT_TIMEOUT must be a number of seconds"):
        timeout_of({"UNIONMOUNT_TIMEOUT": text})


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    made = command_line(tmp_path / "store")
    made.environment["UNIONMOUNT_TIMEOUT"] = "0.1"
    return made


def test_the_command(cli: CommandLine, serve: Callable[..., RawServer]) -> None:
    error = cli.error("pull", f"{serve(silent).address}/a:1")  # a busy machine may be late sooner
    assert error.endswith("(UNIONMOUNT_TIMEOUT changes it)")
    cli.environment["UNIONMOUNT_TIMEOUT"] = "soon"
    assert "a number of seconds, not 'soon'" in cli.error("tags", "127.0.0.1:9/a", status=2)


NAMELESS = """
import os, socket, subprocess, sys
resolver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
resolver.bind(("127.0.0.9", 53))  # and never answers
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/resolv.conf"], check=True)
sys.exit(subprocess.run(sys.argv[2:]).returncode)
"""


@pytest.mark.needs("root")
def test_a_name_server_that_says_nothing(cli: CommandLine, tmp_path: Path) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.9\noptions timeout:300 attempts:1\n")
    command = [sys.executable, "-m", "unionmount", "tags", "registry.example/a"]
    done = subprocess.run(
        ["unshare", "-m", "-n", sys.executable, "-c", NAMELESS, resolver, *command],
        env=os.environ | cli.environment,
        capture_output=True,
        text=True,
        timeout=ENOUGH,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "registry.example does not accept a connection in 0.025 s" in done.stderr
    assert "Traceback" not in done.stderr
