"""The lower layers of the tests that kill: a part for each worker, with everything in it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from differential.lowers import OLD, Layer, Node, Stack, build
from support.compare import differences, snapshot

BIG = 200_000  # more than copy-up of metadata alone takes along
_SMALL, _BIGS, _GROUPS, _DIRECTORIES = 10, 3, 4, 4


def _file(rng: random.Random, size: int, *, note: bool = False) -> Node:
    return Node(
        mode=rng.choice([0o644, 0o600, 0o755]),
        uid=rng.randrange(3),
        mtime_ns=OLD + rng.randrange(10**9),
        data=((0, rng.randbytes(size)),),
        xattrs=(("user.note", rng.randbytes(20)),) if note else (),
    )


def _below(part: str, rng: random.Random) -> Layer:
    found = {part: Node("dir", mode=0o755)}
    for number in range(_SMALL):
        found[f"{part}/small{number}"] = _file(rng, rng.randrange(3000))
    for number in range(_BIGS):
        found[f"{part}/big{number}"] = _file(rng, BIG + number)
    for number in range(_GROUPS):
        first = f"{part}/group{number}"
        found[first] = _file(rng, BIG if number == 0 else 100 * number)
        for name in (f"{part}/links/also{number}", f"{part}/directory{number}/sub/too"):
            found[name] = Node("link", target=first)
    for number in range(_DIRECTORIES):
        top = f"{part}/directory{number}"
        found[top] = Node("dir", mode=0o750, gid=number)
        found[f"{top}/sub"] = Node("dir", mode=0o711)
        for name in ("one", "two", "sub/three", "sub/four"):
            found[f"{top}/{name}"] = _file(rng, 500, note=True)
    found[f"{part}/symlink"] = Node("symlink", mode=0o777, target="small1")
    found[f"{part}/fifo"] = Node("fifo", mode=0o640)
    return tuple(found.items())


def _above(part: str, rng: random.Random) -> Layer:
    return (
        (part, Node("dir", mode=0o755)),
        (f"{part}/small0", Node("whiteout")),
        (f"{part}/small1", _file(rng, 1000)),
        (f"{part}/directory0", Node("dir", mode=0o770)),
        (f"{part}/directory0/above", _file(rng, 10)),
        (f"{part}/directory0/two", Node("whiteout")),
        (f"{part}/directory1", Node("dir", mode=0o755, opaque=True)),
        (f"{part}/directory1/alone", _file(rng, 10)),
        (f"{part}/empty", Node("dir", mode=0o755)),
    )


def layers(parts: int) -> Stack:
    """Two layers, the top one first; the parts are called part0, part1, …"""
    rng = random.Random(2)
    names = [f"part{number}" for number in range(parts)]
    above = tuple(pair for name in names for pair in _above(name, rng))
    below = tuple(pair for name in names for pair in _below(name, rng))
    return (above, below)


@contextmanager
def built(parts: int, top: Path) -> Iterator[list[Path]]:
    """The layers as live directories in ``top``; they must be the same in the end."""
    paths = []
    for number, layer in enumerate(layers(parts)):
        paths.append(top / str(number))
        build(layer, paths[-1])
    before = [snapshot(path) for path in paths]
    yield paths
    for path, was in zip(paths, before, strict=True):
        assert differences(was, snapshot(path)) == [], "a lower layer has changed"
