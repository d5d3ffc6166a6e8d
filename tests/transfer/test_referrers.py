"""Signatures, SBOMs and attestations that are copied along, as oras, regctl and skopeo see them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.artifact_tools import ArtifactTools, Cosign, ReferrersRegistry
from support.commands import Commands
from support.effort import LONG
from support.image_files import blob_path, descriptor, sha256
from support.mounting import CommandLine
from support.servers import DockerRegistry, FaultProxy
from support.servers.proxy import Forward, Reply, Request, Response
from support.transfers import (
    OCI_MANIFEST,
    Sender,
    Skopeo,
    assert_nothing_partial,
    command_line,
    image,
    layer,
    manifest_digest,
)

import unionmount
from unionmount.store.store import Store

pytestmark = pytest.mark.needs("docker-registry", "skopeo", "go")

IMAGE = image(layer("referred"))
PLATFORMS = {
    "linux/amd64": image(layer("referred-amd64"), architecture="amd64"),
    "linux/arm64": image(layer("referred-arm64"), architecture="arm64"),
}
SBOM, SIGNATURE, SCAN = "application/spdx+json", "application/x.signature", "application/x.scan"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"

IMAGE_TAG_BASE = manifest_digest(IMAGE).replace(":", "-")

Pairs = set[tuple[str, str]]


@pytest.fixture
def cli(tmp_path: Path, server: Commands) -> CommandLine:
    return command_line(tmp_path / "store", server)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attached") / "text"
    path.write_text("what is said about an image\n")
    return path


@dataclass(frozen=True)
class Signed:
    """An image in a registry, with an SBOM, its signature, and a scan."""

    repository: str
    digest: str
    pairs: Pairs

    @property
    def name(self) -> str:
        return f"{self.repository}:1"


def sign(tools: ArtifactTools, sender: Sender, text: Path, address: str, repository: str) -> Signed:
    name = sender.send(IMAGE, address, f"{repository}:1")
    digest = manifest_digest(IMAGE)
    sbom = tools.attach(name, SBOM, text)
    signature = tools.attach(f"{address}/{repository}@{sbom}", SIGNATURE, text)
    scan = tools.attach(name, SCAN, text)
    pairs = {(digest, sbom), (sbom, signature), (digest, scan)}
    signed = Signed(f"{address}/{repository}", digest, pairs)
    assert tools.discover_plain(signed.repository, digest) == pairs
    return signed


@pytest.fixture(scope="session")
def own_sender(tmp_path_factory: pytest.TempPathFactory, skopeo: Skopeo) -> Sender:
    return Sender(tmp_path_factory.mktemp("sent"), skopeo)


@pytest.fixture(scope="session")
def signed(
    tools: ArtifactTools, own_sender: Sender, text: Path, listing_registry: ReferrersRegistry
) -> Signed:
    return sign(tools, own_sender, text, listing_registry.address, "referrers/source")


@pytest.fixture(scope="session")
def signed_by_tag(
    tools: ArtifactTools, own_sender: Sender, text: Path, registry: DockerRegistry
) -> Signed:
    """The same in a registry without the API."""
    return sign(tools, own_sender, text, registry.address, "referrers/source")


# ---- everywhere


def test_the_python_function(
    signed: Signed, registry: DockerRegistry, tools: ArtifactTools, tmp_path: Path
) -> None:
    target = f"{registry.address}/referrers/python"
    plain, root = unionmount.RegistryAccess(tls_verify=False), tmp_path / "root"
    names = (f"docker://{signed.name}", f"docker://{target}:1")
    unionmount.copy(*names, access=plain, root=root)
    assert tools.discover_plain(target, signed.digest) == set()
    unionmount.copy(*names, access=plain, root=root, referrers=True)
    assert tools.discover_plain(target, signed.digest) == signed.pairs


@pytest.mark.parametrize("between", ["", "oci", "oci-archive"])
@pytest.mark.parametrize("has_api", ["both", "source", "target", "none"])
def test_referrers_come_along(
    has_api: str,
    between: str,
    request: pytest.FixtureRequest,
    cli: CommandLine,
    tools: ArtifactTools,
    registry: DockerRegistry,
    listing_registry: ReferrersRegistry,
    tmp_path: Path,
) -> None:
    fixture = "signed" if has_api in ("both", "source") else "signed_by_tag"
    source: Signed = request.getfixturevalue(fixture)
    target = listing_registry if has_api in ("both", "target") else registry
    repository = f"{target.address}/referrers/{has_api}-{between or 'direct'}"
    origin = f"docker://{source.name}"
    if between:
        place = f"{between}:{tmp_path / 'between'}:one"
        done = cli.run("copy", "--referrers", origin, place)
        assert (done.stdout, done.stderr) == (f"{source.digest}\n", "")
        origin = place
    done = cli.run("copy", "--referrers", origin, f"docker://{repository}:1")
    assert (done.stdout, done.stderr) == (f"{source.digest}\n", "")
    assert tools.discover_plain(repository, source.digest) == source.pairs
    if has_api in ("both", "target"):
        assert tools.crane("ls", "--insecure", repository) == "1"  # and no list beside the API
    assert_nothing_partial(Store(tmp_path / "store"), set())


def test_without_the_option_nothing_comes_along(
    cli: CommandLine, tools: ArtifactTools, signed: Signed, registry: DockerRegistry
) -> None:
    repository = f"{registry.address}/referrers/bare"
    cli.run("copy", f"docker://{signed.name}", f"docker://{repository}:1")
    assert tools.discover_plain(repository, signed.digest) == set()


def test_some_types_alone(
    cli: CommandLine, tools: ArtifactTools, signed: Signed, registry: DockerRegistry
) -> None:
    repository = f"{registry.address}/referrers/types"
    words = ("copy", "--referrers", "--artifact-type", SBOM, "--artifact-type", SIGNATURE)
    cli.run(*words, f"docker://{signed.name}", f"docker://{repository}:1")
    kinds = {SBOM, SIGNATURE}
    wanted = {
        pair
        for pair in signed.pairs
        if json.loads(
            tools.oras("manifest", "fetch", "--plain-http", f"{signed.repository}@{pair[1]}")
        )["artifactType"]
        in kinds
    }
    assert len(wanted) == 2
    assert tools.discover_plain(repository, signed.digest) == wanted


def test_a_copy_that_is_repeated_changes_nothing(
    cli: CommandLine, tools: ArtifactTools, signed: Signed, registry: DockerRegistry
) -> None:
    repository = f"{registry.address}/referrers/again"
    words = ("copy", "--referrers", f"docker://{signed.name}", f"docker://{repository}:1")
    cli.run(*words)
    tag = f"{repository}:{signed.digest.replace(':', '-')}"
    listed = tools.digest(tag)
    cli.run(*words)
    assert tools.digest(tag) == listed
    assert tools.discover_plain(repository, signed.digest) == signed.pairs


def test_images_of_an_index_have_referrers_too(
    cli: CommandLine,
    tools: ArtifactTools,
    sender: Sender,
    text: Path,
    listing_registry: ReferrersRegistry,
    registry: DockerRegistry,
) -> None:
    repository = f"{registry.address}/referrers/index"
    index = sender.send_index(PLATFORMS, registry, "referrers/index:1")
    ours = {one: manifest_digest(made) for one, made in PLATFORMS.items()}
    about = {
        digest: tools.attach(f"{repository}@{digest}", SBOM, text)
        for digest in (index, *ours.values())
    }
    whole = f"{listing_registry.address}/referrers/index-whole"
    cli.run("copy", "--all", "--referrers", f"docker://{repository}:1", f"docker://{whole}:1")
    for digest, referrer in about.items():
        assert tools.discover_plain(whole, digest) == {(digest, referrer)}
    one = f"{listing_registry.address}/referrers/index-one"
    words = ("--platform", "linux/arm64", f"docker://{repository}:1", f"docker://{one}:1")
    done = cli.run("copy", "--referrers", *words)
    assert done.stderr == (
        f"unionmount: referrers of the index {index} are left out (1), since only images of the "
        "index are copied; --all copies all\n"
    )
    arm64 = ours["linux/arm64"]
    assert tools.discover_plain(one, arm64) == {(arm64, about[arm64])}


# ---- layouts


def test_oras_finds_them_in_a_layout(
    cli: CommandLine, tools: ArtifactTools, signed: Signed, tmp_path: Path
) -> None:
    directory = tmp_path / "layout"
    cli.run("copy", "--referrers", f"docker://{signed.name}", f"oci:{directory}:one")
    assert tools.discover(str(directory), signed.digest, "--oci-layout") == signed.pairs


def test_a_layout_that_oras_made(
    cli: CommandLine,
    tools: ArtifactTools,
    signed_by_tag: Signed,
    registry: DockerRegistry,
    tmp_path: Path,
) -> None:
    directory = tmp_path / "layout"
    words = ("--from-plain-http", signed_by_tag.name, "--to-oci-layout", f"{directory}:one")
    tools.oras("cp", "-r", *words)
    repository = f"{registry.address}/referrers/from-oras"
    cli.run("copy", "--referrers", f"oci:{directory}:one", f"docker://{repository}:1")
    assert tools.discover_plain(repository, signed_by_tag.digest) == signed_by_tag.pairs


def test_a_layout_that_regctl_made(
    cli: CommandLine,
    tools: ArtifactTools,
    signed_by_tag: Signed,
    registry: DockerRegistry,
    tmp_path: Path,
) -> None:
    directory = tmp_path / "layout"
    words = ("image", "copy", "--referrers", signed_by_tag.name, f"ocidir://{directory}:one")
    tools.regctl(*words, plain=registry.address)
    repository = f"{registry.address}/referrers/from-regctl"
    cli.run("copy", "--referrers", f"oci:{directory}", f"docker://{repository}:1")
    assert tools.discover_plain(repository, signed_by_tag.digest) == signed_by_tag.pairs


def test_what_is_about_an_image_does_not_hide_it(
    cli: CommandLine, signed: Signed, tmp_path: Path
) -> None:
    directory = tmp_path / "layout"
    cli.run("copy", "--referrers", f"docker://{signed.name}", f"oci:{directory}")
    assert len(json.loads((directory / "index.json").read_text())["manifests"]) == 4
    assert cli.run("ls", f"{directory}:/files").stdout.split() == ["referred"]
    assert cli.run("copy", f"oci:{directory}", "mine:1").stdout == f"{IMAGE.id}\n"


# ---- cosign's tags


def test_tags_of_cosign_come_along(
    cli: CommandLine,
    tools: ArtifactTools,
    sender: Sender,
    text: Path,
    registry: DockerRegistry,
    listing_registry: ReferrersRegistry,
    tmp_path: Path,
) -> None:
    source = sender.send(IMAGE, registry, "referrers/cosign:1").rpartition(":")[0]
    base = manifest_digest(IMAGE).replace(":", "-")
    tags = [f"{base}{suffix}" for suffix in (".sig", ".att", ".sbom")]
    for tag in tags:
        words = ("--plain-http", "--disable-path-validation", "--artifact-type", SIGNATURE)
        tools.oras("push", *words, f"{source}:{tag}", f"{text}:text/plain")
    layout = f"oci:{tmp_path / 'layout'}:one"
    target = f"{listing_registry.address}/referrers/cosign"
    cli.run("copy", "--referrers", f"docker://{source}:1", layout)
    assert cli.run("ls", f"{tmp_path / 'layout'}:/files").stdout.split() == ["referred"]
    cli.run("copy", "--referrers", layout, f"docker://{target}:1")
    assert sorted(tools.crane("ls", "--insecure", target).split()) == sorted(["1", *tags])
    for tag in tags:
        assert tools.digest(f"{target}:{tag}") == tools.digest(f"{source}:{tag}")


if LONG:  # cosign is built for minutes

    @pytest.fixture(scope="session")
    def cosign(tmp_path_factory: pytest.TempPathFactory) -> Cosign:
        return Cosign(tmp_path_factory.mktemp("cosign"))

    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize("between", ["", "oci"])
    def test_cosign_verifies_what_was_copied(
        between: str,
        cosign: Cosign,
        cli: CommandLine,
        sender: Sender,
        registry: DockerRegistry,
        start_registry: Callable[..., DockerRegistry],
        tmp_path: Path,
    ) -> None:
        name = sender.send(IMAGE, registry, f"referrers/cosigned-{between or 'direct'}:1")
        digest = manifest_digest(IMAGE)
        signed = f"{name.removesuffix(':1')}@{digest}"
        predicate = tmp_path / "predicate"
        predicate.write_text('{"a": 1}')
        cosign.sign(signed)
        cosign.sign(signed, "--registry-referrers-mode", "oci-1-1")
        cosign.attest(signed, predicate)
        source, target = f"docker://{name}", f"{start_registry().address}/cosigned:1"
        cli.run("copy", source, f"docker://{target}")
        assert cosign.fails_to_verify(target)
        if between:
            cli.run("copy", "--referrers", source, f"oci:{tmp_path / 'between'}:one")
            source = f"oci:{tmp_path / 'between'}:one"
        cli.run("copy", "--referrers", source, f"docker://{target}")
        cosign.verify("verify", target)
        cosign.verify("verify", target, "--experimental-oci11")
        cosign.verify("verify-attestation", target, "--type", "custom")


# ---- lists beside a registry without the API


def test_a_signature_that_is_copied_alone_is_listed(
    cli: CommandLine, tools: ArtifactTools, signed: Signed, registry: DockerRegistry
) -> None:
    repository = f"{registry.address}/referrers/alone"
    cli.run("copy", f"docker://{signed.name}", f"docker://{repository}:1")
    pair = next(pair for pair in signed.pairs if pair[0] == signed.digest)
    source = f"docker://{signed.repository}@{pair[1]}"
    assert cli.run("copy", source, f"docker://{repository}:sig").stdout == f"{pair[1]}\n"
    assert tools.discover_plain(repository, signed.digest) == {pair}


def etag(address: str, path: str) -> str | None:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("HEAD", path, headers={"Accept": OCI_INDEX})
        answer = connection.getresponse()
        answer.read()
        return answer.headers["Etag"] if answer.status == 200 else None
    finally:
        connection.close()


@dataclass
class Contended:
    """Conditional requests as RFC 9110 has them, which Debian's registry does not know.

    Before the first one, somebody else changes the same list.
    """

    address: str
    interfere: Callable[[], object]
    refused: int = 0
    conditions: int = 0

    def __call__(self, request: Request, forward: Forward) -> Response:
        if not self.conditions:
            self.interfere()
        self.conditions += 1
        now = etag(self.address, request.path)
        wanted = request.headers.get("if-match")
        holds = now is None if request.headers.get("if-none-match") == "*" else now == wanted
        if holds:
            return forward(request)
        self.refused += 1
        return Reply(412)(request, forward)


@pytest.mark.parametrize("kind", ["new", "old"])
def test_nobody_else_is_overwritten_in_the_list(
    kind: str,
    cli: CommandLine,
    tools: ArtifactTools,
    sender: Sender,
    text: Path,
    signed: Signed,
    registry: DockerRegistry,
) -> None:
    name = f"referrers/contended-{kind}"
    repository = f"{registry.address}/{name}"
    sender.send(IMAGE, registry, f"{name}:1")
    others = [] if kind == "new" else [tools.attach(f"{repository}:1", "application/x.early", text)]

    def interfere() -> None:
        others.append(tools.attach(f"{repository}:1", "application/x.late", text))

    contended = Contended(registry.address, interfere)
    with FaultProxy(registry.address) as proxy:
        tag = signed.digest.replace(":", "-")
        proxy.fault(contended, kind="manifest", method="PUT", reference=tag, times=100)
        cli.run(
            "copy", "--referrers", f"docker://{signed.name}", f"docker://{proxy.address}/{name}:1"
        )
    assert (contended.refused, contended.conditions) == (1, 2)
    wanted = signed.pairs | {(signed.digest, other) for other in others}
    assert tools.discover_plain(repository, signed.digest) == wanted


def test_a_list_that_never_stays_is_given_up(
    cli: CommandLine, signed: Signed, proxy: FaultProxy
) -> None:
    tag = signed.digest.replace(":", "-")
    proxy.fault(Reply(412), kind="manifest", method="PUT", reference=tag, times=100)
    target = f"docker://{proxy.address}/referrers/given-up:1"
    message = cli.error("copy", "--referrers", f"docker://{signed.name}", target)
    assert "the list of referrers keeps changing; try again" in message
    assert len([one for one in proxy.requests("manifest", "PUT") if one.reference == tag]) == 8


def test_a_registry_that_lists_by_itself_gets_no_list(
    cli: CommandLine, signed: Signed, proxy: FaultProxy
) -> None:
    def listed(request: Request, forward: Forward) -> Response:
        return forward(request).with_header("OCI-Subject", signed.digest)

    proxy.fault(listed, kind="manifest", method="PUT", times=100)
    target = f"docker://{proxy.address}/referrers/listed:1"
    cli.run("copy", "--referrers", f"docker://{signed.name}", target)
    put = {one.reference for one in proxy.requests("manifest", "PUT")}
    assert put == {"1"} | {pair[1] for pair in signed.pairs}


# ---- answers of the API


@dataclass
class Paged:
    """The answer of the API in pages of one referrer."""

    asked: list[str]

    def __call__(self, request: Request, forward: Forward) -> Response:
        self.asked.append(request.target)
        path, _, query = request.target.partition("?")
        number = int(query.partition("page=")[2] or 0)
        response = forward(replace(request, target=path))
        document = json.loads(b"".join(response.body))
        rows = sorted(document["manifests"], key=lambda row: str(row["digest"]))
        raw = json.dumps(document | {"manifests": rows[number : number + 1]}).encode()
        response = replace(response, body=iter([raw])).with_header("Content-Length", str(len(raw)))
        if number + 1 < len(rows):
            response = response.with_header("Link", f'<{path}?page={number + 1}>; rel="next"')
        return response


@pytest.fixture
def listing_proxy(listing_registry: ReferrersRegistry) -> Iterator[FaultProxy]:
    with FaultProxy(listing_registry.address) as running:
        yield running


def test_pages_are_followed(
    cli: CommandLine,
    tools: ArtifactTools,
    signed: Signed,
    listing_proxy: FaultProxy,
    registry: DockerRegistry,
) -> None:
    asked: list[str] = []
    listing_proxy.fault(Paged(asked), kind="other", times=100)
    repository = f"{registry.address}/referrers/paged"
    source = f"docker://{listing_proxy.address}/referrers/source:1"
    cli.run("copy", "--referrers", source, f"docker://{repository}:1")
    assert tools.discover_plain(repository, signed.digest) == signed.pairs
    assert [one.partition("?")[2] for one in asked if signed.digest in one] == ["", "page=1"]


def test_a_registry_is_asked_for_one_type(
    cli: CommandLine, signed: Signed, listing_proxy: FaultProxy, registry: DockerRegistry
) -> None:
    source = f"docker://{listing_proxy.address}/referrers/source:1"
    target = f"docker://{registry.address}/referrers/one-type:1"
    cli.run("copy", "--referrers", "--artifact-type", SBOM, source, target)
    asked = [one.target for one in listing_proxy.requests("other")]
    assert asked[0].endswith(f"/{signed.digest}?artifactType=application%2Fspdx%2Bjson")


def listing(*rows: dict[str, object]) -> Reply:
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": rows}).encode()
    return Reply(200, (("Content-Type", OCI_INDEX),), body)


def test_what_is_listed_wrongly_is_left_out_and_told(
    cli: CommandLine,
    tools: ArtifactTools,
    signed: Signed,
    listing_proxy: FaultProxy,
    registry: DockerRegistry,
) -> None:
    raw = tools.oras("manifest", "fetch", "--plain-http", signed.name).encode()
    lost = descriptor(b"lost", OCI_MANIFEST)
    listing_proxy.fault(listing(descriptor(raw, OCI_MANIFEST), lost), kind="other")
    repository = f"{registry.address}/referrers/wrong"
    source = f"docker://{listing_proxy.address}/referrers/source:1"
    done = cli.run("copy", "--referrers", source, f"docker://{repository}:1")
    assert done.stderr.splitlines() == [
        f"unionmount: referrer {signed.digest} is listed for {signed.digest}, but it has no "
        "subject; it is left out",
        f"unionmount: referrer {sha256(b'lost')} is listed, but missing; it is left out",
    ]
    assert tools.discover_plain(repository, signed.digest) == set()


def test_answers_that_are_refused(
    cli: CommandLine, signed: Signed, listing_proxy: FaultProxy, registry: DockerRegistry
) -> None:
    words = ("copy", "--referrers", f"docker://{listing_proxy.address}/referrers/source:1")
    target = f"docker://{registry.address}/referrers/refused:1"
    path = f"/v2/referrers/source/referrers/{signed.digest}"
    empty = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    again = (("Content-Type", OCI_INDEX), ("Link", f'<{path}>; rel="next"'))
    many = [descriptor(b"%d" % number, OCI_MANIFEST) for number in range(4097)]
    for fault, text in (
        (Reply(200, again, empty), "sends the same page again"),
        (Reply(200, (("Content-Type", OCI_INDEX),), b"{"), "damaged JSON"),
        (listing(*many), "4097 elements, more than 4096"),
        (Reply(403), "answers 403"),
    ):
        listing_proxy.fault(fault, kind="other", times=100)
        assert text in cli.error(*words, target)
        listing_proxy.reset()


@pytest.mark.parametrize("status", [200, 400, 405])
def test_registries_that_know_no_such_path(
    status: int,
    cli: CommandLine,
    tools: ArtifactTools,
    signed_by_tag: Signed,
    proxy: FaultProxy,
    listing_registry: ReferrersRegistry,
) -> None:
    page = Reply(status, (("Content-Type", "text/html"),), b"<html>")
    proxy.fault(page, kind="other", times=100)
    repository = f"{listing_registry.address}/referrers/odd-{status}"
    source = f"docker://{proxy.address}/referrers/source:1"
    cli.run("copy", "--referrers", source, f"docker://{repository}:1")
    assert tools.discover_plain(repository, signed_by_tag.digest) == signed_by_tag.pairs


def test_tags_that_are_not_listed_are_asked_for_by_name(
    cli: CommandLine,
    tools: ArtifactTools,
    signed_by_tag: Signed,
    proxy: FaultProxy,
    listing_registry: ReferrersRegistry,
) -> None:
    proxy.fault(Reply(403), kind="tags", times=100)
    repository = f"{listing_registry.address}/referrers/unlisted"
    source = f"docker://{proxy.address}/referrers/source:1"
    cli.run("copy", "--referrers", source, f"docker://{repository}:1")
    assert tools.discover_plain(repository, signed_by_tag.digest) == signed_by_tag.pairs
    assert len(proxy.requests("tags")) == 1


@pytest.mark.parametrize("has_api", [True, False])
def test_a_mirror_without_referrers_hides_none(
    has_api: bool,
    registry: DockerRegistry,
    listing_registry: ReferrersRegistry,
    tools: ArtifactTools,
    sender: Sender,
    text: Path,
    start_registry: Callable[..., DockerRegistry],
    tmp_path: Path,
) -> None:
    address = (listing_registry if has_api else registry).address
    origin = sign(tools, sender, text, address, "referrers/behind-a-mirror")
    mirror, target = start_registry(), start_registry()
    sender.send(IMAGE, mirror, "mirrored:1")
    base = IMAGE_TAG_BASE + ".sig"
    words = ("--plain-http", "--disable-path-validation", f"{origin.repository}:{base}")
    tools.oras("push", *words, f"{text}:text/plain")
    path = tmp_path / "registries.conf"
    path.write_text(
        f'''
        [[registry]]
        location = "{origin.repository}"
        insecure = true
        [[registry.mirror]]
        location = "{mirror.address}/mirrored"
        insecure = true
        '''
    )
    own = command_line(tmp_path / "store")
    own.environment["CONTAINERS_REGISTRIES_CONF"] = str(path)
    repository = f"{target.address}/referrers/past-a-mirror"
    own.run("copy", "--referrers", f"docker://{origin.name}", f"docker://{repository}:1")
    assert mirror.log().count("/v2/mirrored/blobs/") > 0
    assert tools.discover_plain(repository, origin.digest) == origin.pairs
    assert tools.digest(f"{repository}:{base}") == tools.digest(f"{origin.repository}:{base}")


def test_a_chain_of_referrers_has_an_end(
    cli: CommandLine, tools: ArtifactTools, sender: Sender, text: Path, registry: DockerRegistry
) -> None:
    repository = sender.send(IMAGE, registry, "referrers/chain:1").rpartition(":")[0]
    digest, chain = manifest_digest(IMAGE), set()
    for number in range(9):
        about = tools.attach(f"{repository}@{digest}", f"application/x.{number}", text)
        chain.add((digest, about))
        digest = about
        if number == 7:
            target = f"{registry.address}/referrers/chain-of-8"
            cli.run("copy", "--referrers", f"docker://{repository}:1", f"docker://{target}:1")
            assert tools.discover_plain(target, manifest_digest(IMAGE)) == chain
    target = f"docker://{registry.address}/referrers/chain-of-9:1"
    message = cli.error("copy", "--referrers", f"docker://{repository}:1", target)
    assert "referrers of referrers are nested more than 8 deep; copy without --referrers" in message


# ---- inspect


@pytest.mark.parametrize("place", ["api", "tag", "layout"])
def test_inspect_lists_what_oras_finds(
    place: str,
    cli: CommandLine,
    tools: ArtifactTools,
    signed: Signed,
    signed_by_tag: Signed,
    tmp_path: Path,
) -> None:
    image_of = signed_by_tag if place == "tag" else signed
    name = f"docker://{image_of.name}"
    if place == "layout":
        name = f"oci:{tmp_path / 'layout'}:one"
        cli.run("copy", "--referrers", f"docker://{signed.name}", name)
    rows = json.loads(cli.run("inspect", "--referrers", name).stdout)
    assert {(row["Subject"], row["Digest"]) for row in rows} == image_of.pairs
    for row in rows:
        where = f"{image_of.repository}@{row['Digest']}"
        raw = tools.oras("manifest", "fetch", "--plain-http", where)
        said = json.loads(raw)
        assert row["ArtifactType"] == said["artifactType"]
        assert row["Annotations"] == said["annotations"]
        assert row["MediaType"] == said["mediaType"]
        assert row["Size"] == len(raw)
    template = "{{.ArtifactType}} {{.Annotations.is}}"
    words = ("inspect", "--referrers", "--artifact-type", SBOM, "--format", template, name)
    assert cli.run(*words).stdout == f"{SBOM} {SBOM}\n"


def test_inspect_of_a_name_with_remote(cli: CommandLine, signed: Signed) -> None:
    done = cli.run("inspect", "--remote", "--referrers", "--format", "jsonl", signed.name)
    assert len(done.stdout.splitlines()) == len(signed.pairs)


def test_inspect_shows_what_is_no_image(
    cli: CommandLine, tools: ArtifactTools, signed: Signed
) -> None:
    for subject, about in signed.pairs:
        name = f"{signed.repository}@{about}"
        (found,) = json.loads(cli.run("inspect", f"docker://{name}").stdout)
        raw = tools.oras("manifest", "fetch", "--plain-http", name)
        said = json.loads(raw)
        assert found["Digest"] == about
        assert found["Subject"] == subject
        assert found["ArtifactType"] == said["artifactType"]
        assert found["Annotations"] == said["annotations"]
        for ours, theirs in (
            (found["Config"], said["config"]),
            *zip(found["Layers"], said["layers"], strict=True),
        ):
            assert ours["Digest"] == theirs["digest"]
            assert ours["MediaType"] == theirs["mediaType"]
            assert ours["Size"] == theirs["size"]
        assert cli.run("inspect", "--raw", f"docker://{name}").stdout == raw


def test_inspect_shows_what_is_no_image_in_a_layout(
    cli: CommandLine, signed: Signed, tmp_path: Path
) -> None:
    for number, (_, about) in enumerate(signed.pairs):
        name = f"docker://{signed.repository}@{about}"
        remote = json.loads(cli.run("inspect", name).stdout)
        raw = cli.run("inspect", "--raw", name).stdout
        for form in ("oci", "oci-archive", "dir"):
            place = f"{form}:{tmp_path / f'{form}{number}'}"
            cli.run("copy", name, place)
            ref = ":@0" if form != "dir" else ""
            (found,) = json.loads(cli.run("inspect", place + ref).stdout)
            assert found == remote[0] | {"RepoTags": [], "RepoDigests": []}
            assert cli.run("inspect", "--raw", place).stdout == raw
            assert "--raw prints any" in cli.error("inspect", "--config", place, status=2)
            done = cli.run("inspect", "--platform", "linux/arm64", place, status=1)
            assert ", not an image" in done.stderr


def test_inspect_where_there_is_nothing(
    cli: CommandLine, signed: Signed, registry: DockerRegistry, sender: Sender
) -> None:
    bare = sender.send(IMAGE, registry, "referrers/nothing:1")
    assert cli.run("inspect", "--referrers", f"docker://{bare}").stdout == "[]\n"
    for words, text in (
        (("--referrers", "mine:1"), "'mine:1' has no referrers"),
        (("--referrers", "--type", "container", "mine"), "--referrers is only for images"),
        (("--artifact-type", SBOM, f"docker://{signed.name}"), "add --referrers"),
        (("--referrers", "--raw", f"docker://{signed.name}"), "--raw and --config print one"),
    ):
        status = 1 if words[-1] == "mine:1" else 2
        done = cli.run("inspect", *words, status=status)
        assert text in done.stderr


# ---- usage


def test_where_there_can_be_none(cli: CommandLine, signed: Signed, tmp_path: Path) -> None:
    source = f"docker://{signed.name}"
    for words, text in (
        (("--referrers", source, "mine:1"), "--referrers is only for copies between"),
        (("--referrers", source, f"docker-archive:{tmp_path / 'x'}"), "--referrers is only for"),
        (("--referrers", source, f"dir:{tmp_path / 'x'}"), "--referrers is only for"),
        (("--artifact-type", SBOM, source, f"oci:{tmp_path / 'x'}"), "add --referrers"),
    ):
        assert text in cli.error("copy", *words, status=2)
    assert not (tmp_path / "x").exists()


def test_damage_is_an_error_and_leaves_nothing(
    cli: CommandLine, signed: Signed, registry: DockerRegistry, tmp_path: Path
) -> None:
    directory = tmp_path / "layout"
    cli.run("copy", "--referrers", f"docker://{signed.name}", f"oci:{directory}:one")
    about = next(pair[1] for pair in signed.pairs if pair[0] == signed.digest)
    raw = (directory / "blobs/sha256" / about.removeprefix("sha256:")).read_bytes()
    lost = json.loads(raw)["layers"][0]["digest"]
    (directory / "blobs/sha256" / lost.removeprefix("sha256:")).unlink()
    for target in (f"oci:{tmp_path / 'out'}", f"docker://{registry.address}/referrers/damage:1"):
        assert lost in cli.error("copy", "--referrers", f"oci:{directory}:one", target)
    assert not (tmp_path / "out").exists()
    assert blob_path(raw) in {str(one.relative_to(directory)) for one in directory.rglob("*")}
