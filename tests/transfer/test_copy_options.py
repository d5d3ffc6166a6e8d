"""Copies of some platforms, and between registries with a login of their own each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from registry.test_authorization import certs
from support.artifact_tools import ArtifactTools
from support.commands import Commands
from support.image_files import (
    OCI_INDEX,
    Members,
    blob_path,
    descriptor,
    gzipped,
    index_of,
    sha256,
    write_directory,
)
from support.mounting import COMMAND, CommandLine
from support.registry_clients import basic
from support.registry_fixtures import PASSWORD, USER
from support.servers import Authority, DockerRegistry, FaultProxy, htpasswd
from support.servers.proxy import Forward, Request, Response
from support.terminal import Terminal
from support.transfers import (
    OCI_MANIFEST,
    Sender,
    Skopeo,
    blobs_of,
    command_line,
    image,
    layer,
    manifest,
    manifest_digest,
    raw_manifest,
)

import unionmount
from unionmount.errors import UsageError

pytestmark = pytest.mark.needs("docker-registry", "skopeo", "go", "htpasswd", "openssl")

MANY = {
    "linux/amd64": image(layer("some-amd64"), architecture="amd64"),
    "linux/arm64": image(layer("some-arm64"), architecture="arm64"),
    "linux/s390x": image(layer("some-s390x"), architecture="s390x"),
}
SOME = ("--platform", "linux/arm64", "--platform", "linux/s390x")
SMALL = image(layer("between", 5000))
OTHER_USER, OTHER_PASSWORD = "another", "another-secret"


@pytest.fixture
def cli(tmp_path: Path, server: Commands) -> CommandLine:
    return command_line(tmp_path / "store", server)


@pytest.fixture
def many(registry: DockerRegistry, sender: Sender) -> str:
    sender.send_index(MANY, registry, "options/many:1")
    return f"{registry.address}/options/many:1"


# ---- several platforms


def test_an_index_has_the_chosen_images_alone(
    cli: CommandLine, many: str, registry: DockerRegistry, skopeo: Skopeo, tools: ArtifactTools
) -> None:
    target = f"{registry.address}/options/some:1"
    done = cli.run("copy", *SOME, f"docker://{many}", f"docker://{target}")
    theirs = f"{registry.address}/options/some:crane"
    tools.crane("index", "filter", "--insecure", *SOME, many, "-t", theirs)
    made = raw_manifest(skopeo, target)
    assert made["manifests"] == raw_manifest(skopeo, theirs)["manifests"]
    assert [row["digest"] for row in made["manifests"]] == [
        manifest_digest(MANY["linux/arm64"]),
        manifest_digest(MANY["linux/s390x"]),
    ]
    digest = skopeo_digest(skopeo, target)
    assert done.stdout == f"{digest}\n"
    assert done.stderr.splitlines() == [
        "unionmount: the digest has changed:",
        f"unionmount: the index has the chosen platforms alone: it is {digest}, and was "
        f"{skopeo_digest(skopeo, many)}",
    ]
    for platform in ("arm64", "s390x"):
        words = ("--override-arch", platform, "copy", "--src-tls-verify=false")
        skopeo(*words, f"docker://{target}", f"dir:{cli.environment['HOME']}/{platform}")


def skopeo_digest(skopeo: Skopeo, name: str) -> str:
    """The digest of an index, whatever this machine's platform is."""
    return sha256(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}").encode())


def test_layers_of_other_platforms_are_not_fetched(
    cli: CommandLine, many: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    source = f"docker://{proxy.address}/{many.partition('/')[2]}"
    cli.run("copy", *SOME, source, f"oci:{tmp_path / 'out'}:one")
    left_out = set(blobs_of(MANY["linux/amd64"]))
    assert not left_out & proxy.fetched().keys()
    assert set(blobs_of(MANY["linux/arm64"])) <= proxy.fetched().keys()
    assert cli.run(
        "copy", "--platform", "linux/s390x", f"oci:{tmp_path / 'out'}", "mine:1"
    ).stdout == (f"{MANY['linux/s390x'].id}\n")


def test_all_platforms_by_name_are_the_index_as_it_is(
    cli: CommandLine, many: str, skopeo: Skopeo, registry: DockerRegistry
) -> None:
    target = f"{registry.address}/options/every:1"
    words = ("--platform", "linux/amd64", *SOME, "--keep-digest")
    done = cli.run("copy", *words, f"docker://{many}", f"docker://{target}")
    assert (done.stdout, done.stderr) == (f"{skopeo_digest(skopeo, many)}\n", "")
    assert skopeo_digest(skopeo, target) == skopeo_digest(skopeo, many)


def test_attestations_stay_with_their_images(
    cli: CommandLine, tmp_path: Path, skopeo: Skopeo, registry: DockerRegistry
) -> None:
    said = {
        name: manifest(image(layer(f"said-of-{name}"), architecture="unknown")) for name in MANY
    }
    rows: list[dict[str, Any]] = []
    members: Members = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    for name, made in MANY.items():
        platform = dict(zip(("os", "architecture"), name.split("/"), strict=True))
        rows.append(descriptor(manifest(made), OCI_MANIFEST, platform=platform))
        about = image(layer(f"said-of-{name}"), architecture="unknown")
        for one in (made, about):
            blobs = [manifest(one), one.config, *map(gzipped, one.layers)]
            members |= {blob_path(blob): blob for blob in blobs}
        annotations = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": manifest_digest(made),
        }
        unknown = {"os": "unknown", "architecture": "unknown"}
        rows.append(descriptor(said[name], OCI_MANIFEST, platform=unknown, annotations=annotations))
    index = index_of(rows)
    row = descriptor(index, OCI_INDEX)
    write_directory(
        tmp_path / "in", members | {blob_path(index): index, "index.json": index_of([row])}
    )
    target = f"{registry.address}/options/attested:1"
    cli.run("copy", *SOME, f"oci:{tmp_path / 'in'}", f"docker://{target}")
    assert raw_manifest(skopeo, target)["manifests"] == rows[2:]


def test_a_layout_without_an_index_gets_one(
    cli: CommandLine, tmp_path: Path, skopeo: Skopeo, registry: DockerRegistry
) -> None:
    members: Members = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
    rows = []
    for name, made in MANY.items():
        platform = dict(zip(("os", "architecture"), name.split("/"), strict=True))
        named = {"org.opencontainers.image.ref.name": "one"}
        rows.append(descriptor(manifest(made), OCI_MANIFEST, platform=platform, annotations=named))
        blobs = [manifest(made), made.config, *map(gzipped, made.layers)]
        members |= {blob_path(blob): blob for blob in blobs}
    write_directory(tmp_path / "in", members | {"index.json": index_of(rows)})
    target = f"{registry.address}/options/loose:1"
    cli.run("copy", *SOME, f"oci:{tmp_path / 'in'}:one", f"docker://{target}")
    found = [row["digest"] for row in raw_manifest(skopeo, target)["manifests"]]
    assert found == [row["digest"] for row in rows[1:]]


def test_platforms_that_make_no_sense(
    cli: CommandLine, many: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    source, target = f"docker://{many}", f"docker://{proxy.address}/options/none:1"
    for words, status, text in (
        ((*SOME, "--keep-digest", source, target), 2, "--keep-digest cannot be combined with"),
        ((*SOME, "--all", source, target), 2, "leave --all or --platform out"),
        ((*SOME, source, "mine:1"), 2, "--platform given twice is only for copies between"),
        ((*SOME, "--squash", source, target), 2, "--platform given twice is only for"),
        ((*SOME, "--platform", "linux/riscv64", source, target), 1, "no image for platform"),
        ((*SOME, source, f"docker-archive:{tmp_path / 'x'}"), 2, "--platform given twice"),
    ):
        assert text in cli.error("copy", *words, status=status)
    assert proxy.requests("manifest", "PUT") == []
    assert not (tmp_path / "x").exists()


# ---- two registries, two logins


@pytest.fixture
def other_registry(tmp_path: Path, start_registry: Callable[..., DockerRegistry]) -> DockerRegistry:
    """A registry without TLS, with another user."""
    users = htpasswd(tmp_path / "other-users", OTHER_USER, OTHER_PASSWORD)
    return start_registry(auth={"htpasswd": {"realm": "other", "path": str(users)}})


@pytest.fixture
def trusted(tmp_path: Path, authority: Authority) -> Path:
    return certs(tmp_path / "certs", authority)


@pytest.fixture
def source(tls_registry: DockerRegistry, sender: Sender, skopeo: Skopeo, trusted: Path) -> str:
    """An image in a registry with TLS and a user."""
    name = f"docker://{tls_registry.address}/options/source:1"
    words = ("--dest-creds", f"{USER}:{PASSWORD}", "--dest-cert-dir", trusted)
    skopeo("copy", *words, sender.layout(SMALL), name)
    return name


@pytest.fixture
def target(other_registry: DockerRegistry) -> str:
    return f"docker://{other_registry.address}/options/target:1"


def there(skopeo: Skopeo, target: str) -> str:
    creds = f"{OTHER_USER}:{OTHER_PASSWORD}"
    words = ("inspect", "--tls-verify=false", "--creds", creds, "--format", "{{.Digest}}")
    return skopeo(*words, target)


def test_each_side_has_its_login_and_its_certificates(
    cli: CommandLine, source: str, target: str, trusted: Path, skopeo: Skopeo
) -> None:
    done = cli.run(
        *("copy", "--src-creds", f"{USER}:{PASSWORD}", "--src-cert-dir", trusted),
        *("--dest-creds", f"{OTHER_USER}:{OTHER_PASSWORD}", source, target),
    )
    assert (done.stdout, done.stderr) == (f"{manifest_digest(SMALL)}\n", "")
    assert there(skopeo, target) == manifest_digest(SMALL)


def test_each_side_of_the_python_function_has_its_login(
    source: str, target: str, trusted: Path, skopeo: Skopeo, tmp_path: Path
) -> None:
    login = unionmount.RegistryAccess(USER, PASSWORD, cert_dir=trusted)
    other = unionmount.RegistryAccess(OTHER_USER, OTHER_PASSWORD, tls_verify=False)
    with pytest.raises(UsageError, match=r"is for one registry, .*; name one, .* target_access$"):
        unionmount.copy(source, target, access=login, root=tmp_path / "root")
    copied = unionmount.copy(
        source, target, access=login, target_access=other, root=tmp_path / "root"
    )
    assert str(copied.digest) == manifest_digest(SMALL) == there(skopeo, target)
    with pytest.raises(UsageError, match=r"^target_access has a user, but the target is no regi"):
        unionmount.copy(source, f"oci:{tmp_path}/x:1", access=login, target_access=other)


def test_each_side_has_its_file_of_logins(
    cli: CommandLine, source: str, target: str, trusted: Path, skopeo: Skopeo, tmp_path: Path
) -> None:
    files = []
    for place, user, password in (
        (source, USER, PASSWORD),
        (target, OTHER_USER, OTHER_PASSWORD),
    ):
        registry = place.removeprefix("docker://").partition("/")[0]
        auth = basic(user, password).removeprefix("Basic ")
        files.append(tmp_path / f"{user}.json")
        files[-1].write_text(json.dumps({"auths": {registry: {"auth": auth}}}))
    words = ("--src-tls-verify=false", "--src-authfile", files[0], "--dest-authfile", files[1])
    cli.run("copy", *words, source, target)
    assert there(skopeo, target) == manifest_digest(SMALL)
    words = ("--src-tls-verify=false", "--src-authfile", files[1], "--dest-authfile", files[0])
    assert "401" in cli.error("copy", *words, source, target)


def test_tls_is_required_of_one_side(
    cli: CommandLine, source: str, target: str, trusted: Path
) -> None:
    creds = ("--src-creds", f"{USER}:{PASSWORD}", "--dest-creds", f"{OTHER_USER}:{OTHER_PASSWORD}")
    assert "certificate" in cli.error("copy", *creds, source, target)
    cli.run("copy", *creds, "--src-tls-verify=false", source, target)
    words = (*creds, "--src-cert-dir", trusted, "--dest-tls-verify=true")
    message = cli.error("copy", *words, source, target)
    assert target.removeprefix("docker://").partition("/")[0] in message


@pytest.fixture
def watched(
    other_registry: DockerRegistry, registry: DockerRegistry
) -> Iterator[tuple[FaultProxy, FaultProxy]]:
    """Proxies before a source without users and the target, which note what is sent to each."""
    with FaultProxy(registry.address) as first, FaultProxy(other_registry.address) as second:
        yield first, second


def test_no_side_gets_the_secret_of_the_other(
    cli: CommandLine,
    watched: tuple[FaultProxy, FaultProxy],
    sender: Sender,
    registry: DockerRegistry,
) -> None:
    sender.send(SMALL, registry, "options/open:1")
    first, second = watched

    def wants_a_login(request: Request, forward: Forward) -> Response:
        if "authorization" in request.headers:
            return forward(request)
        challenge = ("WWW-Authenticate", 'Basic realm="first"')
        return Response(401, [challenge, ("Content-Length", "0")], iter([]))

    first.fault(wants_a_login, times=1000)
    cli.run(
        *("copy", "--src-creds", f"{USER}:{PASSWORD}"),
        *("--dest-creds", f"{OTHER_USER}:{OTHER_PASSWORD}"),
        *(f"docker://{first.address}/options/open:1", f"docker://{second.address}/options/own:1"),
    )
    sent = [
        {one.headers["authorization"] for one in proxy.seen if "authorization" in one.headers}
        for proxy in watched
    ]
    assert sent == [{basic(USER, PASSWORD)}, {basic(OTHER_USER, OTHER_PASSWORD)}]


def test_a_password_from_standard_input_is_nowhere_else(
    source: str, target: str, trusted: Path, skopeo: Skopeo, tmp_path: Path
) -> None:
    own = command_line(tmp_path / "store")
    (tmp_path / "password").write_text(f"{OTHER_PASSWORD}\n")
    words = (
        *("--debug", "copy", "--src-creds", f"{USER}:{PASSWORD}", "--src-cert-dir", trusted),
        *("--dest-creds", OTHER_USER, "--dest-password-stdin", source, target),
    )
    with (tmp_path / "password").open() as stdin:
        done = own.run(*words, stdin=stdin)
    assert there(skopeo, target) == manifest_digest(SMALL)
    shown = done.stdout + done.stderr
    assert "> PUT" in shown
    for secret in (PASSWORD, OTHER_PASSWORD, basic(OTHER_USER, OTHER_PASSWORD)[6:]):
        assert secret not in shown


def test_a_missing_password_is_asked_for(
    source: str, target: str, trusted: Path, skopeo: Skopeo, tmp_path: Path
) -> None:
    own = command_line(tmp_path / "store")
    words = (
        *("copy", "--src-creds", USER, "--src-cert-dir", str(trusted)),
        *("--dest-creds", OTHER_USER, source, target),
    )
    terminal = Terminal([*COMMAND, *words], own.environment)
    try:
        for user, password in ((USER, PASSWORD), (OTHER_USER, OTHER_PASSWORD)):
            terminal.read_to(f"Password of {user}: ".encode())
            line = Path(f"/proc/{terminal.pid}/cmdline").read_bytes()
            assert password.encode() not in line
            terminal.type(f"{password}\r")
        terminal.read_to(manifest_digest(SMALL).encode())
        assert terminal.wait() == 0
    finally:
        terminal.close()
    assert PASSWORD.encode() not in terminal.shown
    assert there(skopeo, target) == manifest_digest(SMALL)


def test_logins_that_make_no_sense(cli: CommandLine, registry: DockerRegistry) -> None:
    source, target = "docker://127.0.0.1:9/a:1", f"docker://{registry.address}/a:1"
    for words, text in (
        (("--src-creds", "a:b", "x:1", target), "--src-creds is for a registry, and SRC is none"),
        (("--dest-creds", "a:b", source, "x:1"), "--dest-creds is for a registry, and DST is none"),
        (("--creds", "a:b", "--src-creds", "a:b", source, target), "--creds cannot be combined"),
        (("--src-creds", ":b", source, target), "--src-creds has no user name"),
        (("--src-creds", "a", source, target), "there is no terminal to ask for one"),
        (("--src-password-stdin", source, target), "needs --src-creds USER, without a password"),
        (
            ("--src-password-stdin", "--dest-password-stdin", source, target),
            "standard input has one password",
        ),
        (("--creds", "a:b", source, target), "write --src-creds and --dest-creds"),
        (("--creds", "a:b", "--src-tls-verify=no", source, target), "write --src-creds and"),
        (("--dest-cert-dir", "/dev/null", source, target), "is not a directory"),
    ):
        assert text in cli.error("copy", *words, status=2)


def test_a_file_of_logins_that_is_missing(cli: CommandLine, target: str, tmp_path: Path) -> None:
    words = ("--src-authfile", tmp_path / "none", "docker://127.0.0.1:9/a:1", target)
    assert "none: no such file" in cli.error("copy", *words)
