"""What the tests of the store run in processes of its own: to run many, and to kill them.

Talks over pipes, so that nobody has to sleep: it writes a line and waits for one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from unit.imagefiles import MadeImage, manifest_of, sha256, small_image, tar

from unionmount import pull
from unionmount.image import Config, Image, Manifest
from unionmount.layer import Expected
from unionmount.reference import Digest, Reference
from unionmount.store import Store


def start_worker(*arguments: str) -> subprocess.Popen[str]:
    """A worker with pipes on stdin and stdout."""
    tests = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", "unit.imageworker", *arguments],
        env=os.environ | {"PYTHONPATH": str(tests)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def say_and_wait(word: str) -> None:
    say(word)
    sys.stdin.readline()


def add_layer(store: Store, data: bytes) -> None:
    with store.import_layer(Expected(Digest.parse(sha256(data)), "it")) as layer:
        layer.write(data)
        layer.finish()


def put_image(store: Store, made: MadeImage, name: str) -> None:
    manifest = Manifest.parse(manifest_of(made), "m")
    image = Image.of(manifest, Config.parse(made.config, "c"), "i")
    store.put_image([Reference.parse(name)], image)


def add_many(root: str, number: str) -> None:
    """Add layers that others add too, and images of our own."""
    store = Store(Path(root))
    say_and_wait("ready")
    for step in range(5):
        add_layer(store, tar({"same": str(step).encode() * 10_000}))
        put_image(store, small_image(f"{number}.{step}"), f"image{number}:{step}")


_STOPPING = frozenset(
    {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "fcntl.flock", "progress"}
)


class Stop:
    """Stops the process for good before its N-th step that others could see.

    Steps are calls of the operating system on files of the store, told by audit events, and
    reports of progress.
    """

    def __init__(self, root: str, number: int) -> None:
        self._root = root
        self._left = number

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in _STOPPING and (event != "open" or str(arguments[0]).startswith(self._root)):
            self._count(event)

    def progress(self, what: str, done: int, total: int | None) -> None:  # noqa: ARG002
        self._count("progress")

    def _count(self, event: str) -> None:
        self._left -= 1
        if self._left == -1:
            say_and_wait(f"stopped {event}")


def load(root: str, source: str, stop_at: str) -> None:
    """Load an image, and stop on the way."""
    stop = Stop(root, int(stop_at))
    sys.addaudithook(stop.audit)
    images = pull.load(Store(Path(root)), source, progress=stop.progress)
    say(f"loaded {len(images)}")


def main(command: str, *arguments: str) -> None:
    if command == "add-many":
        add_many(*arguments)
    else:
        load(*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
