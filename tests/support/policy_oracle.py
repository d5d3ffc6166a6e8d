"""containers/image as an oracle: ``tests/oracle/policy``, built once and asked many times."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

_SOURCE = Path(__file__).parents[1] / "oracle" / "policy"
_TAGS = ("storage_stub", "docker_daemon_stub")


def build_policy_oracle(directory: Path) -> Path:
    """Compile the oracle; Go fetches the modules that go.sum names, once for all runs."""
    program = directory / "policy"
    # Go keeps what it compiled and fetched where it always does, not in the cache of the run
    cache = os.environ.get("GOCACHE", str(Path.home() / ".cache" / "go-build"))
    environment = os.environ | {"GOCACHE": cache, "GOFLAGS": "-mod=readonly"}
    tags = ",".join(f"containers_image_{tag}" for tag in _TAGS)
    done = subprocess.run(
        ["go", "build", "-tags", tags, "-o", str(program), "."],
        cwd=_SOURCE,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return program


class PolicyOracle:
    """A running oracle; it ends when its input does."""

    def __init__(self, program: Path, environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | (environment or {}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def _ask(self, **question: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def parse(self, policy: Path) -> str:
        """Why a policy is not valid; empty if it is."""
        return str(self._ask(policy=str(policy))["Error"])

    def check(self, policy: Path, registries_d: Path, image: str, instance: str = "") -> str:
        """Why an image is refused; empty if it is accepted."""
        answer = self._ask(
            policy=str(policy), registriesd=str(registries_d), image=image, instance=instance
        )
        return str(answer["Error"])

    def make_keys(self, passphrase: str) -> tuple[bytes, bytes]:
        """A private key of sigstore, locked by a passphrase, and its public key in PEM."""
        answer = self._ask(passphrase=passphrase)
        assert not answer["Error"]
        return base64.b64decode(answer["Private"]), base64.b64decode(answer["Public"])

    def sign(self, policy: Path, registries_d: Path, image: str, key: tuple[Path, str]) -> None:
        """Sign an image of a registry where it is, with a private key and its passphrase."""
        words = {"policy": str(policy), "registriesd": str(registries_d), "image": image}
        answer = self._ask(**words, signby=str(key[0]), passphrase=key[1])
        assert not answer["Error"], answer["Error"]


def fixtures_of_oracle() -> Path:
    """The signatures that the Go module tests itself with."""
    module = "go.podman.io/image/v5"
    done = subprocess.run(
        ["go", "mod", "download", "-json", module],
        cwd=_SOURCE,
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(json.loads(done.stdout)["Dir"], "signature", "fixtures")
