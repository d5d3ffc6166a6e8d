"""Which policies are valid: the same as for containers/image, case by case."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from support.policy_oracle import PolicyOracle

from unionmount.errors import FormatError, NotRegular
from unionmount.images.reference import Reference
from unionmount.trust.policy import Policy
from unionmount.trust.scopes import scopes_of_path, scopes_of_reference

pytestmark = pytest.mark.timeout(900)  # the first test builds the oracle

ANY: dict[str, Any] = {"type": "insecureAcceptAnything"}
REJECT: dict[str, Any] = {"type": "reject"}
DATA = base64.b64encode(b"some key").decode()
SIGNED: dict[str, Any] = {"type": "signedBy", "keyType": "GPGKeys"}
SIGSTORE: dict[str, Any] = {"type": "sigstoreSigned"}
FULCIO = {"caPath": "/ca", "oidcIssuer": "https://issuer", "subjectEmail": "a@example.com"}
PKI = {"caRootsPath": "/roots", "subjectEmail": "a@example.com"}
ID = "0" * 64


def scopes(transport: str, *names: str) -> dict[str, Any]:
    return {"default": [REJECT], "transports": {transport: {name: [ANY] for name in names}}}


def one(requirement: Any) -> dict[str, Any]:
    return {"default": [requirement]}


def signed(**more: Any) -> dict[str, Any]:
    return one(SIGNED | more)


def by_sigstore(**more: Any) -> dict[str, Any]:
    return one(SIGSTORE | more)


def identity(**fields: Any) -> dict[str, Any]:
    return signed(keyPath="/key", signedIdentity=fields)


def remap(prefix: Any, signed_prefix: Any = "example.com") -> dict[str, Any]:
    return identity(type="remapIdentity", prefix=prefix, signedPrefix=signed_prefix)


CASES: dict[str, Any] = {
    "accept": one(ANY),
    "reject": one(REJECT),
    "both": {"default": [ANY, REJECT]},
    "an empty object": {},
    "a list": [],
    "a text": "x",
    "no default": {"transports": {}},
    "null as default": {"default": None},
    "an empty default": {"default": []},
    "an object as default": {"default": ANY},
    "an unknown field at the top": {"default": [ANY], "more": 1},
    "a field in capitals": {"Default": [ANY]},
    "transports as a list": {"default": [ANY], "transports": []},
    "a transport as a list": {"default": [ANY], "transports": {"docker": []}},
    "no transports": {"default": [ANY], "transports": {}},
    "no scopes": {"default": [ANY], "transports": {"docker": {}}},
    "a scope without requirements": {"default": [ANY], "transports": {"docker": {"a": []}}},
    "null as requirement": one(None),
    "a text as requirement": one("reject"),
    "no type": one({}),
    "an unknown type": one({"type": "accept"}),
    "a number as type": one({"type": 1}),
    "an unknown field of accept": one(ANY | {"more": 1}),
    "an unknown field of reject": one(REJECT | {"more": 1}),
    "an unknown transport": scopes("unknown", "anything at all"),
    "docker": scopes("docker", "", "example.com", "example.com/a", "example.com/a:b", "*.com"),
    "docker, no name": scopes("docker", "any thing:"),
    "docker-archive": scopes("docker-archive", ""),
    "docker-archive with a scope": scopes("docker-archive", "/tmp"),
    "tarball with a scope": scopes("tarball", "/tmp"),
    "dir": scopes("dir", "", "/a", "/a/b"),
    "dir of the root": scopes("dir", "/"),
    "dir, relative": scopes("dir", "a"),
    "dir, not clean": scopes("dir", "/a/"),
    "dir, upwards": scopes("dir", "/a/../b"),
    "dir, two slashes": scopes("dir", "//a"),
    "oci": scopes("oci", "", "/a", "/a/b:c"),
    "oci of the root": scopes("oci", "/"),
    "oci, relative": scopes("oci", "a"),
    "oci, not clean": scopes("oci", "/a//b"),
    "oci-archive": scopes("oci-archive", "/a.tar"),
    "oci-archive, relative": scopes("oci-archive", "a.tar"),
    "sif, relative": scopes("sif", "a"),
    "atomic": scopes("atomic", "host:5000/ns/stream:tag"),
    "atomic with a tag too early": scopes("atomic", "host/ns:tag"),
    "signedBy": signed(keyPath="/key"),
    "signedBy without keyType": one({"type": "signedBy", "keyPath": "/key"}),
    "signedBy with X509": one({"type": "signedBy", "keyType": "X509Certificates", "keyPath": "/k"}),
    "signedBy with an unknown keyType": one({"type": "signedBy", "keyType": "x", "keyPath": "/k"}),
    "signedBy without keys": signed(),
    "signedBy with an empty path": signed(keyPath=""),
    "signedBy with a path that is null": signed(keyPath=None),
    "signedBy with paths": signed(keyPaths=["/a", "/b"]),
    "signedBy with no paths": signed(keyPaths=[]),
    "signedBy with paths that are null": signed(keyPaths=None),
    "signedBy with numbers as paths": signed(keyPaths=[1]),
    "signedBy with data": signed(keyData=DATA),
    "signedBy with empty data": signed(keyData=""),
    "signedBy with data in lines": signed(keyData=DATA[:4] + "\n" + DATA[4:]),
    "signedBy with data without padding": signed(keyData="YQ"),
    "signedBy with data that is not base64": signed(keyData="!"),
    "signedBy with datas": signed(keyDatas=[DATA]),
    "signedBy with two": signed(keyPath="/key", keyData=DATA),
    "signedBy with more": signed(keyPath="/key", more=1),
    "no identity": signed(keyPath="/key", signedIdentity=None),
    "a text as identity": signed(keyPath="/key", signedIdentity="matchExact"),
    "matchExact": identity(type="matchExact"),
    "matchExact with more": identity(type="matchExact", more=1),
    "matchRepoDigestOrExact": identity(type="matchRepoDigestOrExact"),
    "matchRepository": identity(type="matchRepository"),
    "an unknown identity": identity(type="matchAnything"),
    "an identity without type": identity(),
    "exactReference": identity(type="exactReference", dockerReference="example.com/a:b"),
    "exactReference, short": identity(type="exactReference", dockerReference="a:b"),
    "exactReference without a tag": identity(type="exactReference", dockerReference="a"),
    "exactReference with a digest": identity(
        type="exactReference", dockerReference=f"a@sha256:{ID}"
    ),
    "exactReference that is none": identity(type="exactReference", dockerReference="A:b"),
    "exactReference without": identity(type="exactReference"),
    "exactRepository": identity(type="exactRepository", dockerRepository="example.com/a"),
    "exactRepository with a tag": identity(type="exactRepository", dockerRepository="a:b"),
    "exactRepository that is none": identity(type="exactRepository", dockerRepository="a//b"),
    "remap a host": remap("example.com:5000"),
    "remap a namespace": remap("example.com/a/b"),
    "remap a short name": remap("busybox"),
    "remap a tag": remap("example.com/a:b"),
    "remap nothing": remap(""),
    "remap with capitals": remap("example.com/A"),
    "remap with a slash at the end": remap("example.com/"),
    "remap to nothing": remap("example.com", ""),
    "remap an address": remap("[::1]:5000"),
    "sigstoreSigned": by_sigstore(keyPath="/key"),
    "sigstoreSigned with paths": by_sigstore(keyPaths=["/a"]),
    "sigstoreSigned with no paths": by_sigstore(keyPaths=[]),
    "sigstoreSigned with data": by_sigstore(keyData=DATA),
    "sigstoreSigned with datas": by_sigstore(keyDatas=[DATA, DATA]),
    "sigstoreSigned with no datas": by_sigstore(keyDatas=[]),
    "sigstoreSigned with datas that are not base64": by_sigstore(keyDatas=["!"]),
    "sigstoreSigned without keys": by_sigstore(),
    "sigstoreSigned with two": by_sigstore(keyPath="/key", keyPaths=["/a"]),
    "sigstoreSigned with a keyType": by_sigstore(keyPath="/key", keyType="GPGKeys"),
    "sigstoreSigned with more": by_sigstore(keyPath="/key", more=1),
    "rekor": by_sigstore(keyPath="/key", rekorPublicKeyPath="/rekor"),
    "rekor with paths": by_sigstore(keyPath="/key", rekorPublicKeyPaths=["/rekor"]),
    "rekor with no paths": by_sigstore(keyPath="/key", rekorPublicKeyPaths=[]),
    "rekor with data": by_sigstore(keyPath="/key", rekorPublicKeyData=DATA),
    "rekor with datas": by_sigstore(keyPath="/key", rekorPublicKeyDatas=[DATA]),
    "rekor with two": by_sigstore(
        keyPath="/key", rekorPublicKeyPath="/rekor", rekorPublicKeyData=DATA
    ),
    "rekor alone": by_sigstore(rekorPublicKeyPath="/rekor"),
    "fulcio": by_sigstore(fulcio=FULCIO, rekorPublicKeyPath="/rekor"),
    "fulcio without rekor": by_sigstore(fulcio=FULCIO),
    "fulcio without an issuer": by_sigstore(
        fulcio={"caPath": "/ca", "subjectEmail": "a@example.com"}, rekorPublicKeyPath="/rekor"
    ),
    "fulcio with two": by_sigstore(fulcio=FULCIO | {"caData": DATA}, rekorPublicKeyPath="/rekor"),
    "fulcio with more": by_sigstore(fulcio=FULCIO | {"more": 1}, rekorPublicKeyPath="/rekor"),
    "fulcio and a key": by_sigstore(fulcio=FULCIO, keyPath="/key", rekorPublicKeyPath="/rekor"),
    "pki": by_sigstore(pki=PKI),
    "pki with a host": by_sigstore(pki={"caRootsData": DATA, "subjectHostname": "example.com"}),
    "pki without a subject": by_sigstore(pki={"caRootsPath": "/roots"}),
    "pki without roots": by_sigstore(pki={"subjectEmail": "a@example.com"}),
    "pki with rekor": by_sigstore(pki=PKI, rekorPublicKeyPath="/rekor"),
    "pki with intermediates": by_sigstore(pki=PKI | {"caIntermediatesPath": "/i"}),
    "pki with two intermediates": by_sigstore(
        pki=PKI | {"caIntermediatesPath": "/i", "caIntermediatesData": DATA}
    ),
    "signedBaseLayer": one(
        {"type": "signedBaseLayer", "baseLayerIdentity": {"type": "matchExact"}}
    ),
    "signedBaseLayer without identity": one({"type": "signedBaseLayer"}),
}
DOCUMENTS = {
    "nothing": b"",
    "a key twice": b'{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}',
    "a type twice": b'{"default": [{"type": "reject", "type": "reject"}]}',
    "a scope twice": b'{"default": [{"type": "reject"}], "transports": {"docker": '
    b'{"a": [{"type": "reject"}], "a": [{"type": "reject"}]}}}',
    "something behind it": b'{"default": [{"type": "reject"}]} {}',
    "comments": b'{"default": [{"type": "reject"}] /* all */}',
    "a comma too many": b'{"default": [{"type": "reject"},]}',
    "spaces": b' \n{"default":\t[{"type": "reject"}]}\n',
}


def problem(raw: bytes) -> str:
    """Why a policy is not valid; empty if it is."""
    try:
        Policy.parse(raw, "policy.json")
    except FormatError as error:
        found = str(error)
    else:
        return ""
    assert found.startswith("policy.json: ")
    assert "\n" not in found
    return found


@pytest.mark.needs("go", "gpgme")
@pytest.mark.parametrize("case", CASES)
def test_policies(case: str, oracle: PolicyOracle, tmp_path: Path) -> None:
    raw = json.dumps(CASES[case]).encode()
    (tmp_path / "policy.json").write_bytes(raw)
    ours, theirs = problem(raw), oracle.parse(tmp_path / "policy.json")
    assert bool(ours) == bool(theirs), f"we: {ours}; containers/image: {theirs}"


@pytest.mark.needs("go", "gpgme")
@pytest.mark.parametrize("case", DOCUMENTS)
def test_documents(case: str, oracle: PolicyOracle, tmp_path: Path) -> None:
    (tmp_path / "policy.json").write_bytes(DOCUMENTS[case])
    ours, theirs = problem(DOCUMENTS[case]), oracle.parse(tmp_path / "policy.json")
    assert bool(ours) == bool(theirs), f"we: {ours}; containers/image: {theirs}"


def test_there_are_valid_and_wrong_policies() -> None:
    valid = [case for case, document in CASES.items() if not problem(json.dumps(document).encode())]
    assert 30 < len(valid) < len(CASES) - 30


@pytest.mark.parametrize(
    ("scope", "valid"),
    [
        ("[overlay@/var/lib/containers/storage]", True),
        ("[/var/lib/containers/storage]", True),
        ("[overlay@/s]docker.io/library/busybox:latest", True),
        (f"[overlay@/s]docker.io/library/busybox:latest@{ID}", True),
        (f"[overlay@/s]@{ID}", True),
        (f"[overlay@/s]busybox@sha256:{ID}@{ID}", True),
        ("docker.io/library/busybox", False),
        ("[]", False),
        ("[overlay@]", False),
        ("[overlay@relative]", False),
        ("[relative]", False),
        ("[overlay@/s]busybox@short", False),
        (f"[overlay@/s]busybox@{ID}@{ID}", False),
    ],
)
def test_scopes_of_containers_storage(scope: str, valid: bool) -> None:
    """The cases of containers-policy.json(5); the oracle is built without that transport."""
    assert (problem(json.dumps(scopes("containers-storage", scope)).encode()) == "") is valid


# -- which file


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def test_the_users_file_replaces_that_of_the_machine(tmp_path: Path) -> None:
    home, system = tmp_path / "home", tmp_path / "etc"
    environment = {"HOME": str(home)}
    assert Policy.load(environment, system) is None
    write(system / "policy.json", one(REJECT))
    found = Policy.load(environment, system)
    assert found is not None
    assert found.file == str(system / "policy.json")
    own = write(home / ".config/containers/policy.json", one(ANY))
    found = Policy.load(environment, system)
    assert found is not None
    assert found.file == str(own)


def test_a_wrong_file_is_no_missing_file(tmp_path: Path) -> None:
    """Whatever is wrong with the user's file, that of the machine does not count instead."""
    home, system = tmp_path / "home", tmp_path / "etc"
    environment = {"HOME": str(home)}
    write(system / "policy.json", one(ANY))
    own = write(home / ".config/containers/policy.json", {"default": "accept"})
    with pytest.raises(FormatError, match="default: not a list"):
        Policy.load(environment, system)
    own.unlink()
    own.symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        Policy.load(environment, system)
    own.unlink()
    own.mkdir()
    with pytest.raises(NotRegular):
        Policy.load(environment, system)


# -- which scope


def rule(policy: dict[str, Any], name: str) -> str:
    parsed = Policy.parse(json.dumps(policy).encode(), "P")
    return parsed.rule_for(scopes_of_reference(Reference.parse(name))).where


def test_the_most_specific_scope_wins() -> None:
    name = "registry.example.com:5000/team/app:1"
    order = [
        name,
        "registry.example.com:5000/team/app",
        "registry.example.com:5000/team",
        "registry.example.com:5000",
        "*.example.com",
        "*.com",
        "",
    ]
    while order:
        assert rule(scopes("docker", *order), name) == f'P (docker scope "{order.pop(0)}")'
    assert rule(scopes("docker"), name) == "P (default)"
    assert rule(scopes("oci", "/"[1:]), name) == "P (default)"


@pytest.mark.parametrize("scope", ["registry.example.com", "*.registry.example.com", "app", "*"])
def test_scopes_that_do_not_apply(scope: str) -> None:
    name = "registry.example.com:5000/team/app:1"
    assert rule(scopes("docker", scope), name) == "P (default)"


def test_a_digest_makes_the_tag_useless(tmp_path: Path) -> None:
    name = f"example.com/app:1@sha256:{ID}"
    both = ["example.com/app:1", f"example.com/app@sha256:{ID}"]
    assert rule(scopes("docker", *both), name) == f'P (docker scope "{both[1]}")'


def test_a_short_name_is_expanded() -> None:
    both = ["busybox", "docker.io/library/busybox"]
    assert rule(scopes("docker", *both), "busybox") == f'P (docker scope "{both[1]}")'


def test_paths_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    found = scopes_of_path("oci", str(tmp_path / "link/inner/../inner"))
    assert found.names[:2] == (f"{tmp_path}/real/inner", f"{tmp_path}/real")
    assert "/" not in found.names
    assert scopes_of_path("docker-archive", "/a.tar").names == ()
