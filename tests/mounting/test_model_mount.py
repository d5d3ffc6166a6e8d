"""Oracle 1 on a real mount: what the kernel shows of generated layers is what the model says."""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import model, strategies
from support.archives import Layer, docker_archive
from support.compare import Item, Snapshot, differences, digest_of, snapshot
from support.effort import amount
from support.mounting import CommandLine
from support.strategies import Entry, tar_of

pytestmark = pytest.mark.needs("fuse", "root")

EXAMPLES = amount(30, 60)


class Raw(Layer):
    """A layer that is a tar already."""

    def __init__(self, tar: bytes) -> None:
        self._bytes = tar

    def data(self) -> bytes:
        return self._bytes


def _xattrs(node: model.Node) -> tuple[tuple[bytes, bytes], ...]:
    shown = node.kind in (model.FILE, model.DIRECTORY)
    return tuple(
        sorted(
            (name, value)
            for name, value in node.xattrs.items()
            if shown or not name.startswith(b"user.")
        )
    )


def expected(nodes: dict[bytes, model.Node]) -> Snapshot:
    """What a snapshot of the mount must be."""
    groups = defaultdict(list)
    for path, node in nodes.items():
        groups[node.identity].append(path)
    return {
        path: Item(
            kind=node.kind,
            mode=node.mode,
            uid=node.uid,
            gid=node.gid,
            size=node.size,
            mtime_ns=node.mtime_ns,
            target=node.target,
            rdev=node.rdev,
            xattrs=_xattrs(node),
            digest=digest_of(node.content) if node.kind == model.FILE else "",
            nlink=node.nlink,
            names=tuple(sorted(groups[node.identity])),
        )
        for path, node in nodes.items()
    }


def _blocks(mountpoint: Path, nodes: dict[bytes, model.Node]) -> None:
    for path, node in nodes.items():
        if node.kind == model.FILE:
            status = os.lstat(os.fsencode(mountpoint) + b"/" + path)
            assert status.st_blocks == -(-node.stored // 512), path


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(strategies.stacks, st.booleans())
def test_the_mount_agrees_with_the_model(
    cli: CommandLine, stack: list[list[Entry]], trailer: bool
) -> None:
    tars = [tar_of(entries, trailer=trailer) for entries in stack]
    nodes = model.Stack(tars).nodes()
    with tempfile.TemporaryDirectory(prefix="unionmount-model-") as made:
        archive = docker_archive(Path(made, "image.tar"), [Raw(tar) for tar in tars])
        mountpoint = Path(made, "mnt")
        mountpoint.mkdir()
        cli.run("mount", "--ro", archive, mountpoint)
        try:
            assert differences(expected(nodes), snapshot(mountpoint)) == []
            _blocks(mountpoint, nodes)
        finally:
            cli.run("umount", mountpoint)
