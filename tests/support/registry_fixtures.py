"""Registries of the run, and what feeds them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.artifact_tools import ArtifactTools, ReferrersRegistry
from support.servers import Authority, DockerRegistry, FaultProxy, TokenServer, htpasswd
from support.transfers import Sender

USER, PASSWORD = "someone", "a secret: with a colon"


@pytest.fixture(scope="session")
def registry(
    tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]
) -> Iterator[DockerRegistry]:
    """A plain registry without authentication; tests use repositories of their own."""
    require("docker-registry", "skopeo")
    with DockerRegistry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def proxy(registry: DockerRegistry) -> Iterator[FaultProxy]:
    """A proxy in front of the plain registry."""
    with FaultProxy(registry.address) as running:
        yield running


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> Authority:
    """A CA that nobody trusts but who is told to."""
    require("openssl")
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def tls_registry(
    tmp_path_factory: pytest.TempPathFactory,
    require: Callable[..., None],
    authority: Authority,
) -> Iterator[DockerRegistry]:
    """A registry with TLS, and with users from a file of htpasswd."""
    require("docker-registry", "htpasswd")
    directory = tmp_path_factory.mktemp("tls-registry")
    users = htpasswd(directory / "users", USER, PASSWORD)
    auth = {"htpasswd": {"realm": "test", "path": str(users)}}
    with DockerRegistry(directory, tls=authority.sign("registry"), auth=auth) as running:
        yield running


@pytest.fixture
def token_server(tmp_path: Path, authority: Authority) -> Iterator[TokenServer]:
    """A token server that knows one user."""
    with TokenServer(tmp_path, authority, users={USER: PASSWORD}) as running:
        yield running


@pytest.fixture
def token_registry(
    tmp_path: Path, require: Callable[..., None], token_server: TokenServer
) -> Iterator[DockerRegistry]:
    """A registry that wants tokens of the token server."""
    require("docker-registry")
    with DockerRegistry(tmp_path / "token-registry", auth=token_server.auth()) as running:
        yield running


@pytest.fixture
def start_registry(
    tmp_path: Path, require: Callable[..., None]
) -> Iterator[Callable[..., DockerRegistry]]:
    """A function that starts one more registry, until the test ends."""
    require("docker-registry")
    with ExitStack() as stack:
        started = 0

        def start(**options: object) -> DockerRegistry:
            nonlocal started
            started += 1
            made = DockerRegistry(tmp_path / f"registry{started}", **options)  # type: ignore[arg-type]
            return stack.enter_context(made)

        yield start


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory, require: Callable[..., None]) -> ArtifactTools:
    """Oras, crane and regctl."""
    require("go")
    return ArtifactTools(tmp_path_factory.mktemp("artifact-tools"))


@pytest.fixture(scope="session")
def listing_registry(tools: ArtifactTools) -> Iterator[ReferrersRegistry]:
    """A registry with the referrers API; tests use repositories of their own."""
    with ReferrersRegistry(tools.registry) as running:
        yield running


@pytest.fixture(scope="session")
def skopeo() -> Callable[..., str]:
    """A function that runs skopeo, without TLS where nothing else is said."""

    def run(*words: str | Path) -> str:
        done = subprocess.run(
            ["skopeo", *words], capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, f"skopeo {words}: {done.stderr}"
        return done.stdout.strip()

    return run


@pytest.fixture
def sender(tmp_path: Path, skopeo: Callable[..., str]) -> Sender:
    """Puts images into registries."""
    return Sender(tmp_path, skopeo)
