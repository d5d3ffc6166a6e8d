"""Who may have written marks: whose an object is, and who else may write to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.users import NOBODY

from unionmount.system.trust import has_identity, is_ours, is_own, reads_trusted


@pytest.mark.needs("root")
def test_what_another_user_owns_is_not_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch(0o600)
    assert is_own(path.stat())
    os.chown(path, NOBODY, NOBODY)
    assert not is_own(path.stat())


@pytest.mark.needs("root")
def test_root_of_the_first_namespace_reads_trusted_attributes(tmp_path: Path) -> None:
    os.setxattr(tmp_path, "trusted.test", b"x")
    assert (reads_trusted(), has_identity()) == (True, True)


def test_a_program_may_be_called_as_it_likes() -> None:
    program = (
        "import ctypes\n"
        "from unionmount.system.trust import reads_trusted\n"
        "before = reads_trusted()\n"
        "ctypes.CDLL(None).prctl(15, b'\\xff', 0, 0, 0)  # PR_SET_NAME\n"
        "assert reads_trusted() == before\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(("mode", "ours"), [(0o700, True), (0o755, False)])
def test_what_others_get_to_may_be_theirs(public_tmp: Path, mode: int, ours: bool) -> None:
    (public_tmp / "inner").mkdir()
    public_tmp.chmod(mode)
    fd = os.open(public_tmp / "inner", os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert is_ours(fd) is ours
    finally:
        os.close(fd)
