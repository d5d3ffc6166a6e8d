"""What a test may need of the machine, and whether it is there.

A test says ``@pytest.mark.needs("fuse", "umoci")``, a fixture asks ``require("buildah")``. A word
that is none of the names below is a program in PATH. What is missing skips the test with the
reason; with ``CI=true`` it fails it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

from unionmount.mounting.transport import why_not


def in_ci() -> bool:
    """Whether a missing part is a failure."""
    return os.environ.get("CI") == "true"


def _fuse() -> str | None:
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    if os.geteuid() and not shutil.which("fusermount3"):
        return "fusermount3 is not installed"
    return None


def _root() -> str | None:
    return "not root" if os.geteuid() else None


def _ordinary_user() -> str | None:
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        return "setpriv is not installed"
    if not shutil.which("fusermount3"):
        return "fusermount3 is not installed"
    return _fuse()


def _overlayfs() -> str | None:
    if os.geteuid():
        return "overlayfs: not root"
    return None if kernel_knows("overlay") else "the kernel has no overlayfs"


@cache
def kernel_knows(filesystem: str) -> bool:
    """Whether the kernel has a file system, or a module of it that it may load."""
    known = Path("/proc/filesystems")
    if f"\t{filesystem}\n" in known.read_text(encoding="ascii"):
        return True
    if os.geteuid() or not shutil.which("modprobe"):
        return False
    subprocess.run(["modprobe", filesystem], capture_output=True, check=False)
    return f"\t{filesystem}\n" in known.read_text(encoding="ascii")


def _backing(kind: str) -> str | None:
    if os.geteuid():
        return f"a file system of the test's own ({kind}): not root"
    if not kernel_knows(kind):
        return f"the kernel has no {kind}"
    if kind == "tmpfs":
        return None
    if not Path("/dev/loop-control").exists():
        return f"{kind}: no loop devices"
    return None if shutil.which(f"mkfs.{kind}") else f"mkfs.{kind} is not installed"


def _statx_of_fuse() -> str | None:
    """Whether the kernel asks a FUSE file system for birth times."""
    release = os.uname().release
    version = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    return None if version >= (6, 6) else f"Linux {release} is older than 6.6"


def _passthrough() -> str | None:
    """Whether the kernel may read and write files behind a FUSE file system itself."""
    release = os.uname().release
    version = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    return None if version >= (6, 9) else f"Linux {release} is older than 6.9: no passthrough"


def _io_uring() -> str | None:
    """Whether requests of FUSE may come through io_uring."""
    return why_not()


def _go() -> str | None:
    """Go, of a version whose templates are those that we know."""
    return _version(["go", "env", "GOVERSION"], r"go1\.(\d+)", 24)


def _gpgme() -> str | None:
    """What containers/image is built with."""
    command = ["pkg-config", "--exists", "gpgme"]
    if not shutil.which("pkg-config") or subprocess.run(command, check=False).returncode:
        return "libgpgme-dev is not installed"
    return None


def _binfmt_of_namespace() -> str | None:
    """Whether a user namespace can have a binfmt_misc of its own (Linux 6.7)."""
    words = ["unshare", "-Urm", "mount", "-t", "binfmt_misc", "none", "/proc/sys/fs/binfmt_misc"]
    if not shutil.which(words[0]):
        return "unshare is not installed"
    done = subprocess.run(words, capture_output=True, check=False)
    return "no binfmt_misc for each user namespace" if done.returncode else None


def _docker_cli() -> str | None:
    """The client of docker; it needs no daemon, the tests bring one of their own."""
    return _version(["docker", "--version"], r"version (\d+)", 26)


def _version(command: list[str], expression: str, least: int) -> str | None:
    if not shutil.which(command[0]):
        return f"{command[0]} is not installed"
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(expression, shown)
    if found is None or int(found[1]) < least:
        return f"{command[0]} is older than {least}"
    return None


def _module(name: str) -> str | None:
    return None if importlib.util.find_spec(name) else f"the module {name} is not installed"


_PROBES: dict[str, Callable[[], str | None]] = {
    "fuse": _fuse,
    "root": _root,
    "go": _go,
    "io_uring": _io_uring,
    "gpgme": _gpgme,
    "docker-cli": _docker_cli,
    "binfmt-of-namespace": _binfmt_of_namespace,
    "ordinary-user": _ordinary_user,
    "overlayfs": _overlayfs,
    "statx-of-fuse": _statx_of_fuse,
    "passthrough": _passthrough,
    "pandas": lambda: _module("pandas"),
    "pyarrow": lambda: _module("pyarrow"),
    "backing-ext4": lambda: _backing("ext4"),
    "backing-tmpfs": lambda: _backing("tmpfs"),
    "backing-xfs": lambda: _backing("xfs"),
    "backing-btrfs": lambda: _backing("btrfs"),
}


NOT_IN_DEBIAN = frozenset(
    {
        *("docker-cli", "statx-of-fuse", "passthrough", "io_uring", "binfmt-of-namespace"),
        *("pandas", "pyarrow"),
    }
)
"""What Debian 12 has not got, or too old: tests that want it are skipped in CI, too.

pandas and pyarrow are 300 MB in the environment of the tests; ``make test-long`` installs them.
"""


@cache
def missing(name: str) -> str | None:
    """Why the machine does not have ``name``; None where it does."""
    if name in _PROBES:
        return _PROBES[name]()
    return None if shutil.which(name) else f"{name} is not installed"
