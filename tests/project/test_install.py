"""`make install` and `make uninstall`, below a prefix of the test."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HELPERS = ("mount.unionmount", "mount.fuse.unionmount", "umount.fuse.unionmount")


def make(project: Path, target: str, prefix: Path, status: int = 0) -> str:
    """What the script that the target runs says."""
    done = subprocess.run(
        [project / "scripts/install.sh", target, prefix],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done.stderr


def files(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}


@pytest.mark.slow
def test_the_command_runs_and_all_of_it_goes(project: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/other").write_text("of somebody else\n", encoding="ascii")
    said = make(project, "install", tmp_path)
    assert f'export PATH="{tmp_path}/bin:$PATH"' in said
    assert f"ln -s {tmp_path}/sbin/*mount.* /sbin/" in said
    for name in HELPERS:
        helper = [tmp_path / "sbin" / name]
        usage = subprocess.run(helper, capture_output=True, text=True, check=False)
        assert usage.stderr.startswith(f"{name}: usage: ")
        assert usage.returncode == 1
    found = files(tmp_path)
    assert {
        "bin/unionmount-overlay",
        *(f"sbin/{name}" for name in HELPERS),
        "share/man/man1/unionmount.1",
        "share/man/man1/unionmount-mount.1",
        "share/bash-completion/completions/unionmount",
        "share/zsh/site-functions/_unionmount",
        "share/fish/vendor_completions.d/unionmount.fish",
    } < found
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    command = ["unionmount", "version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("unionmount ")
    assert "is not in PATH" in make(project, "install", tmp_path)  # again: nothing is in the way
    assert files(tmp_path) == found
    make(project, "uninstall", tmp_path)
    assert files(tmp_path) == {"bin/other"}


@pytest.mark.needs("root", "unshare")
def test_helpers_of_the_system_go_where_mount_looks(project: Path, tmp_path: Path) -> None:
    (tmp_path / "local").mkdir()
    script = """
        mount --bind "$1/local" /usr/local && mount -t tmpfs none "$(readlink -f /sbin)" &&
        "$2/scripts/install.sh" install && ls /sbin && "$2/scripts/install.sh" uninstall && ls /sbin
    """
    command = ["unshare", "-m", "sh", "-c", script, "sh", str(tmp_path), str(project)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(HELPERS)
    assert "ln -s" not in done.stderr
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    "name", ["bin/unionmount", "bin/unionmount-overlay", "sbin/mount.unionmount"]
)
@pytest.mark.parametrize("target", ["install", "uninstall"])
def test_a_command_that_is_not_ours_stays(
    target: str, name: str, project: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / name
    theirs.parent.mkdir()
    theirs.write_text("#!/bin/true\n", encoding="ascii")
    said = make(project, target, tmp_path, status=1)
    assert said.startswith(f"{theirs} is there and was not made by make install; remove it, or")
    assert files(tmp_path) == {name}
    assert theirs.read_text(encoding="ascii") == "#!/bin/true\n"


def test_make_calls_the_script(project: Path, tmp_path: Path) -> None:
    command = ["make", "-n", "--no-print-directory", "uninstall", f"PREFIX={tmp_path}"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout == f'scripts/install.sh uninstall "{tmp_path}"\n'
