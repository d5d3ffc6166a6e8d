"""``run``, ``shell`` and ``bundle`` where a runtime, namespaces or their helpers are missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archives import Layer
from support.lacking import (
    with_filter,
    with_path,
    without_programs,
    without_user_namespaces,
)
from support.running import Runner, program_image, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("fuse", "root", "busybox", "unshare", "nsenter", "crun", "runc"),
]
of_users = pytest.mark.needs("ordinary-user", "newuidmap")


@pytest.fixture(scope="module")
def image(make_public_tmp: Callable[[], Path]) -> Path:
    """An image with mount points, so that a shell can be started in its mount."""
    layer = Layer().directory("proc").directory("dev").directory("sys")
    path = program_image(make_public_tmp() / "image.tar", layer)
    path.chmod(0o644)
    return path


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """The command line of root."""
    with running(Runner(tmp_path_factory.mktemp("lacking"))) as line:
        yield line


def left_by(line: Runner) -> tuple[list[str], list[str]]:
    """Return what there is of containers, running or not."""
    return line.left(), line.run("ps", "-aq").stdout.split()


NOTHING: tuple[list[str], list[str]] = ([], [])


# ---- no runtime ----------------------------------------------------------------------------------


def test_no_runtime_is_installed(roots: Runner, image: Path, tmp_path: Path) -> None:
    roots.run("run", "--name", "before", image, "true")
    roots.run("run", "-d", "--name", "live", image, "sleep", "1000")
    where = tmp_path / "mounted"
    roots.run("mount", "--mkdir", "--ephemeral", image, where)
    with without_programs(roots, tmp_path, "crun", "runc", "youki") as line:
        message = (
            "no container runtime was found; install crun or runc (packages 'crun' and 'runc')"
        )
        for words in (
            ["run", "--rm", image, "true"],
            ["run", "-d", "--name", "new", image, "true"],
            ["shell", "--rm", image],
            ["start", "before"],
        ):
            assert line.error(*words, status=125) == message
        told = line.error("run", "--rm", "--runtime", "runc", image, "true", status=125)
        assert told == "runtime 'runc' was not found; install it, or give its path"
        told = line.error("exec", "live", "true", status=125)
        assert told.startswith("crun: ")
        # a bundle needs none: it is for a runtime that is elsewhere
        line.run("bundle", "--ephemeral", image, tmp_path / "bundle")
        line.run("bundle", "--remove", tmp_path / "bundle")
    roots.run("umount", where)
    assert sorted(roots.output("ps", "-a", "--format", "{{.Container}}").split()) == [
        *("before", "live"),
    ]
    roots.run("rm", "-f", "before", "live")
    assert left_by(roots) == NOTHING


def test_no_runtime_for_a_shell_in_a_mount(roots: Runner, image: Path, tmp_path: Path) -> None:
    with without_programs(roots, tmp_path, "crun", "runc", "youki") as line:
        line.run("mount", "--mkdir", "--ephemeral", image, tmp_path / "mounted")
        told = line.error("shell", tmp_path / "mounted", status=125)
        assert told.startswith("no container runtime was found; install crun or runc")
        line.run("umount", tmp_path / "mounted")
    assert left_by(roots) == NOTHING


# ---- no user namespaces --------------------------------------------------------------------------

LIMIT = (
    "making a user namespace: the limit user.max_user_namespaces is reached, which is 0; an "
    "administrator can raise it: sysctl user.max_user_namespaces=15000"
)
FILTER = (
    "making a user namespace: Operation not permitted, probably by the seccomp filter of a "
    "container around this process; whoever starts it can permit it: --security-opt "
    "seccomp=unconfined"
)


@of_users
@pytest.mark.parametrize("who", ["many", "one"])
@pytest.mark.parametrize(
    ("restrict", "message"),
    [(without_user_namespaces, LIMIT), (with_filter, FILTER)],
    ids=["limit", "filter"],
)
def test_no_user_namespaces(
    request: pytest.FixtureRequest,
    image: Path,
    who: str,
    restrict: Callable[[Runner], Runner],
    message: str,
) -> None:
    line: Runner = request.getfixturevalue(who)
    restricted = restrict(line)
    commands: list[tuple[str | Path, ...]] = [
        ("run", "--rm", image, "true"),
        ("run", "--name", "new", image, "true"),
        ("shell", image),
    ]
    for words in commands:
        done = restricted.run(*words, status=125)
        *warnings, last = done.stderr.splitlines()
        assert last == f"unionmount: {message}"
        assert len(warnings) == (who == "one")  # that there is one user
        assert left_by(line) == NOTHING


@of_users
def test_no_user_namespaces_for_a_shell_in_a_mount(
    many: Runner, image: Path, public_tmp: Path
) -> None:
    where = public_tmp / "mounted"
    where.mkdir()
    where.chmod(0o777)
    many.run("mount", "--ephemeral", image, where)
    assert without_user_namespaces(many).error("shell", where, status=125) == LIMIT
    many.run("umount", where)
    assert left_by(many) == NOTHING


# ---- no helper, no ranges ------------------------------------------------------------------------


@of_users
def test_newuidmap_is_not_installed(
    many: Runner, image: Path, public_tmp: Path, tmp_path: Path
) -> None:
    told = with_path(many, tmp_path).error("run", "--rm", image, "true", status=125)
    assert told == "newuidmap: Permission denied"  # the directory may not be searched
    line = with_path(many, public_tmp)
    told = line.error("run", "--rm", image, "true", status=125)
    assert told == "newuidmap is not installed; it is in the package uidmap"
    assert left_by(many) == NOTHING


@of_users
def test_newuidmap_has_no_rights(many: Runner, image: Path, public_tmp: Path) -> None:
    for name in ("newuidmap", "newgidmap"):
        program = shutil.which(name)
        assert program is not None
        shutil.copyfile(program, public_tmp / name)
        (public_tmp / name).chmod(0o755)
    line = with_path(many, public_tmp)
    told = line.error("run", "--rm", image, "true", status=125)
    assert told.startswith("newuidmap: write to uid_map failed: Operation not permitted; ")
    assert told.endswith("install the package uidmap again")
    assert left_by(many) == NOTHING


@of_users
def test_no_range_needs_no_newuidmap(one: Runner, image: Path, tmp_path: Path) -> None:
    done = with_path(one, tmp_path).run("run", "--rm", image, "id", "-u")
    assert done.stdout == "0\n"
    (warning,) = done.stderr.splitlines()
    assert "have no range for this user, so the container has one user, root" in warning
    assert "usermod --add-subuids" in warning
    assert left_by(one) == NOTHING


@of_users
def test_a_bundle_needs_no_user_namespace(many: Runner, image: Path) -> None:
    """It is made by the runtime, which may be somewhere else."""
    place = many.store.parent / "bundle"
    many.run("bundle", "--rootless", "--ephemeral", image, place)
    many.run("bundle", "--remove", place)
    assert left_by(many) == NOTHING
