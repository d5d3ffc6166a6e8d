"""TLS: the system's CAs, certs.d, and client certificates.

``certs.d/HOST[:PORT]/`` holds ``*.crt`` (CAs, in addition to the system's) and pairs of
``NAME.cert`` and ``NAME.key`` (client certificates): containers-certs.d(5). The first existing
directory of a host counts.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from unionmount.errors import FormatError
from unionmount.registry.registries_conf import config_home
from unionmount.system.files import open_regular, opened_for_library
from unionmount.system.text import printable

SYSTEM = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


class Trust:
    """The TLS settings of hosts; a host without its own shares the common ones."""

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        directory: Path | None = None,
        system: Sequence[Path] = SYSTEM,
    ) -> None:
        self._directory = directory
        self._searched = (config_home(environment) / "containers" / "certs.d", *system)
        self._certificates = environment.get("SSL_CERT_FILE")
        self._contexts: dict[tuple[Path | None, bool, bool, bool], ssl.SSLContext] = {}

    def context(
        self, host: str, *, insecure: bool, bulk: bool = False, elsewhere: bool = False
    ) -> ssl.SSLContext:
        """Return the TLS settings for ``HOST[:PORT]``; ``insecure`` trusts every certificate.

        Contexts for ``bulk`` differ in their handshakes (ALPN). ``elsewhere`` is a host of a
        redirect, which does not see the client certificates of a directory for the registry.
        """
        directory = self._directory or self._of_host(host)
        anonymous = elsewhere and self._directory is not None
        key = (directory, insecure, bulk, anonymous)
        if key not in self._contexts:
            self._contexts[key] = self._context(directory, insecure=insecure, anonymous=anonymous)
        return self._contexts[key]

    def _context(
        self, directory: Path | None, *, insecure: bool, anonymous: bool
    ) -> ssl.SSLContext:
        if self._certificates and Path(self._certificates).exists():
            os.close(open_regular(self._certificates))  # OpenSSL would wait for a FIFO
        context = ssl.create_default_context()  # of the system, or SSL_CERT_FILE and SSL_CERT_DIR
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if directory is not None:
            for path in sorted(directory.iterdir()):
                if path.suffix == ".crt" or not anonymous:
                    _add(context, path)
        return context

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


def _add(context: ssl.SSLContext, path: Path) -> None:
    where = printable(str(path))
    try:
        if path.suffix == ".crt":
            with opened_for_library(path) as name:
                context.load_verify_locations(name)
        elif path.suffix == ".cert":
            key = path.with_suffix(".key")
            if not key.exists():
                raise FormatError(
                    f"{where}: the key is missing beside the certificate ({printable(key.name)})"
                )
            # Without a password callback, OpenSSL would ask on the terminal.
            with opened_for_library(path) as name, opened_for_library(key) as key_name:
                context.load_cert_chain(name, key_name, password=b"")
        elif path.suffix == ".key" and not path.with_suffix(".cert").exists():
            raise FormatError(f"{where}: the certificate is missing beside the key")
    except ssl.SSLError as error:
        reason = error.reason or "no certificate or key in PEM"
        raise FormatError(f"{where}: {printable(reason)}") from error
