"""What a container takes from its host: the seccomp profile, files in /etc, and the runtime."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from unionmount.errors import NotFoundError, UsageError
from unionmount.images.json_fields import MAX_DOCUMENT
from unionmount.runtime.seccomp import Conditions, convert
from unionmount.system.files import read_document
from unionmount.system.text import printable

PROFILES = (Path("/etc/containers/seccomp.json"), Path("/usr/share/containers/seccomp.json"))
"""The seccomp profile of the host, the administrator's first; podman uses the same."""
_OWN_PROFILE = "seccomp.json"  # in this package

RUNTIMES = ("crun", "runc", "youki")
"""Runtimes by preference."""
HOST_FILES = ("hosts", "resolv.conf", "hostname")
"""The names of the files below /etc that a container gets."""
_MAX_HOSTS = 1024 * 1024
_HOSTNAME_MAX = 64


def seccomp_profile(capabilities: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the host's seccomp profile, or the package's, converted for a container."""
    conditions = Conditions.of_host(capabilities)
    for path in PROFILES:
        if path.exists():
            return convert(read_document(path, MAX_DOCUMENT, os.environ), str(path), conditions)
    own = resources.files(__package__).joinpath(_OWN_PROFILE)
    return convert(own.read_bytes(), _OWN_PROFILE, conditions)


def find_runtime(wanted: str | None = None) -> str:
    """Return the path of an OCI runtime: ``wanted``, or the first that is installed.

    The directories for administrators are searched as well; an ordinary user's PATH lacks them.
    """
    where = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))
    for name in (wanted,) if wanted else RUNTIMES:
        if (found := shutil.which(name, path=where)) is not None:
            return found
    if wanted:
        name = printable(wanted)
        raise NotFoundError(f"runtime '{name}' was not found; install it, or give its path")
    raise NotFoundError(
        "no container runtime was found; install crun or runc (packages 'crun' and 'runc')"
    )


def is_known(path: str) -> bool:
    """Return whether a runtime is one of those whose annotations are known here."""
    return os.path.basename(path) in RUNTIMES  # noqa: PTH119


@dataclass(frozen=True, slots=True)
class HostFile:
    """A file that a container gets instead of its own, by name in a bundle and in /etc."""

    name: str
    content: bytes

    @property
    def path(self) -> str:
        """The path in the container."""
        return f"/etc/{self.name}"


def host_files(hostname: str, *, own_network: bool) -> list[HostFile]:
    """Return /etc/hosts, /etc/resolv.conf and /etc/hostname for a container.

    A container with a network of its own has no name server to ask.
    """
    resolv = b"" if own_network else _host_file("/etc/resolv.conf")
    contents = (_hosts(hostname, own_network=own_network), resolv, hostname.encode() + b"\n")
    return [HostFile(*pair) for pair in zip(HOST_FILES, contents, strict=True)]


def check_hostname(text: str) -> None:
    """Raise UsageError if the kernel, or programs, would not take a host's name."""
    words = text.split(".")
    plain = all(word and word.replace("-", "").isalnum() and word.isascii() for word in words)
    if not plain or len(text) > _HOSTNAME_MAX:
        raise UsageError(
            f"'{printable(text)}' is not a host name: at most {_HOSTNAME_MAX} letters, digits, "
            "'-' and '.'"
        )


def _hosts(name: str, *, own_network: bool) -> bytes:
    base = b"" if own_network else _host_file("/etc/hosts")
    if not base:
        base = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    known = {word for line in base.split(b"\n") for word in line.partition(b"#")[0].split()[1:]}
    if name.encode() in known:
        return base
    return base.rstrip(b"\n") + b"\n127.0.0.1\t" + name.encode() + b"\n"


def _host_file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read(_MAX_HOSTS)
    except OSError:
        return b""
