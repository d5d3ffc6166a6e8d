"""layers --top and its thresholds: against a computation from the tars alone."""

from __future__ import annotations

import io
import json
import posixpath
import re
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from support.archives import Layer, docker_archive
from support.mounting import CommandLine


def layers() -> list[Layer]:
    base = Layer().directory("usr").file("usr/big", b"b" * 50_000).file("usr/twice", b"t" * 3000)
    base.file("var/cache/a", b"a" * 7000).file("var/cache/b", b"b" * 900).file("gone", b"g" * 20)
    base.file("name", b"n" * 4000).hard_link("usr/other-name", "name").file("empty")
    base.symlink("link", "usr/big").file("odd/caf\udce9 \x1b[1m", b"o" * 600)
    change = Layer().file("usr/twice", b"T" * 2500).file("var/.wh.cache").file(".wh.gone")
    change.file(".wh.name").file("new", b"n" * 10)
    top = Layer().file("usr/twice", b"3" * 3100).file("gone", b"back" * 10).file("new", b"N" * 11)
    top.directory("odd").file("odd/.wh..wh..opq").file("odd/plain", b"p")
    return [base, change, top]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return docker_archive(tmp_path_factory.mktemp("image") / "image.tar", layers())


# ---- the computation -----------------------------------------------------------------------------


class Counted:
    """What Python's tarfile says of the layers, one after the other."""

    def __init__(self, archive: Path) -> None:
        self.sizes: dict[str, dict[int, int]] = defaultdict(dict)  # 0 where a layer deletes it
        self.own: dict[str, dict[int, int]] = defaultdict(dict)  # files of the layer itself
        self.shown: dict[str, int] = {}  # the layer of each path of the image
        self.names: dict[tuple[int, str], set[str]] = defaultdict(set)  # of a file: all hard links
        with tarfile.open(archive) as outer:
            document = outer.extractfile("manifest.json")
            assert document is not None
            for number, name in enumerate(json.load(document)[0]["Layers"]):
                blob = outer.extractfile(name)
                assert blob is not None
                with tarfile.open(fileobj=io.BytesIO(blob.read())) as inner:
                    self._apply(number, list(inner))

    def _apply(self, number: int, members: list[tarfile.TarInfo]) -> None:
        for member in members:
            directory, base = posixpath.split(member.name)
            if base == ".wh..wh..opq":
                self._hide(number, directory, with_itself=False)
            elif base.startswith(".wh."):
                self._hide(number, posixpath.join(directory, base.removeprefix(".wh.")))
        for member in members:
            if posixpath.basename(member.name).startswith(".wh.") or member.isdir():
                continue
            if member.isreg():
                self.own[member.name][number] = self.sizes[member.name][number] = member.size
                self.names[number, member.name].add(member.name)
            elif member.islnk():
                self.names[number, member.linkname].add(member.name)
            self.shown[member.name] = number

    def _hide(self, number: int, path: str, *, with_itself: bool = True) -> None:
        for name in [*self.shown]:
            if name.startswith(path + "/") or (with_itself and name == path):
                if name in self.own:
                    self.sizes[name][number] = 0
                del self.shown[name]

    def is_shown(self, path: str, layer: int) -> bool:
        return any(self.shown.get(name) == layer for name in self.names[layer, path])

    @property
    def efficiency(self) -> float:
        """As dive: for each path the smallest size of all layers, to the sum of all sizes."""
        least = sum(min(sizes.values()) for sizes in self.sizes.values())
        return least / sum(sum(sizes.values()) for sizes in self.sizes.values())

    def wasted(self, path: str) -> int:
        return sum(s for n, s in self.own[path].items() if not self.is_shown(path, n))

    def total(self, path: str) -> int:
        return sum(self.own[path].values())


def path_of(one: dict[str, Any]) -> str:
    return str(one["path"]).removeprefix("/")


def test_lists_are_those_of_the_tars(cli: CommandLine, source: Path) -> None:
    counted = Counted(source)
    found = json.loads(cli.run("layers", source, "--top", "100", "--format", "json").stdout)
    assert found["efficiency"] == pytest.approx(counted.efficiency, abs=1e-6)
    assert found["wasted_bytes"] == sum(map(counted.wasted, counted.own))
    assert found["bytes"] == sum(map(counted.total, counted.own))
    for name, size in (
        ("largest", lambda path: counted.total(path) - counted.wasted(path)),
        ("wasted", counted.wasted),
        ("repeated", lambda path: counted.total(path) if len(counted.own[path]) > 1 else 0),
    ):
        wanted = {path: size(path) for path in [*counted.own] if size(path)}
        order = sorted(
            wanted, key=lambda path: (-wanted[path], path.encode("utf-8", "surrogateescape"))
        )
        assert [path_of(one) for one in found[name]] == order, name
        for one in found[name]:
            path = path_of(one)
            assert {v["layer"]: v["bytes"] for v in one["versions"]} == counted.own[path]
            assert one["wasted"] == counted.wasted(path)
            assert one["shown"] == counted.total(path) - counted.wasted(path)
            for version in one["versions"]:
                assert version["shown"] is counted.is_shown(path, version["layer"])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_short_list_is_the_beginning_of_the_long_one(
    cli: CommandLine, source: Path, count: int
) -> None:
    everything = json.loads(cli.run("layers", source, "--top", "100", "--format", "json").stdout)
    some = json.loads(cli.run("layers", source, "--top", str(count), "--format", "json").stdout)
    for name in ("largest", "wasted", "repeated"):
        assert some[name] == everything[name][:count]


def test_efficiency_and_repeated_files_are_those_of_dive(cli: CommandLine, tmp_path: Path) -> None:
    """What dive 0.13 printed of this image: efficiencyScore, and its fileReference."""
    layers = [
        Layer().file("a", b"a" * 1000).file("b", b"b" * 500).file("c", b"c" * 70),
        Layer().file("a", b"A" * 900).file(".wh.b"),
        Layer().file("a", b"x" * 1200).file("b", b"n" * 10),
    ]
    image = docker_archive(tmp_path / "dive.tar", layers)
    found = json.loads(cli.run("layers", image, "--top", "9", "--format", "json").stdout)
    assert found["efficiency"] == pytest.approx(0.26358695652173914, abs=1e-6)
    assert found["bytes"] == 3680
    sums = [(one["path"], one["shown"] + one["wasted"]) for one in found["repeated"]]
    assert sums == [("/a", 3100), ("/b", 510)]


def test_equal_files_are_in_the_order_of_their_names(cli: CommandLine, tmp_path: Path) -> None:
    layer = Layer()
    for number in range(50):
        layer.file(f"{number % 7}/{number}", b"x" * 100)
    archive = docker_archive(tmp_path / "equal.tar", [layer])
    found = json.loads(cli.run("layers", archive, "--top", "5", "--format", "json").stdout)
    names = sorted(f"/{number % 7}/{number}" for number in range(50))
    assert [one["path"] for one in found["largest"]] == names[:5]


def test_the_tables(cli: CommandLine, source: Path) -> None:
    shown = cli.run("layers", source, "--top", "2").stdout
    parts = shown.split("\n\n")
    assert [re.split(r"\s{3,}", line) for line in parts[3].splitlines()] == [
        ["SIZE", "LAYER", "PATH"],
        ["50kB", "0", "/usr/big"],
        ["4kB", "0", "/name"],
    ]
    assert [re.split(r"\s{3,}", line) for line in parts[5].splitlines()] == [
        ["WASTED", "IN LAYERS", "PATH"],
        ["7kB", "0 (7kB)", "/var/cache/a"],
        ["5.5kB", "0 (3kB), 1 (2.5kB)", "/usr/twice"],
    ]
    assert [re.split(r"\s{3,}", line) for line in parts[7].splitlines()] == [
        ["SUM", "IN LAYERS", "PATH"],
        ["8.6kB", "0 (3kB), 1 (2.5kB), 2 (3.1kB)", "/usr/twice"],
        ["60B", "0 (20B), 2 (40B)", "/gone"],
    ]
    assert "/odd/caf\\xe9 \\x1b[1m" in cli.run("layers", source, "--top", "9").stdout


def test_lines_of_json_name_their_list(cli: CommandLine, source: Path) -> None:
    lines = cli.run("layers", source, "--top", "9", "--format", "jsonl").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    whole = json.loads(cli.run("layers", source, "--top", "9", "--format", "json").stdout)
    for name in ("layers", "largest", "wasted", "repeated"):
        assert [{k: v for k, v in row.items() if k != "list"}
                for row in rows if row["list"] == name] == whole[name]  # fmt: skip


def test_an_image_without_waste_has_no_such_tables(cli: CommandLine, tmp_path: Path) -> None:
    archive = docker_archive(tmp_path / "one.tar", [Layer().file("a", b"a")])
    shown = cli.run("layers", archive, "--top", "3", "--max-wasted", "0").stdout
    assert "Largest" in shown
    assert "wasted files" not in shown
    assert "several layers" not in shown
    assert cli.run("layers", "scratch", "--top", "3", "--min-efficiency", "1").stdout


# ---- thresholds ----------------------------------------------------------------------------------


def test_thresholds_are_exact(cli: CommandLine, source: Path) -> None:
    counted = Counted(source)
    wasted, everything = (sum(map(one, counted.own)) for one in (counted.wasted, counted.total))
    percent = wasted / everything * 100
    kept: tuple[str, ...] = (
        f"{wasted}",
        f"{wasted}B",
        f"{wasted / 1000}kB",
        f"{percent + 0.01:.4f}%",
        "1GiB",
    )
    kept += (f"{percent / 100 + 0.0001:.6f}", "1.0")
    for text in kept:
        cli.run("layers", source, "--max-wasted", text)
    for text in (f"{wasted - 1}", "0", "1kB", f"{percent - 0.01:.4f}%", "0%", "0.0"):
        done = cli.run("layers", source, "--max-wasted", text, status=1)
        assert f"{wasted} of {everything} bytes in files are wasted, more than" in done.stderr
        assert f"--max-wasted {text}\n" in done.stderr
        assert done.stdout.startswith("LAYER")
    for text in ("0", "0%", f"{counted.efficiency - 0.0001:.6f}"):
        cli.run("layers", source, "--min-efficiency", text)
    for text in ("1", "100%", f"{counted.efficiency + 0.0001:.6f}"):
        done = cli.run("layers", source, "--min-efficiency", text, status=1)
        assert done.stderr.count("\n") == 1
        assert f"less than --min-efficiency {text}\n" in done.stderr


def test_both_thresholds_are_told_on_one_line(cli: CommandLine, source: Path) -> None:
    words = ("--min-efficiency", "99%", "--max-wasted", "1B", "--format", "json")
    done = cli.run("layers", source, *words, status=1)
    assert done.stderr.count("\n") == 1
    assert "less than --min-efficiency 99%; " in done.stderr
    assert "more than --max-wasted 1B" in done.stderr
    assert len(json.loads(done.stdout)) == 3


@pytest.mark.parametrize(
    "words",
    [
        ["--min-efficiency", "1.1"],
        ["--min-efficiency", "-1"],
        ["--min-efficiency", "90kB"],
        ["--min-efficiency", "101%"],
        ["--min-efficiency", ""],
        ["--max-wasted", "101%"],
        ["--max-wasted", "5x"],
        ["--max-wasted", "1.5"],
        ["--max-wasted", "1e400"],
        ["--max-wasted", "\x1b[31m"],
        ["--max-wasted", "nan"],
        ["--top", "0"],
        ["--top", "many"],
        ["1", "--top", "3"],
        ["1", "--max-wasted", "3"],
    ],
    ids=" ".join,
)
def test_wrong_usage(cli: CommandLine, source: Path, words: list[str]) -> None:
    assert "\x1b" not in cli.error("layers", str(source), *words, status=2)


def test_a_path_in_an_image_is_told_to_be_too_much(cli: CommandLine, source: Path) -> None:
    cli.run("load", "-i", docker_archive(source.with_name("odd.tar"), [Layer()], "odd:1"))
    for image in ("odd:1", source):
        for command in ("layers", "packages", "history", "diff"):
            error = cli.error(command, f"{image}:/etc", status=2)
            assert f"only a whole image can be given here; write '{image}'" in error
    assert "did you mean oci" in cli.error("layers", f"ocii:{source}", status=2)
    assert "leave out the path" in cli.error("layers", "odd:/etc", status=2)


def test_commands_of_layers_are_on_one_line(cli: CommandLine, tmp_path: Path) -> None:
    history = ["RUN <<EOF\n\techo  \x1b[2J\r\nEOF"]
    image = docker_archive(tmp_path / "lines.tar", [Layer().file("f", b"1")], history=history)
    for command, path in (("layers", ()), ("which", ("/f",)), ("history", ("--no-trunc",))):
        shown = " ".join(cli.run(command, image, *path).stdout.splitlines()[1].split())
        assert r"RUN <<EOF echo \x1b[2J EOF" in shown
    assert cli.run("history", "--format", "{{.CreatedBy}}", image).stdout.count("\n") == 3
