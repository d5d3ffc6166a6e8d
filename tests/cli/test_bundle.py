"""``bundle``: bundles that OCI runtimes accept, called by their own command lines."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archives import Layer
from support.mounting import is_mounted
from support.rootless import ordinary_user
from support.running import RUNTIMES, Runner, program_image, running
from support.runtime_tools import Validator
from support.users import fuse_conf

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("fuse", "root", "busybox", "unshare", *RUNTIMES),
]
# Debian has no youki; where it is installed, it is asked, too.
ALL_RUNTIMES = [*RUNTIMES, *(["youki"] if shutil.which("youki") else [])]
runtimes = pytest.mark.parametrize("runtime", ALL_RUNTIMES)
# Runtimes do not start beside a hierarchy of cgroups version 2 that lacks the controllers.
_ALONE = 'umount -l /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(Runner(tmp_path_factory.mktemp("bundles"))) as made:
        yield made


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.tar"
    layer = (
        Layer().symlink("var/run", "../run").symlink("etc/resolv.conf", "../run/dns/resolv.conf")
    )
    return program_image(
        path, layer, User="app", WorkingDir="/new/dir", Env=["A=b"], Labels={"org.example": "x"}
    )


@pytest.fixture
def bundle(line: Runner, tmp_path: Path) -> Iterator[Path]:
    """The directory of a bundle, which is removed after the test."""
    path = tmp_path / "bundle"
    yield path
    if (path / "rootfs").is_symlink():
        line.run("bundle", "--remove", path)


def root_of(bundle: Path) -> Path:
    return Path(os.readlink(bundle / "rootfs"))


def call(
    runtime: str, bundle: Path, state: Path, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a bundle with the runtime's own command line."""
    words = [runtime, "--root", str(state), "run", "--bundle", str(bundle), "test-bundle"]
    alone = () if prefix else ("unshare", "-m", "sh", "-c", _ALONE, "sh")
    if prefix and runtime == "crun":
        words.insert(1, "--cgroup-manager=disabled")
    return subprocess.run(
        [*prefix, *alone, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@runtimes
def test_runtimes_run_it(
    line: Runner,
    image: Path,
    bundle: Path,
    tmp_path: Path,
    runtime: str,
    require: Callable[..., None],
) -> None:
    require(runtime)
    script = """
    id -u; pwd; echo $A; touch /etc/x 2>/dev/null || echo no
    ls -d /run/dns/resolv.conf; exit 3
    """
    tmpfs = ("--tmpfs", "/tmp:notmpcopyup")  # which youki has not got
    options = ("--ephemeral", "--hostname", "box", "--cap-add", "NET_RAW", *tmpfs)
    line.run("bundle", *options, image, bundle, "--", "sh", "-c", script)
    done = call(runtime, bundle, tmp_path / "state")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.split() == ["1000", "/new/dir", "b", "no", "/run/dns/resolv.conf"]


@runtimes
def test_changes_are_kept(
    line: Runner,
    image: Path,
    bundle: Path,
    tmp_path: Path,
    runtime: str,
    require: Callable[..., None],
) -> None:
    require(runtime)
    name = f"kept-{runtime}"
    options = ("--name", name, "-u", "0", "-v", f"{tmp_path}:/host/dir", "-w", "/shared/dir")
    line.run("bundle", *options, image, bundle, "--", "touch", "/made")
    assert call(runtime, bundle, tmp_path / "state").returncode == 0
    line.run("bundle", "--remove", bundle)
    assert not bundle.exists()
    assert line.output("diff", name) == "A /made\n"


@pytest.mark.parametrize("option", [["-e", "A=b"], ["--rootless"], ["-t"], ["-m", "64m"]])
def test_remove_takes_no_options(
    line: Runner, image: Path, bundle: Path, option: list[str]
) -> None:
    line.run("bundle", "--ephemeral", image, bundle)
    told = line.error("bundle", "--remove", *option, bundle, status=2)
    assert "cannot be combined with --remove" in told
    assert (bundle / "config.json").exists()


@pytest.mark.needs("go")
def test_the_validator_accepts_it(
    line: Runner, image: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    validator = Validator(tmp_path_factory.mktemp("go"))
    for number, options in enumerate(
        (
            [],
            ["-t", "--read-only", "--network=none", "--hostname=box", "--cap-add=ALL"],
            ["--privileged", "-v", f"{tmp_path}:/x:ro", "--tmpfs", "/y:size=1m"],
        )
    ):
        path = tmp_path / str(number)
        line.run("bundle", "--ephemeral", *options, image, path)
        found = validator.complaints(path)
        line.run("bundle", "--remove", path)
        # the mount is outside of the bundle, so that `rm -r` leaves it alone
        outside = [one for one in found if "root.path is" in one or "conventional 'rootfs'" in one]
        # the image specification demands these keys
        reserved = [one for one in found if '"org.opencontainers.image.' in one]
        # it knows no device whose number is 0, as /dev/loop0
        zero = [
            one for one in found if re.fullmatch(r"device \{.* 0 \S+ \S+ \S+\} is invalid", one)
        ]
        assert len(outside) == 2
        assert [one for one in found if one not in outside + reserved + zero] == []


def test_removing_the_directory_leaves_the_container_alone(
    line: Runner, image: Path, bundle: Path
) -> None:
    line.run("bundle", "--name", "survivor", image, bundle)
    root = root_of(bundle)
    (root / "made").write_text("x")
    subprocess.run(["rm", "-r", str(bundle)], check=True)
    assert (root / "bin/busybox").exists()
    assert line.output("diff", "survivor") == "A /made\n"
    line.run("umount", root)
    line.run("rm", "survivor")


def test_a_container_again(line: Runner, image: Path, bundle: Path, tmp_path: Path) -> None:
    line.run("bundle", "--name", "again", "-u", "0", image, bundle, "--", "touch", "/one")
    assert call("runc", bundle, tmp_path / "state").returncode == 0
    line.run("bundle", "--remove", bundle)
    line.run("bundle", "-u", "0", "again", bundle, "--", "touch", "/two")
    assert call("runc", bundle, tmp_path / "state").returncode == 0
    assert "in use" in line.error("bundle", "again", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    line.run("bundle", "--remove", bundle)
    assert line.output("diff", "again").splitlines() == ["A /one", "A /two"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-u", "nosuch"], "no user 'nosuch'"),
        (["--runtime-spec-version", "2.0"], "not a version"),
        (["-v", "/nosuch:/x"], "/nosuch"),
        (["-w", "/etc/passwd/x"], "/etc/passwd is not a directory"),
        (["--tmpfs", "/bin/sh/x"], "/bin/busybox is not a directory"),
        (["--entrypoint", ""], "names no program"),
        (["--rootless"], ""),
    ],
    ids=str,
)
def test_errors_leave_nothing(
    line: Runner, image: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    if options == ["--rootless"]:
        options, message = ["--cap-add", "x", "--rootless"], "unknown capability 'x'"
    before = line.run("ps", "-aq").stdout
    done = line.call("bundle", *options, image, tmp_path / "b")
    assert done.returncode in (1, 2)
    assert message in done.stderr.decode()
    assert not (tmp_path / "b").exists()
    assert line.run("ps", "-aq").stdout == before
    assert not line.left()


def test_a_directory_that_is_not_empty(line: Runner, image: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/file").touch()
    assert "is not empty" in line.error("bundle", image, tmp_path / "b", status=2)
    (tmp_path / "b/file").unlink()
    line.run("bundle", "--ephemeral", image, tmp_path / "b")
    (tmp_path / "b/of-others").touch()
    done = line.run("bundle", "--remove", tmp_path / "b")
    assert "of-others" in done.stderr
    assert [one.name for one in (tmp_path / "b").iterdir()] == ["of-others"]
    assert "not a bundle" in line.error("bundle", "--remove", tmp_path / "b", status=2)


def test_remove_after_an_unmount(line: Runner, image: Path, bundle: Path) -> None:
    line.run("bundle", "--ephemeral", image, bundle)
    root = root_of(bundle)
    line.run("umount", root)
    assert not is_mounted(root)
    line.run("bundle", "--remove", bundle)
    assert not bundle.exists()


def test_the_version_of_the_specification(line: Runner, image: Path, bundle: Path) -> None:
    line.run("bundle", "--ephemeral", "--runtime-spec-version", "1.1.0", image, bundle)
    assert json.loads((bundle / "config.json").read_text())["ociVersion"] == "1.1.0"


@pytest.mark.needs("ordinary-user", "newuidmap", "nsenter")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_bundle_for_an_ordinary_user(image: Path, public_tmp: Path, runtime: str) -> None:
    copy = public_tmp / "image.tar"
    shutil.copy(image, copy)
    copy.chmod(0o644)
    script = "id -u; pwd; mkdir /d; chown 7:8 /d; exit 3"
    words = ("--rootless", "--name", "b", "-u", "0", copy)
    with ordinary_user(public_tmp, ranges=True, alone=True) as user, running(user):
        bundle = public_tmp / "home/bundle"
        with fuse_conf(allows_others=False):
            message = user.error("bundle", "--rootless", copy, bundle)
            assert "user 1000" in message
            assert "user_allow_other" in message
            user.run("bundle", *words, bundle, "--", "sh", "-c", script)
            done = call(runtime, bundle, public_tmp / "home/state", user.prefix)
            assert (done.returncode, done.stderr) == (3, ""), done.stderr
            assert done.stdout.split("\n")[:2] == ["0", "/new/dir"]
            user.run("bundle", "--remove", bundle)
        assert user.output("diff", "b") == "A /d\n"
        with fuse_conf(allows_others=True):
            user.run("bundle", "--rootless", "b", bundle, "--", "stat", "-c", "%u:%g %a", "/d")
            done = call(runtime, bundle, public_tmp / "home/state", user.prefix)
            assert (done.stdout, done.stderr) == ("7:8 755\n", "")
            user.run("bundle", "--remove", bundle)
