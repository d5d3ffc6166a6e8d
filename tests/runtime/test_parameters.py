"""Execution parameters: the conversion of the image specification, and a command line's changes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from unionmount.errors import FormatError, UsageError
from unionmount.images.config import Config
from unionmount.runtime.parameters import (
    PREFIX,
    Changes,
    ImageParameters,
    Parameters,
    combined,
    merged_env,
    without_labels,
)


def config(**runtime: Any) -> Config:
    document = {
        "architecture": "arm",
        "os": "linux",
        "variant": "v7",
        "author": "A U Thor",
        "created": "2020-01-01T00:00:00Z",
        "rootfs": {"type": "layers", "diff_ids": []},
        "config": runtime,
    }
    return Config.parse(json.dumps(document).encode(), "image")


def parameters(changes: Changes | None = None, **runtime: Any) -> Parameters:
    return combined(ImageParameters.of(config(**runtime), "image"), changes or Changes(), "image")


@pytest.mark.parametrize(
    ("entrypoint", "cmd", "changes", "args"),
    [
        (["e"], ["c"], Changes(), "e c"),
        (["e"], None, Changes(), "e"),
        (None, ["c", "d"], Changes(), "c d"),
        (["e"], ["c"], Changes(command=("x", "y")), "e x y"),
        (["e"], ["c"], Changes(entrypoint=("n",)), "n"),
        (["e"], ["c"], Changes(entrypoint=("n", "o"), command=("x",)), "n o x"),
        (["e"], ["c"], Changes(entrypoint=(), command=("x",)), "x"),
        (None, None, Changes(command=("x",)), "x"),
    ],
)
def test_arguments(entrypoint: Any, cmd: Any, changes: Changes, args: str) -> None:
    assert parameters(changes, Entrypoint=entrypoint, Cmd=cmd).args == tuple(args.split())


@pytest.mark.parametrize("changes", [Changes(), Changes(entrypoint=())])
def test_nothing_to_run(changes: Changes) -> None:
    with pytest.raises(UsageError, match="give a COMMAND"):
        parameters(changes, **({} if changes.entrypoint is None else {"Cmd": ["c"]}))


@pytest.mark.parametrize(
    ("stored", "given", "cwd"),
    [
        ("", None, "/"),
        ("/a/b/", None, "/a/b"),
        ("a", None, "/a"),
        ("/a/../../b", None, "/b"),
        ("//a", None, "/a"),
        ("/a", "/b", "/b"),
        ("/a", "", "/"),
    ],
)
def test_working_directories(stored: str, given: str | None, cwd: str) -> None:
    assert parameters(Changes(working_dir=given), Cmd=["c"], WorkingDir=stored).cwd == cwd


def test_the_environment_keeps_its_order() -> None:
    found = parameters(Changes(env=("B=2", "C=3")), Cmd=["c"], Env=["A=1", "B=1", "N"])
    assert found.env == ("A=1", "B=2", "N=", "C=3")
    assert merged_env(["A=1"], ["A=2=3"], ["A="]) == ("A=",)


def test_annotations() -> None:
    """The table is ``conversion.md`` of the image specification."""
    found = parameters(
        Cmd=["c"],
        StopSignal="SIGQUIT",
        ExposedPorts={"80/tcp": {}, "53": {}},
        Labels={"org.opencontainers.image.author": "label", "own": "x"},
    )
    prefix = "org.opencontainers.image."
    assert found.annotations == {
        f"{prefix}os": "linux",
        f"{prefix}architecture": "arm",
        f"{prefix}variant": "v7",
        f"{prefix}author": "label",
        f"{prefix}created": "2020-01-01T00:00:00Z",
        f"{prefix}stopSignal": "SIGQUIT",
        f"{prefix}exposedPorts": "53,80/tcp",
        "own": "x",
    }


@pytest.mark.needs("runc", "crun")
def test_a_label_is_no_order_to_a_runtime() -> None:
    """The names are those in the programs of the runtimes."""
    obeyed = {"run.oci.seccomp_bpf_data", "Run.OCI.handler", "org.criu.config"}
    for program in map(shutil.which, ("runc", "crun")):
        assert program is not None
        text = Path(program).read_bytes()
        names = re.findall(rb"(?:run\.oci|org\.systemd\.property)\.[a-zA-Z_.-]+", text)
        obeyed |= {name.decode() for name in names}
    assert {"run.oci.keep_original_groups", "run.oci.hooks.stdout"} <= obeyed
    found = parameters(Cmd=["c"], Labels=dict.fromkeys(obeyed, "1") | {"run.own": "x"})
    assert not obeyed & set(found.annotations)
    assert found.annotations["run.own"] == "x"


# From the documentation of each: crun(1), runc's ``features`` (potentiallyUnsafeConfigAnnotations),
# Kata's how-to-set-sandbox-config-kata.md, gVisor's FAQ, CRI-O's annotations, urunc, CDI, ocijail.
ORDERS = (
    *("krun.cpus", "krun.disk.0.path", "module.wasm.image/variant", "bundle", "org.criu.config"),
    *("org.systemd.property.TimeoutStopUSec", "io.katacontainers.config.hypervisor.path"),
    *("dev.gvisor.spec.mount.m.source", "dev.gvisor.flag.debug-log", "com.urunc.unikernel.binary"),
    *("io.kubernetes.cri-o.Devices", "io.kubernetes.cri.container-type", "cdi.k8s.io/vendor"),
    *("org.freebsd.jail.vnet", "io.container.manager", "io.containerd.runc.v2.group"),
    *("org.linuxcontainers.lxc.cgroup2", "io.microsoft.virtualmachine.lcow.kernel"),
    *("org.opencontainers.runc.exec.isolated-cpu-affinity-transition", "io.youki.rootless"),
)


def test_labels_that_some_runtime_obeys() -> None:
    kept = {"maintainer": "x", "org.label-schema.name": "x", "com.example.bundle": "x"}
    labels = dict.fromkeys(ORDERS, "1") | kept
    found = parameters(Cmd=["c"], Labels=labels).annotations
    assert {name: text for name, text in found.items() if not name.startswith(PREFIX)} == kept


def test_a_runtime_that_is_not_known_gets_no_labels() -> None:
    labels = {"maintainer": "x", f"{PREFIX}title": "t"}
    found = without_labels(parameters(Cmd=["c"], Labels=labels)).annotations
    assert found[f"{PREFIX}title"] == "t"
    assert all(name.startswith(PREFIX) for name in found)


@pytest.mark.parametrize(
    "runtime",
    [
        {"Entrypoint": "sh"},
        {"Cmd": [1]},
        {"Cmd": {"a": 1}},
        {"Env": ["=x"]},
        {"Env": ["a\0=x"]},
        {"User": 5},
        {"WorkingDir": []},
        {"Volumes": ["x"]},
        {"Labels": {"a": 1}},
        {"ExposedPorts": ["80"]},
        {"StopSignal": 9},
    ],
    ids=str,
)
def test_damaged_configs_are_errors(runtime: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="image"):
        parameters(Changes(command=("x",)), **runtime)


@pytest.mark.parametrize(
    "runtime",
    [{"Cmd": ["a\0b"]}, {"Entrypoint": ["\0"]}, {"Cmd": ["c"], "WorkingDir": "/a\0"}],
    ids=str,
)
def test_null_bytes_are_errors(runtime: dict[str, Any]) -> None:
    with pytest.raises((UsageError, FormatError), match="null byte"):
        parameters(**runtime)
