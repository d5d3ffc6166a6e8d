"""Capabilities: the default set, additions and removals.

podman is asked in ``test_podman_config.py``; the names are compared with the kernel's header here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from unionmount.errors import UsageError
from unionmount.runtime.capabilities import DEFAULT, KNOWN, bounding_set, merged

_HEADER = Path("/usr/include/linux/capability.h")


def test_names_have_the_numbers_of_the_kernel(require: object) -> None:
    if not _HEADER.exists():
        pytest.skip("linux/capability.h is not installed")
    text = _HEADER.read_text(encoding="ascii")
    found = re.findall(r"^#define (CAP_\w+)\s+(\d+)$", text, re.MULTILINE)
    numbers = {name: int(number) for name, number in found}
    assert {name: number for number, name in enumerate(KNOWN)} == {
        name: number for name, number in numbers.items() if name in KNOWN
    }


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ([], [], set(DEFAULT)),
        (["sys_admin"], [], {*DEFAULT, "CAP_SYS_ADMIN"}),
        (["CAP_NET_RAW"], ["Chown"], {*DEFAULT, "CAP_NET_RAW"} - {"CAP_CHOWN"}),
        ([], ["all"], set()),
        (["kill"], ["ALL"], {"CAP_KILL"}),
        (["all"], [], set(KNOWN)),
        (["ALL"], ["mknod"], set(KNOWN) - {"CAP_MKNOD"}),
        (["chown"], [], set(DEFAULT)),
    ],
)
def test_merging(add: list[str], drop: list[str], expected: set[str]) -> None:
    found = merged(add, drop)
    assert found == tuple(sorted(expected))


def test_nothing_beyond_the_bounding_set() -> None:
    bounding = ("CAP_CHOWN", "CAP_KILL", "CAP_SYS_ADMIN")
    assert merged([], [], bounding) == ("CAP_CHOWN", "CAP_KILL")
    assert merged(["ALL"], [], bounding) == bounding
    assert merged(["MKNOD"], [], bounding) == ("CAP_CHOWN", "CAP_KILL")
    assert merged(["KILL"], [], bounding, default=()) == ("CAP_KILL",)


@pytest.mark.parametrize(
    ("add", "drop", "message"),
    [
        (["nosuch"], [], "unknown capability 'nosuch'"),
        ([], ["CAP_"], "unknown capability"),
        (["kill"], ["CAP_KILL"], "CAP_KILL is both added and dropped"),
        (["all"], ["all"], "ALL is both added and dropped"),
    ],
)
def test_errors(add: list[str], drop: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        merged(add, drop)


def test_the_bounding_set_is_that_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("Name:\tx\nCapBnd:\t0000000000000021\nCapAmb:\t0\n")
    assert bounding_set(tmp_path / "status") == ("CAP_CHOWN", "CAP_KILL")
    bits = re.search(r"CapBnd:\s*(\w+)", Path("/proc/self/status").read_text(encoding="ascii"))
    assert bits is not None
    assert len(bounding_set()) == min(int(bits[1], 16).bit_count(), len(KNOWN))
