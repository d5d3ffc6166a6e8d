"""Debian's docker-registry, in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.servers.running import Running
from support.servers.tls import KeyPair

_LISTENING = re.compile(r'msg="listening on ([^",]+)')


def htpasswd(path: Path, user: str, password: str) -> Path:
    """A file of one user, with bcrypt as the registry wants it."""
    subprocess.run(
        ["htpasswd", "-Bbc", "-C", "4", path, user, password], check=True, capture_output=True
    )
    return path


@dataclass
class DockerRegistry(Running):
    """A registry that keeps its files below ``directory``; runs while the context is open.

    ``auth`` is the section of that name of its configuration; ``mirror_of`` makes it a pull-through
    cache.
    """

    directory: Path
    tls: KeyPair | None = None
    auth: dict[str, Any] = field(default_factory=dict)
    mirror_of: str = ""
    http: dict[str, Any] = field(default_factory=dict)
    address: str = ""  # host:port, once it listens
    _process: subprocess.Popen[str] | None = None
    _log: list[str] = field(default_factory=list)
    _reader: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address with its scheme."""
        return f"{'https' if self.tls else 'http'}://{self.address}"

    def log(self) -> str:
        """What it has said so far."""
        return "".join(self._log)

    def blob_path(self, digest: str) -> Path:
        """Where it keeps the bytes of a blob."""
        algorithm, _, digits = digest.partition(":")
        top = self.directory / "data/docker/registry/v2/blobs"
        return top / algorithm / digits[:2] / digits / "data"

    def _configuration(self) -> dict[str, Any]:
        http: dict[str, Any] = {"addr": "127.0.0.1:0", "secret": "of the test"} | self.http
        if self.tls is not None:
            http["tls"] = {"certificate": str(self.tls.certificate), "key": str(self.tls.key)}
        configuration: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.directory / "data")},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": http,
        }
        if self.auth:
            configuration["auth"] = self.auth
        if self.mirror_of:
            configuration["proxy"] = {"remoteurl": self.mirror_of}
        return configuration

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Nobody listens while the block runs; it is not started again after it."""
        self.stop()
        yield

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "config.yml"
        path.write_text(json.dumps(self._configuration()))  # JSON is YAML
        self._process = subprocess.Popen(
            ["docker-registry", "serve", path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        stream = self._process.stderr
        assert stream is not None
        for line in stream:
            self._log.append(line)
            if found := _LISTENING.search(line):
                self.address = found[1]
                break
        else:
            self._process.wait()
            raise RuntimeError(f"docker-registry ended:\n{self.log()}")
        self._reader = threading.Thread(target=self._log.extend, args=(stream,), daemon=True)
        self._reader.start()

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            if self._reader is not None:
                self._reader.join()
            if process.stderr is not None:
                process.stderr.close()
