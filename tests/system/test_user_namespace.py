"""Why no user namespace can be made."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from unionmount.system.user_namespace import refusal


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ],
)
def test_settings_of_distributions(tmp_path: Path, setting: str, value: str, remedy: str) -> None:
    (tmp_path / "kernel").mkdir()
    file = tmp_path / "kernel" / setting
    file.write_text(f"{value}\n")
    told = refusal(errno.EPERM, tmp_path)
    assert told.startswith(f"kernel.{setting} is {value}, which forbids it; ")
    assert told.endswith(f"sysctl {remedy}")
    file.write_text(f"{1 - int(value)}\n")
    assert "sysctl" not in refusal(errno.EPERM, tmp_path)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the limit user.max_user_namespaces is reached, which is unknown"),
        (errno.EUSERS, "start it outside of containers"),
        (errno.EINVAL, "CONFIG_USER_NS"),
        (errno.ENOSYS, "CONFIG_USER_NS"),
        (errno.EPERM, "Operation not permitted"),
    ],
)
def test_errors(tmp_path: Path, number: int, words: str) -> None:
    assert words in refusal(number, tmp_path)
