"""Credential helpers: programs ``docker-credential-NAME`` that keep secrets elsewhere.

The protocol is docker's: a verb as argument, the server or a JSON object on standard input, a JSON
object on standard output. The time and the output of a helper are bounded, and it cannot read from
our terminal.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import IO, Any

from unionmount.errors import FormatError, RegistryError
from unionmount.registry.login import Login
from unionmount.system.text import printable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_TIMEOUT = 60.0  # a helper may ask its user something
_PERIOD = 0.05  # seconds between two calls of ``check``
_MAX_OUTPUT = 64 * 1024
_NOT_FOUND = "credentials not found"
_TOKEN_USER = "<token>"  # noqa: S105 - the user name that marks a token


class CredentialHelper:
    """A helper with the name that a file, ``where``, gives it."""

    def __init__(
        self,
        name: str,
        where: str,
        environment: Mapping[str, str],
        *,
        timeout: float = _TIMEOUT,
    ) -> None:
        if not _NAME.fullmatch(name):
            raise FormatError(f"{where}: not a credential helper: '{printable(name[:200])}'")
        self._program = f"docker-credential-{name}"
        self._environment = environment
        self._timeout = timeout
        self._path = shutil.which(self._program, path=environment.get("PATH", os.defpath))

    @property
    def exists(self) -> bool:
        """Whether the program is installed."""
        return self._path is not None

    def get(self, server: str, check: Callable[[], object] | None = None) -> Login | None:
        """Return the login for a server; None if the helper has none."""
        status, output = self._run("get", server, check)
        if status:
            if _NOT_FOUND in output.lower():
                return None
            raise self._error(f"get {server}: {output or f'status {status}'}")
        try:
            document: Any = json.loads(output)
            user, secret = document["Username"], document["Secret"]
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise self._error(f"get {server}: the answer lacks Username or Secret") from error
        if not isinstance(user, str) or not isinstance(secret, str):
            raise self._error(f"get {server}: Username or Secret is not a string")
        if user == _TOKEN_USER:
            return Login(user, "", secret)
        return Login(user, secret)

    def store(self, server: str, login: Login) -> None:
        """Store a login in the helper."""
        user = _TOKEN_USER if login.identity_token else login.username
        secret = login.identity_token or login.password
        said = json.dumps({"ServerURL": server, "Username": user, "Secret": secret})
        status, output = self._run("store", said, None)
        if status:
            raise self._error(f"store {server}: {output or f'status {status}'}")

    def erase(self, server: str) -> bool:
        """Erase a login from the helper; return whether it had one."""
        if self.get(server) is None:
            return False
        status, output = self._run("erase", server, None)
        if status:
            raise self._error(f"erase {server}: {output or f'status {status}'}")
        return True

    def _run(self, verb: str, said: str, check: Callable[[], object] | None) -> tuple[int, str]:
        """Run the helper; return its status and its standard output."""
        if self._path is None:
            raise self._error("not installed")
        try:
            process = subprocess.Popen(
                [self._path, verb],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=dict(self._environment),
            )
        except OSError as error:
            raise self._error(error.strerror or "cannot be run") from error
        with process:
            try:
                return self._talk(process, said.encode("utf-8"), check)
            except BaseException:
                process.kill()  # leaving "with process" waits for its end
                raise

    def _talk(
        self, process: subprocess.Popen[bytes], said: bytes, check: Callable[[], object] | None
    ) -> tuple[int, str]:
        assert process.stdin is not None
        assert process.stdout is not None
        end = time.monotonic() + self._timeout
        with suppress(BrokenPipeError):  # it may answer without reading its input
            process.stdin.write(said)  # smaller than the buffer of a pipe
        process.stdin.close()
        output = self._read(process.stdout, end, check)
        try:
            status = process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise self._late() from error
        return status, output.decode("utf-8", "replace").strip()

    def _read(self, stdout: IO[bytes], end: float, check: Callable[[], object] | None) -> bytes:
        """Read the output of the helper until its time is over or ``check`` raises."""
        output = bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while True:
                if check is not None:
                    check()
                if time.monotonic() > end:
                    raise self._late()
                if not selector.select(_PERIOD):
                    continue
                part = os.read(stdout.fileno(), _MAX_OUTPUT)
                if not part:
                    return bytes(output)
                output += part
                if len(output) > _MAX_OUTPUT:
                    raise self._error(f"wrote more than {_MAX_OUTPUT} bytes")

    def _late(self) -> RegistryError:
        return self._error(f"no answer in {self._timeout:g} s")

    def _error(self, text: str) -> RegistryError:
        return RegistryError(f"{self._program}: {printable(text[:300])}")
