"""Build the sample image: a docker-archive of four small layers, the same bytes every time.

    python scripts/make_sample.py [FILE]

Each layer shows something that a union of layers must get right: a file that is changed, a
whiteout, an opaque directory, a hard link, symlinks, an extended attribute.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEFAULT = Path(__file__).parent.parent / "sample" / "sample.tar"
TAG = "unionmount/sample:1"
CREATED = 1_700_000_000  # a fixed moment, 2023-11-14 22:13:20 UTC
_MINUTE = 60


class Layer:
    """A layer being written; ``history`` is what the image says made it."""

    def __init__(self, number: int, history: str) -> None:
        self.history = history
        self.mtime = CREATED + number * _MINUTE
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)

    def _add(self, name: str, kind: bytes, mode: int, content: bytes = b"", **more: Any) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.mtime, info.size = kind, mode, self.mtime, len(content)
        for key, value in more.items():
            setattr(info, key, value)
        self._tar.addfile(info, io.BytesIO(content))

    def directory(self, name: str, mode: int = 0o755, **more: Any) -> None:
        """Add a directory."""
        self._add(name, tarfile.DIRTYPE, mode, **more)

    def file(self, name: str, text: str, mode: int = 0o644, **more: Any) -> None:
        """Add a regular file."""
        self._add(name, tarfile.REGTYPE, mode, text.encode(), **more)

    def symlink(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, tarfile.SYMTYPE, 0o777, linkname=target)

    def hard_link(self, name: str, target: str) -> None:
        """Add a second name of a file."""
        self._add(name, tarfile.LNKTYPE, 0o644, linkname=target)

    def whiteout(self, directory: str, name: str) -> None:
        """Hide ``name`` of the layers below."""
        self._add(f"{directory}/.wh.{name}", tarfile.REGTYPE, 0o644)

    def opaque(self, directory: str) -> None:
        """Hide everything that the layers below have in ``directory``."""
        self._add(f"{directory}/.wh..wh..opq", tarfile.REGTYPE, 0o644)

    def finish(self) -> bytes:
        """The tar of the layer."""
        self._tar.close()
        return self._buffer.getvalue()


def base_layer() -> Layer:
    """A system in miniature."""
    layer = Layer(0, "/bin/sh -c #(nop) ADD file:base in / ")
    for name in ("bin", "etc", "etc/greeter", "usr", "usr/share", "usr/share/doc", "var"):
        layer.directory(name)
    layer.directory("tmp", 0o1777)
    layer.directory("var/cache")
    layer.file("bin/hello", '#!/bin/sh\ncat "$(dirname "$0")/../etc/motd"\n', 0o755)
    layer.hard_link("bin/hi", "bin/hello")
    layer.symlink("bin/greet", "hello")
    layer.symlink("lib", "usr/lib")
    layer.directory("usr/lib")
    layer.file("usr/lib/elevate", "#!/bin/sh\nid\n", 0o4755)
    layer.file("etc/motd", "Hello from the base layer.\n")
    layer.file("etc/os-release", 'NAME="Sample"\nVERSION_ID="1"\n')
    layer.file("etc/greeter/de.conf", "greeting=Guten Tag\n")
    layer.file("etc/greeter/en.conf", "greeting=Hello\n")
    layer.file("etc/greeter/fr.conf", "greeting=Bonjour\n")
    layer.file("usr/share/doc/README", "Nobody reads this.\n")
    layer.file("var/cache/list", "one\ntwo\nthree\n" * 300)
    return layer


def packages_layer() -> Layer:
    """Changes a file and adds some."""
    layer = Layer(1, "RUN install greeter 2 # buildkit")
    layer.directory("etc")
    layer.file("etc/motd", "Hello from the second layer: it changed this file.\n")
    layer.directory("usr/lib/greeter")
    layer.file("usr/lib/greeter/core.so", "\x00not really a library\n" * 50)
    layer.symlink("usr/lib/greeter/core.so.2", "core.so")
    layer.file(
        "usr/lib/greeter/origin",
        "built from source\n",
        pax_headers={"SCHILY.xattr.user.origin": "https://example.org/greeter"},
    )
    layer.file("var/cache/greeter.tmp", "left behind by the installation\n")
    return layer


def cleanup_layer() -> Layer:
    """Deletes files and replaces the content of a directory."""
    layer = Layer(2, "RUN rm -r /usr/share/doc /var/cache/* && configure --only en # buildkit")
    layer.whiteout("usr/share", "doc")
    layer.whiteout("var/cache", "list")
    layer.whiteout("var/cache", "greeter.tmp")
    layer.directory("etc/greeter")
    layer.opaque("etc/greeter")
    layer.file("etc/greeter/en.conf", "greeting=Good day\n")
    return layer


def application_layer() -> Layer:
    """What the image is for."""
    layer = Layer(3, "COPY app /app # buildkit")
    layer.directory("app", uid=1000, gid=1000)
    layer.file("app/greet.sh", "#!/bin/sh\nexec /bin/hello\n", 0o755, uid=1000, gid=1000)
    layer.file("app/VERSION", "1.0\n", uid=1000, gid=1000)
    return layer


@dataclass(frozen=True, slots=True)
class Built:
    """A finished layer."""

    tar: bytes
    diff_id: str
    history: str
    created: str


def finished(layer: Layer) -> Built:
    """Close a layer and name it by its digest."""
    tar = layer.finish()
    minutes = (layer.mtime - CREATED) // _MINUTE
    created = f"2023-11-14T22:{13 + minutes}:20Z"
    return Built(tar, hashlib.sha256(tar).hexdigest(), layer.history, created)


def config(layers: list[Built]) -> bytes:
    """The image config; one step of the history made no layer."""
    history: list[dict[str, object]] = [
        {"created": layer.created, "created_by": layer.history} for layer in layers
    ]
    command = 'CMD ["/app/greet.sh"]'
    history.append({"created": layers[-1].created, "created_by": command, "empty_layer": True})
    return json_bytes(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": layers[-1].created,
            "config": {"Cmd": ["/app/greet.sh"], "Env": ["PATH=/bin:/app"], "WorkingDir": "/app"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{x.diff_id}" for x in layers]},
            "history": history,
        }
    )


def json_bytes(value: object) -> bytes:
    """JSON with nothing that could differ from run to run."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def archive() -> bytes:
    """The whole docker-archive, as `docker save` lays it out."""
    makers = (base_layer, packages_layer, cleanup_layer, application_layer)
    layers = [finished(make()) for make in makers]
    image = config(layers)
    name = f"{hashlib.sha256(image).hexdigest()}.json"
    paths = [f"{layer.diff_id}/layer.tar" for layer in layers]
    manifest = json_bytes([{"Config": name, "RepoTags": [TAG], "Layers": paths}])

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        contents = [(path, layer.tar) for path, layer in zip(paths, layers, strict=True)]
        for path, content in [*contents, (name, image), ("manifest.json", manifest)]:
            info = tarfile.TarInfo(path)
            info.size, info.mtime = len(content), CREATED
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def main() -> int:
    """Write the archive."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(archive())
    return 0


if __name__ == "__main__":
    sys.exit(main())
