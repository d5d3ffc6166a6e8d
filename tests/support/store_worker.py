"""What the tests of the store run in processes of its own: to run many, and to kill them.

Talks over pipes, so that nobody has to sleep: it writes a line and waits for one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.image_files import MadeImage, manifest_of, sha256, small_image, tar
from unionmount.images.config import Config
from unionmount.images.image import ImageDocuments
from unionmount.images.manifest import Manifest
from unionmount.images.reference import Digest, Reference
from unionmount.store.check import StoreCheck
from unionmount.store.containers import Containers
from unionmount.store.garbage import prune, remove_image
from unionmount.store.layer_import import Expected
from unionmount.store.store import Store
from unionmount.store.unused import PruneChoice
from unionmount.transfer.load import load as load_images


def start_worker(*arguments: str) -> subprocess.Popen[str]:
    """A worker with pipes on stdin and stdout."""
    tests = Path(__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-m", "support.store_worker", *arguments],
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
    image = ImageDocuments.of(manifest, Config.parse(made.config, "c"), "i")
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
    images = load_images(Store(Path(root)), source, progress=stop.progress)
    say(f"loaded {len(images)}")


def hold_lease(root: str, digest: str) -> None:
    """Hold a lease until told to end."""
    with Store(Path(root)).lease("pull", "a test") as lease:
        lease.protect(Digest.parse(digest))
        lease.protect_image(Digest.parse(digest))
        say_and_wait("held")


def hand_lease_on(root: str, digest: str) -> None:
    """Make a lease, let a child have it, and end."""
    lease = Store(Path(root)).lease("mount", "a test")
    lease.protect(Digest.parse(digest))
    if os.fork() == 0:
        say_and_wait("held by the child")
        lease.close()
        os._exit(0)
    lease.close()
    os._exit(0)


def hold_layer_lock(root: str, digest: str) -> None:
    """Hold the lock of a layer until told to end."""
    with Store(Path(root)).layer_lock(Digest.parse(digest)) as lock:
        say_and_wait(f"acquired {lock.try_acquire()}")


_OPERATIONS: dict[str, Callable[[Store, Containers, str], object]] = {
    "rmi": lambda store, known, image: remove_image(store, known, image, force=True),
    "prune": lambda store, known, _: prune(store, known),
    "prune-all": lambda store, known, _: prune(store, known, PruneChoice(named=True)),
    "repair": lambda store, known, _: list(StoreCheck(store, known, repair=True).run()),
}


class Kill(Stop):
    """Kills the process before that step."""

    def _count(self, event: str) -> None:  # noqa: ARG002
        self._left -= 1
        if self._left == -1:
            os.kill(os.getpid(), signal.SIGKILL)


def operate(root: str, operation: str, argument: str, stop: Stop) -> None:
    """Do something to a store that is stopped on the way."""
    store = Store(Path(root))
    sys.addaudithook(stop.audit)
    _OPERATIONS[operation](store, Containers(store), argument)


def stop_on_the_way(root: str, operation: str, argument: str, stop_at: str) -> None:
    """The same, going on when it is told to."""
    operate(root, operation, argument, Stop(root, int(stop_at)))
    say("done")


def crash_server() -> None:
    """For each line (root, operation, argument, step) a child that is killed before that step."""
    for line in sys.stdin:
        root, operation, argument, step = json.loads(line)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                operate(root, operation, argument, Kill(root, step))
                status = 0
            finally:
                os._exit(status)
        _, how = os.waitpid(child, 0)
        say(str(os.waitstatus_to_exitcode(how)))


def main(command: str, *arguments: str) -> None:
    commands: dict[str, Callable[..., None]] = {
        "add-many": add_many,
        "load": load,
        "lease": hold_lease,
        "hand-on": hand_lease_on,
        "layer-lock": hold_layer_lock,
        "operate": stop_on_the_way,
        "crashes": crash_server,
    }
    commands[command](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
