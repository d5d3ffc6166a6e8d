"""A user namespace with a binfmt_misc of its own, in which qemu is registered or not.

Registrations hold for the namespace and nowhere else (Linux 6.7), so nothing of the machine is
changed. The namespace ends with a process, which the context manager kills.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.user_namespaces import user_namespace

_MOUNT = ["mount", "-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"]
# as in /usr/lib/binfmt.d/qemu-aarch64.conf of Debian
_MAGIC = r"\x7fELF\x02\x01\x01" + r"\x00" * 9 + r"\x02\x00\xb7\x00"
_MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00" + r"\xff" * 8 + r"\xfe\xff\xff\xff"
QEMU = "qemu-aarch64-static"


@contextmanager
def namespace_without_emulators(directory: Path) -> Iterator[tuple[str, ...]]:
    """Yield a prefix of commands, which are then root's in the namespace and run in a directory."""
    with user_namespace("0 0 65536") as enter:
        process = subprocess.Popen(["sleep", "infinity"], preexec_fn=enter)  # noqa: PLW1509
    try:
        prefix = ["nsenter", "-t", str(process.pid), "-U", "-m", "--setuid", "0", "--setgid", "0"]
        prefix.append(f"--wdns={directory}")
        subprocess.run([*prefix, *_MOUNT], check=True)
        yield tuple(prefix)
    finally:
        process.kill()
        process.wait()


def registration() -> str:
    """Return the line that registers qemu for arm64; F: it is opened now, in this root."""
    program = shutil.which(QEMU)
    assert program is not None, f"needs {QEMU}"
    return f":qemu-aarch64:M::{_MAGIC}:{_MASK}:{program}:F"


def register(prefix: tuple[str, ...]) -> None:
    """Register qemu for arm64 in a namespace."""
    command = [*prefix, "tee", "/proc/sys/fs/binfmt_misc/register"]
    subprocess.run(command, input=registration(), text=True, check=True, stdout=subprocess.DEVNULL)
