"""An image from a registry to the first ``ls``, beside other tools; and what it takes on disk.

Everything is on loopback: Debian's docker-registry, in a process of its own, serves an image whose
six layers are the files of Debian packages, compressed by skopeo. The same registry behind a link
that is slow for each connection shows the worth of several connections.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isal import igzip_lib
from support.servers import DockerRegistry

from bench.distant import DistantLink

LIMIT = "limit"
OURS = "unionmount pull + mount"
_COMMAND = Path(sys.executable).parent / "unionmount"
_NAME = "bench/six"
_TEN = 10
_STEP = 1 << 20
_LAYERS = (
    ("libllvm14", "libclang-cpp14"),
    ("openjdk-17-jre-headless",),
    ("gcc-12", "cpp-12", "g++-12", "libgcc-12-dev", "libstdc++-12-dev"),
    ("libicu72", "perl-modules-5.36", "libperl5.36"),
    ("git", "vim-runtime", "libpython3.11-stdlib"),
    ("bash", "coreutils", "libc6", "tzdata"),
)


_RATE = 100e6 / 8  # bytes per second of a connection to the distant registry
_ROUND_TRIP = 0.03
_LARGE, _SMALL = 256, 1  # MB of a layer in gzip, about
_SMALL_COUNT = 20
_RANDOM_SHARE = 0.36  # of the bytes of a made layer; the six layers are compressed as well as that
_MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Taken:
    """One number; ``limited`` if it can be compared with the limit."""

    what: str
    value: float
    unit: str
    runs: tuple[float, ...] = ()
    limited: bool = True


def _run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=1800, **options
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr[-2000:]}")
    return str(done.stdout.strip())


# ---- the image ---------------------------------------------------------------------------------


def _package_tar(packages: tuple[str, ...], work: Path) -> Path:
    """A plain tar of what is in packages."""
    root, debs = work / "root", work / "debs"
    for directory in (root, debs):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    _run("apt-get", "download", *packages, cwd=debs)
    for deb in debs.iterdir():
        _run("dpkg-deb", "-x", deb, root)
    made = work / "layer.tar"
    _run("tar", "--sort=name", "--numeric-owner", "-C", root, "-cf", made, ".")
    return made


def _small_layer(number: int) -> bytes:
    """A megabyte of its own for each of the ten images."""
    content = b"".join(hashlib.sha512(b"%d %d" % (number, i)).digest() for i in range(16384))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(f"srv/own-{number}")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class _Layout:
    """An OCI layout with gzip layers, to be sent by skopeo."""

    def __init__(self, top: Path) -> None:
        self.top = top
        (top / "blobs/sha256").mkdir(parents=True)
        (top / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._manifests: list[dict[str, Any]] = []

    def put(self, data: bytes) -> dict[str, Any]:
        digest = _digest(data)
        (self.top / "blobs/sha256" / digest.removeprefix("sha256:")).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def image(self, tag: str, layers: list[tuple[str, dict[str, Any]]]) -> None:
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id for diff_id, _ in layers]},
        }
        media = "application/vnd.oci.image"
        found = self.put(json.dumps(config).encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{media}.manifest.v1+json",
            "config": {"mediaType": f"{media}.config.v1+json"} | found,
            "layers": [{"mediaType": f"{media}.layer.v1.tar+gzip"} | blob for _, blob in layers],
        }
        row = {"mediaType": f"{media}.manifest.v1+json"} | self.put(json.dumps(manifest).encode())
        row["annotations"] = {"org.opencontainers.image.ref.name": tag}
        self._manifests.append(row)
        index = {"schemaVersion": 2, "manifests": self._manifests}
        (self.top / "index.json").write_text(json.dumps(index))


def _gzip_by_skopeo(work: Path) -> list[tuple[str, dict[str, Any], bytes]]:
    """Each layer as skopeo compresses it: diff_id, descriptor, bytes."""
    found = []
    for number, packages in enumerate(_LAYERS):
        plain = _package_tar(packages, work).read_bytes()
        source = _Layout(work / f"plain{number}")
        source.image("one", [(_digest(plain), source.put(plain))])
        index = json.loads((source.top / "index.json").read_text())
        digest = index["manifests"][0]["digest"].removeprefix("sha256:")
        path = source.top / "blobs/sha256" / digest
        manifest = json.loads(path.read_text())
        manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar"
        index["manifests"][0] |= source.put(json.dumps(manifest).encode())
        (source.top / "index.json").write_text(json.dumps(index))
        target = work / f"gzip{number}"
        _run("skopeo", "copy", "--dest-compress", f"oci:{source.top}:one", f"oci:{target}:one")
        index = json.loads((target / "index.json").read_text())
        blobs = target / "blobs/sha256"
        made = json.loads(
            (blobs / index["manifests"][0]["digest"].removeprefix("sha256:")).read_text()
        )["layers"][0]
        data = (blobs / made["digest"].removeprefix("sha256:")).read_bytes()
        assert gzip.decompress(data) == plain
        found.append((_digest(plain), {"digest": made["digest"], "size": made["size"]}, data))
        shutil.rmtree(source.top)
        shutil.rmtree(target)
    return found


def _build(directory: Path) -> None:
    """Fill a registry's directory with the image and ten more that share its layers."""
    work = directory / "work"
    work.mkdir(parents=True)
    layout = _Layout(work / "layout")
    layers = [(diff_id, layout.put(data)) for diff_id, _, data in _gzip_by_skopeo(work)]
    layout.image("six", layers)
    for number in range(_TEN):
        own = _small_layer(number)
        more = (_digest(own), layout.put(gzip.compress(own, mtime=0)))
        layout.image(f"ten{number}", [*layers, more])
    with DockerRegistry(directory) as registry:
        for tag in ("six", *(f"ten{number}" for number in range(_TEN))):
            target = f"docker://{registry.address}/{_NAME}:{tag}"
            _run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.top}:{tag}", target)
    shutil.rmtree(work)


def registry_directory(cache: Path) -> Path:
    """The directory of a registry that has the images, made unless ``cache`` has it."""
    key = hashlib.sha256(repr(_LAYERS).encode()).hexdigest()[:16]
    return _made_once(cache.resolve() / f"registry-{key}", _build)


def _made_once(found: Path, build: Callable[[Path], None]) -> Path:
    """A directory that ``build`` fills unless it is there; complete or not at all."""
    if not found.exists():
        partial = found.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        build(partial)
        partial.rename(found)
    return found


# ---- the images of the distant registry --------------------------------------------------------


def _made_layer(work: Path, name: str, size: int) -> tuple[str, bytes]:
    """The diff_id and the gzip form of a layer of files, which has about ``size`` MB in gzip."""
    plain, made = work / "plain.tar", random.Random(name)
    text = b"a line of text that is found again and again\n" * 1024
    with tarfile.open(plain, "w") as tar:
        for number in range(max(1, round(size / _RANDOM_SHARE))):
            content = bytearray()
            while len(content) < _MEGABYTE:  # random bytes and text in turns
                content += made.randbytes(int(65536 * _RANDOM_SHARE))
                content += text[: int(65536 * (1 - _RANDOM_SHARE))]
            info = tarfile.TarInfo(f"srv{number % 2}/{name}-{number}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with plain.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _run("gzip", "-1", "-n", plain)
    packed = work / "plain.tar.gz"
    data = packed.read_bytes()
    packed.unlink()
    return f"sha256:{digest}", data


def _build_distant(directory: Path, large: int) -> None:
    """Fill a registry's directory with an image of a large layer, and one of small ones."""
    work = directory / "work"
    work.mkdir(parents=True)
    layout = _Layout(work / "layout")
    wanted = {"large": [("large", large)]}
    wanted["small"] = [(f"small{number}", _SMALL) for number in range(_SMALL_COUNT)]
    for tag, layers in wanted.items():
        made = (_made_layer(work, name, size) for name, size in layers)
        layout.image(tag, [(diff_id, layout.put(data)) for diff_id, data in made])
    with DockerRegistry(directory) as registry:
        for tag in wanted:
            target = f"docker://{registry.address}/{_NAME}:{tag}"
            _run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout.top}:{tag}", target)
    shutil.rmtree(work)


def _distant_directory(cache: Path, *, quick: bool) -> Path:
    """The directory of a registry with these images, made unless ``cache`` has it."""
    large = 64 if quick else _LARGE
    found = cache.resolve() / f"distant-{large}-{_SMALL_COUNT}x{_SMALL}"
    return _made_once(found, lambda partial: _build_distant(partial, large))


# ---- who does it -------------------------------------------------------------------------------


class _Subject:
    """A tool with a place of its own, made new for each run."""

    name = ""
    tag = "six"

    def __init__(self, work: Path, address: str) -> None:
        kinds = [kind.name for kind in _SUBJECTS]
        number = kinds.index(self.name) if self.name in kinds else len(kinds)
        self.place = work / str(number)  # podman wants it short
        self.address = address

    def ref(self, tag: str = "") -> str:
        return f"{self.address}/{_NAME}:{tag or self.tag}"

    def first_list(self) -> None:
        raise NotImplementedError

    def pull(self, tag: str) -> None:
        raise NotImplementedError

    def undo(self) -> None:
        """End what the run left, outside of the clock."""

    def _list(self, where: str | Path) -> None:
        assert len(os.listdir(where)) > 1  # noqa: PTH208
        subprocess.run(["ls", where], check=True, stdout=subprocess.DEVNULL)

    def fresh(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)


class Unionmount(_Subject):
    """The commands of this checkout, with further variables of the environment."""

    name = OURS
    environment: Mapping[str, str] = {}

    def _command(self, *words: str | Path) -> str:
        environment = os.environ | {
            "UNIONMOUNT_ROOT": str(self.place / "store"),
            "UNIONMOUNT_RUNTIME_DIR": str(self.place / "run"),
            **self.environment,
        }
        return _run(_COMMAND, *words, env=environment)

    def pull(self, tag: str) -> None:
        self._command("pull", "-q", self.ref(tag))

    def first_list(self) -> None:
        self.pull(self.tag)
        self._mount()

    def _mount(self) -> None:
        mountpoint = self.place / "mnt"
        mountpoint.mkdir()
        self._command("mount", "--ro", self.ref(), mountpoint)
        self._list(mountpoint)

    def undo(self) -> None:
        self._command("umount", self.place / "mnt")


class _UnionmountMount(Unionmount):
    name = "unionmount mount, which pulls"

    def first_list(self) -> None:
        self._mount()


class _SkopeoUmoci(_Subject):
    name = "skopeo copy + umoci unpack"

    def first_list(self) -> None:
        layout, bundle = self.place / "layout", self.place / "bundle"
        source = f"docker://{self.ref()}"
        _run("skopeo", "copy", "--src-tls-verify=false", source, f"oci:{layout}:six")
        _run("umoci", "unpack", "--image", f"{layout}:six", bundle)
        self._list(bundle / "rootfs")


def _unmount(path: Path) -> None:
    """Undo the mount that the driver overlay makes of its own directory, where it has."""
    subprocess.run(["umount", path], check=False, capture_output=True)


class _Buildah(_Subject):
    tool, driver = "buildah", "vfs"

    def _command(self, *words: str) -> str:
        places = ("--root", self.place / "storage", "--runroot", self.place / "run")
        return _run(self.tool, "--storage-driver", self.driver, *places, *words)

    def pull(self, tag: str) -> None:
        self._command("pull", "-q", "--tls-verify=false", self.ref(tag))

    def first_list(self) -> None:
        container = self._command("from", "--tls-verify=false", self.ref())
        self._list(self._command("mount", container))

    def undo(self) -> None:
        self._command("umount", "--all")

    def fresh(self) -> None:
        if self.place.exists():
            self._command("rm", "--all")
            subprocess.run(
                ["umount", self.place / "storage/overlay"], check=False, capture_output=True
            )
        super().fresh()


class _BuildahVfs(_Buildah):
    name = "buildah pull + mount, vfs"


class _BuildahOverlay(_Buildah):
    name, driver = "buildah pull + mount, overlay", "overlay"


class _Podman(_Buildah):
    tool = "podman"

    def first_list(self) -> None:
        self.pull(self.tag)
        self._list(self._command("image", "mount", self.ref()))

    def undo(self) -> None:
        self._command("image", "umount", "--all")

    def fresh(self) -> None:
        _unmount(self.place / "storage/overlay")
        _Subject.fresh(self)


class _PodmanVfs(_Podman):
    name = "podman pull + mount, vfs"


class _PodmanOverlay(_Podman):
    name, driver = "podman pull + mount, overlay", "overlay"


_SUBJECTS: tuple[type[_Subject], ...] = (
    Unionmount,
    _UnionmountMount,
    _SkopeoUmoci,
    _BuildahVfs,
    _BuildahOverlay,
    _PodmanVfs,
    _PodmanOverlay,
)


class _ManyConnections(Unionmount):
    name = "several connections"


class _OneConnection(Unionmount):
    name = "one connection"
    environment: Mapping[str, str] = {"UNIONMOUNT_CONNECTIONS": "1"}


DISTANT: tuple[type[Unionmount], ...] = (_ManyConnections, _OneConnection)


# ---- the limit ---------------------------------------------------------------------------------


def _blobs(directory: Path) -> list[Path]:
    top = directory / "data/docker/registry/v2"
    revision = top / "repositories" / _NAME / "_manifests/tags/six/current/link"
    digest = revision.read_text().removeprefix("sha256:")
    blobs = top / "blobs/sha256"
    manifest = json.loads((blobs / digest[:2] / digest / "data").read_text())
    found = [one["digest"].removeprefix("sha256:") for one in manifest["layers"]]
    return [blobs / digits[:2] / digits / "data" for digits in found]


def _one_core(paths: list[Path], make: Callable[[], Any]) -> None:
    """Decompress, and hash what comes and what comes out, in one thread."""
    for path in paths:
        packed, plain, stream = hashlib.sha256(), hashlib.sha256(), make()
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_STEP):
                packed.update(piece)
                plain.update(stream.decompress(piece))


def _by_programs(paths: list[Path]) -> None:
    for path in paths:
        subprocess.run(
            ["sh", "-c", 'gzip -dc < "$1" | sha256sum', "sh", path], check=True, capture_output=True
        )


def _limits(paths: list[Path]) -> dict[str, Callable[[], None]]:
    def isal() -> Any:
        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)

    return {
        f"{LIMIT}: isal + sha256, one thread": lambda: _one_core(paths, isal),
        f"{LIMIT}: zlib + sha256, one thread": lambda: _one_core(
            paths, lambda: zlib.decompressobj(31)
        ),
        f"{LIMIT}: gzip -dc | sha256sum": lambda: _by_programs(paths),
    }


# ---- measuring ---------------------------------------------------------------------------------


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _times(work: Path, directory: Path, address: str, runs: int) -> Iterator[Taken]:
    """All take turns, so that the machine's moods hit all of them."""
    limits = _limits(_blobs(directory))
    subjects = [kind(work, address) for kind in _SUBJECTS]
    taken: dict[str, list[float]] = {}
    for _ in range(runs):
        for name, limit in limits.items():
            taken.setdefault(name, []).append(_seconds(limit))
        for subject in subjects:
            subject.fresh()
            os.sync()
            taken.setdefault(subject.name, []).append(_seconds(subject.first_list))
            subject.undo()
    for subject in subjects:
        subject.fresh()
    for name, times in taken.items():
        yield Taken(name, statistics.median(times), "s", tuple(times))


def _on_disk(path: Path) -> int:
    return int(_run("du", "-s", "--block-size=1", path).split()[0])


def _disk(work: Path, address: str) -> Iterator[Taken]:
    """Ten images, of which each has a small layer of its own."""
    ours, theirs = Unionmount(work, address), _PodmanOverlay(work, address)
    for who, subject in (("unionmount", ours), ("containers-storage, overlay", theirs)):
        subject.fresh()
        for number in range(_TEN):
            subject.pull(f"ten{number}")
        yield Taken(f"ten images that share six layers, {who}", _on_disk(subject.place) / 1e6, "MB")
        subject.fresh()


def distant(
    work: Path, images: Path, *, quick: bool, kinds: Sequence[type[Unionmount]] = DISTANT
) -> Iterator[Taken]:
    """The first list of images of a distant registry, for subjects that take turns."""
    directory = _distant_directory(images, quick=quick)
    for path in directory.rglob("data"):
        if path.is_file():
            path.read_bytes()  # in the page cache from here on
    with (
        DockerRegistry(directory) as registry,
        DistantLink(registry.address, _RATE, _ROUND_TRIP) as link,
    ):
        subjects = [kind(work, link.address) for kind in kinds]
        for tag, shown in (("large", "one large layer"), ("small", f"{_SMALL_COUNT} small layers")):
            taken: dict[str, list[float]] = {}
            for number in range(1 if quick else 5):
                for subject in subjects[:: -1 if number % 2 else 1]:
                    subject.fresh()
                    subject.tag = tag
                    os.sync()
                    taken.setdefault(subject.name, []).append(_seconds(subject.first_list))
                    subject.undo()
                    subject.fresh()
            for name, times in taken.items():
                what = f"distant registry, {shown}, {name}"
                yield Taken(what, statistics.median(times), "s", tuple(times), limited=False)


def measure(work: Path, images: Path, *, quick: bool) -> Iterator[Taken]:
    """All numbers of the part ``pull``."""
    directory = registry_directory(images)
    blobs = _blobs(directory)
    for path in blobs:
        path.read_bytes()  # in the page cache from here on
    yield Taken(
        "the image as it is transported", sum(one.stat().st_size for one in blobs) / 1e6, "MB"
    )
    yield Taken("its layers, plain", _plain_size(blobs) / 1e6, "MB")
    with DockerRegistry(directory) as registry:
        yield from _times(work, directory, registry.address, 1 if quick else 3)
        yield from _disk(work, registry.address)
    yield from distant(work, images, quick=quick)


def _plain_size(paths: list[Path]) -> int:
    total = 0
    for path in paths:
        stream = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_STEP):
                total += len(stream.decompress(piece))
    return total
