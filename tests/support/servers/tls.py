"""A certificate authority of the test's own, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates for servers on loopback."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.own = KeyPair(directory / "ca.crt", directory / "ca.key")
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", self.own.key, "-out", self.own.certificate, "-days", "2"),
            *("-subj", "/CN=unionmount test CA"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )

    def sign(self, name: str, *, rsa: bool = False) -> KeyPair:
        """A new certificate for ``localhost``, 127.0.0.1 and 127.0.0.2."""
        made = KeyPair(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        request = self._directory / f"{name}.csr"
        curve = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
        kind: tuple[str, ...] = ("rsa:2048",) if rsa else curve
        _openssl(
            *("req", "-newkey", *kind, "-nodes", "-keyout", made.key, "-out", request),
            *("-subj", f"/CN={name}"),
        )
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:127.0.0.2\n"
            "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
        )
        _openssl(
            *("x509", "-req", "-in", request, "-out", made.certificate, "-days", "2"),
            *("-CA", self.own.certificate, "-CAkey", self.own.key, "-CAcreateserial"),
            *("-extfile", extensions),
        )
        return made


def _openssl(*words: object) -> None:
    done = subprocess.run(
        ["openssl", *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
