"""What the tests of the client share: clients without patience, and blobs to talk about."""

from __future__ import annotations

import base64
import http.client
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from unionmount.images.manifest import Descriptor
from unionmount.images.reference import Digest, Reference
from unionmount.registry import Credentials, Login, Registries, RegistryClient, RegistryLimits

QUICK = RegistryLimits(first_pause=0.01, longest_pause=0.02)


def make_client(
    *,
    login: tuple[str, str] | Login | None = None,
    registries: Registries | None = None,
    limits: RegistryLimits = QUICK,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> RegistryClient:
    """A client that knows nothing of this machine's configuration."""
    given = Login(*login) if isinstance(login, tuple) else login
    return RegistryClient(
        registries or Registries(),
        Credentials((), given),
        limits=limits,
        environment={"HOME": "/nonexistent"} if environment is None else environment,
        **options,
    )


def configured(directory: Path, text: str) -> Registries:
    """What a registries.conf says."""
    path = directory / "registries.conf"
    path.write_text(text)
    return Registries.load(
        {"HOME": str(directory), "CONTAINERS_REGISTRIES_CONF": str(path)}, system=directory
    )


def some_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def described(data: bytes) -> Descriptor:
    return Descriptor("application/octet-stream", Digest.of(data), len(data))


def feed(address: str, repository: str, data: bytes) -> Descriptor:
    """Put a blob into a registry without authentication, by hand."""
    descriptor = described(data)
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("POST", f"/v2/{repository}/blobs/uploads/")
        answer = connection.getresponse()
        answer.read()
        location = answer.headers["Location"]
        query = urlencode({"digest": str(descriptor.digest)})
        connection.request("PUT", f"{location}&{query}", body=data)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201
    finally:
        connection.close()
    return descriptor


def reference(address: str, repository: str, tag: str | None = "1") -> Reference:
    return Reference(address, repository, tag)


async def fetch(client: RegistryClient, ref: Reference, descriptor: Descriptor) -> bytes:
    """All bytes of a blob."""
    async with client.blob(ref, descriptor) as chunks:
        return b"".join([chunk async for chunk in chunks])


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
