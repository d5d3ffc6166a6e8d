"""The command diff with two images: their configs and packages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.image_files import MadeImage, tar, write_tar
from support.image_files import docker_archive as archive_of
from support.mounting import CommandLine

BEFORE: dict[str, Any] = {
    "Env": ["PATH=/bin", "A=1", "B=with = sign", "GONE="],
    "Cmd": ["/bin/one"],
    "Entrypoint": ["/init", "--x"],
    "Labels": {"version": "1", "same": "s", "old": "x"},
    "User": "root",
    "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
    "Volumes": {"/data": {}},
    "WorkingDir": "/",
    "StopSignal": "SIGTERM",
    "Image": "sha256:abc",
    "Hostname": "before",
}
AFTER: dict[str, Any] = {
    "Env": ["PATH=/bin:/usr/bin", "A=1", "B=with = sign", "NEW=n"],
    "Cmd": ["/bin/two", "ä\n"],
    "Labels": {"version": "2", "same": "s", "new": "y"},
    "User": "1000",
    "ExposedPorts": {"80/tcp": {}, "8080/tcp": {}},
    "Volumes": None,
    "WorkingDir": "/",
    "StopSignal": "SIGINT",
    "Healthcheck": {"Test": ["CMD", "true"]},
    "Image": "sha256:def",
    "Hostname": "after",
}
"""What differs, as a reader of the two tables would write it down."""
DIFFERENT = """\
C config:User  "root" -> "1000"
D config:Entrypoint  ["/init", "--x"]
C config:Cmd  ["/bin/one"] -> ["/bin/two", "ä\\n"]
D config:Env.GONE  ""
A config:Env.NEW  "n"
C config:Env.PATH  "/bin" -> "/bin:/usr/bin"
D config:ExposedPorts.443/tcp
A config:ExposedPorts.8080/tcp
D config:Volumes./data
A config:Labels.new  "y"
D config:Labels.old  "x"
C config:Labels.version  "1" -> "2"
C config:StopSignal  "SIGTERM" -> "SIGINT"
A config:Healthcheck  {"Test": ["CMD", "true"]}
"""
STATUS = "Package: {}\nStatus: install ok installed\nArchitecture: {}\nVersion: {}\n"


def status(*packages: tuple[str, str, str]) -> bytes:
    return "\n".join(STATUS.format(*one) for one in packages).encode()


def module(layer: Layer, where: str, name: str, version: str) -> Layer:
    document = json.dumps({"name": name, "version": version}).encode()
    return layer.file(f"{where}/node_modules/{name}/package.json", document)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("pair")
    old = Layer().file("var/lib/dpkg/status", status(
        ("libc6", "amd64", "2.36-9"), ("libc6", "i386", "2.36-9"), ("curl", "amd64", "7.1"),
        ("gone", "all", "1:2"),
    )).file("etc/motd", b"one")  # fmt: skip
    module(module(module(old, "a", "left", "1.0.0"), "b", "left", "2.0.0"), "moved", "m", "1.0.0")
    module(old, "removed/deep", "r", "0.1.0")
    new = Layer().file("var/lib/dpkg/status", status(
        ("libc6", "amd64", "2.36-10"), ("libc6", "i386", "2.36-9"), ("curl", "amd64", "7.1"),
        ("fresh", "all", "3"),
    )).file("etc/motd", b"two")  # fmt: skip
    module(
        module(module(new, "a", "left", "1.0.0"), "b", "left", "2.0.1"), "elsewhere", "m", "1.0.0"
    )
    new.file("opt/p-1.dist-info/METADATA", b"Name: P\nVersion: 1\n\nText")
    shared = Layer().file("shared", b"s")
    return (
        docker_archive(place / "old.tar", [shared, old], config=BEFORE, history=["a", "b"]),
        docker_archive(place / "new.tar", [shared, new], config=AFTER, history=["c", "d"]),
    )


PACKAGES = """\
D package:deb/gone  1:2
A package:deb/fresh  3
C package:deb/libc6  2.36-9 -> 2.36-10
A package:python/P  1
C package:npm/left  2.0.0 -> 2.0.1
D package:npm/r  0.1.0
"""


def test_config(cli: CommandLine, pair: tuple[Path, Path]) -> None:
    assert cli.run("diff", "--config", *pair, status=1).stdout == DIFFERENT


def test_config_in_json(cli: CommandLine, pair: tuple[Path, Path]) -> None:
    found = json.loads(cli.run("diff", "--config", "--format", "json", *pair, status=1).stdout)
    assert [one["what"] for one in found] == ["config"] * len(DIFFERENT.splitlines())
    for one in found:
        field, _, name = one["name"].partition(".")
        for side, config in (("before", BEFORE), ("after", AFTER)):
            value = config.get(field)
            if field == "Env":
                value = dict(text.split("=", 1) for text in value or ())
            if name:
                value = (value or {}).get(name)
                value = True if value == {} else value
            assert one[side] == value
        sides = one["before"] is not None, one["after"] is not None
        assert one["kind"] == {(True, True): "C", (False, True): "A", (True, False): "D"}[sides]


def test_packages(cli: CommandLine, pair: tuple[Path, Path]) -> None:
    shown = cli.run("diff", "--packages", *pair, status=1).stdout
    assert sorted(shown.splitlines()) == sorted(PACKAGES.splitlines())
    back = cli.run("diff", "--packages", pair[1], pair[0], status=1).stdout
    swapped = {"A": "D", "D": "A", "C": "C"}
    kinds = {line.split()[1]: line[0] for line in shown.splitlines()}
    assert {line.split()[1]: swapped[line[0]] for line in back.splitlines()} == kinds


def test_packages_are_the_difference_of_two_lists(
    cli: CommandLine, pair: tuple[Path, Path]
) -> None:
    """The command packages, on each side alone, is the oracle."""
    lists = []
    for archive in pair:
        rows = json.loads(cli.run("packages", "--format", "json", archive).stdout)
        lists.append(sorted((r["kind"], r["name"], r["architecture"], r["version"]) for r in rows))
    gone, come = [*lists[0]], [*lists[1]]
    for one in lists[0]:
        if one in come:
            come.remove(one)
            gone.remove(one)
    found = json.loads(cli.run("diff", "--packages", "--format", "json", *pair, status=1).stdout)
    told = [(o["type"], o["name"], o["architecture"], v) for o in found for v in o["before"]]
    assert sorted(map(str, told)) == sorted(map(str, gone))
    told = [(o["type"], o["name"], o["architecture"], v) for o in found for v in o["after"]]
    assert sorted(map(str, told)) == sorted(map(str, come))


def test_all_three_by_default(cli: CommandLine, pair: tuple[Path, Path]) -> None:
    everything = cli.run("diff", *pair, status=1).stdout
    parts = [
        cli.run("diff", option, *pair, status=1).stdout
        for option in ("--files", "--config", "--packages")
    ]
    assert everything == "".join(parts)
    assert all(re.match("[ACD] /", line) for line in parts[0].splitlines())
    objects = json.loads(cli.run("diff", "--format", "json", *pair, status=1).stdout)
    assert [one["what"] for one in objects] == [
        *["file"] * parts[0].count("\n"),
        *["config"] * parts[1].count("\n"),
        *["package"] * parts[2].count("\n"),
    ]
    two = cli.run("diff", "--files", "--packages", *pair, status=1).stdout
    assert two == parts[0] + parts[2]
    stat = cli.run("diff", "--stat", *pair, status=1).stdout
    assert stat.endswith(parts[1] + parts[2])


def test_templates_print_files_unless_others_are_chosen(
    cli: CommandLine, pair: tuple[Path, Path]
) -> None:
    form = ("--format", "{{.Kind}} {{.Path}}")
    assert cli.run("diff", *form, *pair, status=1).stdout == (
        cli.run("diff", "--files", *pair, status=1).stdout
    )
    form = ("--format", "{{.Name}}={{.After}}")
    shown = cli.run("diff", "--packages", *form, *pair, status=1).stdout.splitlines()
    assert "libc6=2.36-10" in shown
    assert "left=2.0.1" in shown


def test_status_is_of_what_was_chosen(cli: CommandLine, tmp_path: Path) -> None:
    one = docker_archive(tmp_path / "1.tar", [Layer().file("a")], config={"Cmd": ["a"]})
    two = docker_archive(tmp_path / "2.tar", [Layer().file("a")], config={"Cmd": ["b"]})
    cli.run("diff", one, two, status=1)
    for words in (["--files"], ["--packages"], ["--files", "--packages"]):
        assert cli.run("diff", *words, one, two).stdout == ""
    for words in (["--config"], ["--config", "--files"]):
        cli.run("diff", *words, one, two, status=1)
    assert cli.run("diff", one, one).stdout == ""


def test_the_platform_is_of_the_config(cli: CommandLine, tmp_path: Path) -> None:
    layer = tar({"a": b"a"})
    made = {
        name: write_tar(tmp_path / name, archive_of(MadeImage((layer,), architecture=architecture)))
        for name, architecture in (("1.tar", "amd64"), ("2.tar", "riscv64"))
    }
    shown = cli.run("diff", made["1.tar"], made["2.tar"], status=1).stdout
    assert shown == 'C config:architecture  "amd64" -> "riscv64"\n'


def test_a_database_that_cannot_be_read_is_trouble(cli: CommandLine, tmp_path: Path) -> None:
    one = docker_archive(tmp_path / "1.tar", [Layer().file("var/lib/rpm/Packages.db", b"x")])
    two = docker_archive(tmp_path / "2.tar", [Layer().file("var/lib/rpm/Packages.db", b"yy")])
    done = cli.run("diff", "--packages", one, two, status=2)
    assert done.stderr.count("/var/lib/rpm/Packages.db: ") == 2
    cli.run("diff", "--files", one, two, status=1)


def test_one_image_is_told_that_two_are_compared(
    cli: CommandLine, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    cli.run("load", "-i", docker_archive(tmp_path / "one.tar", [Layer()], "odd:1"))
    for word in (pair[0], "odd:1", "docker://odd:1"):
        error = cli.error("diff", word, status=2)
        assert error.endswith(
            f"'{word}' is an image, and two are compared; write 'unionmount diff {word} IMAGE' "
            "(see unionmount diff --help)"
        )
    for word in ("none:1", tmp_path):
        assert "no such container or mount" in cli.error("diff", word)


def test_wrong_usage(cli: CommandLine) -> None:
    for option in ("--files", "--config", "--packages"):
        assert "for two images" in cli.error("diff", option, "box", status=2)
    for option in ("--config", "--packages"):
        error = cli.error("diff", "--stat", option, "one", "two", status=2)
        assert "--stat is about files" in error
