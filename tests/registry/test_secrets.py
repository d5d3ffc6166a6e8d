"""A secret is for one server: wherever another one is named, it does not get it."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from support.mounting import CommandLine
from support.registry_clients import basic, described, fetch, make_client, reference, some_bytes
from support.registry_fixtures import PASSWORD, USER
from support.servers import Authority, Connection, DockerRegistry, FaultProxy, RawServer
from support.servers.proxy import Forward, Redirect, Reply, Request, Response
from support.transfers import Sender, command_line, image, layer

from unionmount.errors import NotAuthorized, NotFoundError, RegistryError, UsageError
from unionmount.registry import Credentials, Login
from unionmount.registry.http import Outgoing, SecretRedirected

REFRESH = Login("<token>", "", "identity-secret")
DATA = some_bytes(200_000)
BLOB = described(DATA)
SMALL = image(layer("a", 100_000))
NOBODY = "127.0.0.1:9"  # what a proxy forwards to that answers everything itself


@pytest.fixture
def asked() -> Iterator[FaultProxy]:
    """The registry that was named, and its token server: all that it does is told it."""
    with FaultProxy(NOBODY) as running:
        running.fault(Reply(200), kind="ping", times=99)
        yield running


@pytest.fixture(params=["127.0.0.1", "127.0.0.2"], ids=["another port", "another host"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[FaultProxy]:
    """Another server, which would take anything."""
    with FaultProxy(NOBODY, host=request.param) as running:
        running.fault(Reply(200, body=b'{"token": "eyJ"}'), times=99)
        yield running


def wants_tokens(server: FaultProxy) -> None:
    """Let it be a registry whose tokens are given out at its own ``/token``."""
    challenge = ("WWW-Authenticate", f'Bearer realm="http://{server.address}/token",service="s"')
    for kind in ("manifest", "upload", "blob"):
        server.fault(Reply(401, (challenge,)), kind=kind, times=99)


# ---- redirects


@pytest.mark.parametrize("status", [307, 308])
async def test_a_refresh_token_is_not_sent_on(
    asked: FaultProxy, elsewhere: FaultProxy, status: int
) -> None:
    wants_tokens(asked)
    asked.fault(Redirect(f"http://{elsewhere.address}", status), kind="other", times=99)
    lines: list[str] = []
    async with make_client(login=REFRESH, debug=lines.append) as client:
        with pytest.raises(SecretRedirected) as caught:
            await client.manifest(reference(asked.address, "a"))
    for address in (asked.address, elsewhere.address):
        assert f"http://{address}" in str(caught.value)
    assert elsewhere.seen == []
    assert "identity-secret" not in "".join([*lines, str(caught.value)])


async def test_a_refresh_token_follows_at_its_own_server(asked: FaultProxy) -> None:
    forms: list[dict[str, list[str]]] = []

    def tokens(request: Request, forward: Forward) -> Response:
        forms.append(parse_qs(b"".join(request.body).decode()))
        return Response(200, [("Content-Length", "16")], iter([b'{"token": "eyJ"}']))

    wants_tokens(asked)
    asked.fault(Redirect("/moved"), kind="other")
    asked.fault(tokens, kind="other", times=99)
    async with make_client(login=REFRESH) as client:
        with pytest.raises(NotAuthorized):  # the registry has no manifest for anybody
            await client.manifest(reference(asked.address, "a"))
    assert [one.target for one in asked.requests("other")][:2] == ["/token", "/moved/token"]
    assert forms[0]["refresh_token"] == ["identity-secret"]


async def test_a_password_for_tokens_is_not_sent_on(
    asked: FaultProxy, elsewhere: FaultProxy
) -> None:
    wants_tokens(asked)
    asked.fault(Redirect(f"http://{elsewhere.address}"), kind="other", times=99)
    async with make_client(login=(USER, PASSWORD)) as client:
        with pytest.raises(NotAuthorized):
            await client.manifest(reference(asked.address, "a"))
    assert asked.requests("other")[0].headers["authorization"] == basic(USER, PASSWORD)
    assert elsewhere.seen
    assert all("authorization" not in one.headers for one in elsewhere.seen)


@pytest.mark.parametrize(
    ("url", "location", "goes"),
    [
        ("https://a/t", "/y", True),
        ("https://a/t", "https://A:443/y", True),
        ("https://a/t", "https://user:word@a/y", True),
        ("https://a/t", "https://a:444/y", False),
        ("https://a/t", "https://a.b/y", False),
        ("https://a/t", "//b/y", False),
        ("https://a/t", "https://a@b/y", False),
        ("http://a/t", "https://a/y", False),
        ("https://a/t", "http://a/y", False),  # with a registry that is insecure, too
    ],
)
def test_origins(url: str, location: str, goes: bool) -> None:
    asked = Outgoing("POST", url, body=b"refresh_token=x", insecure=True, secret=True)
    if goes:
        moved = asked.redirected(location, 307)
        assert (moved.body, "@" in moved.url) == (asked.body, False)
    else:
        with pytest.raises(
            SecretRedirected, match=r"https?://a:\d+ redirects a request with a secret to https?://"
        ):
            asked.redirected(location, 307)


async def test_an_upload_goes_where_it_is_sent_without_authorization(
    asked: FaultProxy, elsewhere: FaultProxy
) -> None:
    asked.fault(Reply(401, (("WWW-Authenticate", 'Basic realm="x"'),)), kind="upload")
    where = ("Location", f"http://{USER}:word@{elsewhere.address}/up?state=1")
    asked.fault(Reply(202, (where,)), kind="upload", times=99)
    elsewhere.reset()
    elsewhere.fault(Reply(202, (("Location", "/up?state=2"),)), method="PATCH")
    elsewhere.fault(Reply(201), method="PUT")
    async with make_client(login=(USER, PASSWORD)) as client:
        ref = reference(asked.address, "a")
        await client.upload_blob(ref, BLOB.digest, BLOB.size, lambda: iter([DATA]))
    assert [one.headers.get("authorization") for one in asked.requests("upload")] == [
        None,
        basic(USER, PASSWORD),
    ]
    assert [(one.method, one.received) for one in elsewhere.seen] == [
        ("PATCH", len(DATA)),
        ("PUT", 0),
    ]
    assert all("authorization" not in one.headers for one in elsewhere.seen)


async def test_the_next_page_elsewhere_is_asked_for_without_authorization(
    asked: FaultProxy, elsewhere: FaultProxy
) -> None:
    elsewhere.reset()
    elsewhere.fault(Reply(200, body=b'{"tags": ["2"]}'))
    asked.fault(Reply(401, (("WWW-Authenticate", 'Basic realm="x"'),)), kind="tags")
    link = ("Link", f'<http://{elsewhere.address}/v2/a/tags/list>; rel="next"')
    asked.fault(Reply(200, (link,), b'{"tags": ["1"]}'), kind="tags")
    async with make_client(login=(USER, PASSWORD)) as client:
        assert await client.tags(reference(asked.address, "a", None)) == ["1", "2"]
    (seen,) = elsewhere.seen
    assert "authorization" not in seen.headers


@pytest.mark.needs("openssl")
async def test_a_client_certificate_is_not_shown_elsewhere(
    authority: Authority, tmp_path: Path
) -> None:
    shown: dict[str, bool] = {}
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*_files(authority, "server"))
    server.load_verify_locations(authority.own.certificate)
    server.verify_mode = ssl.CERT_OPTIONAL

    def speaking(name: str, answer: Callable[[], bytes]) -> Callable[[Connection], None]:
        def serve(connection: Connection) -> None:
            with server.wrap_socket(connection.socket, server_side=True) as stream:
                stream.recv(64 * 1024)
                shown[name] = bool(stream.getpeercert())
                stream.sendall(answer())

        return serve

    certificates = tmp_path / "certificates"
    certificates.mkdir()
    certificate, key = _files(authority, "client")
    (certificates / "ca.crt").write_bytes(authority.own.certificate.read_bytes())
    (certificates / "client.cert").write_bytes(certificate.read_bytes())
    (certificates / "client.key").write_bytes(key.read_bytes())
    with ExitStack() as stack:
        gone = b"HTTP/1.1 404 -\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        other = stack.enter_context(RawServer(speaking("other", lambda: gone), host="127.0.0.2"))
        moved = b"HTTP/1.1 307 -\r\nLocation: https://%b/x\r\nContent-Length: 0\r\n\r\n"
        named = stack.enter_context(
            RawServer(speaking("named", lambda: moved % other.address.encode()))
        )
        async with make_client(cert_dir=certificates, tls_verify=True) as client:
            with pytest.raises(NotFoundError, match="answers 404"):
                await fetch(client, reference(named.address, "a"), BLOB)
    assert shown == {"named": True, "other": False}


def _files(authority: Authority, name: str) -> tuple[Path, Path]:
    pair = authority.sign(f"secrets-{name}")
    return pair.certificate, pair.key


# ---- who --creds is for


def test_creds_are_for_the_registry_that_was_named() -> None:
    found = Credentials.load({"HOME": "/nonexistent"}, creds=("a", "b"), creds_for=["docker.io"])
    assert found.find("docker.io") == found.find("index.docker.io") == Login("a", "b")
    assert found.find("elsewhere.example") is None
    assert found.find("docker.io", mirror=True) is None


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    made = command_line(tmp_path / "store")
    made.environment["UNIONMOUNT_TIMEOUT"] = "10"
    return made


@pytest.mark.needs("docker-registry", "skopeo")
def test_a_push_shows_creds_to_its_target_only(
    cli: CommandLine,
    registry: DockerRegistry,
    start_registry: Callable[..., DockerRegistry],
    sender: Sender,
) -> None:
    origin = start_registry()
    sender.send(SMALL, origin, "secrets/small:1")
    with FaultProxy(origin.address) as source, FaultProxy(registry.address) as target:
        name = f"{source.address}/secrets/small:1"
        cli.run("pull", name)
        greedy = Reply(401, (("WWW-Authenticate", 'Basic realm="mine"'),))
        source.fault(greedy, times=99)
        target.fault(greedy, kind="blob")  # it knows passwords, and takes any
        to = f"{target.address}/secrets/pushed:1"
        cli.run("push", "--creds", f"{USER}:{PASSWORD}", name, to)
        assert source.requests("blob")
        assert all("authorization" not in one.headers for one in source.seen)
        assert any("authorization" in one.headers for one in target.seen)


def test_creds_for_two_registries_are_refused(cli: CommandLine, tmp_path: Path) -> None:
    with FaultProxy(NOBODY) as one, FaultProxy(NOBODY) as two:
        said = ("--creds", "a:b")
        places = [f"docker://{server.address}/x:1" for server in (one, two)]
        error = cli.error("copy", *said, *places, status=2)
        assert one.address in error
        assert two.address in error
        path = tmp_path / "registries.conf"
        path.write_text(f'unqualified-search-registries = ["{one.address}", "{two.address}"]')
        cli.environment["CONTAINERS_REGISTRIES_CONF"] = str(path)
        for words in (("pull", "x:1"), ("tags", "x"), ("search", "x")):
            assert "--creds is for one registry" in cli.error(*words, *said, status=2)
        assert one.seen == two.seen == []


# ---- what is shown


async def test_a_token_server_may_repeat_what_it_was_sent(asked: FaultProxy) -> None:
    wants_tokens(asked)
    said = b'{"error": "invalid_grant: identity-secret is not known"}'
    asked.fault(Reply(400, body=said), kind="other", times=99)
    async with make_client(login=REFRESH) as client:
        with pytest.raises(RegistryError, match=r"invalid_grant: \[hidden\] is not known"):
            await client.manifest(reference(asked.address, "a"))


async def test_a_registry_may_repeat_a_password(asked: FaultProxy) -> None:
    asked.fault(Reply(401, (("WWW-Authenticate", 'Basic realm="x"'),)), kind="manifest")
    said = f'{{"message": "no such user: {USER} with {PASSWORD}"}}'.encode()
    asked.fault(Reply(403, body=said), kind="manifest")
    async with make_client(login=(USER, PASSWORD)) as client:
        with pytest.raises(NotAuthorized, match=rf"no such user: {USER} with \[hidden\]"):
            await client.manifest(reference(asked.address, "a"))


async def test_the_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "nonsense://someone:proxy-secret@proxy.example")
    async with make_client() as client:
        with pytest.raises(UsageError, match="not the URL of a proxy") as caught:
            await client.manifest(reference("registry.invalid", "a"))
    shown = "".join(traceback.format_exception(caught.value))  # as --debug does
    assert "not the URL of a proxy" in shown
    assert "proxy-secret" not in shown


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_sees_no_authorization_of_tls(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    heads: list[str] = []

    def proxy(connection: Connection) -> None:
        heads.append(connection.head())
        connection.send(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with RawServer(proxy) as running:
        address = f"{scheme}://someone:proxy-secret@{running.address}"
        monkeypatch.setenv("HTTPS_PROXY", address.replace("https:", "http:"))
        lines: list[str] = []
        async with make_client(login=(USER, PASSWORD), debug=lines.append) as client:
            with pytest.raises(RegistryError) as caught:
                await client.manifest(reference("registry.invalid", "a"))
    assert heads
    assert all(head.startswith("CONNECT registry.invalid:443 ") for head in heads)
    assert "proxy-secret" not in "".join([*lines, str(caught.value)])
