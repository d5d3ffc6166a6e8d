"""Whatever a policy, a configuration or a signature contains, the worst is an error of ours."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from support.effort import amount
from support.signing import BUNDLE, SIGNATURE, GpgKeys, claim, public_pem, rekor_bundle, signed_by

from unionmount.errors import FormatError, UnionmountError
from unionmount.trust.gpg import verify_gpg
from unionmount.trust.policy import Policy
from unionmount.trust.registries_d import RegistriesD
from unionmount.trust.signatures import COSIGN_PAYLOAD, SigstoreAttachment, parse_signature
from unionmount.trust.sigstore import PublicKey, verify_sigstore
from unionmount.trust.simple_signing import GPG_TYPE, SIGSTORE_TYPE, SignedClaim

KEY, LOG = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
PAYLOAD = json.dumps(claim("sha256:" + "1" * 64, "example.com/a:1", SIGSTORE_TYPE)).encode()
SIGNED = signed_by(KEY, PAYLOAD)
NOTES = {
    SIGNATURE: base64.b64encode(SIGNED).decode(),
    BUNDLE: json.dumps(rekor_bundle(LOG, public_pem(KEY), SIGNED, PAYLOAD)),
}
POLICY = {
    "default": [{"type": "reject"}],
    "transports": {
        "docker": {"a": [{"type": "signedBy", "keyType": "GPGKeys", "keyData": "YQ=="}]},
        "oci": {
            "/a": [{"type": "sigstoreSigned", "keyPaths": ["/k"], "rekorPublicKeyData": "YQ=="}]
        },
    },
}
SECTIONS = "docker:\n  a:\n    lookaside: file:///x\n    use-sigstore-attachments: true\n"

json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def changed(document: Any, data: st.DataObject) -> Any:
    """A document in which one value, somewhere, is another one."""
    if not isinstance(document, dict | list) or not document or not data.draw(st.integers(0, 9)):
        return data.draw(json_values)
    keys = list(document) if isinstance(document, dict) else list(range(len(document)))
    key = data.draw(st.sampled_from(keys))
    copied = document.copy()
    copied[key] = changed(copied[key], data)
    return copied


def mutated(raw: bytes, data: st.DataObject) -> bytes:
    """Bytes of which some are others, or missing."""
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 8)))
    return raw[:start] + data.draw(st.binary(max_size=4)) + raw[end:]


@given(st.data())
def test_policies(data: st.DataObject) -> None:
    for _ in range(amount(3, 30)):
        raw = mutated(json.dumps(changed(POLICY, data)).encode(), data)
        try:
            Policy.parse(raw, "P")
        except UnionmountError as error:
            assert "\n" not in str(error)  # noqa: PT017 - it may also be valid


@given(st.data())
def test_files_of_signatures(data: st.DataObject) -> None:
    document = {"mimeType": COSIGN_PAYLOAD, "payload": "YQ==", "annotations": {"a": "b"}}
    good = b"\x00sigstore-json\n" + json.dumps(changed(document, data)).encode()
    for raw in (mutated(good, data), data.draw(st.binary(max_size=30))):
        try:
            parse_signature(raw, "S")
        except UnionmountError as error:
            assert "\n" not in str(error)  # noqa: PT017


@given(st.data())
def test_claims(data: st.DataObject) -> None:
    good = claim("sha256:" + "1" * 64, "example.com/a:1", GPG_TYPE)
    try:
        SignedClaim.parse(mutated(json.dumps(changed(good, data)).encode(), data), GPG_TYPE)
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017


@given(st.data())
def test_bundles_and_signatures(data: st.DataObject) -> None:
    """Nothing but the unchanged signature is accepted, however the annotations are changed."""
    bundle = json.loads(NOTES[BUNDLE])
    body = json.loads(base64.b64decode(bundle["Payload"]["body"]))
    if data.draw(st.booleans()):
        entry = json.dumps(changed(body, data)).encode()
        bundle["Payload"]["body"] = base64.b64encode(entry).decode()
    notes = NOTES | {BUNDLE: json.dumps(changed(bundle, data))}
    if data.draw(st.booleans()):
        notes[SIGNATURE] = data.draw(st.text(max_size=20))
    keys = [PublicKey(public_pem(KEY), "key")]
    logs = [PublicKey(public_pem(LOG), "log")]
    attachment = SigstoreAttachment(COSIGN_PAYLOAD, PAYLOAD, notes)
    try:
        verify_sigstore(attachment, keys, logs)
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert json.loads(notes[BUNDLE]) == json.loads(NOTES[BUNDLE])
        assert base64.b64decode(notes[SIGNATURE]) == SIGNED


def test_the_unchanged_signature_is_accepted() -> None:
    keys = [PublicKey(public_pem(KEY), "key")]
    logs = [PublicKey(public_pem(LOG), "log")]
    verify_sigstore(SigstoreAttachment(COSIGN_PAYLOAD, PAYLOAD, NOTES), keys, logs)


def test_a_text_that_is_no_unicode() -> None:
    """JSON can state half a character, which no encoder takes."""
    half = json.loads(r'"\ud800"')
    for name in (SIGNATURE, BUNDLE):
        attachment = SigstoreAttachment(COSIGN_PAYLOAD, PAYLOAD, NOTES | {name: half})
        keys = [PublicKey(public_pem(KEY), "key")]
        with pytest.raises(FormatError):
            verify_sigstore(attachment, keys, keys)


@given(pem=st.binary(max_size=200) | st.just(public_pem(KEY)[:-30]))
def test_keys(pem: bytes) -> None:
    with pytest.raises(FormatError, match="not a public key"):
        PublicKey(pem, "key")


@given(data=st.data())
def test_registries_d(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    top = tmp_path_factory.mktemp("registries-d")
    (top / "registries.d").mkdir()
    raw = mutated(SECTIONS.encode(), data)
    (top / "registries.d/a.yaml").write_bytes(raw)
    try:
        RegistriesD.load({"HOME": str(top / "home")}, top)
    except FormatError as error:
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "text",
    ["a: &a [*a]", "? [a]\n: b", "<<: {docker: {}}", "docker: {? [1] : {}}", "[" * 5000, "\x00"],
)
def test_unusual_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "registries.d").mkdir()
    (tmp_path / "registries.d/a.yaml").write_text(text)
    if text.startswith("a:"):  # an unknown key, whatever is in it
        assert not RegistriesD.load({"HOME": str(tmp_path)}, tmp_path).sections
        return
    with pytest.raises(FormatError, match=r"a\.yaml: "):
        RegistriesD.load({"HOME": str(tmp_path)}, tmp_path)


@pytest.mark.needs("gpg")
async def test_a_signature_that_is_a_bomb(gpg_keys: GpgKeys) -> None:
    """A content that compression has made small is not unpacked beyond a limit."""
    gpg_keys.make("Bomber")
    raw = gpg_keys.sign(b"0" * (64 << 20), "Bomber")
    assert len(raw) < 1 << 20
    with pytest.raises(FormatError, match="GPG signature"):
        await verify_gpg([gpg_keys.public("Bomber")], raw, os.environ)


def test_a_directory_that_cannot_be_searched_is_no_missing_policy(tmp_path: Path) -> None:
    (tmp_path / ".config").symlink_to(".config")
    (tmp_path / "etc").mkdir()
    for read in (Policy.load, RegistriesD.load):
        with pytest.raises(OSError, match="levels of symbolic links"):
            read({"HOME": str(tmp_path)}, tmp_path / "etc")
