"""Programs to compare with that the distribution has not, or has in an older version.

``python -m bench.peers`` fetches and builds them below ``bench/out/peers`` and prints where they
are: the newest fuse-overlayfs in C whose source the archive of this machine's apt has,
fuse-overlayfs 2, which is written in Rust, by cargo, and ratarmount from the package index of pip.
What is there already is left as it is, and what cannot be built is named.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT / "tests"))

from support.real_images import mirror, run  # noqa: E402 - it lives beside the tests

PLACE = PROJECT / "bench/out/peers"
SUITES = ("sid", "trixie")  # the newest first
_TO_BUILD = ("autoconf", "automake", "gcc", "make", "pkg-config", "libfuse3-dev", "xz-utils")


@dataclass(frozen=True, slots=True)
class Peer:
    """A program that was built, and its version."""

    program: Path
    version: str


# ---- what is there -------------------------------------------------------------------------------


def newest_fuse_overlayfs() -> Peer | None:
    """The one that was built here."""
    return next(_found("fuse-overlayfs-*", "fuse-overlayfs"), None)


def second_fuse_overlayfs() -> Peer | None:
    """The one in Rust that cargo built here."""
    return next(_found("cargo-fuse-overlayfs-*", "bin/fuse-overlayfs"), None)


def ratarmount() -> Peer | None:
    """The one that was installed here."""
    return next(_found("ratarmount-*", "bin/ratarmount"), None)


def _found(directories: str, program: str) -> Iterator[Peer]:
    for directory in sorted(PLACE.glob(directories)):
        if (directory / program).exists():
            yield Peer(directory / program, directory.name.rpartition("-")[2])


# ---- fuse-overlayfs ------------------------------------------------------------------------------


class _Apt:
    """apt with sources and a state of its own: this machine's are not touched."""

    def __init__(self, place: Path, suite: str) -> None:
        (place / "state/lists/partial").mkdir(parents=True)
        (place / "cache/archives/partial").mkdir(parents=True)
        (place / "sources.list").write_text(f"deb-src {mirror()} {suite} main\n")
        self._options = (
            *("-o", f"Dir::State={place / 'state'}", "-o", f"Dir::Cache={place / 'cache'}"),
            *("-o", f"Dir::Etc::SourceList={place / 'sources.list'}"),
            *("-o", "Dir::Etc::SourceParts=/dev/null", "-o", "APT::Sandbox::User=root"),
        )
        self._place = place

    def source(self, package: str) -> Path:
        """The tar of the upstream source; apt compares its checksum with the signed index.

        The tar alone: what a distribution adds is its packaging.
        """
        run("apt-get", *self._options, "update")
        subprocess.run(
            ["apt-get", *self._options, "source", "--tar-only", "--download-only", package],
            check=True,
            cwd=self._place,
            stdout=subprocess.DEVNULL,
        )
        return next(self._place.glob(f"{package}_*.orig.tar.*"))


def _source_of(package: str, work: Path) -> Path:
    """From the newest suite that can be reached."""
    for suite in SUITES:
        try:
            return _Apt(work / suite, suite).source(package)
        except (RuntimeError, subprocess.CalledProcessError) as error:
            print(f"{package} from {suite}: {error}", file=sys.stderr)
    raise RuntimeError(f"no source of {package} in {', '.join(SUITES)}")


def _install_tools() -> None:
    missing = [
        package
        for package in _TO_BUILD
        if subprocess.run(["dpkg", "-s", package], check=False, capture_output=True).returncode
    ]
    if missing:
        words = ("apt-get", "install", "-y", "-q", "--no-install-recommends", *missing)
        run("env", "DEBIAN_FRONTEND=noninteractive", *words)


def build_fuse_overlayfs() -> Peer:
    """Build it with the distribution's compiler flags, against the libfuse of this machine."""
    _install_tools()
    with tempfile.TemporaryDirectory(prefix="unionmount-peer-") as made:
        tar = _source_of("fuse-overlayfs", Path(made))
        version = tar.name.partition("_")[2].partition(".orig")[0]
        run("tar", "-C", made, "-xf", tar)
        (top,) = Path(made).glob("fuse-overlayfs-*")
        steps = f"./autogen.sh && ./configure CFLAGS='-g -O2' && make -j{os.cpu_count()}"
        run("sh", "-c", f"cd {top} && {steps}")
        directory = PLACE / f"fuse-overlayfs-{version}"
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(top / "fuse-overlayfs", directory / "fuse-overlayfs")
    return Peer(directory / "fuse-overlayfs", version)


def build_second_fuse_overlayfs() -> Peer:
    """Build version 2 with cargo, with the versions of its libraries that its authors chose."""
    if shutil.which("cargo") is None:
        raise RuntimeError("there is no cargo; install Rust 1.85 or newer")
    program = "fuse-overlayfs"
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".cargo-", dir=PLACE) as made:
        run("cargo", "install", "-q", "--locked", "--root", made, "--version", "^2", program)
        said = run(f"{made}/bin/{program}", "--version")
        version = said.splitlines()[0].rpartition(" ")[2]
        directory = PLACE / f"cargo-fuse-overlayfs-{version}"
        directory.mkdir(exist_ok=True)
        shutil.move(f"{made}/bin", directory / "bin")
    return Peer(directory / "bin" / program, version)


# ---- ratarmount ----------------------------------------------------------------------------------


def install_ratarmount() -> Peer:
    """Install it into a virtual environment of its own, which stays where it was made."""
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unionmount-peer-") as made:
        run(sys.executable, "-m", "venv", made)
        run(f"{made}/bin/python", "-m", "pip", "download", "-q", "-d", f"{made}/w", "ratarmount")
        (wheel,) = Path(made, "w").glob("ratarmount-*.whl")
        directory = PLACE / f"ratarmount-{wheel.name.split('-')[1]}"
        run(sys.executable, "-m", "venv", directory)
        pip = (directory / "bin/python", "-m", "pip", "install", "-q", "--no-index")
        run(*pip, "--find-links", f"{made}/w", "ratarmount")
    return Peer(directory / "bin/ratarmount", directory.name.rpartition("-")[2])


_WAYS: Sequence[tuple[Callable[[], Peer | None], Callable[[], Peer]]] = (
    (newest_fuse_overlayfs, build_fuse_overlayfs),
    (second_fuse_overlayfs, build_second_fuse_overlayfs),
    (ratarmount, install_ratarmount),
)


def main() -> None:
    """Build what is not there, and print the paths; 1 if something cannot be built."""
    failed = False
    for find, build in _WAYS:
        try:
            peer = find() or build()
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            print(f"{build.__name__}: {error}", file=sys.stderr)
            failed = True
        else:
            print(peer.program, peer.version, sep="\t")
    sys.exit(failed)


if __name__ == "__main__":
    main()
