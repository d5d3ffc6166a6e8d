"""Programs of other processors: their headers, and what the kernel does with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.emulator import namespace_without_emulators, register

from unionmount.images.platform import Platform
from unionmount.system.emulation import architecture_of, kernel_runs

_ASK = "from unionmount.system.emulation import kernel_runs; print(kernel_runs({!r}))"


@pytest.mark.slow
@pytest.mark.needs("go")
@pytest.mark.parametrize("architecture", ["386", "arm64", "s390x"])
def test_headers_are_those_of_go(architecture: str, tmp_path: Path) -> None:
    """Little and big endian, 32 and 64 bits; the oracle is Go's linker."""
    (tmp_path / "nothing.go").write_text("package main\n\nfunc main() {}\n", encoding="ascii")
    cache = os.environ.get("GOCACHE", str(Path.home() / ".cache" / "go-build"))
    more = {"GOARCH": architecture, "CGO_ENABLED": "0", "GO111MODULE": "off", "GOCACHE": cache}
    command = ["go", "build", "-o", "nothing", "nothing.go"]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | more)
    begin = (tmp_path / "nothing").read_bytes()[:20]
    assert architecture_of(begin) == architecture
    assert architecture_of(begin[:19]) is None
    assert architecture_of(b"#!/bin/sh\n" + begin) is None


def test_the_interpreter_is_for_this_machine() -> None:
    own = Platform.host().architecture
    assert architecture_of(Path(sys.executable).read_bytes()[:20]) == own
    assert kernel_runs("vax") is None  # and none is known to us


@pytest.mark.needs("root", "nsenter", "binfmt-of-namespace", "qemu-aarch64-static")
def test_the_kernel_says_whether_an_emulator_is_registered(tmp_path: Path) -> None:
    with namespace_without_emulators(tmp_path) as prefix:

        def asked(architecture: str) -> str:
            command = [*prefix, sys.executable, "-c", _ASK.format(architecture)]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout

        assert asked("arm64") == "False\n"
        register(prefix)
        assert asked("arm64") == "True\n"
        assert asked("riscv64") == "False\n"
        # where the registrations can't be seen, as in a container, they hold all the same
        cover = ["mount", "-t", "tmpfs", "none", "/proc/sys/fs/binfmt_misc"]
        subprocess.run([*prefix, *cover], check=True)
        assert asked("arm64") == "True\n"
