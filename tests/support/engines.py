"""Servers of the Engine API with stores of the test's own: docker's daemon, and podman's service.

Each runs in a mount namespace in which what it keeps outside of its own directories is empty, so
that nothing of it is left on the machine. Root is needed. Layers are copies (vfs) by default.
"""

from __future__ import annotations

import http.client
import json
import select
import signal
import socket
import ssl
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

from support.mount8 import LEAVE_MOUNTS
from support.servers import Authority
from support.servers.listening import ListeningServer

Kind = Literal["docker", "podman"]

_PATIENCE = 60.0
_LOOK_AGAIN = 0.02
_COVERED = {"docker": ("/run", "/opt"), "podman": ("/run", "/dev/shm")}


class Engine:
    """A running server; ``host`` is the value of DOCKER_HOST for it."""

    def __init__(self, kind: Kind, directory: Path, driver: str = "vfs") -> None:
        self.kind = kind
        self.socket = directory / "engine.sock"
        self.host = f"unix://{self.socket}"
        self._log = directory / "engine.log"
        command = (_docker if kind == "docker" else _podman)(directory, driver)
        covers = "".join(f"mount -t tmpfs tmpfs {path} && " for path in _COVERED[kind])
        script = f'{LEAVE_MOUNTS}\n{covers} exec "$@"'
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", script, "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _wait(self) -> None:
        """Wait until the server answers."""
        end = time.monotonic() + _PATIENCE
        while not self._answers():
            text = self._log.read_text(errors="replace")[-2000:]
            assert self._process.poll() is None, text
            assert time.monotonic() < end, text
            select.select([], [], [], _LOOK_AGAIN)

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """Kill the server, which must have no children: podman's service has none."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/_ping")[0] == 200
        except OSError:
            return False

    def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request; return the status and the body of the answer."""
        connection = http.client.HTTPConnection("docker")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_PATIENCE)
        try:
            connection.sock.connect(str(self.socket))
            connection.request(method, path, body, {"Content-Type": "application/x-tar"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def load(self, archive: Path) -> None:
        """Load an archive of docker save."""
        status, answer = self.request("POST", "/images/load", archive.read_bytes())
        assert (status, b"error" in answer) == (200, False), answer

    def describe(self, name: str) -> dict[str, Any]:
        """What the server says of an image."""
        status, answer = self.request("GET", f"/images/{name}/json")
        assert status == 200, answer
        found: dict[str, Any] = json.loads(answer)
        return found


class TlsRelay(ListeningServer):
    """A way to an engine over TCP with TLS, for clients with a certificate of the authority."""

    def __init__(self, engine: Engine, authority: Authority) -> None:
        super().__init__("127.0.0.1", _PATIENCE)
        self._engine = engine
        pair = authority.sign("engine")
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._context.load_verify_locations(authority.own.certificate)
        self._context.verify_mode = ssl.CERT_REQUIRED

    def serve(self, connection: socket.socket) -> None:
        with (
            suppress(OSError),  # of TLS as well: a client without a certificate, say
            self._context.wrap_socket(connection, server_side=True) as client,
            socket.socket(socket.AF_UNIX) as server,
        ):
            server.connect(str(self._engine.socket))
            self._start(_relay, server, client)
            _relay(client, server)


class KillingRelay(ListeningServer):
    """A way to an engine over TCP that kills it when it has sent some bytes of an archive."""

    def __init__(self, engine: Engine, after: int) -> None:
        super().__init__("127.0.0.1", _PATIENCE)
        self._engine = engine
        self._after = after

    def serve(self, connection: socket.socket) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(str(self._engine.socket))
            self._start(_relay, connection, server)
            count = 0
            while data := server.recv(4096):
                connection.sendall(data)
                count += len(data)
                if count > self._after:
                    self._engine.kill()
                    break
            _relay(server, connection)  # what the kernel still has


def _relay(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _docker(directory: Path, driver: str) -> list[str]:
    settings = directory / "daemon.json"  # its key would be in /etc otherwise
    settings.write_text(json.dumps({"deprecated-key-path": str(directory / "key.json")}))
    flags = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
    return [
        *("dockerd", "--config-file", str(settings), "--data-root", str(directory / "data")),
        *("--exec-root", str(directory / "exec"), "--pidfile", str(directory / "pid")),
        *("--host", f"unix://{directory / 'engine.sock'}"),
        *(f"--storage-driver={driver}", "--bridge=none", *flags),
    ]


def _podman(directory: Path, driver: str) -> list[str]:
    return [
        # Podman's limit for these paths is 50 characters; /run is empty in its namespace.
        *("podman", "--root", str(directory / "root"), "--runroot", "/run/containers"),
        *("--tmpdir", "/run/libpod", f"--storage-driver={driver}"),
        *("--cgroup-manager=cgroupfs", "--events-backend=none"),
        *("system", "service", "--time=0", f"unix://{directory / 'engine.sock'}"),
    ]
