"""A stand-in for docker's daemon, so that the real docker client prints what we say.

The client asks its daemon over a socket, in JSON. Here answers are given, and what the client makes
of them is what our commands are compared with.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import socketserver
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "local"

    def log_message(self, *_: object) -> None:
        """Nothing: the test tells what is wrong."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = re.sub(r"^/v[0-9.]+", "", self.path.partition("?")[0])
        if path == "/_ping":
            self._answer(200, b"OK")
        elif path in self.server.answers:
            self._answer(200, json.dumps(self.server.answers[path], ensure_ascii=False).encode())
        else:
            self._answer(404, b'{"message":"not there"}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Api-Version", "1.47")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, answers: Mapping[str, Any]) -> None:
        super().__init__(str(path), _Handler)
        self.answers = answers


@contextmanager
def answering(directory: Path, answers: Mapping[str, Any]) -> Iterator[Docker]:
    """A client whose daemon gives these answers, by the paths of docker's API."""
    socket = directory / "docker.sock"
    with _Server(socket, answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Docker(directory, socket)
        finally:
            server.shutdown()
            thread.join()
            socket.unlink()


class Docker:
    """The docker client, with no configuration but ours."""

    def __init__(self, directory: Path, socket: Path) -> None:
        self._command = ["docker", "--config", str(directory / "config"), "-H", f"unix://{socket}"]

    def run(self, *arguments: str, zone: str = "UTC") -> subprocess.CompletedProcess[str]:
        """Run it; whether it worked is for the caller to see."""
        return subprocess.run(
            [*self._command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"TZ": zone, "NO_COLOR": "1"},
        )
