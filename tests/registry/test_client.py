"""Manifests, uploads, lists and search against real registries, some of them with faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
from support.image_files import gzipped, oci_layout, small_image, write_directory
from support.registry_clients import (
    QUICK,
    configured,
    described,
    feed,
    make_client,
    reference,
    some_bytes,
)
from support.servers import DockerRegistry, FaultProxy
from support.servers.proxy import (
    CutUpload,
    Drip,
    Endless,
    Flip,
    Forward,
    Redirect,
    Reply,
    Request,
    Response,
)

from unionmount.errors import (
    DigestMismatch,
    FormatError,
    InvalidReference,
    LimitExceeded,
    NotAuthorized,
    NotFoundError,
    RegistryError,
    SizeMismatch,
    TransferError,
)
from unionmount.images.json_fields import MAX_DOCUMENT
from unionmount.images.manifest import Descriptor, Manifest, parse_manifest
from unionmount.images.reference import Digest, Reference

pytestmark = pytest.mark.needs("docker-registry", "skopeo")

Skopeo = Callable[..., str]
REPOSITORY = "client/image"


@pytest.fixture(scope="module")
def image(
    registry: DockerRegistry, skopeo: Skopeo, tmp_path_factory: pytest.TempPathFactory
) -> Manifest:
    """A small image in the registry, put there by skopeo."""
    directory = tmp_path_factory.mktemp("image") / "layout"
    write_directory(directory, oci_layout(small_image(names=("one",)), compress=gzipped))
    target = f"docker://{registry.address}/{REPOSITORY}:1"
    skopeo("copy", "--dest-tls-verify=false", f"oci:{directory}:one", target)
    raw = skopeo("inspect", "--tls-verify=false", "--raw", target)
    return Manifest.parse(raw.encode(), "skopeo")


@pytest.fixture
def ref(proxy: FaultProxy, image: Manifest) -> Reference:
    return reference(proxy.address, REPOSITORY)


# ---- documents


async def test_a_manifest_by_tag_and_by_digest(ref: Reference, image: Manifest) -> None:
    async with make_client() as client:
        found = await client.manifest(ref)
        assert (found.raw, found.digest) == (image.raw, image.digest)
        assert found.media_type == image.media_type
        by_digest = replace(ref, tag=None, digest=image.digest)
        assert await client.manifest(by_digest) == found


async def test_what_is_not_there(ref: Reference, image: Manifest) -> None:
    async with make_client() as client:
        with pytest.raises(NotFoundError, match=r"client/image:2: manifest: .* 404: .*unknown"):
            await client.manifest(replace(ref, tag="2"))
        assert not await client.has_blob(ref, Digest.of(b"nothing"))
        with pytest.raises(NotFoundError):
            await client.tags(replace(ref, repository="nobody/nothing"))


async def test_a_digest_without_the_header(
    proxy: FaultProxy, ref: Reference, image: Manifest
) -> None:
    def without(request: Request, forward: Forward) -> Response:
        return forward(request).with_header("Docker-Content-Digest", None)

    proxy.fault(without, kind="manifest", times=9)
    async with make_client() as client:
        assert (await client.manifest(ref)).digest == image.digest


@pytest.mark.parametrize("value", ["sha256:" + "0" * 64, "sha512:" + "0" * 128])
async def test_a_digest_that_is_another(
    proxy: FaultProxy, ref: Reference, image: Manifest, value: str
) -> None:
    def wrong(request: Request, forward: Forward) -> Response:
        return forward(request).with_header("Docker-Content-Digest", value)

    proxy.fault(wrong, kind="manifest", times=9)
    async with make_client() as client:
        with pytest.raises(DigestMismatch, match=f"expected {value}"):
            await client.manifest(ref)
        by_digest = replace(ref, tag=None, digest=image.digest)
        with pytest.raises(DigestMismatch, match=f"expected {value}|expected {image.digest}"):
            await client.manifest(by_digest)


async def test_a_header_that_is_no_digest(proxy: FaultProxy, ref: Reference) -> None:
    def wrong(request: Request, forward: Forward) -> Response:
        return forward(request).with_header("Docker-Content-Digest", "sha256:x")

    proxy.fault(wrong, kind="manifest")
    async with make_client() as client:
        with pytest.raises(InvalidReference, match="Docker-Content-Digest"):
            await client.manifest(ref)


async def test_changed_documents_are_noticed(
    proxy: FaultProxy, ref: Reference, image: Manifest
) -> None:
    async with make_client() as client:
        proxy.fault(Flip(20), kind="manifest")
        with pytest.raises(DigestMismatch, match=f"expected {image.digest}"):
            await client.manifest(replace(ref, digest=image.digest))
        proxy.fault(Flip(20), kind="blob")
        with pytest.raises(DigestMismatch, match=f"expected {image.config.digest}"):
            await client.document(ref, image.config)
        assert Digest.of(await client.document(ref, image.config)) == image.config.digest
        for change in (-1, 1):
            other = replace(image.config, size=image.config.size + change)
            with pytest.raises(SizeMismatch, match=f"expected {other.size}"):
                await client.document(ref, other)


async def test_documents_have_a_limit(proxy: FaultProxy, ref: Reference, image: Manifest) -> None:
    async with make_client() as client:
        proxy.fault(Endless(), kind="manifest")
        with pytest.raises(LimitExceeded, match=f"sends more than {MAX_DOCUMENT} bytes"):
            await client.manifest(ref)
        (seen,) = proxy.requests("manifest")
        assert seen.sent < MAX_DOCUMENT + 16 * 1024 * 1024  # what fits into buffers of sockets
        large = replace(image.config, size=MAX_DOCUMENT + 1)
        with pytest.raises(LimitExceeded, match=str(large.digest)):
            await client.document(ref, large)
        assert not proxy.requests("blob")
        proxy.fault(Endless(), kind="blob")
        with pytest.raises(SizeMismatch):
            await client.document(ref, image.config)


async def test_a_document_that_drips_has_an_end(
    proxy: FaultProxy, ref: Reference, image: Manifest
) -> None:
    proxy.fault(Drip(1, 0.02), kind="manifest", times=9)
    async with make_client(limits=replace(QUICK, answer=0.3, attempts=2)) as client:
        with pytest.raises(TransferError, match=r"only [0-9]+ bytes of an answer in 0\.3 s"):
            await client.manifest(ref)


async def test_errors_are_one_printable_line(proxy: FaultProxy, ref: Reference) -> None:
    body = {"errors": [{"code": "DENIED", "message": "no\n\x1b[31m" + "x" * 1000}]}
    proxy.fault(Reply(403, body=json.dumps(body).encode()), kind="manifest")
    proxy.fault(Reply(418, body=b"\xff[[["), kind="manifest")
    proxy.fault(Reply(418, body=b"[" * 60_000), kind="manifest")
    async with make_client() as client:
        with pytest.raises(NotAuthorized, match=r"answers 403: no\\n\\x1b\[31mx+…$") as caught:
            await client.manifest(ref)
        assert len(str(caught.value)) < 500
        for _ in range(2):
            with pytest.raises(RegistryError, match=r"answers 418 -$"):
                await client.manifest(ref)


# ---- mirrors


async def test_mirrors_come_first_and_one_that_fails_is_passed_over(
    registry: DockerRegistry, image: Manifest, tmp_path: Path
) -> None:
    with FaultProxy(registry.address) as broken, FaultProxy(registry.address) as good:
        registries = configured(
            tmp_path,
            f'[[registry]]\nprefix = "some.example/app"\nlocation = "{registry.address}/x"\n'
            f'[[registry.mirror]]\nlocation = "127.0.0.1:9/client/image"\n'
            f'[[registry.mirror]]\nlocation = "{broken.address}/client/image"\n'
            f'[[registry.mirror]]\nlocation = "{good.address}/client/image"\n',
        )
        broken.fault(Reply(500), times=99)
        name = reference("some.example", "app")
        async with make_client(registries=registries) as client:
            assert (await client.manifest(name)).raw == image.raw
            tried = len(broken.requests("manifest"))
            assert await client.document(name, image.config)
            async with client.blob(name, image.layers[0]) as chunks:
                assert b"".join([chunk async for chunk in chunks])
        assert tried == QUICK.mirror_attempts
        assert len(broken.requests("blob")) == 0  # who had the manifest is asked first
        assert len(good.requests("blob")) == 2


async def test_the_registrys_own_failure_is_told(
    registry: DockerRegistry, image: Manifest, tmp_path: Path
) -> None:
    lines: list[str] = []
    registries = configured(
        tmp_path,
        f'[[registry]]\nprefix = "some.example"\nlocation = "{registry.address}/nothing"\n'
        f'[[registry.mirror]]\nlocation = "{registry.address}/nowhere"\n',
    )
    async with make_client(registries=registries, debug=lines.append) as client:
        with pytest.raises(NotFoundError, match=r"^some\.example/app:1: manifest"):
            await client.manifest(reference("some.example", "app"))
    paths = [line.split()[2] for line in lines if line.startswith("> GET") and "manifests" in line]
    assert [path.split("/")[4] for path in paths] == ["nowhere", "nothing"]


# ---- uploads


DATA = some_bytes(3_000_000, seed=7)


def in_pieces(data: bytes = DATA, size: int = 70_000) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


@pytest.fixture
def target(proxy: FaultProxy) -> Reference:
    return reference(proxy.address, "client/up")


@pytest.fixture
def content(request: pytest.FixtureRequest) -> Descriptor:
    """A blob that no other test has sent."""
    return described(request.node.name.encode() + DATA)


def pieces_of(request: pytest.FixtureRequest) -> Iterator[bytes]:
    return in_pieces(request.node.name.encode() + DATA)


async def test_an_upload_arrives(
    registry: DockerRegistry,
    proxy: FaultProxy,
    target: Reference,
    content: Descriptor,
    request: pytest.FixtureRequest,
) -> None:
    told: list[int] = []
    async with make_client() as client:
        assert not await client.has_blob(target, content.digest)
        await client.upload_blob(
            target, content.digest, content.size, lambda: pieces_of(request), told.append
        )
        assert await client.has_blob(target, content.digest)
    kept = registry.blob_path(str(content.digest)).read_bytes()
    assert kept == b"".join(pieces_of(request))
    assert told == sorted(told)
    assert told[-1] == content.size
    (seen,) = proxy.requests("upload", "PATCH")
    assert seen.headers["content-length"] == str(content.size)
    assert "transfer-encoding" not in seen.headers


@pytest.mark.parametrize("cuts", [1, 3])
async def test_an_upload_that_breaks_goes_on(
    registry: DockerRegistry,
    proxy: FaultProxy,
    target: Reference,
    content: Descriptor,
    request: pytest.FixtureRequest,
    cuts: int,
) -> None:
    proxy.fault(CutUpload(700_000), kind="upload", method="PATCH", times=cuts)
    async with make_client() as client:
        await client.upload_blob(target, content.digest, content.size, lambda: pieces_of(request))
    assert registry.blob_path(str(content.digest)).stat().st_size == content.size


@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
@pytest.mark.parametrize("status", [500, 429])
async def test_failures_of_an_upload_are_tried_again(
    registry: DockerRegistry,
    proxy: FaultProxy,
    target: Reference,
    content: Descriptor,
    request: pytest.FixtureRequest,
    method: str,
    status: int,
) -> None:
    proxy.fault(Reply(status), kind="upload", method=method, times=2)
    async with make_client() as client:
        await client.upload_blob(target, content.digest, content.size, lambda: pieces_of(request))
    assert registry.blob_path(str(content.digest)).stat().st_size == content.size


async def test_an_answer_that_is_missed(
    registry: DockerRegistry,
    proxy: FaultProxy,
    target: Reference,
    content: Descriptor,
    request: pytest.FixtureRequest,
) -> None:
    """The registry has the blob, and its session has ended; it is not sent again."""

    def missed(request: Request, forward: Forward) -> Response:
        response = forward(request)
        for _ in response.body:
            pass
        response.release()
        raise OSError

    proxy.fault(missed, kind="upload", method="PUT")
    async with make_client() as client:
        await client.upload_blob(target, content.digest, content.size, lambda: pieces_of(request))
    assert registry.blob_path(str(content.digest)).exists()
    assert len(proxy.requests("upload", "PATCH")) == 1


async def test_a_registry_may_take_its_time_for_a_blob(
    proxy: FaultProxy, target: Reference, content: Descriptor, request: pytest.FixtureRequest
) -> None:
    pause = threading.Event()

    def slow(request: Request, forward: Forward) -> Response:
        pause.wait(0.5)
        return forward(request)

    proxy.fault(slow, kind="upload", method="PUT")
    async with make_client(limits=replace(QUICK, silence=0.2, answer=0.3, attempts=1)) as client:
        await client.upload_blob(target, content.digest, content.size, lambda: pieces_of(request))


async def test_a_relative_location(
    registry: DockerRegistry,
    proxy: FaultProxy,
    target: Reference,
    content: Descriptor,
    request: pytest.FixtureRequest,
) -> None:
    def relative(request: Request, forward: Forward) -> Response:
        response = forward(request)
        parts = urlsplit(response.header("Location") or "")
        return response.with_header("Location", f"{parts.path}?{parts.query}")

    proxy.fault(relative, kind="upload", times=99)
    async with make_client() as client:
        await client.upload_blob(target, content.digest, content.size, lambda: pieces_of(request))
    assert registry.blob_path(str(content.digest)).exists()


async def test_an_upload_of_other_bytes_is_refused(
    target: Reference, content: Descriptor, request: pytest.FixtureRequest
) -> None:
    async with make_client() as client:
        with pytest.raises(RegistryError, match="digest"):
            await client.upload_blob(
                target, Digest.of(b"other"), content.size, lambda: pieces_of(request)
            )
        for wrong in (-1, 1):
            with pytest.raises(SizeMismatch, match=str(content.digest)):
                await client.upload_blob(
                    target, content.digest, content.size + wrong, lambda: pieces_of(request)
                )


async def test_an_upload_can_be_cancelled(
    proxy: FaultProxy, target: Reference, content: Descriptor
) -> None:
    reached = threading.Event()
    released = threading.Event()

    def waiting(request: Request, forward: Forward) -> Response:
        reached.set()
        released.wait(30)
        return forward(request)

    proxy.fault(waiting, kind="upload", method="PATCH")
    async with make_client() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.upload_blob, target, content.digest, content.size, in_pieces)
            await trio.to_thread.run_sync(reached.wait, 30)
            nursery.cancel_scope.cancel()
        released.set()
        assert not await client.has_blob(target, content.digest)


async def test_blobs_are_mounted(registry: DockerRegistry, proxy: FaultProxy) -> None:
    blob = feed(registry.address, "client/from", b"mounted from elsewhere")
    to = reference(proxy.address, "client/to")
    async with make_client() as client:
        assert await client.mount_blob(to, blob.digest, "client/from")
        assert await client.has_blob(to, blob.digest)
        assert not await client.mount_blob(to, Digest.of(b"nowhere"), "client/from")
    assert [one.status for one in proxy.requests("upload", "DELETE")] == [204]


async def test_an_image_that_we_push_is_what_skopeo_reads(
    ref: Reference, image: Manifest, skopeo: Skopeo
) -> None:
    to = replace(ref, repository="client/pushed", tag="new")
    async with make_client() as client:
        for blob in (image.config, *image.layers):
            assert await client.mount_blob(to, blob.digest, REPOSITORY)
        assert await client.put_manifest(to, image.raw, image.media_type) == image.digest
        by_digest = replace(to, tag=None, digest=image.digest)
        assert await client.put_manifest(by_digest, image.raw, image.media_type) == image.digest
        with pytest.raises(DigestMismatch):
            await client.put_manifest(by_digest, image.raw + b" ", image.media_type)
        with pytest.raises(RegistryError, match="manifest"):
            await client.put_manifest(to, b"{}", image.media_type)
    digest = skopeo("inspect", "--tls-verify=false", "--format={{.Digest}}", f"docker://{to}")
    assert digest == str(image.digest)


async def test_a_registry_that_took_something_else_is_not_believed(
    proxy: FaultProxy, ref: Reference, image: Manifest
) -> None:
    def other(request: Request, forward: Forward) -> Response:
        return forward(request).with_header("Docker-Content-Digest", str(Digest.of(b"other")))

    proxy.fault(other, kind="manifest", method="PUT")
    async with make_client() as client:
        with pytest.raises(RegistryError, match="stored it as"):
            await client.put_manifest(ref, image.raw, image.media_type)


# ---- lists


class Pages:
    """A list in pages, as the distribution specification has it; this registry's own has none."""

    def __init__(
        self, names: list[str], key: str, link: str = "<{path}?n={n}&last={last}>"
    ) -> None:
        self._names = names
        self._key = key
        self._link = link

    def __call__(self, request: Request, forward: Forward) -> Response:
        query = parse_qs(urlsplit(request.target).query)
        count, last = 7, query.get("last", [""])[0]
        start = self._names.index(last) + 1 if last else 0
        page = self._names[start : start + count]
        headers = []
        if start + count < len(self._names):
            where = self._link.format(path=request.path, n=count, last=page[-1])
            headers.append(("Link", f'{where}; rel="next"'))
        response = Reply(200, tuple(headers), json.dumps({self._key: page}).encode())
        return response(request, forward)


NAMES = [f"1.{i}" for i in range(40)]


@pytest.mark.parametrize(
    "link",
    ["<{path}?n={n}&last={last}>", "<?last={last}>", '<x>; rel="prev", <{path}?last={last}>'],
)
async def test_all_pages_of_tags(proxy: FaultProxy, link: str) -> None:
    proxy.fault(Pages(NAMES, "tags", link), kind="tags", times=99)
    async with make_client() as client:
        assert await client.tags(reference(proxy.address, "a/b", None)) == NAMES


async def test_pages_have_an_end(proxy: FaultProxy) -> None:
    ref = reference(proxy.address, "a/b", None)
    proxy.fault(Pages(NAMES, "tags", "<{path}?n=1&last=1.6>"), kind="tags", times=99)
    async with make_client() as client:
        with pytest.raises(RegistryError, match="the same page again"):
            await client.tags(ref)
    proxy.reset()
    proxy.fault(Pages(NAMES, "tags"), kind="tags", times=99)
    async with make_client(limits=replace(QUICK, pages=3)) as client:
        with pytest.raises(LimitExceeded, match="more than 3 pages"):
            await client.tags(ref)
    async with make_client(limits=replace(QUICK, names=20)) as client:
        with pytest.raises(LimitExceeded, match="more than 20 names"):
            await client.tags(ref)


@pytest.mark.parametrize("body", ["", "[]", '{"tags": 5}', '{"tags": [5]}', "[" * 10_000])
async def test_lists_that_are_none(proxy: FaultProxy, body: str) -> None:
    proxy.fault(Reply(200, body=body.encode()), kind="tags")
    async with make_client() as client:
        with pytest.raises(FormatError, match=r"a/b: tags: the "):
            await client.tags(reference(proxy.address, "a/b", None))


async def test_no_tags(proxy: FaultProxy) -> None:
    proxy.fault(Reply(200, body=b'{"name": "a/b", "tags": null}'), kind="tags")
    async with make_client() as client:
        assert await client.tags(reference(proxy.address, "a/b", None)) == []


# What Docker Hub answers, shortened.
HUB = {
    "num_pages": 1,
    "num_results": 2,
    "page_size": 25,
    "page": 1,
    "query": "nginx",
    "results": [
        {
            "is_automated": False,
            "name": "nginx",
            "is_trusted": False,
            "is_official": True,
            "star_count": 20401,
            "description": "Official build of Nginx.",
        },
        {
            "is_automated": False,
            "name": "bitnami/nginx",
            "is_official": False,
            "star_count": 201,
            "description": "Bitnami container image for NGINX",
        },
        {"name": 5},
        "nonsense",
    ],
}


async def test_a_search_as_docker_hub_has_it(proxy: FaultProxy) -> None:
    proxy.fault(Reply(200, body=json.dumps(HUB).encode()), kind="other")
    async with make_client() as client:
        found = await client.search(proxy.address, "nginx", 25)
    assert [(one.name, one.stars, one.official) for one in found] == [
        (f"{proxy.address}/nginx", 20401, True),
        (f"{proxy.address}/bitnami/nginx", 201, False),
    ]
    (seen,) = proxy.requests("other")
    assert seen.target == "/v1/search?q=nginx&n=25"


async def test_a_search_in_the_list_of_repositories(proxy: FaultProxy, image: Manifest) -> None:
    async with make_client() as client:
        found = await client.search(proxy.address, "IMAGE", 5)
        assert f"{proxy.address}/{REPOSITORY}" in [one.name for one in found]
        proxy.fault(Reply(401), kind="catalog")
        with pytest.raises(RegistryError, match="offers neither a search nor a list"):
            await client.search(proxy.address, "image", 5)


# ---- speaking to a registry at all


async def test_nobody_there() -> None:
    async with make_client() as client:
        begin = trio.current_time()
        with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9: Connection refused"):
            await client.manifest(reference("127.0.0.1:9", "a"))
        assert trio.current_time() - begin < 1
        with pytest.raises(RegistryError, match=r"nowhere\.invalid: "):
            await client.manifest(reference("nowhere.invalid", "a"))


async def test_tls_may_be_a_must(registry: DockerRegistry, image: Manifest) -> None:
    async with make_client(tls_verify=True) as client:
        with pytest.raises(RegistryError, match="does not use TLS"):
            await client.manifest(reference(registry.address, REPOSITORY))


async def test_a_connection_that_breaks_without_an_answer(
    proxy: FaultProxy, ref: Reference, image: Manifest
) -> None:
    def silent(request: Request, forward: Forward) -> Response:
        raise OSError

    proxy.fault(silent, kind="manifest", times=2)
    async with make_client() as client:
        assert (await client.manifest(ref)).raw == image.raw


async def test_heads_have_a_limit(proxy: FaultProxy, ref: Reference) -> None:
    proxy.fault(Reply(200, (("X", "x" * 300_000),)), kind="manifest", times=99)
    async with make_client(limits=replace(QUICK, attempts=2)) as client:
        with pytest.raises(TransferError):
            await client.manifest(ref)


async def test_a_redirect_of_a_manifest(
    registry: DockerRegistry, proxy: FaultProxy, ref: Reference, image: Manifest
) -> None:
    proxy.fault(Redirect(registry.url, 302), kind="manifest")
    async with make_client() as client:
        assert parse_manifest((await client.manifest(ref)).raw, "x").digest == image.digest
