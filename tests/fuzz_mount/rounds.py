"""One round: a mount, everybody who does something to it, and what must hold afterwards."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NoReturn, Protocol

from differential.worker import Identity, become
from support.mounting import is_mounted

from fuzz_mount.board import Board
from fuzz_mount.daemon import Daemon
from fuzz_mount.owners import Owner
from fuzz_mount.place import SECRET, Place, detach_all
from fuzz_mount.users import User
from fuzz_mount.watch import PATIENCE, Stuck, Watch, stacks

_LOOK = 0.1  # seconds


class Failed(AssertionError):
    """What must not happen."""


class Actor(Protocol):
    """Somebody with a random stream."""

    def choose(self) -> str: ...
    def act(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Part:
    """An actor: who it is, where its root is, and what it does there."""

    name: str
    uid: int
    root: Path
    make: Callable[[Random, Callable[[], str]], Actor]


def parts_of(place: Place, trees: list[int]) -> list[Part]:
    """Everybody in a round. ``trees``: descriptors of what root's owners may mount."""
    variant = place.variant
    targets = place.targets()
    users = [
        Part(f"user{number}", uid, place.mountpoint, lambda rng, where: User(rng, SECRET, where))
        for number, uid in enumerate(variant.users)
    ]
    below = trees if variant.uid == 0 else []
    owners = [
        Part(
            "upper", variant.uid, place.upper, lambda rng, where: Owner(rng, targets, below, where)
        ),
        Part("work", variant.uid, place.work, lambda rng, where: Owner(rng, targets, below, where)),
    ]
    if not variant.image:
        owners.append(
            Part("lower", 1000, place.lower, lambda rng, where: Owner(rng, targets, [], where))
        )
    if not variant.image and variant.uid == 0:
        owners.append(
            Part("root", 0, place.lower, lambda rng, where: Owner(rng, targets, below, where))
        )
    return users + owners


# ---- in the actor's process --------------------------------------------------------------------


def _live(part: Part, number: int, board: Board, seed: str) -> NoReturn:
    status = 1
    try:
        os.umask(0o022)
        identity = Identity(part.name, part.uid, part.uid)
        board.begin(number, "chroot")
        become(identity, str(part.root))
        actor = part.make(Random(f"{seed}/{part.name}"), board.prefix)
        while not board.stopped:
            board.begin(number, actor.choose())
            if actor.act():
                board.succeed(number)
        status = 0
    except OSError as error:
        # what it was to use has gone (the daemon refused, or was ended)
        sys.stderr.write(f"{part.name}: {error}\n")
    except BaseException:  # noqa: BLE001 - it must not go on as its parent
        traceback.print_exc()
        status = 2
    finally:
        os._exit(status)


# ---- in the fuzzer -----------------------------------------------------------------------------


class Crowd:
    """The processes of a round, to be closed."""

    def __init__(self, parts: list[Part], seed: str) -> None:
        self._parts = parts
        self.board = Board(len(parts))
        self._seed = seed
        self._watch = Watch(self.board, len(parts))
        self._lives = [0] * len(parts)
        self.running: dict[int, int] = {}
        for number in range(len(parts)):
            self._start(number)

    def _start(self, number: int) -> None:
        self._lives[number] += 1
        child = os.fork()
        if child == 0:
            seed = f"{self._seed}/{self._lives[number]}"
            _live(self._parts[number], number, self.board, seed)
        self.running[number] = child

    def look(self, *, again: bool = True) -> None:
        """See who has ended, and who is stuck."""
        for number, pid in list(self.running.items()):
            ended, how = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self.running[number]
                self._judge(number, os.waitstatus_to_exitcode(how), again)
        self._watch.look(self.running)

    def _judge(self, number: int, status: int, again: bool) -> None:
        if status == 0:
            return
        if status not in (1, -signal.SIGBUS):
            name, text = self._parts[number].name, self.board.text(number)
            raise Failed(f"{name} ended with {status} in {text}")
        if again:
            self._start(number)

    def finish(self) -> None:
        """Let all of them end by themselves."""
        self.board.stop()
        while self.running:
            self.look(again=False)
            time.sleep(0.01)

    def calls(self) -> Counter[str]:
        """How many system calls there were on the mount, and how many changes below it."""
        total: Counter[str] = Counter()
        for number, part in enumerate(self._parts):
            what = "calls" if part.name.startswith("user") else "changes"
            total[what] += self.board.count(number)
            total[f"{what} made"] += self.board.successes(number)
        return total

    def close(self) -> None:
        """Kill who is left."""
        for pid in self.running.values():
            os.kill(pid, signal.SIGKILL)
        for pid in self.running.values():
            end = time.monotonic() + PATIENCE
            while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < end:
                time.sleep(0.01)


@contextmanager
def _trees(place: Place) -> Iterator[list[int]]:
    tops = (place.mountpoint, place.upper, place.lower, place.elsewhere)
    trees = [os.open(top, os.O_PATH | os.O_DIRECTORY) for top in tops]
    try:
        yield trees
    finally:
        for tree in trees:
            os.close(tree)


def _crowd_for(place: Place, daemon: Daemon, seed: str, seconds: float) -> Counter[str]:
    with _trees(place) as trees:
        crowd = Crowd(parts_of(place, trees), seed)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and daemon.lives:
                crowd.look()
                crowd.board.move()
                time.sleep(_LOOK)
            crowd.finish()
            return crowd.calls()
        except Stuck as stuck:
            stuck.add_note(f"the daemon:\n{stacks(daemon.process.pid)}")
            daemon.end()  # or nobody comes back
            raise
        finally:
            crowd.close()


def _take_away(place: Place, daemon: Daemon) -> None:
    """Unmount, as it is done everywhere."""
    detach_all([place.lower, place.upper.parent])
    end = time.monotonic() + PATIENCE
    while is_mounted(place.mountpoint) and daemon.lives:
        daemon.process.terminate()  # which unmounts
        time.sleep(0.05)
        if time.monotonic() > end:
            raise Stuck("it can't be unmounted")
    status = daemon.wait_for_end()
    if status != 0:
        raise Failed(f"the daemon ended with {status}")
    if is_mounted(place.mountpoint):
        raise Failed("something is still mounted")


def _check(place: Place, daemon: Daemon) -> None:
    reports, said = daemon.reports(), daemon.said()
    if reports:
        raise Failed(f"a sanitizer has found something:\n{reports}")
    if "Traceback" in said:
        raise Failed("an exception")
    now = place.untouched()
    changed = [path for path, facts in place.before.items() if now.get(path) != facts]
    if changed or now.keys() - place.before.keys():
        raise Failed(f"what nobody may touch has changed: {changed or sorted(now)}")


def one_round(place: Place, options: str, seed: str, seconds: float) -> Counter[str] | None:
    """Mount, let everybody act, unmount, check: how many calls. None where it would not mount."""
    daemon = Daemon(place, options)
    try:
        calls = None
        if daemon.wait_for_mount():
            calls = _crowd_for(place, daemon, seed, seconds)
            _take_away(place, daemon)
        _check(place, daemon)
    except AssertionError as failure:
        daemon.end()
        failure.add_note(f"{daemon.reports()}\nthe daemon said:\n{daemon.said()[-20_000:]}")
        raise
    except BaseException:
        daemon.end()
        raise
    if calls is None:
        _check_refusal(daemon.process.returncode, daemon.said())
    return calls


def _check_refusal(status: int, said: str) -> None:
    """What was left may be refused, in one line that says why."""
    if status not in (1, 2) or not said.startswith("unionmount: "):
        raise Failed(f"a mount was refused with {status}: {said}")
    sys.stdout.write(f"    refused: {said}")
