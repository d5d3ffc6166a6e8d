"""``run`` with programs of another processor, with and without an emulator."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.emulator import namespace_without_emulators, register
from support.running import Runner, busybox_layer, running

pytestmark = [pytest.mark.slow, pytest.mark.needs("fuse", "root", "busybox", "go", "crun", "runc")]

_SOURCE = 'package main\n\nimport "os"\n\nfunc main() { os.Stdout.WriteString("far\\n") }\n'
_ADVICE = "install the package qemu-user-static, which registers an emulator with the kernel"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A program for arm64."""
    place = tmp_path_factory.mktemp("built")
    (place / "far.go").write_text(_SOURCE, encoding="ascii")
    cache = os.environ.get("GOCACHE", str(Path.home() / ".cache" / "go-build"))
    more = {"GOARCH": "arm64", "CGO_ENABLED": "0", "GO111MODULE": "off", "GOCACHE": cache}
    command = ["go", "build", "-ldflags=-s -w", "-o", "far", "far.go"]
    subprocess.run(command, check=True, cwd=place, env=os.environ | more)
    return (place / "far").read_bytes()


@pytest.fixture(scope="module")
def image(make_public_tmp: Callable[[], Path], program: bytes) -> Path:
    """An image that says nothing of its platform, with programs for two processors."""
    layer = busybox_layer().file("bin/far", program, mode=0o755)
    layer.directory("opt").file("opt/far", program, mode=0o644).symlink("bin/near", "busybox")
    layer.file("bin/script", b"#! /bin/far -x\nnothing\n", mode=0o755)
    layer.file("bin/behind", b"#!/bin/script\n", mode=0o755)
    config = {"Cmd": ["/bin/far"], "Env": ["PATH=/opt:/bin"]}
    return docker_archive(make_public_tmp() / "image.tar", [layer], config=config)


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Runner]:
    """Root's command line in a namespace without emulators."""
    with (
        namespace_without_emulators(tmp_path) as prefix,
        running(Runner(tmp_path, prefix=prefix, environment={})) as runner,
    ):
        yield runner


in_namespace = pytest.mark.needs("nsenter", "binfmt-of-namespace", "qemu-aarch64-static")


@in_namespace
@pytest.mark.parametrize("runtime", ["crun", "runc"])
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "/bin/far"),
        (["far"], "/bin/far"),  # /opt/far may not be executed
        (["../bin/far"], "/bin/far"),
        (["script"], "/bin/far"),
        (["behind"], "/bin/far"),
    ],
)
def test_one_line_says_what_to_install(
    line: Runner, image: Path, runtime: str, words: list[str], found: str
) -> None:
    for options in (["--rm"], ["--name", "new"], ["-d"], ["--rm", "--init"]):
        told = line.error("run", "--runtime", runtime, *options, image, *words, status=126)
        expected = f"{found} is a program for linux/arm64 and this machine is linux/amd64; "
        assert told == expected + _ADVICE
    assert line.run("ps", "-aq").stdout == ""


@in_namespace
def test_what_else_is_run(line: Runner, image: Path) -> None:
    """Programs of this machine; what a volume hides cannot be known."""
    assert line.output("run", "--rm", image, "echo", "near") == "near\n"
    line.run("run", "--name", "kept", image, "true")
    shell = image.parent / "programs"
    shell.mkdir(exist_ok=True)
    (shell / "far").write_text("#!/bin/sh\necho from the volume\n", encoding="ascii")
    (shell / "far").chmod(0o755)
    told = line.output("run", "--rm", "-v", f"{shell}:/opt", image, "far")
    assert told == "from the volume\n"


@in_namespace
def test_an_emulator_runs_it(line: Runner, image: Path) -> None:
    line.error("run", "--rm", image, status=126)
    register(line.prefix)
    assert line.output("run", "--rm", image) == "far\n"
    assert line.output("run", "--rm", "--init", image, "far") == "far\n"
    detached = line.output("run", "-d", "--name", "kept", image, "sleep", "1000").strip()
    assert line.output("exec", detached, "far") == "far\n"


@in_namespace
def test_a_warning_says_it_for_a_mount(line: Runner, program: bytes, tmp_path: Path) -> None:
    (tmp_path / "far.tar").write_bytes(Layer().file("far", program, mode=0o755).data())
    line.run("import", "-q", "--platform", "linux/arm64", tmp_path / "far.tar", "far:1")
    where = tmp_path / "mounted"
    where.mkdir()
    (warning,) = line.run("mount", "--ro", "far:1", where).stderr.splitlines()
    assert warning.endswith(f"its programs need an emulator to run here; {_ADVICE}")
    line.run("umount", where)
    register(line.prefix)
    assert line.run("mount", "--ro", "far:1", where).stderr == ""
    assert line.run("umount", where).stderr == ""
