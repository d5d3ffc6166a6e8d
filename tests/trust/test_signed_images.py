"""Which images of a registry are accepted: the same as by containers/image, case by case.

Every case makes a policy and signatures, says what must come of it, and asks both.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from support.policy_oracle import PolicyOracle
from support.servers import DockerRegistry
from support.signing import (
    BUNDLE,
    SIGNATURE,
    GpgKeys,
    PrivateKey,
    Repository,
    claim,
    public_pem,
    rekor_bundle,
    signed_by,
    signed_entry,
)
from support.transfers import image, layer, new_client

from unionmount.errors import NotTrusted
from unionmount.images.reference import Reference
from unionmount.trust.image_trust import ImageTrust
from unionmount.trust.simple_signing import GPG_TYPE, SIGSTORE_TYPE

pytestmark = [
    pytest.mark.needs("docker-registry", "skopeo", "gpg", "go", "gpgme"),
    pytest.mark.timeout(900),  # the first test builds the oracle
]

MADE = image(layer("trust", 300))
OTHER = image(layer("trust-other", 300))
ANY = {"type": "insecureAcceptAnything"}
REJECT = {"type": "reject"}
KEY, SECOND, LOG = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
RSA = rsa.generate_private_key(65537, 2048)
EDWARDS = ed25519.Ed25519PrivateKey.generate()
LARGE = ec.generate_private_key(ec.SECP384R1())


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


@dataclass
class World:
    """An image in a repository of its own, with a place for signatures, and a policy."""

    top: Path
    gpg: GpgKeys
    repository: Repository
    digest: str = ""
    tag: str = "1"
    asked: str = ""  # what is behind the repository, if not the tag
    sections: dict[str, Any] = field(default_factory=dict)
    _attached: list[tuple[bytes, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.digest = self.repository.put_image(MADE, self.tag)
        self.containers.mkdir(parents=True)
        (self.containers / "registries.d").mkdir()
        self.sections = {
            "default-docker": {
                "lookaside": (self.top / "lookaside").as_uri(),
                "use-sigstore-attachments": True,
            }
        }

    @property
    def containers(self) -> Path:
        return self.top / "home/.config/containers"

    @property
    def repository_name(self) -> str:
        return f"{self.repository.address}/{self.repository.name}"

    @property
    def name(self) -> str:
        return f"{self.repository_name}:{self.tag}"

    @property
    def wanted(self) -> str:
        return self.repository_name + (self.asked or f":{self.tag}")

    # -- GPG

    def keyring(self, *names: str, **more: Any) -> str:
        path = self.top / f"keyring-{'-'.join(names)}"
        path.write_bytes(self.gpg.public(*names, **more))
        return str(path)

    def signed_by(self, *names: str, **more: Any) -> dict[str, Any]:
        return {"type": "signedBy", "keyType": "GPGKeys", "keyPath": self.keyring(*names)} | more

    def lookaside(self, raw: bytes, digest: str = "") -> None:
        """Add a file with a signature."""
        where = self.top / "lookaside" / self.repository.name
        where = where.with_name(f"{where.name}@{(digest or self.digest).replace(':', '=')}")
        where.mkdir(parents=True, exist_ok=True)
        (where / f"signature-{len(list(where.iterdir())) + 1}").write_bytes(raw)

    def sign(self, by: str, name: str = "", *options: str, **more: Any) -> None:
        stated = claim(more.pop("digest", self.digest), name or self.name, GPG_TYPE) | more
        self.lookaside(self.gpg.sign(json.dumps(stated).encode(), by, *options))

    # -- sigstore

    def key_file(self, *keys: PrivateKey) -> list[str]:
        files = []
        for number, key in enumerate(keys):
            path = self.top / f"key{number}-{id(key)}.pub"
            path.write_bytes(public_pem(key))
            files.append(str(path))
        return files

    def sigstore(self, *keys: PrivateKey, **more: Any) -> dict[str, Any]:
        return {"type": "sigstoreSigned", "keyPaths": self.key_file(*keys)} | more

    def attach(
        self,
        key: PrivateKey,
        name: str = "",
        *,
        digest: str = "",
        stated: Any = None,
        annotations: dict[str, str] | None = None,
        log: PrivateKey | None = None,
    ) -> None:
        """Add a signature to those in the registry."""
        stated = stated or claim(digest or self.digest, name or self.name, SIGSTORE_TYPE)
        payload = stated if isinstance(stated, bytes) else json.dumps(stated).encode()
        signature = signed_by(key, payload)
        notes = {SIGNATURE: encoded(signature)}
        if log is not None:
            notes[BUNDLE] = json.dumps(rekor_bundle(log, public_pem(key), signature, payload))
        self.attach_raw(payload, notes | (annotations or {}))

    def attach_raw(self, payload: bytes, annotations: dict[str, str]) -> None:
        self._attached.append((payload, annotations))
        self.repository.attach(self.digest, *self._attached)

    # -- the two that are asked

    def write(self, policy: Any) -> Path:
        """Write both configurations; returns the policy."""
        path = self.containers / "policy.json"
        path.write_text(json.dumps(policy))
        (self.containers / "registries.d/all.yaml").write_text(json.dumps(self.sections))
        return path

    async def ours(self) -> str:
        """Why we refuse the image; empty if it is accepted."""
        ref = Reference.parse(self.wanted)
        trust = ImageTrust({"HOME": str(self.top / "home"), "PATH": "/usr/bin:/bin"})
        async with new_client() as client:
            raw = (await client.manifest(ref)).raw
            try:
                await trust.check_remote(client, ref, raw)
            except NotTrusted as error:
                return str(error)
        return ""


@pytest.fixture
def world(tmp_path: Path, registry: DockerRegistry, gpg_keys: GpgKeys) -> World:
    return World(tmp_path, gpg_keys, Repository(registry.address, f"trust/{tmp_path.name}".lower()))


@pytest.fixture(scope="session", autouse=True)
def people(gpg_keys: GpgKeys) -> GpgKeys:
    for name in ("Alice", "Bob"):
        gpg_keys.make(name)
    past = ("--faked-system-time", "20200101T000000")
    gpg_keys.make("Expired", *past, until="1d")
    gpg_keys.make("Old", *past)
    main = gpg_keys.make("Subkey")
    gpg_keys.gpg("--passphrase", "", "--quick-add-key", main, "rsa2048", "sign", "0")
    return gpg_keys


Case = Callable[[World], Any]
ACCEPTED: dict[str, Case] = {}
REFUSED: dict[str, Case] = {}


def accepted(case: Case) -> Case:
    ACCEPTED[case.__name__] = case
    return case


def refused(case: Case) -> Case:
    REFUSED[case.__name__] = case
    return case


async def agree(world: World, oracle: PolicyOracle, asked: Any, expected: bool) -> None:
    policy = asked if isinstance(asked, dict) else {"default": asked}
    path = world.write(policy)
    ours = await world.ours()
    theirs = oracle.check(path, world.containers / "registries.d", f"docker://{world.wanted}")
    assert (theirs == "") is expected, f"containers/image: {theirs}"
    assert (ours == "") is expected, f"we: {ours}; containers/image: {theirs}"
    if ours:
        assert ours.startswith(f"{Reference.parse(world.wanted)}: refused by {path} (")
        assert "\n" not in ours


# -- without signatures


@accepted
def anything(world: World) -> Any:
    return [ANY]


@refused
def nothing(world: World) -> Any:
    return [REJECT]


@refused
def one_of_two_requirements_rejects(world: World) -> Any:
    return [ANY, REJECT]


@accepted
def a_scope_that_accepts(world: World) -> Any:
    scopes = {world.repository_name: [ANY], world.repository.address: [REJECT]}
    return {"default": [REJECT], "transports": {"docker": scopes}}


@refused
def a_scope_that_rejects(world: World) -> Any:
    scopes = {world.name: [REJECT], world.repository_name: [ANY]}
    return {"default": [ANY], "transports": {"docker": scopes}}


@refused
def a_wildcard_for_an_address(world: World) -> Any:
    return {"default": [ANY], "transports": {"docker": {"*.0.0.1": [REJECT]}}}


@refused
def a_scope_of_another_transport(world: World) -> Any:
    return {"default": [REJECT], "transports": {"dir": {"": [ANY]}}}


@refused
def no_signature(world: World) -> Any:
    return [world.signed_by("Alice")]


@refused
def no_attachment(world: World) -> Any:
    return [world.sigstore(KEY)]


@refused
def signed_base_layer(world: World) -> Any:
    return [{"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}]


# -- signedBy


@accepted
def signed(world: World) -> Any:
    world.sign("Alice")
    return [world.signed_by("Alice")]


@accepted
def signed_with_a_requirement_that_accepts(world: World) -> Any:
    world.sign("Alice")
    return [ANY, world.signed_by("Alice")]


@refused
def signed_and_rejected(world: World) -> Any:
    world.sign("Alice")
    return [world.signed_by("Alice"), REJECT]


@refused
def signed_by_somebody_else(world: World) -> Any:
    world.sign("Bob")
    return [world.signed_by("Alice")]


@accepted
def the_second_signature(world: World) -> Any:
    world.sign("Bob")
    world.sign("Alice")
    return [world.signed_by("Alice")]


@accepted
def signed_by_two(world: World) -> Any:
    world.sign("Bob")
    world.sign("Alice")
    return [world.signed_by("Alice"), world.signed_by("Bob")]


@refused
def signed_by_one_of_two(world: World) -> Any:
    world.sign("Alice")
    return [world.signed_by("Alice"), world.signed_by("Bob")]


@accepted
def a_keyring_of_two(world: World) -> Any:
    world.sign("Bob")
    return [world.signed_by("Alice", "Bob")]


@accepted
def keyrings(world: World) -> Any:
    world.sign("Bob")
    paths = [world.keyring("Alice"), world.keyring("Bob")]
    return [{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": paths}]


@refused
def no_keyrings(world: World) -> Any:
    world.sign("Bob")
    return [{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": []}]


@refused
def one_of_the_keyrings_is_missing(world: World) -> Any:
    world.sign("Bob")
    paths = [world.keyring("Bob"), "/nonexistent"]
    return [{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": paths}]


@accepted
def a_key_in_the_policy(world: World) -> Any:
    world.sign("Alice")
    data = encoded(world.gpg.public("Alice"))
    return [{"type": "signedBy", "keyType": "GPGKeys", "keyData": data}]


@accepted
def an_armoured_keyring(world: World) -> Any:
    world.sign("Alice")
    path = world.keyring("Alice", armour=True)
    return [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": path}]


@refused
def a_keyring_that_is_none(world: World) -> Any:
    world.sign("Alice")
    data = encoded(b"no keyring")
    return [{"type": "signedBy", "keyType": "GPGKeys", "keyData": data}]


@refused
def an_unsupported_type_of_key(world: World) -> Any:
    world.sign("Alice")
    return [world.signed_by("Alice", keyType="X509Certificates")]


@accepted
def signed_by_a_subkey(world: World) -> Any:
    world.sign("Subkey")
    return [world.signed_by("Subkey")]


@refused
def signed_by_an_expired_key(world: World) -> Any:
    world.sign("Expired", "", "--faked-system-time", "20200101T120000")
    return [world.signed_by("Expired")]


@refused
def an_expired_signature(world: World) -> Any:
    past = ("--faked-system-time", "20200101T120000")
    world.sign("Old", "", *past, "--default-sig-expire", "1d")
    return [world.signed_by("Old")]


@refused
def a_signature_of_another_image(world: World) -> Any:
    world.sign("Alice", digest="sha256:" + "0" * 64)
    return [world.signed_by("Alice")]


@refused
def a_digest_that_is_none(world: World) -> Any:
    world.sign("Alice", digest="sha256:0")
    return [world.signed_by("Alice")]


@refused
def a_signature_of_another_type(world: World) -> Any:
    world.sign("Alice", critical=claim(world.digest, world.name, SIGSTORE_TYPE)["critical"])
    return [world.signed_by("Alice")]


@refused
def an_unknown_field(world: World) -> Any:
    world.sign("Alice", more=1)
    return [world.signed_by("Alice")]


@refused
def optional_is_null(world: World) -> Any:
    world.sign("Alice", optional=None)
    return [world.signed_by("Alice")]


@accepted
def optional_has_anything(world: World) -> Any:
    world.sign("Alice", optional={"something": [1, None], "timestamp": 1e9})
    return [world.signed_by("Alice")]


@refused
def a_fraction_as_time(world: World) -> Any:
    world.sign("Alice", optional={"timestamp": 1.5})
    return [world.signed_by("Alice")]


@refused
def a_number_as_creator(world: World) -> Any:
    world.sign("Alice", optional={"creator": 1})
    return [world.signed_by("Alice")]


@refused
def a_content_that_is_no_json(world: World) -> Any:
    world.lookaside(world.gpg.sign(b"hello", "Alice"))
    return [world.signed_by("Alice")]


@refused
def a_message_that_is_not_signed(world: World) -> Any:
    content = json.dumps(claim(world.digest, world.name, GPG_TYPE)).encode()
    world.lookaside(world.gpg.gpg("--store", "--output", "-", data=content))
    return [world.signed_by("Alice")]


@refused
def a_signature_that_was_changed(world: World) -> Any:
    content = json.dumps(claim(world.digest, world.name, GPG_TYPE)).encode()
    raw = bytearray(world.gpg.sign(content, "Alice", "--compress-level", "0"))
    at = raw.index(b"a test")
    raw[at] ^= 1
    world.lookaside(bytes(raw))
    return [world.signed_by("Alice")]


@accepted
def a_signature_without_compression(world: World) -> Any:
    content = json.dumps(claim(world.digest, world.name, GPG_TYPE)).encode()
    world.lookaside(world.gpg.sign(content, "Alice", "--compress-level", "0"))
    return [world.signed_by("Alice")]


@refused
def two_messages_in_one(world: World) -> Any:
    content = json.dumps(claim(world.digest, world.name, GPG_TYPE)).encode()
    raw = world.gpg.sign(content, "Alice", "--compress-level", "0")
    world.lookaside(raw + raw)
    return [world.signed_by("Alice")]


@refused
def an_encrypted_message(world: World) -> Any:
    world.lookaside(b"\xc1" + b"\x00" * 20)
    return [world.signed_by("Alice")]


@refused
def a_file_that_is_no_signature(world: World) -> Any:
    world.lookaside(b"<html>")
    world.sign("Alice")
    return [world.signed_by("Alice")]


@refused
def an_empty_file(world: World) -> Any:
    world.lookaside(b"")
    world.sign("Alice")
    return [world.signed_by("Alice")]


@accepted
def a_signature_with_its_format(world: World) -> Any:
    content = json.dumps(claim(world.digest, world.name, GPG_TYPE)).encode()
    world.lookaside(b"\x00simple-signing\n" + world.gpg.sign(content, "Alice"))
    return [world.signed_by("Alice")]


@refused
def a_signature_of_an_unknown_format(world: World) -> Any:
    world.sign("Alice")
    world.lookaside(b"\x00another\ncontent")
    return [world.signed_by("Alice")]


@refused
def signed_for_an_attachment(world: World) -> Any:
    """A signature by sigstore is none by GPG."""
    world.attach(KEY)
    return [world.signed_by("Alice")]


# -- the name that is signed


def named(case: str, signed_name: str, wanted: str = "", /, **identity: Any) -> Case:
    """A case: a name is signed, and a rule for names decides. ``{}`` is the repository."""

    def made(world: World) -> Any:
        def full(text: Any) -> Any:
            return text.format(world.repository_name, host=world.repository.address)

        world.asked = wanted.format(digest=world.digest)
        rule = {key: full(value) for key, value in identity.items()}
        world.sign("Alice", full(signed_name))
        return [world.signed_by("Alice", **({"signedIdentity": rule} if rule else {}))]

    made.__name__ = case
    return made


BY_DIGEST = "@{digest}"
DIGEST = "@sha256:" + "1" * 64
for good in (
    named("the_default", "{}:1"),
    named("the_default_by_digest", "{}:other", BY_DIGEST),
    named("exact", "{}:1", type="matchExact"),
    named("or_exact", "{}:1", type="matchRepoDigestOrExact"),
    named("or_digest", "{}:other", BY_DIGEST, type="matchRepoDigestOrExact"),
    named("or_digest_signed", "{}" + DIGEST, BY_DIGEST, type="matchRepoDigestOrExact"),
    named("repository", "{}:other", type="matchRepository"),
    named("repository_without_a_tag", "{}", type="matchRepository"),
    named("the_reference", "a.com/b:c", type="exactReference", dockerReference="a.com/b:c"),
    named("the_reference_short", "b:c", type="exactReference", dockerReference="docker.io/b:c"),
    named("the_repository", "a.com/b:c", type="exactRepository", dockerRepository="a.com/b:d"),
    named("the_repository_bare", "a.com/b", type="exactRepository", dockerRepository="a.com/b"),
    named(
        *("remapped", "a.com/x:1"),
        type="remapIdentity",
        prefix="{}",
        signedPrefix="a.com/x",
    ),
    named(
        *("remapped_by_digest", "a.com/x:other", BY_DIGEST),
        type="remapIdentity",
        prefix="{}",
        signedPrefix="a.com/x",
    ),
    named("not_remapped", "{}:1", type="remapIdentity", prefix="b.com", signedPrefix="a.com"),
):
    ACCEPTED[f"named {good.__name__}"] = good
for wrong in (
    named("the_default_with_another_tag", "{}:other"),
    named("the_default_without_a_tag", "{}"),
    named("the_default_by_digest_without_a_tag", "{}", BY_DIGEST),
    named("the_default_of_another_repository", "{}x:1"),
    named("no_name", "A"),
    named("exact_with_another_tag", "{}:other", type="matchExact"),
    named("exact_by_digest", "{}:1", BY_DIGEST, type="matchExact"),
    named("exact_without_a_tag", "{}", type="matchExact"),
    named("another_repository", "{}x:1", type="matchRepository"),
    named("another_host", "a.com/b:1", type="matchRepository"),
    named("another_reference", "a.com/b:d", type="exactReference", dockerReference="a.com/b:c"),
    named("reference_without", "a.com/b", type="exactReference", dockerReference="a.com/b:c"),
    named("own_reference", "{}:1", type="exactReference", dockerReference="a.com/b:c"),
    named("not_the_repository", "a.com/bb:c", type="exactRepository", dockerRepository="a.com/b"),
    named(
        *("remapped_with_another_tag", "a.com/x:2"),
        type="remapIdentity",
        prefix="{}",
        signedPrefix="a.com/x",
    ),
    named(
        *("remapped_to_a_short_name", "x:1"),
        type="remapIdentity",
        prefix="{}",
        signedPrefix="x",
    ),
    named(
        *("remapped_but_signed_as_before", "{}:1"),
        type="remapIdentity",
        prefix="{host}",
        signedPrefix="a.com",
    ),
):
    REFUSED[f"named {wrong.__name__}"] = wrong


# -- sigstoreSigned


@accepted
def attached(world: World) -> Any:
    world.attach(KEY)
    return [world.sigstore(KEY)]


@accepted
def a_key_path(world: World) -> Any:
    world.attach(KEY)
    return [{"type": "sigstoreSigned", "keyPath": world.key_file(KEY)[0]}]


@accepted
def key_data(world: World) -> Any:
    world.attach(KEY)
    return [{"type": "sigstoreSigned", "keyData": encoded(public_pem(KEY))}]


@accepted
def key_datas(world: World) -> Any:
    world.attach(KEY)
    datas = [encoded(public_pem(key)) for key in (SECOND, KEY)]
    return [{"type": "sigstoreSigned", "keyDatas": datas}]


@accepted
def one_of_two_keys(world: World) -> Any:
    world.attach(SECOND)
    return [world.sigstore(KEY, SECOND)]


@accepted
def rsa_key(world: World) -> Any:
    world.attach(RSA)
    return [world.sigstore(RSA)]


@accepted
def ed25519_key(world: World) -> Any:
    world.attach(EDWARDS)
    return [world.sigstore(EDWARDS)]


@accepted
def a_large_curve(world: World) -> Any:
    world.attach(LARGE)
    return [world.sigstore(LARGE)]


@refused
def attached_by_somebody_else(world: World) -> Any:
    world.attach(SECOND)
    return [world.sigstore(KEY)]


@accepted
def the_second_attachment(world: World) -> Any:
    world.attach(SECOND)
    world.attach(KEY)
    return [world.sigstore(KEY)]


@refused
def by_one_of_two_requirements(world: World) -> Any:
    world.attach(KEY)
    return [world.sigstore(KEY), world.sigstore(SECOND)]


@accepted
def by_gpg_and_sigstore(world: World) -> Any:
    world.attach(KEY)
    world.sign("Alice")
    return [world.sigstore(KEY), world.signed_by("Alice")]


@refused
def a_wrong_key_beside_the_right_one(world: World) -> Any:
    world.attach(KEY)
    (wrong,) = world.key_file(SECOND)
    Path(wrong).write_text("no key")
    return [{"type": "sigstoreSigned", "keyPaths": [*world.key_file(KEY), wrong]}]


@refused
def a_missing_key(world: World) -> Any:
    world.attach(KEY)
    return [{"type": "sigstoreSigned", "keyPath": "/nonexistent"}]


@refused
def an_attachment_for_another_image(world: World) -> Any:
    world.attach(KEY, digest="sha256:" + "0" * 64)
    return [world.sigstore(KEY)]


@refused
def an_attachment_for_another_tag(world: World) -> Any:
    world.attach(KEY, f"{world.repository_name}:2")
    return [world.sigstore(KEY)]


@refused
def an_attachment_of_cosign(world: World) -> Any:
    """Only the repository is stated, which the default does not accept."""
    stated = claim(world.digest, world.repository_name, SIGSTORE_TYPE) | {"optional": None}
    world.attach(KEY, stated=stated)
    return [world.sigstore(KEY)]


@accepted
def an_attachment_of_cosign_for_the_repository(world: World) -> Any:
    stated = claim(world.digest, world.repository_name, SIGSTORE_TYPE) | {"optional": None}
    world.attach(KEY, stated=stated)
    return [world.sigstore(KEY, signedIdentity={"type": "matchRepository"})]


@refused
def an_attachment_of_the_type_of_gpg(world: World) -> Any:
    world.attach(KEY, stated=claim(world.digest, world.name, GPG_TYPE))
    return [world.sigstore(KEY)]


@refused
def an_attachment_with_more(world: World) -> Any:
    world.attach(KEY, stated=claim(world.digest, world.name, SIGSTORE_TYPE, more=1))
    return [world.sigstore(KEY)]


@refused
def an_attachment_with_a_key_twice(world: World) -> Any:
    raw = json.dumps(claim(world.digest, world.name, SIGSTORE_TYPE))
    world.attach(KEY, stated=(raw[:-1] + ', "optional": {}}').encode())
    return [world.sigstore(KEY)]


@refused
def an_attachment_without_a_signature(world: World) -> Any:
    world.attach_raw(json.dumps(claim(world.digest, world.name, SIGSTORE_TYPE)).encode(), {})
    return [world.sigstore(KEY)]


@refused
def an_attachment_whose_signature_is_not_base64(world: World) -> Any:
    world.attach(KEY, annotations={SIGNATURE: "!"})
    return [world.sigstore(KEY)]


@refused
def attachments_that_are_not_asked_for(world: World) -> Any:
    world.attach(KEY)
    world.sections["default-docker"].pop("use-sigstore-attachments")
    return [world.sigstore(KEY)]


@accepted
def attachments_of_this_repository(world: World) -> Any:
    world.attach(KEY)
    world.sections["default-docker"]["use-sigstore-attachments"] = False
    world.sections["docker"] = {world.repository_name: {"use-sigstore-attachments": True}}
    return [world.sigstore(KEY)]


@accepted
def a_section_that_does_not_speak_of_attachments(world: World) -> Any:
    world.attach(KEY)
    world.sections["docker"] = {world.repository_name: {"lookaside": "file:///nonexistent"}}
    return [world.sigstore(KEY)]


@refused
def another_lookaside_for_this_repository(world: World) -> Any:
    world.sign("Alice")
    world.sections["docker"] = {world.repository_name: {"lookaside": "file:///nonexistent"}}
    return [world.signed_by("Alice")]


@accepted
def lookaside_by_its_old_name(world: World) -> Any:
    world.sign("Alice")
    base = world.sections["default-docker"].pop("lookaside")
    world.sections["docker"] = {world.repository.address: {"sigstore": base}}
    return [world.signed_by("Alice")]


@refused
def a_lookaside_of_another_scheme(world: World) -> Any:
    world.sign("Alice")
    world.sections["default-docker"]["lookaside"] = "ftp://127.0.0.1/"
    return [world.signed_by("Alice")]


@accepted
def a_sigstore_signature_in_a_file(world: World) -> Any:
    payload = json.dumps(claim(world.digest, world.name, SIGSTORE_TYPE)).encode()
    document = {
        "mimeType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "payload": encoded(payload),
        "annotations": {SIGNATURE: encoded(signed_by(KEY, payload))},
    }
    world.lookaside(b"\x00sigstore-json\n" + json.dumps(document).encode())
    return [world.sigstore(KEY)]


# -- Rekor


def recorded(world: World, *logs: PrivateKey) -> dict[str, Any]:
    return world.sigstore(KEY, rekorPublicKeyPaths=world.key_file(*logs))


@accepted
def in_the_log(world: World) -> Any:
    world.attach(KEY, log=LOG)
    return [recorded(world, LOG)]


@accepted
def in_one_of_two_logs(world: World) -> Any:
    world.attach(KEY, log=LOG)
    return [recorded(world, SECOND, LOG)]


@accepted
def in_a_log_that_is_not_asked_for(world: World) -> Any:
    world.attach(KEY, log=SECOND)
    return [world.sigstore(KEY)]


@accepted
def in_the_log_by_one_of_two_keys(world: World) -> Any:
    world.attach(KEY, log=LOG)
    return [world.sigstore(SECOND, KEY, rekorPublicKeyData=encoded(public_pem(LOG)))]


@refused
def not_in_the_log(world: World) -> Any:
    world.attach(KEY)
    return [recorded(world, LOG)]


@refused
def in_another_log(world: World) -> Any:
    world.attach(KEY, log=SECOND)
    return [recorded(world, LOG)]


@refused
def in_the_log_by_another_key(world: World) -> Any:
    world.attach(SECOND, log=LOG)
    return [recorded(world, LOG)]


@refused
def a_log_with_a_key_of_another_kind(world: World) -> Any:
    world.attach(KEY, log=RSA)
    return [recorded(world, RSA)]


def altered(case: str, alter: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Add a case: an entry or its bundle is changed, and the log signed what is there."""

    def made(world: World) -> Any:
        payload = json.dumps(claim(world.digest, world.name, SIGSTORE_TYPE)).encode()
        signature = signed_by(KEY, payload)
        bundle = rekor_bundle(LOG, public_pem(KEY), signature, payload)
        entry = json.loads(base64.b64decode(bundle["Payload"]["body"]))
        alter(entry, {})
        bundle = signed_entry(LOG, entry)
        alter({}, bundle)
        notes = {SIGNATURE: encoded(signature), BUNDLE: json.dumps(bundle)}
        world.attach_raw(payload, notes)
        return [recorded(world, LOG)]

    REFUSED[f"rekor: {case}"] = made


def _set(value: Any, *path: str) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    """Change what the path leads to, in the entry if it begins in small letters."""

    def alter(entry: dict[str, Any], bundle: dict[str, Any]) -> None:
        place = bundle if path[0][0].isupper() else entry
        if not place:
            return
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value

    return alter


altered("another kind", _set("intoto", "kind"))
altered("another version", _set("0.0.2", "apiVersion"))
altered("another algorithm", _set("sha512", "spec", "data", "hash", "algorithm"))
altered("another payload", _set("00" * 32, "spec", "data", "hash", "value"))
altered("another signature", _set(encoded(b"x"), "spec", "signature", "content"))
altered("no key", _set({}, "spec", "signature", "publicKey"))
altered("a key that is none", _set(encoded(b"x"), "spec", "signature", "publicKey", "content"))
altered("another time", _set(1, "Payload", "integratedTime"))
altered("a text as time", _set("1", "Payload", "integratedTime"))
altered("another log entry", _set(1, "Payload", "logIndex"))
altered("more in the payload", _set(1, "Payload", "more"))
altered("more in the bundle", _set(1, "More"))
altered("no timestamp", _set("", "SignedEntryTimestamp"))


@pytest.mark.parametrize("case", ACCEPTED)
async def test_accepted(case: str, world: World, oracle: PolicyOracle) -> None:
    await agree(world, oracle, ACCEPTED[case](world), expected=True)


@pytest.mark.parametrize("case", REFUSED)
async def test_refused(case: str, world: World, oracle: PolicyOracle) -> None:
    await agree(world, oracle, REFUSED[case](world), expected=False)
