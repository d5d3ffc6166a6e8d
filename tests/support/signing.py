"""Keys, and signatures of images in registries, by the programs that make real ones."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from support.image_files import MadeImage, descriptor, gzipped, sha256
from support.policy_oracle import PolicyOracle
from support.registry_clients import feed
from support.transfers import OCI_MANIFEST, manifest

PASSPHRASE = "a passphrase"
COSIGN_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
BUNDLE = "dev.sigstore.cosign/bundle"
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class GpgKeys:
    """A home of GPG with keys without passphrases."""

    def __init__(self, home: Path) -> None:
        home.chmod(0o700)
        self.home = home
        self.environment = {"GNUPGHOME": str(home), "LC_ALL": "C"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["gpgconf", "--homedir", self.home, "--kill", "all"], check=True)

    def gpg(self, *words: str | Path, data: bytes = b"") -> bytes:
        """Run gpg in the home."""
        command = ["gpg", "--batch", "--no-tty", "--homedir", self.home, "--yes", *words]
        return subprocess.run(
            command, input=data, env=os.environ | self.environment, check=True, capture_output=True
        ).stdout

    def make(self, name: str, *more: str, algorithm: str = "rsa2048", until: str = "0") -> str:
        """Make a key; returns its fingerprint. ``more`` are options, such as a false time."""
        words = ("--passphrase", "", "--quick-generate-key", name, algorithm, "sign", until)
        self.gpg(*more, *words)
        return self.fingerprint(name)

    def fingerprint(self, name: str) -> str:
        """The fingerprint of the main key of a user."""
        listed = self.gpg("--with-colons", "--list-keys", f"={name}").decode()
        return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))

    def public(self, *names: str, armour: bool = False) -> bytes:
        """The public keys of users as a keyring."""
        return self.gpg(*(["--armor"] if armour else []), "--export", *(f"={n}" for n in names))

    def sign(self, content: bytes, name: str, *more: str) -> bytes:
        """Sign a content as skopeo does: a message with the content inside."""
        return self.gpg(*more, "--local-user", f"={name}", "--sign", "--output", "-", data=content)


class SigstoreKeys:
    """Pairs of keys that containers/image has made, in files."""

    def __init__(self, directory: Path, oracle: PolicyOracle) -> None:
        self.directory = directory
        self._oracle = oracle
        self._accepting = directory / "policy.json"
        self._accepting.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def make(self, name: str) -> tuple[Path, Path]:
        """Make a pair of keys; returns the files of the private and of the public one."""
        files = self.directory / f"{name}.private", self.directory / f"{name}.pub"
        for file, content in zip(files, self._oracle.make_keys(PASSPHRASE), strict=True):
            file.write_bytes(content)
        return files

    def sign(self, name: str, private: Path, registries_d: Path) -> None:
        """Sign an image of a registry where it is."""
        asked = (self._accepting, registries_d, f"docker://{name}")
        self._oracle.sign(*asked, (private, PASSPHRASE))


def public_pem(key: PrivateKey) -> bytes:
    """The public key in PEM."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def signed_by(key: PrivateKey, data: bytes) -> bytes:
    """A signature as sigstore makes it with a key of this kind."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data)


def claim(digest: str, name: str, kind: str, **more: Any) -> dict[str, Any]:
    """What a signature states, as an object that a test may spoil."""
    critical = {
        "type": kind,
        "image": {"docker-manifest-digest": digest},
        "identity": {"docker-reference": name},
    }
    return {
        "critical": critical,
        "optional": {"creator": "a test", "timestamp": 1700000000},
        **more,
    }


def rekor_bundle(log: PrivateKey, pem: bytes, signature: bytes, payload: bytes) -> dict[str, Any]:
    """The timestamp that a log of Rekor signs for a signature, as cosign attaches it."""
    entry = {
        "apiVersion": "0.0.1",
        "kind": "hashedrekord",
        "spec": {
            "data": {"hash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()}},
            "signature": {
                "content": base64.b64encode(signature).decode(),
                "publicKey": {"content": base64.b64encode(pem).decode()},
            },
        },
    }
    return signed_entry(log, entry)


def signed_entry(log: PrivateKey, entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the log, with its timestamp."""
    recorded = {
        "body": base64.b64encode(json.dumps(entry).encode()).decode(),
        "integratedTime": 1700000000,
        "logIndex": 12345,
        "logID": "c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d",
    }
    raw = json.dumps(recorded, sort_keys=True, separators=(",", ":")).encode()
    return {
        "SignedEntryTimestamp": base64.b64encode(signed_by(log, raw)).decode(),
        "Payload": recorded,
    }


def attachment_manifest(*layers: tuple[bytes, Mapping[str, str]]) -> tuple[bytes, list[bytes]]:
    """The manifest of signatures beside an image, and its blobs."""
    config = b"{}"
    rows = [
        descriptor(payload, COSIGN_PAYLOAD) | {"annotations": dict(annotations)}
        for payload, annotations in layers
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor(config, "application/vnd.oci.image.config.v1+json"),
        "layers": rows,
    }
    return json.dumps(document).encode(), [config, *(payload for payload, _ in layers)]


class Repository:
    """A repository of a registry without authentication, filled by hand."""

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self.name = name

    def put_blob(self, data: bytes) -> None:
        """Upload a blob."""
        feed(self.address, self.name, data)

    def put_manifest(self, raw: bytes, tag: str, media_type: str = OCI_MANIFEST) -> str:
        """Upload a manifest whose blobs are there; returns its digest."""
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            path = f"/v2/{self.name}/manifests/{tag}"
            connection.request("PUT", path, body=raw, headers={"Content-Type": media_type})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 201
        finally:
            connection.close()
        return sha256(raw)

    def put_image(self, made: MadeImage, tag: str) -> str:
        """Upload an image with layers in gzip; returns the digest of its manifest."""
        for blob in (made.config, *map(gzipped, made.layers)):
            self.put_blob(blob)
        return self.put_manifest(manifest(made), tag)

    def attach(self, digest: str, *layers: tuple[bytes, Mapping[str, str]]) -> None:
        """Put signatures beside an image, as cosign does."""
        raw, blobs = attachment_manifest(*layers)
        for blob in blobs:
            self.put_blob(blob)
        self.put_manifest(raw, digest.replace(":", "-") + ".sig")
