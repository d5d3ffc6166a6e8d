"""Commands under a policy: what is refused is neither pulled, copied, run nor mounted."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.commands import Commands
from support.mounting import CommandLine, is_mounted, own_places
from support.policy_oracle import PolicyOracle
from support.servers import DockerRegistry, FaultProxy
from support.signing import GpgKeys, SigstoreKeys
from support.transfers import (
    Sender,
    command_line,
    image,
    layer,
    manifest_digest,
)

from unionmount.images.platform import Platform
from unionmount.store.store import Store

pytestmark = [
    pytest.mark.needs("docker-registry", "skopeo", "gpg", "go", "gpgme"),
    pytest.mark.timeout(900),  # the first test builds the oracle
]

ANY = {"type": "insecureAcceptAnything"}
REJECT = {"type": "reject"}
SMALL = image(layer("trusted", 2000))
HOST = Platform.host().architecture
FOREIGN = "s390x" if HOST != "s390x" else "riscv64"
MANY = {f"linux/{one}": image(layer(f"trusted-{one}"), architecture=one) for one in (HOST, FOREIGN)}


class Configured:
    """A user with a policy and registries.d, and the commands of both programs for that user."""

    def __init__(self, top: Path, server: Commands, gpg: GpgKeys, keys: SigstoreKeys) -> None:
        self.cli: CommandLine = command_line(top / "store", server)
        self.store = Store(top / "store")
        self.top = top
        self.gpg = gpg
        self.keys = keys
        self.home = top / "home-of-store"
        self.policy = self.home / ".config/containers/policy.json"
        self.registries_d = self.home / ".config/containers/registries.d"
        self.registries_d.mkdir(parents=True)
        self.lookaside = top / "lookaside"
        section = {"lookaside": self.lookaside.as_uri(), "use-sigstore-attachments": True}
        self.configure({"default-docker": section})

    def configure(self, sections: dict[str, Any]) -> None:
        (self.registries_d / "all.yaml").write_text(json.dumps(sections))

    def require(self, *default: dict[str, Any], **transports: Any) -> None:
        """Write the policy; ``transports`` are scopes, with ``_`` for ``-`` in their names."""
        scopes = {name.replace("_", "-"): value for name, value in transports.items()}
        document = {"default": list(default), "transports": scopes}
        self.policy.write_text(json.dumps(document))

    def skopeo(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run skopeo with the same configuration, and the keys of GPG."""
        return subprocess.run(
            ["skopeo", "--registries.d", self.registries_d, *words],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | self.gpg.environment,
        )

    def skopeo_accepts(self, source: str, target: Path, *more: str) -> bool:
        """Whether skopeo copies an image under the same policy."""
        words = ("copy", "--src-tls-verify=false", *more, source, f"dir:{target}")
        done = self.skopeo("--policy", self.policy, *words)
        assert done.returncode == 0 or "rejected" in done.stderr, done.stderr
        return done.returncode == 0

    def sign(self, name: str, *more: str | Path) -> None:
        """Sign an image where it is, by skopeo, which copies it onto itself."""
        where = f"docker://{name}"
        tls = ("--src-tls-verify=false", "--dest-tls-verify=false")
        done = self.skopeo("--insecure-policy", "copy", *tls, *more, where, where)
        assert done.returncode == 0, done.stderr

    def sign_by_gpg(self, name: str) -> None:
        self.sign(name, "--sign-by", self.gpg.fingerprint("Signer"))

    def signed_by(self) -> dict[str, Any]:
        path = self.top / "signer.gpg"
        path.write_bytes(self.gpg.public("Signer"))
        return {"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(path)}

    def refuses(self, *words: str | Path) -> str:
        """Run a command that the policy refuses; returns its message."""
        message = self.cli.error(*words)
        assert f"refused by {self.policy} (" in message
        return message


@pytest.fixture(scope="session", autouse=True)
def signer(gpg_keys: GpgKeys) -> str:
    return gpg_keys.make("Signer")


@pytest.fixture
def user(
    tmp_path: Path, server: Commands, gpg_keys: GpgKeys, sigstore_keys: SigstoreKeys
) -> Configured:
    return Configured(tmp_path, server, gpg_keys, sigstore_keys)


@pytest.fixture
def name(registry: DockerRegistry, sender: Sender, tmp_path: Path) -> str:
    return sender.send(SMALL, registry, f"{tmp_path.name.lower()}/app:1")


def test_a_refusal_names_rule_and_image(user: Configured, name: str) -> None:
    user.require(ANY, docker={name.rpartition(":")[0]: [REJECT]})
    scope = name.rpartition(":")[0]
    assert user.cli.error("pull", "-q", name) == (
        f'{name}: refused by {user.policy} (docker scope "{scope}"): the policy rejects it'
    )
    user.require(REJECT)
    assert user.cli.error("pull", "-q", name) == (
        f"{name}: refused by {user.policy} (default): the policy rejects it"
    )
    user.require(user.signed_by())
    assert user.cli.error("pull", "-q", name) == (
        f"{name}: refused by {user.policy} (default): a signature is required, and there is none"
    )


def test_a_sync_goes_on_after_a_refusal(user: Configured, name: str) -> None:
    repository = name.rpartition(":")[0]
    host, _, path = repository.partition("/")
    for tag in ("2", "3"):
        user.cli.run("copy", f"docker://{name}", f"docker://{repository}:{tag}")
    user.require(ANY, docker={f"{repository}:2": [REJECT]})
    theirs = user.skopeo(
        *("--policy", user.policy, "sync", "--keep-going", "--src-tls-verify=false"),
        *("--dest-tls-verify=false", "--src", "docker", "--dest", "docker"),
        *(repository, f"{host}/theirs/{path}"),
    )
    assert theirs.returncode == 1
    assert "rejected by policy" in theirs.stderr
    target = f"{host}/ours/{path}"
    words = ("sync", "--jobs", "1", "--format", "jsonl", repository, target)
    wanted = {"1": "copied", "2": "failed", "3": "copied"}
    for more, state in ((("--dry-run",), "would copy"), ((), "copied")):
        done = user.cli.run(*words, "--keep-going", *more, status=1)
        rows = {row["tag"]: row for row in map(json.loads, done.stdout.splitlines())}
        assert {tag: row["state"] for tag, row in rows.items()} == {
            tag: "failed" if became == "failed" else state for tag, became in wanted.items()
        }
        assert "the policy rejects it" in rows["2"]["error"]
        done = user.cli.run(*words, *more, status=1)
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"unionmount: 2: {repository}:2: refused by {user.policy} (")
    assert user.cli.run("tags", target).stdout.split() == ["1", "3"]
    there = user.skopeo("list-tags", "--tls-verify=false", f"docker://{host}/theirs/{path}/app")
    assert sorted(json.loads(there.stdout)["Tags"]) == ["1", "3"]


def test_what_is_refused_leaves_nothing(user: Configured, name: str, tmp_path: Path) -> None:
    user.require(REJECT)
    user.refuses("pull", "-q", name)
    user.refuses("copy", "-q", f"docker://{name}", "copied:1")
    user.refuses("copy", "-q", f"docker://{name}", f"oci:{tmp_path}/layout")
    user.refuses("copy", "-q", f"docker://{name}", f"docker-archive:{tmp_path}/archive")
    other = f"{name.rpartition(':')[0]}-copy:1"
    user.refuses("copy", "-q", f"docker://{name}", f"docker://{other}")
    user.require(ANY)
    assert "answers 404" in user.cli.error("pull", "-q", other)
    assert user.store.list_images() == []
    assert not (tmp_path / "layout").exists()
    assert not (tmp_path / "archive").exists()
    assert list((user.store.root / "layers/sha256").iterdir()) == []


def test_signed_by_gpg(user: Configured, name: str, tmp_path: Path) -> None:
    user.require(user.signed_by())
    user.refuses("pull", "-q", name)
    assert not user.skopeo_accepts(f"docker://{name}", tmp_path / "dir")
    user.sign_by_gpg(name)
    assert user.skopeo_accepts(f"docker://{name}", tmp_path / "dir")
    user.cli.run("pull", "-q", name)
    user.cli.run("copy", "-q", f"docker://{name}", f"oci:{tmp_path}/layout")


def test_signed_by_sigstore(
    user: Configured, name: str, oracle: PolicyOracle, tmp_path: Path
) -> None:
    """Debian's skopeo has no sigstore, so containers/image itself signs and answers."""

    def theirs() -> bool:
        return oracle.check(user.policy, user.registries_d, f"docker://{name}") == ""

    private, public = user.keys.make(tmp_path.name)
    rule = {"type": "sigstoreSigned", "keyPath": str(public)}
    user.require(rule)
    user.refuses("pull", "-q", name)
    assert not theirs()
    user.keys.sign(name, private, user.registries_d)
    assert theirs()
    user.cli.run("pull", "-q", name)
    _, other = user.keys.make(f"{tmp_path.name}-other")
    user.require(rule | {"keyPath": str(other)})
    assert "by none of the keys of the policy" in user.refuses("pull", "-q", name)
    assert not theirs()


def test_the_manifest_of_the_chosen_image_is_signed(
    user: Configured, registry: DockerRegistry, sender: Sender, oracle: PolicyOracle, tmp_path: Path
) -> None:
    """A signature of the index is none of its images, for containers/image as well."""
    name = f"{registry.address}/{tmp_path.name.lower()}/many:1"
    index = sender.send_index(MANY, registry, name.partition("/")[2])
    chosen = manifest_digest(MANY[f"linux/{HOST}"])
    user.require(user.signed_by())

    def theirs(instance: str) -> bool:
        asked = (user.policy, user.registries_d, f"docker://{name}", instance)
        return oracle.check(*asked) == ""

    sign_by_hand(user, name, index)
    assert theirs("")
    assert not theirs(chosen)
    user.refuses("pull", "-q", name)
    user.refuses("copy", "-q", f"docker://{name}", f"oci:{tmp_path}/layout")
    sign_by_hand(user, name, chosen)
    assert theirs(chosen)
    user.cli.run("pull", "-q", name)
    user.cli.run("copy", "-q", f"docker://{name}", f"oci:{tmp_path}/layout")
    user.refuses("copy", "-q", "--all", f"docker://{name}", f"oci:{tmp_path}/all")
    assert not user.skopeo_accepts(f"docker://{name}", tmp_path / "dir", "--all")
    sign_by_hand(user, name, manifest_digest(MANY[f"linux/{FOREIGN}"]))
    assert user.skopeo_accepts(f"docker://{name}", tmp_path / "dir", "--all")
    user.cli.run("copy", "-q", "--all", f"docker://{name}", f"oci:{tmp_path}/all")


def sign_by_hand(user: Configured, name: str, digest: str, stated: str = "") -> None:
    """Sign any manifest of a repository, under its own name or one that is stated."""
    critical = {
        "type": "atomic container signature",
        "image": {"docker-manifest-digest": digest},
        "identity": {"docker-reference": stated or name},
    }
    content = json.dumps({"critical": critical, "optional": {}}).encode()
    repository = name.partition("/")[2].rpartition(":")[0]
    where = user.lookaside / f"{repository}@{digest.replace(':', '=')}/signature-1"
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_bytes(user.gpg.sign(content, "Signer"))


def test_the_tag_is_asked_for_once(
    user: Configured, proxy: FaultProxy, sender: Sender, tmp_path: Path
) -> None:
    """What was verified is pulled by its digest, wherever the tag leads meanwhile."""
    name = sender.send(SMALL, proxy, f"{tmp_path.name.lower()}/app:1")
    user.sign_by_gpg(name)
    user.require(user.signed_by())
    proxy.reset()
    user.cli.run("pull", "-q", name)
    user.cli.run("copy", "-q", f"docker://{name}", f"oci:{tmp_path}/layout")
    asked = [one.reference for one in proxy.requests("manifest") if one.reference == "1"]
    assert len(asked) == 2
    assert set(proxy.fetched().values()) <= {1, 2}


def test_a_signed_image_under_another_tag(user: Configured, name: str, sender: Sender) -> None:
    user.sign_by_gpg(name)
    user.require(user.signed_by())
    address, _, rest = name.partition("/")
    other = sender.send(SMALL, address, rest.replace(":1", ":2"))
    assert f"signature for the name {name}, which is not accepted" in user.refuses("pull", other)
    by_digest = f"{name.rpartition(':')[0]}@{manifest_digest(SMALL)}"
    user.cli.run("pull", "-q", by_digest)


def test_an_image_of_a_mirror(
    user: Configured, registry: DockerRegistry, sender: Sender, policy_oracle_program: Path
) -> None:
    """The name that was asked for chooses the policy and is signed, but the mirror has its own."""
    mirror = f"{registry.address}/{user.top.name.lower()}/mirrored"
    sender.send(SMALL, registry, f"{mirror.partition('/')[2]}:1")
    name = "registry.invalid/app:1"
    configuration = user.home / ".config/containers/registries.conf"
    configuration.write_text(
        '[[registry]]\nlocation = "registry.invalid/app"\n'
        f'[[registry.mirror]]\nlocation = "{mirror}"\ninsecure = true\n'
    )
    user.cli.environment |= {"CONTAINERS_REGISTRIES_CONF": str(configuration)}
    sign_by_hand(user, f"{mirror}:1", manifest_digest(SMALL))
    with PolicyOracle(policy_oracle_program, {"HOME": str(user.home)}) as oracle:

        def agree(accepted: bool) -> None:
            theirs = oracle.check(user.policy, user.registries_d, f"docker://{name}")
            assert (theirs == "") is accepted, theirs
            if accepted:
                user.cli.run("pull", "-q", name)
            else:
                user.refuses("pull", "-q", name)

        user.require(ANY, docker={mirror: [REJECT]})
        agree(accepted=True)
        user.require(ANY, docker={"registry.invalid": [REJECT]})
        agree(accepted=False)
        user.require(user.signed_by())
        agree(accepted=False)  # the name of the mirror is signed
        shutil.rmtree(user.lookaside)
        sign_by_hand(user, f"{mirror}:1", manifest_digest(SMALL), stated=name)
        agree(accepted=True)
        section = {"lookaside": user.lookaside.as_uri()}
        user.configure({"docker": {"registry.invalid": section}})
        agree(accepted=False)
        user.configure({"docker": {mirror: section}})
        agree(accepted=True)


def test_a_policy_that_is_wrong_accepts_nothing(user: Configured, name: str) -> None:
    user.policy.write_text('{"default": [{"type": "insecureAcceptAnything", "more": 1}]}')
    wrong = f"{user.policy}: default[0]: field 'more': unknown"
    assert user.cli.error("pull", "-q", name) == wrong
    assert user.cli.error("copy", "-q", f"docker://{name}", "copied:1") == wrong
    user.policy.unlink()
    user.policy.mkdir()
    error = user.cli.error("pull", "-q", name)
    assert error == f"{user.policy}: is a directory, not a regular file"
    assert user.store.list_images() == []


def test_registries_d_that_is_wrong_accepts_nothing(
    user: Configured, name: str, oracle: PolicyOracle
) -> None:
    user.sign_by_gpg(name)
    user.require(user.signed_by())
    good = (user.registries_d / "all.yaml").read_text()
    for wrong in ("[", "docker: []", "docker: {a: {}, a: {}}", "default-docker: 1", "a: *b"):
        (user.registries_d / "all.yaml").write_text(wrong)
        assert f"{user.registries_d}/all.yaml: " in user.refuses("pull", "-q", name)
        assert oracle.check(user.policy, user.registries_d, f"docker://{name}")
    (user.registries_d / "all.yaml").write_text(good)
    (user.registries_d / "more.yaml").write_text(good)
    assert "default-docker is in" in user.refuses("pull", "-q", name)
    (user.registries_d / "more.yaml").write_text("# nothing\n")
    (user.registries_d / "other.txt").write_text("[")
    user.cli.run("pull", "-q", name)


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """Files over HTTP; yields their URL."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *words: Any) -> None:  # noqa: A002
            pass

    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


def test_signatures_over_http(user: Configured, name: str, tmp_path: Path) -> None:
    user.sign_by_gpg(name)
    user.require(user.signed_by())
    with serving(user.lookaside) as url:
        user.configure({"docker": {name.rpartition(":")[0]: {"lookaside": url}}})
        user.cli.run("pull", "-q", name)
        assert user.skopeo_accepts(f"docker://{name}", tmp_path / "dir")
        shutil.rmtree(user.lookaside)
        user.lookaside.mkdir()
        user.refuses("pull", "-q", name)
        assert not user.skopeo_accepts(f"docker://{name}", tmp_path / "dir2")
    assert "its signatures cannot be read: " in user.refuses("pull", "-q", name)


# -- images of files


@pytest.fixture
def files(tmp_path: Path, sender: Sender) -> dict[str, str]:
    """The same image in each kind of file, as both programs name it."""
    layout = sender.layout(SMALL)
    layers = [Layer().file("a", b"a")]
    archive = docker_archive(tmp_path / "image.tar", layers, "plain:1")
    where = tmp_path / "files"
    where.mkdir()
    copies = {"oci-archive": f"oci-archive:{where}/oci.tar", "dir": f"dir:{where}/directory"}
    for place in copies.values():
        subprocess.run(
            ["skopeo", "--insecure-policy", "copy", "-q", layout, place],
            check=True,
            capture_output=True,
        )
    return {
        "oci": layout,
        **copies,
        "docker-archive": f"docker-archive:{archive}",
    }


@pytest.mark.parametrize("kind", ["oci", "oci-archive", "dir", "docker-archive"])
def test_images_of_files(
    user: Configured, files: dict[str, str], kind: str, tmp_path: Path
) -> None:
    place = files[kind]
    path = place.split(":")[1]
    scopes: list[dict[str, Any]] = [{}, {kind: {"": [ANY]}}, {"docker": {"": [ANY]}}]
    if kind != "docker-archive":
        above = str(Path(path).parent)
        scopes += [{kind: {path: [ANY]}}, {kind: {above: [ANY], path: [REJECT]}}]
        scopes += [{kind: {above: [ANY]}}, {kind: {f"{path}x": [ANY]}}]
    answers = []
    for number, transports in enumerate(scopes):
        user.require(REJECT)
        user.policy.write_text(json.dumps({"default": [REJECT], "transports": transports}))
        accepted = user.skopeo_accepts(place, tmp_path / f"dir{number}")
        answers.append(accepted)
        commands: list[tuple[str, ...]] = [
            ("copy", "-q", place, f"oci:{tmp_path}/out{number}"),
            ("load", "-q", "-i", place),
            ("copy", "-q", path, f"kept{number}:1"),
        ]
        for words in commands:
            if accepted:
                user.cli.run(*words)
            else:
                assert user.refuses(*words).startswith(f"{kind}:{path}: refused")
    assert True in answers
    assert False in answers


def test_looking_needs_no_trust(user: Configured, files: dict[str, str]) -> None:
    """As "skopeo inspect", commands that only show an image ask no policy."""
    user.require(REJECT)
    for place in files.values():
        user.cli.run("ls", place, "/")
        user.cli.run("inspect", place)


# -- what is on the machine already


@pytest.mark.needs("fuse")
def test_mounts(user: Configured, name: str, files: dict[str, str], tmp_path: Path) -> None:
    """An image is checked when it is pulled, as with podman: one that is here is used."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    user.cli.environment |= own_places(tmp_path)
    user.require(REJECT)
    for words in ((), ("--ro",), ("--ephemeral",)):
        user.refuses("mount", *words, name, mountpoint)
        for kind, place in files.items():
            message = user.refuses("mount", *words, place, mountpoint)
            assert message.startswith(f"{kind}:")
    assert not is_mounted(mountpoint)
    user.require(ANY)
    user.cli.run("mount", "--ro", name, mountpoint)
    user.cli.run("umount", mountpoint)
    user.require(REJECT)
    user.cli.run("mount", "--ro", name, mountpoint)
    user.cli.run("umount", mountpoint)
    user.refuses("mount", "--ro", "--pull", "always", name, mountpoint)
    assert not is_mounted(mountpoint)


@pytest.mark.needs("fuse", "crun")
def test_run(user: Configured, name: str, tmp_path: Path) -> None:
    user.cli.environment |= own_places(tmp_path)
    user.require(REJECT)
    message = user.cli.error("run", "--rm", name, "true", status=125)
    assert message.startswith(f"{name}: refused")
    assert user.cli.run("ps", "-a", "-q").stdout == ""


# -- what verifying needs


def without(cli: CommandLine, top: Path, *modules: str) -> CommandLine:
    """The command line in a Python in which packages cannot be imported."""
    for module in modules:
        (top / "lacking" / module).mkdir(parents=True)
        (top / "lacking" / module / "__init__.py").write_text("raise ImportError\n")
    variables = {**cli.environment, "PYTHONPATH": str(top / "lacking")}
    return CommandLine(environment=variables)


def test_a_missing_package_is_named(user: Configured, name: str, tmp_path: Path) -> None:
    private, public = user.keys.make(tmp_path.name)
    user.keys.sign(name, private, user.registries_d)
    lacking = without(user.cli, tmp_path, "cryptography", "yaml")
    user.require({"type": "sigstoreSigned", "keyPath": str(public)})
    install = "install it: pip install 'unionmount[trust]'"
    message = lacking.error("pull", "-q", name)
    assert message.endswith(f"reading YAML needs the package PyYAML; {install}")
    (tmp_path / "lacking/yaml/__init__.py").unlink()
    (tmp_path / "lacking/yaml").rmdir()
    message = lacking.error("pull", "-q", name)
    assert message.endswith(f"verifying sigstoreSigned needs the package cryptography; {install}")
    user.require(ANY)
    lacking.run("pull", "-q", name)  # which needs neither


def test_a_missing_gpg_is_named(user: Configured, name: str, tmp_path: Path) -> None:
    user.sign_by_gpg(name)
    user.require(user.signed_by())
    lacking = CommandLine(environment={**user.cli.environment, "PATH": str(tmp_path)})
    message = lacking.error("pull", "-q", name)
    assert message.endswith("verifying signedBy needs gpg; install GnuPG (gnupg)")


def test_gpg_leaves_nothing(
    user: Configured, name: str, tmp_path: Path, signer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No home and no agent are left, and the keys of the user do not count."""
    (tmp_path / "tmp").mkdir()
    user.sign_by_gpg(name)
    user.require(user.signed_by())
    user.cli.environment |= {"TMPDIR": str(tmp_path / "tmp")} | user.gpg.environment
    user.cli.run("pull", "-q", name)
    assert list((tmp_path / "tmp").iterdir()) == []
    other = user.gpg.make(f"Other {tmp_path.name}")
    assert other != signer
    path = tmp_path / "other.gpg"
    path.write_bytes(user.gpg.public(f"Other {tmp_path.name}"))
    user.require({"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(path)})
    assert "the key is unknown" in user.refuses("pull", "-q", name)
