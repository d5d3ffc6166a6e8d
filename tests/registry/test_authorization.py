"""Who may see which secret, and what a registry is told of the user."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.registry_clients import (
    QUICK,
    basic,
    configured,
    described,
    fetch,
    make_client,
    reference,
    some_bytes,
)
from support.registry_fixtures import PASSWORD, USER
from support.servers import Authority, DockerRegistry, FaultProxy, TokenServer, htpasswd
from support.servers.proxy import Redirect, Reply, refuse_token

from unionmount.errors import FormatError, NotAuthorized, NotFoundError, RegistryError
from unionmount.images.manifest import Descriptor
from unionmount.images.reference import Reference
from unionmount.registry import Credentials, Login, Registries, RegistryClient
from unionmount.registry.http import Outgoing
from unionmount.registry.redaction import shown_url

pytestmark = pytest.mark.needs("docker-registry", "htpasswd", "openssl")

DATA = some_bytes(200_000)
BLOB = described(DATA)
LOGIN = (USER, PASSWORD)


def secrets_in(lines: Sequence[str]) -> list[str]:
    """What of the user's secrets is in the lines."""
    words = (PASSWORD, basic(USER, PASSWORD).split()[1], "eyJ", "identity-secret")
    return [word for word in words if any(word in line for line in lines)]


async def push(ref: Reference, **options: object) -> None:
    async with make_client(**options) as client:  # type: ignore[arg-type]
        await client.upload_blob(ref, BLOB.digest, BLOB.size, lambda: iter([DATA]))


# ---- Basic


@pytest.fixture(scope="module")
def basic_registry(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DockerRegistry]:
    """A plain registry that wants a password."""
    directory = tmp_path_factory.mktemp("basic")
    users = htpasswd(directory / "users", USER, PASSWORD)
    auth = {"htpasswd": {"realm": "test", "path": str(users)}}
    with DockerRegistry(directory, auth=auth) as running:
        yield running


@pytest.fixture
def basic_proxy(basic_registry: DockerRegistry) -> Iterator[FaultProxy]:
    with FaultProxy(basic_registry.address) as running:
        yield running


async def test_basic(basic_proxy: FaultProxy) -> None:
    ref = reference(basic_proxy.address, "auth/basic")
    lines: list[str] = []
    await push(ref, login=LOGIN, debug=lines.append)
    async with make_client(login=LOGIN, debug=lines.append) as client:
        assert await fetch(client, ref, BLOB) == DATA
        assert await fetch(client, ref, BLOB) == DATA
    statuses = [one.status for one in basic_proxy.requests("blob")]
    assert statuses == [401, 200, 200]  # one refusal, then it is known
    assert not secrets_in(lines)
    assert any("authorization: Basic [hidden]" in line for line in lines)


@pytest.mark.parametrize("login", [None, (USER, "wrong"), Login("x", "", "identity-secret")])
async def test_no_entry(basic_proxy: FaultProxy, login: tuple[str, str] | Login | None) -> None:
    ref = reference(basic_proxy.address, "auth/basic")
    async with make_client(login=login) as client:
        with pytest.raises(NotAuthorized, match="answers 401: authentication required"):
            await client.manifest(ref)
        with pytest.raises(NotAuthorized):
            await client.ping(ref.registry)
    assert len(basic_proxy.requests("manifest")) <= 2


async def test_ping(basic_registry: DockerRegistry) -> None:
    async with make_client(login=LOGIN) as client:
        await client.ping(basic_registry.address)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_authorization_stays_at_its_host(
    basic_registry: DockerRegistry, basic_proxy: FaultProxy, registry: DockerRegistry, status: int
) -> None:
    ref = reference(basic_proxy.address, "auth/basic")
    await push(ref, login=LOGIN)
    await push(reference(registry.address, "auth/basic"))
    basic_proxy.reset()
    with FaultProxy(registry.address, host="127.0.0.2") as elsewhere:
        basic_proxy.fault(Redirect(f"http://{elsewhere.address}", status), kind="blob", after=1)
        async with make_client(login=LOGIN) as client:
            assert await fetch(client, ref, BLOB) == DATA
        (seen,) = elsewhere.requests("blob")
    assert "authorization" not in seen.headers
    assert [("authorization" in one.headers) for one in basic_proxy.requests("blob")] == [
        False,
        True,
    ]


async def test_a_401_of_another_host_gets_no_secret(
    basic_proxy: FaultProxy, registry: DockerRegistry
) -> None:
    ref = reference(basic_proxy.address, "auth/basic")
    challenge = (("WWW-Authenticate", 'Basic realm="mine"'),)
    with FaultProxy(registry.address, host="127.0.0.2") as elsewhere:
        elsewhere.fault(Reply(401, challenge), times=99)
        basic_proxy.fault(Redirect(f"http://{elsewhere.address}"), kind="blob", after=1)
        async with make_client(login=LOGIN) as client:
            with pytest.raises(NotAuthorized):
                await fetch(client, ref, BLOB)
        assert [one.headers.get("authorization") for one in elsewhere.requests("blob")] == [None]


@pytest.mark.parametrize(
    ("url", "location", "kept", "expected"),
    [
        ("https://a/x", "/y", True, "https://a/y"),
        ("https://a/x", "https://a:443/y", True, "https://a/y"),
        ("https://a/x", "https://A/y", True, "https://a/y"),
        ("https://a/x", "//b/y", False, "https://b/y"),
        ("https://a/x", "https://a:444/y", False, "https://a:444/y"),
        ("http://a/x", "https://a/y", False, "https://a/y"),
        ("https://a/x", "https://user:word@a/y", True, "https://a/y"),
    ],
)
def test_redirects(url: str, location: str, kept: bool, expected: str) -> None:
    found = Outgoing("GET", url, authorization="secret").redirected(location, 302)
    assert (found.url, found.authorization) == (expected, "secret" if kept else None)


def test_redirects_that_are_not_followed() -> None:
    asked = Outgoing("GET", "https://a/x")
    with pytest.raises(RegistryError, match="from TLS to plain HTTP"):
        asked.redirected("http://a/y", 302)
    assert replace(asked, insecure=True).redirected("http://a/y", 302).url == "http://a/y"
    with pytest.raises(RegistryError, match="status 302 for PATCH"):
        replace(asked, method="PATCH").redirected("/y", 302)
    with pytest.raises(RegistryError):
        asked.redirected("/" + "y" * 20_000, 302)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://a/x?n=5&last=b", "https://a/x?n=5&last=b"),
        ("https://u:pw@a/x", "https://a/x"),
        (
            "https://s3/x?X-Amz-Signature=abc&X-Amz-Credential=k&sig=s&_state=t&n=1",
            "https://s3/x?X-Amz-Signature=[hidden]&X-Amz-Credential=[hidden]"
            "&sig=[hidden]&_state=[hidden]&n=1",
        ),
        ("https://[::1/x?sig=abc", "[hidden]"),
    ],
)
def test_secrets_in_addresses_are_hidden(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@given(st.text(alphabet="htps:/[]@?&=#%;abc\x1b\n", max_size=40))
def test_any_address_can_be_shown(text: str) -> None:
    assert shown_url(text).isprintable()
    assert "secret" not in shown_url(f"https://user:secret@host/{text}?sig=secret&{text}=secret")


# ---- Bearer


@pytest.fixture(scope="module")
def running_token_server(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[TokenServer]:
    with TokenServer(tmp_path_factory.mktemp("tokens"), authority) as running:
        yield running


@pytest.fixture(scope="module")
def token_registry(
    tmp_path_factory: pytest.TempPathFactory, running_token_server: TokenServer
) -> Iterator[DockerRegistry]:
    directory = tmp_path_factory.mktemp("token-registry")
    with DockerRegistry(directory, auth=running_token_server.auth()) as running:
        yield running


@pytest.fixture
def token_server(running_token_server: TokenServer) -> TokenServer:
    """The module's token server, as if it had just been started."""
    running_token_server.users = {USER: PASSWORD}
    running_token_server.refresh_tokens = {}
    running_token_server.lifetime = 300
    running_token_server.field_name = "token"
    running_token_server.asked = []
    return running_token_server


@pytest.fixture
def token_proxy(token_registry: DockerRegistry) -> Iterator[FaultProxy]:
    with FaultProxy(token_registry.address) as running:
        yield running


async def test_tokens_are_for_what_is_asked(
    token_proxy: FaultProxy, token_server: TokenServer
) -> None:
    ref = reference(token_proxy.address, "auth/tokens")
    lines: list[str] = []
    await push(ref, login=LOGIN, debug=lines.append)
    assert {one.scopes for one in token_server.asked} == {("repository:auth/tokens:pull,push",)}
    assert {one.user for one in token_server.asked} == {USER}
    token_server.asked.clear()
    async with make_client(debug=lines.append) as client:
        assert await fetch(client, ref, BLOB) == DATA
        with pytest.raises(NotAuthorized):
            await client.upload_blob(ref, described(b"x").digest, 1, lambda: iter([b"x"]))
    assert token_server.asked[0].scopes == ("repository:auth/tokens:pull",)
    assert token_server.asked[0].user is None
    assert not secrets_in(lines)
    assert any("authorization: Bearer [hidden]" in line for line in lines)


async def test_a_token_is_asked_for_once(
    token_proxy: FaultProxy, token_server: TokenServer
) -> None:
    ref = reference(token_proxy.address, "auth/tokens")
    await push(ref, login=LOGIN)
    token_server.asked.clear()
    async with make_client(login=LOGIN) as client:
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(fetch, client, ref, BLOB)
    assert len(token_server.asked) == 1


async def test_a_mount_asks_for_both_repositories(
    token_proxy: FaultProxy, token_server: TokenServer
) -> None:
    await push(reference(token_proxy.address, "auth/from"), login=LOGIN)
    token_server.asked.clear()
    to = reference(token_proxy.address, "auth/to")
    async with make_client(login=LOGIN) as client:
        assert await client.mount_blob(to, BLOB.digest, "auth/from")
    assert token_server.asked[-1].scopes == (
        "repository:auth/to:pull,push",
        "repository:auth/from:pull",
    )


async def test_a_token_that_is_refused_is_renewed(
    token_proxy: FaultProxy, token_server: TokenServer
) -> None:
    """As it is when a token expires in the middle of a pull."""
    ref = reference(token_proxy.address, "auth/tokens")
    await push(ref, login=LOGIN)
    async with make_client(login=LOGIN) as client:
        assert await fetch(client, ref, BLOB) == DATA
        token_server.asked.clear()
        token_proxy.fault(refuse_token, kind="blob")
        assert await fetch(client, ref, BLOB) == DATA
        assert len(token_server.asked) == 1
        token_proxy.fault(refuse_token, kind="blob", times=99)
        with pytest.raises(NotAuthorized):
            await fetch(client, ref, BLOB)


async def test_tokens_end_when_they_say_so(
    token_proxy: FaultProxy, token_server: TokenServer
) -> None:
    token_server.lifetime = 1
    ref = reference(token_proxy.address, "auth/tokens")
    await push(ref, login=LOGIN)
    async with make_client(login=LOGIN) as client:
        assert await fetch(client, ref, BLOB) == DATA
        token_server.asked.clear()
        await trio.sleep(0.6)  # more than the half of its life
        token_proxy.reset()
        assert await fetch(client, ref, BLOB) == DATA
    assert len(token_server.asked) == 1
    assert [one.status for one in token_proxy.requests("blob")] == [200]


async def test_a_wrong_password_is_told(token_proxy: FaultProxy, token_server: TokenServer) -> None:
    async with make_client(login=(USER, "wrong")) as client:
        with pytest.raises(NotAuthorized, match=r": token: .* 401: wrong password"):
            await client.manifest(reference(token_proxy.address, "auth/tokens"))
        with pytest.raises(NotAuthorized, match="wrong password"):
            await client.ping(token_proxy.address)
    async with make_client(login=LOGIN) as client:
        await client.ping(token_proxy.address)


async def test_an_identity_token(token_proxy: FaultProxy, token_server: TokenServer) -> None:
    token_server.refresh_tokens["identity-secret"] = USER
    token_server.field_name = "access_token"
    ref = reference(token_proxy.address, "auth/tokens")
    lines: list[str] = []
    await push(ref, login=Login("<token>", "", "identity-secret"), debug=lines.append)
    assert {(one.method, one.grant_type) for one in token_server.asked} == {
        ("POST", "refresh_token")
    }
    assert not secrets_in(lines)


@pytest.mark.parametrize(
    ("challenge", "text"),
    [
        ('Bearer realm="ftp://x/token"', "is not a URL"),
        ('Bearer realm="http://user:pw@127.0.0.1/token"', "is not a URL"),
        ('Bearer service="x"', "is not a URL"),
        ('Bearer realm="http://192.0.2.1/token"', "no credentials are sent there"),
        ('Bearer realm="//192.0.2.1/token"', "no credentials are sent there"),
        ('Bearer realm="http:///token"', "is not a URL"),
        ('Bearer realm=""', "is not a URL"),
        ('Bearer realm="a",realm="b"', "WWW-Authenticate says 'realm' twice"),
        ("Digest realm=5", "answers 401"),
    ],
)
async def test_challenges_that_are_not_met(proxy: FaultProxy, challenge: str, text: str) -> None:
    proxy.fault(Reply(401, (("WWW-Authenticate", challenge),)), kind="manifest", times=9)
    async with make_client(login=LOGIN) as client:
        with pytest.raises(RegistryError, match=text) as caught:
            await client.manifest(reference(proxy.address, "auth/none"))
    assert not secrets_in([str(caught.value)])


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "has no token"),
        (b'{"token": "two words"}', "has no token"),
        (b'{"token": "a\\r\\nb"}', "has no token"),
        (b"[" * 20_000, "not JSON"),
        (b" " * 300_000, "more than 262144 bytes"),
    ],
)
async def test_token_servers_that_go_wrong(proxy: FaultProxy, answer: bytes, text: str) -> None:
    challenge = f'Bearer realm="http://{proxy.address}/token"'
    proxy.fault(Reply(401, (("WWW-Authenticate", challenge),)), kind="manifest", times=9)
    proxy.fault(Reply(200, body=answer), kind="other", times=9)
    async with make_client(login=LOGIN) as client:
        with pytest.raises((RegistryError, FormatError), match=text):
            await client.manifest(reference(proxy.address, "auth/none"))


@pytest.mark.parametrize("realm", ["/v2/token?a=b", "v2/token?a=b", "//{address}/v2/token?a=b"])
async def test_a_realm_may_be_relative(proxy: FaultProxy, realm: str) -> None:
    challenge = f'Bearer realm="{realm.format(address=proxy.address)}",service="s"'
    proxy.fault(Reply(401, (("WWW-Authenticate", challenge),)), kind="manifest", times=9)
    proxy.fault(Reply(200, body=b'{"token": "x"}'), kind="other", times=9)
    async with make_client() as client:
        with pytest.raises(NotAuthorized):
            await client.manifest(reference(proxy.address, "auth/none"))
    targets = {one.target for one in proxy.requests("other")}
    assert targets == {"/v2/token?a=b&service=s&scope=repository%3Aauth%2Fnone%3Apull"}


async def test_a_registry_gets_no_tokens_for_other_repositories(proxy: FaultProxy) -> None:
    challenge = (
        f'Bearer realm="http://{proxy.address}/token",'
        'scope="repository:auth/none:pull,delete repository:other:pull registry:catalog:*"'
    )
    proxy.fault(Reply(401, (("WWW-Authenticate", challenge),)), kind="manifest", times=9)
    proxy.fault(Reply(200, body=b'{"token": "x"}'), kind="other", times=9)
    async with make_client() as client:
        with pytest.raises(NotAuthorized):
            await client.manifest(reference(proxy.address, "auth/none"))
    asked = [one.target for one in proxy.requests("other")]
    assert asked
    assert all(
        target == "/token?scope=repository%3Aauth%2Fnone%3Apull"
        "&scope=repository%3Aauth%2Fnone%3Apull%2Cdelete"
        for target in asked
    )


async def test_what_a_server_repeats_is_hidden(basic_proxy: FaultProxy) -> None:
    secret = basic(USER, PASSWORD).split()[1]
    body = f'{{"errors": [{{"message": "no {secret} here"}}]}}'.encode()
    basic_proxy.fault(Reply(403, body=body), kind="manifest", after=1)
    async with make_client(login=LOGIN) as client:
        with pytest.raises(NotAuthorized, match=r"no \[hidden\] here"):
            await client.manifest(reference(basic_proxy.address, "auth/basic"))


# ---- TLS


def certs(directory: Path, authority: Authority) -> Path:
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(authority.own.certificate.read_bytes())
    return directory


async def test_unknown_certificates(tls_registry: DockerRegistry) -> None:
    ref = reference(tls_registry.address, "auth/tls")
    lines: list[str] = []
    async with make_client(login=LOGIN, debug=lines.append) as client:
        with pytest.raises(RegistryError, match="unable to get local issuer certificate"):
            await client.manifest(ref)
    assert not any("authorization" in line for line in lines)
    async with make_client(login=LOGIN, tls_verify=False) as client:
        with pytest.raises(NotFoundError):
            await client.manifest(ref)


async def test_where_certificates_may_be(
    tls_registry: DockerRegistry, authority: Authority, tmp_path: Path
) -> None:
    ref = reference(tls_registry.address, "auth/tls")
    given = certs(tmp_path / "given", authority)
    home = tmp_path / "home"
    certs(home / ".config/containers/certs.d" / tls_registry.address, authority)
    lines: list[str] = []
    for options in ({"cert_dir": given}, {"environment": {"HOME": str(home)}}):
        async with make_client(login=LOGIN, debug=lines.append, **options) as client:
            with pytest.raises(NotFoundError):
                await client.manifest(ref)
    assert any("HTTP/2" in line for line in lines)


async def test_the_environments_certificates(
    tls_registry: DockerRegistry, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.own.certificate))
    async with make_client(login=LOGIN, tls_verify=True) as client:
        await client.ping(tls_registry.address)


async def test_blobs_over_tls(
    tls_registry: DockerRegistry, authority: Authority, tmp_path: Path
) -> None:
    lines: list[str] = []
    directory = certs(tmp_path / "certs", authority)
    options = {"cert_dir": directory, "login": LOGIN, "debug": lines.append}
    ref = reference(tls_registry.address, "auth/bulk")
    await push(ref, **options)
    async with make_client(**options) as client, trio.open_nursery() as nursery:  # type: ignore[arg-type]
        for _ in range(6):
            nursery.start_soon(_fetch_and_compare, client, ref, BLOB)
    async with make_client(**options) as client, client.blob(ref, BLOB) as chunks:  # type: ignore[arg-type]
        assert await anext(chunks)
    answers = [line for line in lines if line.startswith("<")]
    assert {("HTTP/1.1" in line) for line in answers if f"/blobs/{BLOB.digest} " in line} == {True}
    assert {("HTTP/2" in line) for line in answers if "/blobs/uploads/ " in line} == {True}


async def _fetch_and_compare(client: RegistryClient, ref: Reference, blob: Descriptor) -> None:
    assert await fetch(client, ref, blob) == DATA


async def test_client_certificates(
    start_registry: Callable[..., DockerRegistry], authority: Authority, tmp_path: Path
) -> None:
    pair = authority.sign("mutual")
    tls = {
        "certificate": str(pair.certificate),
        "key": str(pair.key),
        "clientcas": [str(authority.own.certificate)],
    }
    running = start_registry(http={"tls": tls})
    ref = reference(running.address, "auth/mutual")
    directory = certs(tmp_path / "certs", authority)
    async with make_client(cert_dir=directory) as client:
        with pytest.raises(RegistryError, match=running.address):  # an alert, or nothing
            await client.manifest(ref)
    mine = authority.sign("client")
    (directory / "me.cert").write_bytes(mine.certificate.read_bytes())
    async with make_client(cert_dir=directory) as client:
        with pytest.raises(FormatError, match=r"me\.cert: the key is missing beside"):
            await client.manifest(ref)
    (directory / "me.key").write_bytes(mine.key.read_bytes())
    async with make_client(cert_dir=directory) as client:
        with pytest.raises(NotFoundError):
            await client.manifest(ref)
    (directory / "me.cert").unlink()
    async with make_client(cert_dir=directory) as client:
        with pytest.raises(FormatError, match=r"me\.key: the certificate is missing beside"):
            await client.manifest(ref)


async def test_broken_certificates(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("nonsense")
    async with make_client(cert_dir=tmp_path) as client:
        with pytest.raises(FormatError, match=r"ca\.crt: "):
            await client.manifest(reference("127.0.0.1:9", "a"))


async def test_a_realm_without_tls_is_refused(
    start_registry: Callable[..., DockerRegistry],
    token_server: TokenServer,
    authority: Authority,
    tmp_path: Path,
) -> None:
    running = start_registry(tls=authority.sign("tokens-tls"), auth=token_server.auth())
    async with make_client(login=LOGIN, cert_dir=certs(tmp_path / "certs", authority)) as client:
        with pytest.raises(RegistryError, match="plain HTTP, though the registry has TLS"):
            await client.manifest(reference(running.address, "auth/a"))
    assert not token_server.asked


# ---- proxies of the environment


async def test_a_proxy_of_the_environment(
    registry: DockerRegistry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = "registry.invalid:5000"
    registries = configured(tmp_path, f'[[registry]]\nlocation = "{place}"\ninsecure = true\n')
    with FaultProxy(registry.address) as forward:
        forward.fault(Reply(418), times=99)
        monkeypatch.setenv("HTTP_PROXY", f"http://{forward.address}")
        monkeypatch.setenv("NO_PROXY", place.partition(":")[0])
        async with make_client(registries=registries) as client:
            with pytest.raises(RegistryError, match=r"registry\.invalid:5000: "):
                await client.manifest(reference(place, "auth/none"))
            assert not forward.seen
        monkeypatch.setenv("NO_PROXY", "")
        async with make_client(registries=registries) as client:
            with pytest.raises(RegistryError, match="418"):
                await client.manifest(reference(place, "auth/none"))
            assert forward.seen[-1].target.startswith(f"http://{place}/v2/")
            forward.reset()
            with pytest.raises(NotFoundError):
                await client.manifest(reference(registry.address, "auth/none"))
            assert not forward.seen


async def test_mirrors_do_not_see_what_is_given_for_the_registry(
    basic_registry: DockerRegistry, tmp_path: Path
) -> None:
    ref = reference(basic_registry.address, "auth/mirrored")
    await push(ref, login=LOGIN)
    with FaultProxy(basic_registry.address) as mirror:
        registries = configured(
            tmp_path,
            f'[[registry]]\nprefix = "{ref.registry}"\n'
            f'[[registry.mirror]]\nlocation = "{mirror.address}"\n',
        )
        async with make_client(login=LOGIN, registries=registries) as client:
            assert await fetch(client, ref, BLOB) == DATA
        assert [one.headers.get("authorization") for one in mirror.requests("blob")] == [None]


async def test_a_helper_that_waits_is_ended_with_the_command(
    basic_registry: DockerRegistry, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    helper = tmp_path / "docker-credential-slow"
    helper.write_text(f"#!/bin/sh\necho $$ > {started}\nexec sleep 99\n")
    helper.chmod(0o755)
    authfile = tmp_path / "auth.json"
    authfile.write_text(f'{{"credHelpers": {{"{basic_registry.address}": "slow"}}}}')
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)}
    credentials = Credentials.load(environment, authfile)
    client = RegistryClient(Registries(), credentials, environment=environment, limits=QUICK)
    async with client, trio.open_nursery() as nursery:
        nursery.start_soon(client.manifest, reference(basic_registry.address, "auth/basic"))
        pid = int(await trio.to_thread.run_sync(started.read_text))
        nursery.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
