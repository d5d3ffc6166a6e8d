"""Build a real image with real tools, in every form that images travel in.

``python tests/support/real_images.py DIR`` or ``real_image(DIR)``. debootstrap makes the base;
umoci adds layers by comparing trees (repack), by an opaque insertion and by a whiteout; buildah
adds layers of its own kind; skopeo converts. ``umoci unpack`` leaves the reference tree. The result
is kept: it is built again only when this file changes. Needs root and some 2 GB of disk while it
works.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOOLS = ("debootstrap", "umoci", "buildah", "skopeo")

_SUITE = "bookworm"
_BUILT = "built"  # the layers that every tool can apply
_REPACKED = "repacked"  # all layers but those of `umoci insert`
_FULL = "full"


@dataclass(frozen=True, slots=True)
class RealImage:
    """Where the forms of the image are, and the trees that umoci unpacked from it."""

    base: Path

    def reference(self, form: str) -> Path:
        """The tree that ``umoci unpack`` made of the same layers in gzip."""
        return self.base / f"unpacked-{self._tag(form)}" / "rootfs"

    def _tag(self, form: str) -> str:
        # umoci's insertions are tars without trailer; making them zstd:chunked hangs skopeo.
        return _REPACKED if form == "oci-zstd-chunked" else _FULL

    @property
    def docker_archive(self) -> Path:
        """A docker-archive: layers are plain tars inside a tar."""
        return self.base / "docker.tar"

    def built(self) -> dict[str, str]:
        """The lower layers alone, for tools that can't apply umoci's."""
        return {
            "docker-archive": f"docker-archive:{self.base / 'built.tar'}",
            "oci-gzip": f"oci:{self.base / 'gzip'}:{_BUILT}",
        }

    def sources(self) -> dict[str, str]:
        """Every form as SOURCE of ``unionmount mount``."""
        return {
            "docker-archive": f"docker-archive:{self.docker_archive}",
            "oci-archive": f"oci-archive:{self.base / 'oci.tar'}",
            "oci-gzip": f"oci:{self.base / 'gzip'}:{_FULL}",
            "oci-zstd": f"oci:{self.base / 'zstd'}:{_FULL}",
            "oci-zstd-chunked": f"oci:{self.base / 'chunked'}:{_REPACKED}",
        }


def run(*command: str | os.PathLike[str]) -> str:
    """Run a tool; its output, or RuntimeError with what it said."""
    done = subprocess.run(command, capture_output=True, check=False, timeout=900)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")[-4000:]
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{said}")
    return done.stdout.decode(errors="replace").strip()


def mirror() -> str:
    """The first archive that apt itself is set up to take the suite's packages from."""
    found = run(
        *("apt-get", "indextargets", "--format", "$(REPO_URI)"),
        *(f"Codename: {_SUITE}", "Component: main", "Created-By: Packages"),
    )
    if not found:
        raise RuntimeError(f"apt knows no archive of {_SUITE}")
    return found.splitlines()[0]


# ---- what the layers do ------------------------------------------------------------------------


def _write(path: Path, content: bytes, *, mode: int = 0o644, mtime_ns: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))


def _capability(path: Path) -> None:
    net_raw = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
    os.setxattr(path, "security.capability", net_raw)


def populate(root: Path) -> None:
    """What the base layer has besides Debian."""
    top = root / "opt/fixture"
    for name in ("gone", "gone-for-buildah", "opaque", "replaced", "kept", "emptied"):
        for number in range(3):
            _write(top / name / f"file{number}", f"{name} {number}\n".encode())
        _write(top / name / "deep/er/file", b"deep\n")
    _write(top / "hardlinks/a", b"one inode\n" * 100)
    for name in ("b", "c"):
        os.link(top / "hardlinks/a", top / "hardlinks" / name)
    _write(top / "hardlinks/x", b"another inode\n")
    os.link(top / "hardlinks/x", top / "kept/x")
    _write(top / "becomes-directory", b"a file\n")
    _write(top / "becomes-file/child", b"a child\n")
    _write(top / "becomes-symlink/child", b"a child\n")
    (top / "symlink-becomes-directory").symlink_to("kept")
    (top / "symlink-out").symlink_to("../" * 20 + "etc/passwd")
    (top / "symlink-dangling").symlink_to("nowhere")
    _write(top / ("n" * 255), b"a long name\n")
    _write(top / ("d" * 120) / ("e" * 120) / "file", b"a long path\n")
    _write(top / "a name with spaces\nand a newline", b"\n")
    _write(top / "setuid", b"#!/bin/true\n", mode=0o4755)
    _write(top / "old", b"1960\n", mtime_ns=-315_619_200 * 10**9)
    _write(top / "precise", b"ns\n", mtime_ns=1_600_000_000_123_456_789)
    _write(top / "empty", b"")


def rebuild(root: Path) -> None:
    """The second layer, which buildah commits."""
    top = root / "opt/fixture"
    (top / "kept/file1").unlink()
    shutil.rmtree(top / "gone-for-buildah")
    with (top / "hardlinks/x").open("ab") as file:
        file.write(b"changed by buildah\n")
    os.link(top / "setuid", top / "setuid-too")
    _write(top / "comes-back", b"a file\n")
    shutil.rmtree(root / "usr/share/doc")
    special(top / "special")


def rebuild_again(root: Path) -> None:
    """The third: some of what the second did is undone."""
    top = root / "opt/fixture"
    _write(root / "usr/share/doc/back", b"documentation again\n")
    (top / "setuid").unlink()
    (top / "comes-back").unlink()
    _write(top / "comes-back/child", b"a directory now\n")
    (top / "special/null").unlink()
    os.mknod(top / "special/zero", 0o20666, os.makedev(1, 5))


def change(root: Path) -> None:
    """The fourth: all kinds of changes, found by umoci's comparison."""
    top = root / "opt/fixture"
    (top / "gone/file0").unlink()
    shutil.rmtree(top / "gone/deep")
    shutil.rmtree(top / "replaced")
    _write(top / "replaced/new", b"new\n")
    for child in list((top / "emptied").iterdir()):
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    with (top / "hardlinks/a").open("ab") as file:
        file.write(b"changed through one name\n")
    (top / "becomes-directory").unlink()
    _write(top / "becomes-directory/child", b"a child\n")
    shutil.rmtree(top / "becomes-file")
    _write(top / "becomes-file", b"a file now\n")
    shutil.rmtree(top / "becomes-symlink")
    (top / "becomes-symlink").symlink_to("kept")
    (top / "symlink-becomes-directory").unlink()
    _write(top / "symlink-becomes-directory/child", b"not in kept\n")
    special(top / "special-too")
    (top / "kept").chmod(0o1777)
    os.chown(top / "kept/file0", 12345, 2_000_000)


def special(top: Path) -> None:
    """Devices, a FIFO, extended attributes, capabilities and a sparse file."""
    top.mkdir()
    for name, mode, device in (("null", 0o20666, (1, 3)), ("block", 0o60600, (259, 70_000))):
        os.mknod(top / name, mode, os.makedev(*device))
        (top / name).chmod(mode & 0o7777)  # whatever the umask is
    os.mkfifo(top / "fifo", 0o640)
    _write(top / "ping", b"\x7fELF", mode=0o755)
    _capability(top / "ping")
    _write(top / "attributes", b"x\n")
    os.setxattr(top / "attributes", "user.comment", b"a value\0with a NUL")
    os.setxattr(top / "attributes", "user.long", b"v" * 3000)
    os.setxattr(top / "attributes", "trusted.secret", b"\x01\x02")
    os.setxattr(top, "user.directory", b"yes")
    with (top / "sparse").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"end")


# ---- the tools ---------------------------------------------------------------------------------


def _base(layout: Path, work: Path) -> None:
    image, bundle = f"{layout}:base", work / "base"
    root = bundle / "rootfs"
    run("umoci", "init", "--layout", layout)
    run("umoci", "new", "--image", image)
    run("umoci", "unpack", "--image", image, bundle)
    run("debootstrap", "--variant=minbase", _SUITE, root, mirror())
    shutil.rmtree(root / "var/cache/apt/archives")
    populate(root)
    run("umoci", "repack", "--image", image, bundle)


def _buildah_layers(layout: Path, out: Path, work: Path) -> None:
    def buildah(*words: str) -> str:
        places = ("--root", work / "storage", "--runroot", work / "run")
        return run("buildah", "--storage-driver", "vfs", *places, *words)

    # By skopeo: buildah would name the image after the path, which may be no name.
    source = "localhost/base"
    storage = f"[vfs@{work / 'storage'}+{work / 'run'}]"
    run("skopeo", "copy", f"oci:{layout}:base", f"containers-storage:{storage}{source}")
    steps: list[Callable[[Path], None]] = [rebuild, rebuild_again]
    for number, step in enumerate(steps):
        container = buildah("from", "--pull-never", source)
        step(Path(buildah("mount", container)))
        buildah("umount", container)
        source = f"localhost/step{number}"
        buildah("commit", "--format", "oci", container, source)
        buildah("rm", container)
    buildah("push", source, f"oci:{out}:{_BUILT}")


def _umoci_layers(layout: Path, work: Path) -> None:
    # After buildah's: it can't apply what umoci writes for a directory that became a file (the
    # file, and then whiteouts of the former children below its name).
    repacked, bundle = f"{layout}:{_REPACKED}", work / "bundle"
    run("umoci", "tag", "--image", f"{layout}:{_BUILT}", _REPACKED)
    run("umoci", "unpack", "--image", repacked, bundle)
    change(bundle / "rootfs")
    run("umoci", "repack", "--image", repacked, bundle)
    run("umoci", "tag", "--image", repacked, _FULL)
    inserted, full = work / "inserted", f"{layout}:{_FULL}"
    _write(inserted / "only", b"all that is left\n")
    run("umoci", "insert", "--opaque", "--image", full, inserted, "/opt/fixture/opaque")
    run("umoci", "insert", "--whiteout", "--image", full, "/opt/fixture/gone")


def _convert(base: Path) -> None:
    def skopeo(tag: str, target: str, *options: str) -> None:
        run("skopeo", "copy", *options, f"oci:{base / 'gzip'}:{tag}", target)

    skopeo(_FULL, f"oci:{base / 'zstd'}:{_FULL}", "--dest-compress-format", "zstd")
    chunked = f"oci:{base / 'chunked'}:{_REPACKED}"
    skopeo(_REPACKED, chunked, "--dest-compress-format", "zstd:chunked")
    skopeo(_FULL, f"oci-archive:{base / 'oci.tar'}:{_FULL}")
    skopeo(_FULL, f"docker-archive:{base / 'docker.tar'}:unionmount/real:{_FULL}")
    skopeo(_BUILT, f"docker-archive:{base / 'built.tar'}:unionmount/real:{_BUILT}")
    for tag in (_REPACKED, _FULL):
        run("umoci", "unpack", "--image", f"{base / 'gzip'}:{tag}", base / f"unpacked-{tag}")


def _build(base: Path) -> None:
    work = base / "work"
    work.mkdir(parents=True)
    _base(work / "layout", work)
    _buildah_layers(work / "layout", base / "gzip", work)
    _umoci_layers(base / "gzip", work)
    shutil.rmtree(work)
    _convert(base)


def real_image(cache: Path) -> RealImage:
    """The image, built now unless ``cache`` has it; of several processes one builds it."""
    key = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    base = cache.resolve() / f"real-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            partial = base.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            _build(partial)
            partial.rename(base)
    return RealImage(base)


if __name__ == "__main__":
    for form, place in real_image(Path(sys.argv[1])).sources().items():
        sys.stdout.write(f"{form}\t{place}\n")
