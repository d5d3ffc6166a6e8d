"""What rows of real work need and this machine may lack: a Debian root with packages to install.

``python -m bench.supplies`` makes it once, below ``bench/out/supplies``, with debootstrap and apt.
No row uses the network: where this has not been done, the row is named as missing.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT / "tests"))

from support.real_images import mirror, run  # noqa: E402 - it lives beside the tests

from bench import lower  # noqa: E402 - likewise

PLACE = PROJECT / "bench/out/supplies"
PACKAGE = "build-essential"  # some 60 packages, of 200 MB when they are installed
_SUITE = "bookworm"
_ROOT = PLACE / f"{_SUITE}-{PACKAGE}"


def debian_root() -> Path | None:
    """A Debian root in whose apt the packages are, each as a .deb; None where it is not made."""
    return _ROOT if _ROOT.exists() else None


def make_debian_root() -> Path:
    """Make it, or RuntimeError."""
    if shutil.which("debootstrap") is None:
        raise RuntimeError("debootstrap is not installed")
    unfinished = _ROOT.with_suffix(".partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    PLACE.mkdir(parents=True, exist_ok=True)
    run("debootstrap", "--variant=minbase", _SUITE, unfinished, mirror())
    lower.copy_settings(unfinished)
    with lower.in_chroot(unfinished) as call:
        call("apt-get", "update", "-q")
        call("apt-get", "clean")
        words = ("--download-only", "--no-install-recommends", PACKAGE)
        call("apt-get", "install", "-y", "-q", *words)
    unfinished.rename(_ROOT)
    return _ROOT


def main() -> None:
    """Make what is not there, and print where it is."""
    print(debian_root() or make_debian_root())


if __name__ == "__main__":
    main()
