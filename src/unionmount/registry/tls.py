"""Whom to believe: the system's CAs, certs.d, and client certificates.

``certs.d/HOST[:PORT]/`` holds ``*.crt`` (CAs, beside the system's) and pairs of ``NAME.cert`` and
``NAME.key`` (client certificates): containers-certs.d(5). The first directory that there is for a
host counts.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from unionmount.errors import FormatError
from unionmount.reference import printable
from unionmount.registry.configuration import config_home

SYSTEM = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


class Trust:
    """TLS settings by host; one that has none of its own shares the common one."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        directory: Path | None = None,
        system: Sequence[Path] = SYSTEM,
    ) -> None:
        self._directory = directory
        self._searched = (config_home(environment) / "containers" / "certs.d", *system)
        self._contexts: dict[tuple[Path | None, bool, bool], ssl.SSLContext] = {}

    def context(self, host: str, *, insecure: bool, bulk: bool = False) -> ssl.SSLContext:
        """How to speak TLS with ``HOST[:PORT]``; ``insecure`` believes everybody.

        Contexts for ``bulk`` are others: what the two offer in their handshakes (ALPN) differs.
        """
        directory = self._directory or self._of_host(host)
        key = (directory, insecure, bulk)
        if key not in self._contexts:
            self._contexts[key] = _context(directory, insecure=insecure)
        return self._contexts[key]

    def _of_host(self, host: str) -> Path | None:
        if "/" in host or host in ("", ".", ".."):
            return None
        for directory in self._searched:
            try:
                if (directory / host).is_dir():
                    return directory / host
            except PermissionError:
                continue
        return None


def _context(directory: Path | None, *, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()  # of the system, or SSL_CERT_FILE and SSL_CERT_DIR
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if directory is not None:
        for path in sorted(directory.iterdir()):
            _add(context, path)
    return context


def _add(context: ssl.SSLContext, path: Path) -> None:
    where = printable(str(path))
    try:
        if path.suffix == ".crt":
            context.load_verify_locations(path)
        elif path.suffix == ".cert":
            key = path.with_suffix(".key")
            if not key.exists():
                raise FormatError(f"{where}: no key beside the certificate ({printable(key.name)})")
            # Without a password of our own, OpenSSL would ask on the terminal.
            context.load_cert_chain(path, key, password=b"")
        elif path.suffix == ".key" and not path.with_suffix(".cert").exists():
            raise FormatError(f"{where}: no certificate beside the key")
    except ssl.SSLError as error:
        reason = error.reason or "no certificate or key in PEM"
        raise FormatError(f"{where}: {printable(reason)}") from error
