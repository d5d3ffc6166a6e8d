"""config.json, compared key by key with podman's own for the same image and options.

docs/explanation/running.md lists the differences that are meant, with reasons; nothing else may
differ, and each line of the list has to be needed.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer
from support.podman_config import PodmanOracle
from support.running import Runner, program_image, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("fuse", "root", "busybox", "podman", "runc", "unshare"),
]

IMAGES: dict[str, dict[str, Any]] = {
    "plain": {"Cmd": ["/bin/sh"]},
    "service": {
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["id"],
        "User": "app",
        "WorkingDir": "/srv/x",
        "Env": ["A=b", "PATH=/bin:/usr/bin", "EMPTY="],
        "Labels": {"l": "1", "org.example.x": "y z"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "StopSignal": "SIGINT",
    },
    "numbers": {"Entrypoint": ["/bin/id"], "User": "12345", "WorkingDir": "/new/dir"},
    "group": {"Cmd": ["id"], "User": "app:extra", "Env": ["HOME=/elsewhere", "TERM=dumb"]},
    "both": {"Cmd": ["id"], "User": "1000:77", "StopSignal": "9"},
    "root": {"Cmd": ["id"], "User": "0:0"},
}

CASES: list[tuple[str, list[str], list[str]]] = [
    ("plain", [], []),
    ("plain", ["-t", "--read-only"], ["sh", "-c", "true"]),
    ("plain", ["--privileged"], []),
    ("plain", ["--cap-add", "sys_admin", "--cap-add=CAP_NET_RAW", "--cap-drop", "chown"], []),
    ("plain", ["--cap-drop=ALL", "--cap-add=KILL"], []),
    ("plain", ["--cap-add=ALL", "--cap-drop=MKNOD"], []),
    ("plain", ["--network=none", "--hostname=box", "-u", "app"], []),
    ("plain", ["-v", "{dir}:/data", "-v", "{dir}:/more:ro", "-v", "{file}:/etc/motd:ro"], []),
    ("plain", ["--tmpfs", "/scratch", "--tmpfs", "/small:size=1m,mode=700,exec"], []),
    ("plain", ["-v", "{dir}:/data/below", "-v", "{dir}:/data", "--tmpfs", "/etc"], []),
    ("plain", ["--mount", "type=bind,source={dir},target=/m,readonly"], []),
    ("plain", ["--mount", "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700"], []),
    ("plain", ["-e", "X=1", "-e", "X=2", "-e", "HOME=/h", "-w", "/bin"], []),
    ("service", [], []),
    ("service", ["-e", "A=c", "-u", "0", "-w", "/"], ["echo hi"]),
    ("service", ["--cap-add=NET_RAW", "--cap-add=kill", "--cap-drop=CHOWN"], []),
    ("service", ["--privileged"], []),
    ("service", ["--entrypoint", "/bin/ls"], ["-l"]),
    ("service", ["--entrypoint", '["/bin/ls", "-a"]', "-u", "root:extra"], []),
    ("service", ["--entrypoint", ""], ["id"]),
    ("numbers", [], ["-u"]),
    ("numbers", ["-u", "1000"], []),
    ("group", [], []),
    ("both", [], []),
    ("root", ["-u", ":extra"], []),
]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("archives")
    files = Layer().file("etc/motd", b"hello\n").directory("more")
    return {
        name: program_image(top / f"{name}.tar", files, **config) for name, config in IMAGES.items()
    }


@pytest.fixture(scope="module")
def podman(
    archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PodmanOracle]:
    """Podman with the images; its paths of sockets have to be short."""
    # podman takes no path of more than 50 characters
    with tempfile.TemporaryDirectory(prefix="um-pod-", dir="/run") as runroot:
        made = PodmanOracle(tmp_path_factory.mktemp("podman"), Path(runroot))
        for name, archive in archives.items():
            made.load(archive, name)
        yield made
        made.remove()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(Runner(tmp_path_factory.mktemp("bundles"))) as made:
        yield made


@pytest.fixture(scope="module")
def permitted(project: Path) -> dict[str, str]:
    """The differences that the documentation names: an expression for keys, and the reason."""
    text = (project / "docs/explanation/running.md").read_text(encoding="utf-8")
    _, _, section = text.partition("\n## Differences from podman\n")
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", section.partition("\n## ")[0], re.MULTILINE)
    return {key.replace("\\|", "|"): reason for key, reason in rows}


@pytest.fixture(scope="module")
def used() -> set[str]:
    """Lines of the list that some case needed."""
    return set()


@pytest.mark.parametrize(("image", "options", "words"), CASES, ids=str)
def test_podman_writes_the_same(
    line: Runner,
    podman: PodmanOracle,
    archives: dict[str, Path],
    permitted: dict[str, str],
    used: set[str],
    tmp_path: Path,
    image: str,
    options: list[str],
    words: list[str],
) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    places = {"dir": tmp_path / "dir", "file": tmp_path / "file"}
    options = [one if one.startswith("[") else one.format(**places) for one in options]
    network = [] if "--network=none" in options else ["--network=host"]
    theirs = podman.config(*network, *options, f"localhost/{image}", *words)
    ours = our_config(line, archives[image], tmp_path / "bundle", options, words)
    found = differences(flat(ours), flat(theirs))
    for key in list(found):
        for expression in permitted:
            if re.fullmatch(expression, key) or re.fullmatch(expression, f"{key}={found[key][0]}"):
                used.add(expression)
                found.pop(key)
                break
    assert found == {}


_CHANGES = """
echo x >>/etc/hosts; touch /etc/made /dev/x; rm /etc/motd; mkdir -p /new/dir; chmod 711 /root
rm /bin/yes; ln -s made /etc/link
"""
# Mount points that podman leaves in the changes of a container, and their parents.
_OF_PODMAN = {f"/{one}" for one in ("dev", "proc", "sys", "run", "run/.containerenv", "data")}
_OF_PODMAN |= {f"/etc/{one}" for one in ("hosts", "hostname", "resolv.conf", "mtab")}


def test_the_same_changes(
    line: Runner, podman: PodmanOracle, archives: dict[str, Path], tmp_path: Path
) -> None:
    words = ("-v", f"{tmp_path}:/data")
    program = ("sh", "-c", _CHANGES)
    _, theirs = podman.run("--network=host", *words, "localhost/plain", *program)
    line.run("run", "--name", "changes", *words, archives["plain"], *program)
    ours = line.output("diff", "changes").splitlines()
    assert "A /etc/made" in ours
    assert {one.split()[1] for one in ours} & _OF_PODMAN == set()
    assert sorted(ours) == sorted(one for one in theirs if one.split()[1] not in _OF_PODMAN)


def our_config(
    line: Runner, archive: Path, bundle: Path, options: list[str], words: list[str]
) -> dict[str, Any]:
    end = ["--", *words] if words else []
    line.run("bundle", "--ephemeral", *options, archive, bundle, *end)
    try:
        found: dict[str, Any] = json.loads((bundle / "config.json").read_text())
        return found
    finally:
        line.run("bundle", "--remove", bundle)


def test_the_list_has_no_line_that_nobody_needs(
    permitted: dict[str, str], used: set[str], request: pytest.FixtureRequest
) -> None:
    selected = [one for one in request.session.items if one.name.startswith("test_podman_writes")]
    if len(selected) < len(CASES):
        return  # some cases alone were asked for
    assert set(permitted) == used


# ---- comparing -----------------------------------------------------------------------------------

Flat = dict[str, Any]


def flat(document: dict[str, Any]) -> Flat:
    """Return values by keys, as ``linux.seccomp.defaultAction``; lists that are sets by member."""
    found: Flat = {}
    _flatten("", document, found)
    return found


_NAMED = {"linux.namespaces": "type", "process.rlimits": "type", "linux.devices": "path"}
_SETS = ("linux.maskedPaths", "linux.readonlyPaths")


def _flatten(key: str, value: Any, found: Flat) -> None:
    match key, value:
        case "process.env", list():
            pairs = (word.partition("=") for word in value)
            value = {name: text for name, _, text in pairs}
        case "mounts", list():
            for one in value:
                one["options"] = sorted(one["options"])
            value = {one.pop("destination"): one for one in value}
        case "linux.seccomp.syscalls", list():
            value = sorted(json.dumps(one, sort_keys=True) for one in value)
        case _, list() if key in _NAMED:
            value = {one.pop(_NAMED[key]): one or True for one in value}
        case _, list() if key in _SETS:
            value = dict.fromkeys(value, True)
    if not isinstance(value, dict):
        found[key] = value
        return
    for name, below in value.items():
        _flatten(f"{key}.{name}" if key else name, below, found)


def differences(ours: Flat, theirs: Flat) -> dict[str, tuple[Any, Any]]:
    """Return the keys whose values differ, with both values."""
    keys = sorted({*ours, *theirs})
    return {
        key: (ours.get(key), theirs.get(key)) for key in keys if ours.get(key) != theirs.get(key)
    }
