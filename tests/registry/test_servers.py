"""The servers that the other tests rely on do what they say, as skopeo sees them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.image_files import gzipped, oci_layout, small_image, write_directory
from support.registry_fixtures import PASSWORD, USER
from support.servers import Authority, DockerRegistry, FaultProxy, TokenServer
from support.servers.proxy import Cut, Flip, Redirect, Reply, no_ranges

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

Skopeo = Callable[..., str]


@pytest.fixture
def layout(tmp_path: Path) -> str:
    """A small image as skopeo names it."""
    write_directory(tmp_path / "layout", oci_layout(small_image(names=("one",)), compress=gzipped))
    return f"oci:{tmp_path / 'layout'}:one"


def get(address: str, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_skopeo_pushes_and_reads_through_the_proxy(
    proxy: FaultProxy, layout: str, skopeo: Skopeo
) -> None:
    target = f"docker://{proxy.address}/servers/through:1"
    skopeo("copy", "--dest-tls-verify=false", layout, target)
    assert len(proxy.requests("manifest", "PUT")) == 1
    assert sum(one.received for one in proxy.requests("upload", "PATCH")) > 0
    document = json.loads(skopeo("inspect", "--tls-verify=false", "--raw", target))
    assert {one["digest"] for one in document["layers"]} == {
        one["digest"] for one in json.loads(skopeo("inspect", "--raw", layout))["layers"]
    }


def test_faults(proxy: FaultProxy, registry: DockerRegistry, layout: str, skopeo: Skopeo) -> None:
    target = f"docker://{registry.address}/servers/faults:1"
    skopeo("copy", "--dest-tls-verify=false", layout, target)
    digest = json.loads(skopeo("inspect", "--raw", layout))["layers"][0]["digest"]
    path = f"/v2/servers/faults/blobs/{digest}"
    status, content = get(proxy.address, path)
    assert (status, content) == (200, registry.blob_path(digest).read_bytes())
    assert get(proxy.address, path, Range="bytes=10-") == (206, content[10:])
    assert proxy.fetched() == {digest: 1}
    proxy.fault(Flip(3), kind="blob")
    assert get(proxy.address, path)[1] == content[:3] + bytes([content[3] ^ 0x10]) + content[4:]
    proxy.fault(Cut(5), kind="blob")
    with pytest.raises(http.client.IncompleteRead) as cut:
        get(proxy.address, path)
    assert cut.value.partial == content[:5]
    proxy.fault(no_ranges, kind="blob")
    assert get(proxy.address, path, Range="bytes=10-") == (200, content)
    proxy.fault(Reply(429, (("Retry-After", "1"),)))
    assert get(proxy.address, path)[0] == 429
    proxy.fault(Redirect("http://127.0.0.2:1"))
    assert get(proxy.address, path)[0] == 307
    assert get(proxy.address, path)[0] == 200


def test_tls_and_passwords(
    tls_registry: DockerRegistry, authority: Authority, layout: str, skopeo: Skopeo, tmp_path: Path
) -> None:
    certificates = tmp_path / "certs"
    certificates.mkdir()
    (certificates / "ca.crt").write_bytes(authority.own.certificate.read_bytes())
    target = f"docker://{tls_registry.address}/servers/tls:1"
    words = ("--dest-cert-dir", certificates, "--dest-creds", f"{USER}:{PASSWORD}")
    skopeo("copy", *words, layout, target)


def test_tokens(
    token_registry: DockerRegistry, token_server: TokenServer, layout: str, skopeo: Skopeo
) -> None:
    target = f"docker://{token_registry.address}/servers/tokens:1"
    skopeo("copy", "--dest-tls-verify=false", "--dest-creds", f"{USER}:{PASSWORD}", layout, target)
    assert any(
        "repository:servers/tokens:pull,push" in str(one.scopes) for one in token_server.asked
    )
    skopeo("inspect", "--tls-verify=false", target)
    assert token_server.asked[-1].user is None


def test_a_mirror(
    registry: DockerRegistry,
    start_registry: Callable[..., DockerRegistry],
    layout: str,
    skopeo: Skopeo,
) -> None:
    skopeo(
        *("copy", "--dest-tls-verify=false"),
        *(layout, f"docker://{registry.address}/servers/mirrored:1"),
    )
    mirror = start_registry(mirror_of=registry.url)
    skopeo("inspect", "--tls-verify=false", f"docker://{mirror.address}/servers/mirrored:1")
