"""oras, regctl and crane, and a registry with the referrers API, built from their Go modules."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.servers.running import Running

_SOURCE = Path(__file__).parents[1] / "oracle" / "registry"
_TOOLS = (
    "oras.land/oras/cmd/oras",
    "github.com/google/go-containerregistry/cmd/crane",
    "github.com/regclient/regclient/cmd/regctl",
)
_PATIENCE = 120


class ArtifactTools:
    """The programs, in a directory, with a home of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # Go keeps what it compiled and fetched where it always does, not in the cache of the run
        cache = os.environ.get("GOCACHE", str(Path.home() / ".cache" / "go-build"))
        environment = os.environ | {"GOCACHE": cache, "GOFLAGS": "-mod=readonly"}
        words = ["go", "build", "-buildvcs=false", "-o", f"{directory}/", ".", *_TOOLS]
        done = subprocess.run(
            words, cwd=_SOURCE, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        home = directory / "home"
        home.mkdir()
        self._environment = os.environ | {"HOME": str(home), "DOCKER_CONFIG": str(home)}
        self._plain: set[str] = set()

    @property
    def registry(self) -> Path:
        """The program of ``ReferrersRegistry``."""
        return self._directory / "registry"

    def oras(self, *words: str | Path, directory: Path | None = None) -> str:
        """Run oras, which names files by their paths below ``directory``."""
        return self._run("oras", *words, directory=directory)

    def crane(self, *words: str | Path) -> str:
        """Run crane."""
        return self._run("crane", *words)

    def regctl(self, *words: str | Path, plain: str) -> str:
        """Run regctl, which has to be told of a registry without TLS once."""
        if plain not in self._plain:
            self._plain.add(plain)
            self._run("regctl", "registry", "set", "--tls", "disabled", plain)
        return self._run("regctl", *words)

    def _run(self, name: str, *words: str | Path, directory: Path | None = None) -> str:
        done = subprocess.run(
            [self._directory / name, *words],
            cwd=directory or self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
        assert done.returncode == 0, f"{name} {words}: {done.stderr}"
        return done.stdout.strip()

    # -- what several tests do

    def digest(self, name: str) -> str:
        """The digest that a tag of a registry without TLS leads to, whatever it is."""
        return self.crane("digest", "--insecure", name)

    def attach(self, subject: str, kind: str, data: Path) -> str:
        """Attach a file to an image or artifact as oras does; return the digest."""
        done = self.oras(
            *("attach", "--plain-http", "--artifact-type", kind, "--annotation", f"is={kind}"),
            *("--disable-path-validation", "--format", "json", subject, f"{data}:{kind}"),
        )
        return str(json.loads(done)["digest"])

    def discover(self, name: str, digest: str, *options: str) -> set[tuple[str, str]]:
        """Everything that oras finds about a manifest: pairs of a subject and what is about it.

        ``name`` is a repository, or the directory of a layout with ``--oci-layout``.
        """
        found: set[tuple[str, str]] = set()
        pending = [digest]
        while pending:
            subject = pending.pop()
            words = ("discover", *options, "--format", "json", f"{name}@{subject}")
            answer: dict[str, Any] = json.loads(self.oras(*words))
            pairs = {(subject, row["digest"]) for row in answer["manifests"] or ()}
            pending += [about for _, about in pairs - found]
            found |= pairs
        return found

    def discover_plain(self, name: str, digest: str) -> set[tuple[str, str]]:
        """The same of a registry without TLS."""
        return self.discover(name, digest, "--plain-http")


class Cosign:
    """cosign, whose build takes minutes, and a key of its own; for the long form of tests alone."""

    _MODULE = "github.com/sigstore/cosign/v2/cmd/cosign@v2.5.3"
    _PLAIN = ("--allow-insecure-registry", "--allow-http-registry")

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        cache = os.environ.get("GOCACHE", str(Path.home() / ".cache" / "go-build"))
        environment = os.environ | {"GOCACHE": cache, "GOFLAGS": "", "GOBIN": str(directory)}
        done = subprocess.run(
            ["go", "install", self._MODULE],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        home = {"HOME": str(directory), "DOCKER_CONFIG": str(directory)}
        self._environment = os.environ | home | {"COSIGN_PASSWORD": "", "COSIGN_EXPERIMENTAL": "1"}
        self._run("generate-key-pair")

    def sign(self, name: str, *options: str) -> None:
        """Sign a manifest, without a transparency log."""
        self._run("sign", "--key", "cosign.key", "--tlog-upload=false", "-y", *options, name)

    def attest(self, name: str, predicate: Path) -> None:
        """Attest something about a manifest."""
        words = ("--key", "cosign.key", "--tlog-upload=false", "-y", "--type", "custom")
        self._run("attest", *words, "--predicate", str(predicate), name)

    def verify(self, command: str, name: str, *options: str) -> None:
        """Fail unless cosign finds a signature of the key."""
        words = ("--key", "cosign.pub", "--insecure-ignore-tlog=true")
        self._run(command, *words, *options, name)

    def fails_to_verify(self, name: str) -> bool:
        """Whether cosign finds no signature of the key."""
        words = ("--key", "cosign.pub", "--insecure-ignore-tlog=true", *self._PLAIN)
        return self._call("verify", *words, name).returncode != 0

    def _run(self, command: str, *words: str) -> None:
        plain = () if command == "generate-key-pair" else self._PLAIN
        done = self._call(command, *plain, *words)
        assert done.returncode == 0, f"cosign {command} {words}: {done.stderr}"

    def _call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._directory / "cosign", *words],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )


@dataclass
class ReferrersRegistry(Running):
    """go-containerregistry's server, which lists referrers and keeps all in memory."""

    program: Path
    address: str = ""
    _process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self.program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        assert self.address

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
