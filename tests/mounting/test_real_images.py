"""Oracle 2: images of real tools, in every form, against what ``umoci unpack`` makes of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.compare import Snapshot, differences, snapshot
from support.mounting import CommandLine
from support.real_images import RealImage

pytestmark = pytest.mark.needs("fuse")

FORMS = ["docker-archive", "oci-archive", "oci-gzip", "oci-zstd", "oci-zstd-chunked"]


@pytest.fixture(scope="module")
def references(real: RealImage) -> dict[Path, Snapshot]:
    return {top: snapshot(top) for top in {real.reference(form) for form in FORMS}}


def mounted(real: RealImage, form: str, cli: CommandLine, where: Path) -> Iterator[Path]:
    cli.run("mount", "--ro", real.sources()[form], where)
    yield where
    cli.run("umount", where)


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def any_mount(real: RealImage, form: str, cli: CommandLine, tmp_path: Path) -> Iterator[Path]:
    yield from mounted(real, form, cli, tmp_path)


@pytest.fixture(scope="module")
def mount(
    real: RealImage, cli: CommandLine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    yield from mounted(real, "docker-archive", cli, tmp_path_factory.mktemp("real"))


@pytest.fixture
def expected(real: RealImage, references: dict[Path, Snapshot]) -> Snapshot:
    return references[real.reference("docker-archive")]


def test_every_entry_is_what_umoci_unpacked(
    any_mount: Path, form: str, real: RealImage, references: dict[Path, Snapshot]
) -> None:
    wanted = references[real.reference(form)]
    assert len(wanted) > 5000
    assert differences(wanted, snapshot(any_mount)) == []


def test_the_reference_has_what_makes_the_comparison_worth_it(expected: Snapshot) -> None:
    top = b"opt/fixture/"
    assert len(expected[top + b"hardlinks/a"].names) == 3
    assert expected[top + b"hardlinks/x"].names == (top + b"hardlinks/x", top + b"kept/x")
    assert dict(expected[top + b"special/ping"].xattrs)[b"security.capability"]
    assert dict(expected[top + b"special/attributes"].xattrs)[b"user.long"] == b"v" * 3000
    assert expected[top + b"special/block"].rdev == (259, 70_000)
    assert expected[top + b"old"].mtime_ns < 0
    assert expected[top + b"setuid-too"].mode == 0o4755
    assert expected[top + b"kept/file0"].gid == 2_000_000
    assert [path for path in expected if path.startswith(top + b"opaque/")] == [
        top + b"opaque/only"
    ]
    assert top + b"gone" not in expected


# ---- ordinary programs ---------------------------------------------------------------------------


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def _with_tar(source: Path, target: Path) -> None:
    target.mkdir()
    attributes = "--xattrs --xattrs-include='*' --numeric-owner"
    pack = f"tar --format=posix {attributes} -C '{source}' -c ."
    # A file of 1960 is implausible to tar, which says so.
    unpack = f"tar {attributes} --warning=no-timestamp -C '{target}' -xp"
    run("bash", "-o", "pipefail", "-c", f"{pack} | {unpack}")


def _with_cp(source: Path, target: Path) -> None:
    run("cp", "-a", source, target)


def _with_rsync(source: Path, target: Path) -> None:
    run("rsync", "-aHAX", "--numeric-ids", f"{source}/", target)


@pytest.mark.needs("rsync", "tar")
@pytest.mark.parametrize("copy", [_with_cp, _with_rsync, _with_tar], ids=["cp", "rsync", "tar"])
def test_a_copy_is_the_image(
    copy: Callable[[Path, Path], None], mount: Path, expected: Snapshot, tmp_path: Path
) -> None:
    copy(mount, tmp_path / "copy")
    assert differences(expected, snapshot(tmp_path / "copy")) == []


def test_diff_finds_nothing(mount: Path, real: RealImage) -> None:
    reference = real.reference("docker-archive")
    for name in ("usr", "etc", "var", "opt/fixture/kept"):
        assert run("diff", "-r", "--no-dereference", mount / name, reference / name) == ""


@pytest.mark.parametrize(
    "command",
    [
        "find . -printf '%P|%y|%m|%U|%G|%n|%T@|%l\\n' | sort",
        "find . ! -type d -printf '%P %s\\n' | sort",
        "find . -xdev -perm /6000 | sort",
        "grep -rl --devices=skip Debian etc usr/lib | sort",
        "find usr -type f -print0 | sort -z | xargs -0 sha256sum",
        "ls -lRn etc | grep -v ^total",
    ],
)
def test_programs_answer_as_on_the_unpacked_tree(
    command: str, mount: Path, real: RealImage
) -> None:
    found, wanted = (
        run("bash", "-o", "pipefail", "-c", f"cd '{top}' && LC_ALL=C {command}")
        for top in (mount, real.reference("docker-archive"))
    )
    assert found
    assert found == wanted


def test_du_adds_up(mount: Path) -> None:
    seen = {(s.st_dev, s.st_ino): s.st_blocks for s in map(Path.lstat, mount.rglob("*"))}
    total = sum(seen.values()) + mount.lstat().st_blocks
    assert int(run("du", "-s", "--block-size=512", mount).split()[0]) == total


def test_a_shell_runs_in_the_image(mount: Path) -> None:
    script = "echo $((6 * 7)); dpkg-query -W base-files | cut -f1; awk 'BEGIN { print 1 + 1 }'"
    assert run("chroot", mount, "/bin/sh", "-c", script).split() == ["42", "base-files", "2"]
