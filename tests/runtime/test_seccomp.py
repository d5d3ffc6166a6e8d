"""Seccomp profiles: conditions, forms, and profiles that are damaged.

``test_podman_config.py`` compares the host's profile with what podman makes of it, for several sets
of capabilities.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from unionmount.errors import FormatError
from unionmount.runtime.capabilities import DEFAULT
from unionmount.runtime.seccomp import Conditions, convert

X86 = Conditions("x86_64", ("CAP_CHOWN",), (6, 1))
ARM = Conditions("aarch64", ("CAP_SYS_ADMIN", "CAP_BPF"), (4, 8))


def converted(conditions: Conditions = X86, **profile: Any) -> dict[str, Any] | None:
    return convert(json.dumps(profile).encode(), "profile.json", conditions)


def names(conditions: Conditions, **condition: Any) -> list[str]:
    """Return the names that remain of a row with conditions."""
    row = {"names": ["x"], "action": "SCMP_ACT_ALLOW", **condition}
    found = converted(conditions, defaultAction="SCMP_ACT_ERRNO", syscalls=[row])
    assert found is not None
    return [name for one in found["syscalls"] for name in one["names"]]


@pytest.mark.parametrize(
    ("condition", "on_x86", "on_arm"),
    [
        ({}, True, True),
        ({"includes": {}, "excludes": {}}, True, True),
        ({"includes": {"arches": ["amd64", "x32"]}}, True, False),
        ({"excludes": {"arches": ["amd64"]}}, False, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, False, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_BPF"]}}, False, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN", "CAP_KILL"]}}, False, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True, False),
        ({"includes": {"minKernel": "4.8"}}, True, True),
        ({"includes": {"minKernel": "4.9"}}, True, False),
        ({"includes": {"minKernel": "5.0"}}, True, False),
        ({"excludes": {"minKernel": "4.9"}}, False, True),
        ({"includes": {"arches": ["arm64"], "caps": ["CAP_BPF"]}}, False, True),
    ],
    ids=str,
)
def test_conditions(condition: dict[str, Any], on_x86: bool, on_arm: bool) -> None:
    assert names(X86, **condition) == ["x"] * on_x86
    assert names(ARM, **condition) == ["x"] * on_arm


def test_a_row_keeps_its_fields() -> None:
    row = {
        "name": "socket",
        "action": "SCMP_ACT_ERRNO",
        "errno": "EINVAL",
        "args": [{"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"}, {"op": "X"}],
        "comment": "not for the runtime",
    }
    found = converted(
        defaultAction="SCMP_ACT_ERRNO", defaultErrno="ENOSYS", defaultErrnoRet=38, syscalls=[row]
    )
    assert found == {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "syscalls": [
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": errno.EINVAL,
                "args": [
                    {"index": 0, "value": 16, "op": "SCMP_CMP_EQ"},
                    {"index": 0, "value": 0, "op": "X"},
                ],
            }
        ],
    }


def test_architectures() -> None:
    table = [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
    ]
    for conditions, expected in (
        (X86, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]),
        (ARM, ["SCMP_ARCH_AARCH64"]),
    ):
        found = converted(conditions, defaultAction="A", archMap=table)
        assert found is not None
        assert found["architectures"] == expected
    found = converted(defaultAction="A", architectures=["SCMP_ARCH_ARM"])
    assert found is not None
    assert found["architectures"] == ["SCMP_ARCH_ARM"]


def test_a_profile_without_rules_filters_nothing() -> None:
    assert converted() is None


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"syscalls": [{"names": ["x"], "action": "A"}]}, "defaultAction"),
        ({"defaultAction": 1}, "defaultAction"),
        ({"defaultAction": "A", "syscalls": {}}, "syscalls"),
        ({"defaultAction": "A", "syscalls": [{"names": ["x"]}]}, "action"),
        ({"defaultAction": "A", "syscalls": [{"names": "x", "action": "A"}]}, "names"),
        (
            {"defaultAction": "A", "syscalls": [{"name": "x", "names": ["y"], "action": "A"}]},
            "cannot be combined",
        ),
        ({"defaultAction": "A", "defaultErrno": "ENOSUCH"}, "not the name of an error"),
        ({"defaultAction": "A", "defaultErrno": "EPERM", "defaultErrnoRet": 2}, "is not error 2"),
        ({"defaultAction": "A", "defaultErrnoRet": -1}, "not a number of 64 bits"),
        ({"defaultAction": "A", "defaultErrnoRet": True}, "not a number of 64 bits"),
        (
            {
                "defaultAction": "A",
                "syscalls": [{"names": ["x"], "action": "A", "args": [{"value": 2**64}]}],
            },
            "not a number of 64 bits",
        ),
        (
            {
                "defaultAction": "A",
                "syscalls": [
                    {"names": ["x"], "action": "A", "includes": {"minKernel": "new"}},
                ],
            },
            "minKernel",
        ),
        (
            {
                "defaultAction": "A",
                "architectures": ["X"],
                "archMap": [{"architecture": "Y", "subArchitectures": []}],
            },
            "cannot be combined",
        ),
    ],
    ids=str,
)
def test_damaged_profiles_are_errors(profile: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        converted(**profile)


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"a": NaN}', b"\xff"])
def test_what_is_no_profile_is_an_error(raw: bytes) -> None:
    with pytest.raises(FormatError):
        convert(raw, "profile.json", X86)


def test_the_profile_in_the_package(project: Path) -> None:
    """It is used where the host has none, and refuses what reaches the kernel itself."""
    raw = (project / "src/unionmount/runtime/seccomp.json").read_bytes()
    found = convert(raw, "seccomp.json", Conditions("x86_64", DEFAULT, (6, 1)))
    assert found is not None
    assert found["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = {
        name
        for row in found["syscalls"]
        if row["action"] == "SCMP_ACT_ALLOW"
        for name in row["names"]
    }
    assert {"read", "openat2", "execve"} <= allowed
    assert not {"kexec_load", "init_module", "bpf", "perf_event_open"} & allowed
