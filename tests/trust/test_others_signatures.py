"""Signatures that others have made: those that containers/image tests itself with.

cosign, older versions of GPG, and tools for expired and damaged signatures made them. They come
with the Go module of the oracle, and what must be said of each is what its own tests say.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.policy_oracle import fixtures_of_oracle

from unionmount.errors import FormatError
from unionmount.images.reference import Reference
from unionmount.trust.gpg import verify_gpg
from unionmount.trust.identity import MatchRepository
from unionmount.trust.signatures import SigstoreAttachment, SimpleSignature, parse_signature
from unionmount.trust.sigstore import read_keys, verify_sigstore
from unionmount.trust.simple_signing import GPG_TYPE, SIGSTORE_TYPE, SignedClaim

pytestmark = pytest.mark.needs("go", "gpgme", "gpg")


@pytest.fixture(scope="module")
def fixtures(require: Callable[..., None]) -> Path:
    require("go")
    return fixtures_of_oracle()


@pytest.mark.parametrize(
    ("name", "keyring"),
    [
        ("image.signature", "public-key.gpg"),
        ("no-optional-fields.signature", "public-key.gpg"),
        ("subkey.signature", "public-key-with-subkey.gpg"),
        ("subkey.signature-v3", "public-key-with-subkey.gpg"),
        ("image.signature", "pubring.gpg"),
    ],
)
async def test_good_signatures_of_gpg(name: str, keyring: str, fixtures: Path) -> None:
    keys = [(fixtures / keyring).read_bytes()]
    content = await verify_gpg(keys, (fixtures / name).read_bytes(), os.environ)
    assert content.startswith(b"{") or b"subkey" in name.encode()


@pytest.mark.parametrize(
    ("name", "keyring"),
    [
        ("image.signature", "public-key-2.gpg"),
        ("unknown-key.signature", "public-key.gpg"),
        ("unknown-key.signature-v3", "public-key.gpg"),
        ("unsigned-literal.signature", "public-key.gpg"),
        ("unsigned-encrypted.signature", "public-key.gpg"),
        ("expired.signature", "public-key.gpg"),
        ("corrupt.signature", "public-key.gpg"),
        ("corrupt.signature-v3", "public-key.gpg"),
        ("subkey-revoked.signature", "public-key-with-revoked-subkey.gpg"),
        ("subkey-revoked.signature-v3", "public-key-with-revoked-subkey.gpg"),
        ("image.manifest.json", "public-key.gpg"),
    ],
)
async def test_bad_signatures_of_gpg(name: str, keyring: str, fixtures: Path) -> None:
    keys = [(fixtures / keyring).read_bytes()]
    with pytest.raises(FormatError, match="GPG signature"):
        await verify_gpg(keys, (fixtures / name).read_bytes(), os.environ)


async def test_a_signature_over_something_else(fixtures: Path) -> None:
    keys = [(fixtures / "public-key.gpg").read_bytes()]
    raw = (fixtures / "invalid-blob.signature").read_bytes()
    content = await verify_gpg(keys, raw, os.environ)
    with pytest.raises(FormatError, match="signature: "):
        SignedClaim.parse(content, GPG_TYPE)


async def test_an_image_that_somebody_signed(fixtures: Path) -> None:
    image = fixtures / "dir-img-valid"
    signature = parse_signature((image / "signature-1").read_bytes(), "signature-1")
    assert isinstance(signature, SimpleSignature)
    keys = [(fixtures / "public-key.gpg").read_bytes()]
    claim = SignedClaim.parse(await verify_gpg(keys, signature.raw, os.environ), GPG_TYPE)
    manifest = (fixtures / "image.manifest.json").read_bytes()
    claim.check(Reference.parse("testing/manifest:latest"), manifest, MatchRepository())
    with pytest.raises(FormatError, match="which is another image"):
        claim.check(Reference.parse("testing/manifest"), manifest + b" ", MatchRepository())


def attached(image: Path) -> SigstoreAttachment:
    found = parse_signature((image / "signature-1").read_bytes(), "signature-1")
    assert isinstance(found, SigstoreAttachment)
    return found


@pytest.mark.parametrize(
    ("image", "key", "log", "name"),
    [
        ("valid", "cosign.pub", None, "192.168.64.2:5000/cosign-signed-single-sample"),
        ("valid-with-tag", "cosign.pub", None, "192.168.64.2:5000/skopeo-signed:tag"),
        ("key-rekor-valid", "cosign2.pub", "rekor.pub", "192.168.64.2:5000/cosign-signed/key-1"),
        ("key-rekor-valid", "cosign2.pub", None, "192.168.64.2:5000/cosign-signed/key-1"),
    ],
)
def test_good_signatures_of_cosign(
    image: str, key: str, log: str | None, name: str, fixtures: Path
) -> None:
    """Also one that the public log has recorded."""
    where = fixtures / f"dir-img-cosign-{image}"
    found = attached(where)
    keys = read_keys([(fixtures / key).read_bytes()], "key")
    logs = None
    if log is not None:
        (path,) = (fixtures.parent / "internal/testdata").glob(log)
        logs = read_keys([path.read_bytes()], "log")
    verify_sigstore(found, keys, logs)
    claim = SignedClaim.parse(found.payload, SIGSTORE_TYPE)
    manifest = (where / "manifest.json").read_bytes()
    claim.check(Reference.parse(name), manifest, MatchRepository())
    with pytest.raises(FormatError, match="which is not accepted"):
        claim.check(Reference.parse("docker.io/other"), manifest, MatchRepository())


@pytest.mark.parametrize(
    ("image", "key", "log", "why"),
    [
        ("valid", "cosign2.pub", None, "by none of the keys"),
        ("valid", "some-rsa-key.pub", None, "by none of the keys"),
        ("valid", "cosign.pub", "rekor.pub", "bundle is missing"),
        ("key-rekor-valid", "cosign.pub", "rekor.pub", "of none of the keys"),
        ("key-rekor-valid", "cosign2.pub", "cosign.pub", "signed by none of the keys"),
    ],
)
def test_bad_signatures_of_cosign(
    image: str, key: str, log: str | None, why: str, fixtures: Path
) -> None:
    keys = read_keys([(fixtures / key).read_bytes()], "key")
    logs = None
    if log is not None:
        logs = read_keys([find(fixtures, log).read_bytes()], "log")
    with pytest.raises(FormatError, match=why):
        verify_sigstore(attached(fixtures / f"dir-img-cosign-{image}"), keys, logs)


def find(fixtures: Path, name: str) -> Path:
    places = (fixtures / name, fixtures.parent / "internal/testdata" / name)
    return next(path for path in places if path.exists())


def test_a_signed_manifest_that_was_changed(fixtures: Path) -> None:
    where = fixtures / "dir-img-cosign-modified-manifest"
    signed = fixtures / "dir-img-cosign-valid"
    claim = SignedClaim.parse(attached(signed).payload, SIGSTORE_TYPE)
    name = Reference.parse("192.168.64.2:5000/cosign-signed-single-sample")
    with pytest.raises(FormatError, match="which is another image"):
        claim.check(name, (where / "manifest.json").read_bytes(), MatchRepository())
