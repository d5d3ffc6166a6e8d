"""What every verb that reads an image has to stand: odd names, 128 layers, many files, a full disk,
and Ctrl-C.

The oracle of names is the tar that the test wrote, read by Python's tarfile; that of errors is the
kernel. ``test_umoci_vectors.py`` has hostile layers.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.backing import backing
from support.effort import amount
from support.mounting import COMMAND, CommandLine

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))

from bench import synthetic  # noqa: E402 - it lives beside the tests

NEEDLE = b"needle\n"
NAMES = (
    "with space", " before", "after ", "caf\udce9", "käse", "new\nline", "\n", "esc\x1b[1m", "-rf",
    "--help", "*", "?", "[a]", "back\\slash", "\\n", 'quo"te', "quo'te", "tab\tbed", "%s %d",
    "$HOME", "a:b", "docker:", "#", ";", "\x7f", "\x01", "\u202egpj.exe", "🐧", "..x",
    "x" * 255, "wh.x",
)  # fmt: skip


@pytest.fixture
def own(tmp_path: Path) -> CommandLine:
    return CommandLine(environment={"UNIONMOUNT_ROOT": str(tmp_path / "root")})


def output(own: CommandLine, *words: str | Path, status: int = 0) -> bytes:
    """Standard output as bytes; nothing may be on standard error."""
    done = subprocess.run(
        [*COMMAND, *words], env=own.environment, capture_output=True, check=False, timeout=1200
    )
    assert (done.returncode, done.stderr) == (status, b""), words
    return done.stdout


# ---- odd names -----------------------------------------------------------------------------------


def odd_layer() -> Layer:
    layer = Layer().directory("top")
    for name in NAMES:
        layer.file(f"top/{name}", NEEDLE)
    return layer


ODD = {f"/top/{name}" for name in NAMES}


def lines_of(data: bytes, end: bytes) -> set[str]:
    assert data == b"" or data.endswith(end)
    return set(map(os.fsdecode, data.split(end)[:-1]))


def paths_in(data: bytes) -> set[str]:
    """The paths of objects of JSON, one a line."""
    return {json.loads(line)["path"] for line in data.splitlines()}


def test_odd_names_are_printed_as_they_are(own: CommandLine, tmp_path: Path) -> None:
    image = docker_archive(tmp_path / "image.tar", [odd_layer()])
    empty = docker_archive(tmp_path / "empty.tar", [Layer().directory("top")])
    found = output(own, "find", image, "-type", "f", "-print0")
    assert lines_of(found, b"\0") == ODD
    assert lines_of(output(own, "find", image, "-type", "f", "-printf", "%p\\0"), b"\0") == ODD
    assert paths_in(output(own, "find", image, "-type", "f", "--format", "jsonl")) == ODD
    assert lines_of(output(own, "grep", "-lZ", "needle", image), b"\0") == ODD
    assert paths_in(output(own, "grep", "needle", image, "--format", "jsonl")) == ODD
    assert paths_in(output(own, "ls", image, "/top", "--format", "jsonl", "-a")) >= ODD
    differences = output(own, "diff", "--files", "--format", "jsonl", empty, image, status=1)
    assert paths_in(differences) - {"/top"} == ODD
    largest = json.loads(output(own, "layers", image, "--top", "99", "--format", "json"))["largest"]
    assert {one["path"] for one in largest} == ODD


def test_odd_names_are_brought_as_they_are(own: CommandLine, tmp_path: Path) -> None:
    layer = odd_layer()
    image, flat = docker_archive(tmp_path / "image.tar", [layer]), tmp_path / "flat.tar"
    flat.write_bytes(layer.data())
    (tmp_path / "out").mkdir()
    own.run("cp", "-a", f"{image}:/top", tmp_path / "out")
    assert set(os.listdir(tmp_path / "out/top")) == set(NAMES)
    commands: list[list[str | Path]] = [["export", image], ["cp", f"{image}:/top", "-"]]
    for words in commands:
        with tarfile.open(fileobj=io.BytesIO(output(own, *words))) as tar:
            names = {member.name.removeprefix("./") for member in tar if member.isreg()}
        assert names == {path[1:] for path in ODD}, words
    own.run("import", flat, "flat:1")
    own.run("import", tmp_path / "out", "directory:1")
    own.run("copy", "--squash", f"docker-archive:{image}", "squashed:1")
    for name in ("flat:1", "directory:1", "squashed:1"):
        assert lines_of(output(own, "find", name, "-type", "f", "-print0"), b"\0") == ODD


def test_packages_in_directories_of_odd_names(own: CommandLine, tmp_path: Path) -> None:
    layer, wanted = Layer(), set()
    for number, name in enumerate(NAMES):
        if len(name) > 200:
            continue
        path = f"usr/lib/python3/{name}/p{number}-1.dist-info/METADATA"
        layer.file(path, b"Metadata-Version: 2.1\nName: p%d\nVersion: 1\n" % number)
        wanted.add(f"/{path}")
    image = docker_archive(tmp_path / "image.tar", [layer])
    rows = json.loads(output(own, "packages", image, "--format", "json"))
    assert {row["path"] for row in rows} == wanted


# ---- 128 layers ----------------------------------------------------------------------------------


def many_layers(count: int) -> list[Layer]:
    """Each adds a file, changes another, and removes that of the layer before."""
    layers = []
    for number in range(count):
        layer = Layer().file(f"at/{number}", NEEDLE).file("last", b"%d\n" % number)
        if number:
            layer.file(f"at/.wh.{number - 1}")
        layers.append(layer)
    return layers


def test_128_layers(own: CommandLine, tmp_path: Path) -> None:
    """Verbs that have no such test of their own: find, ls, cp, layers, diff and import."""
    image = docker_archive(tmp_path / "image.tar", many_layers(128))
    assert output(own, "find", image) == b"/\n/at\n/at/127\n/last\n"
    assert output(own, "ls", "-1", image, "/at") == b"127\n"
    every = output(own, "find", image, "--all-layers", "-name", "[0-9]*").splitlines()
    hidden = [b"%d\thidden by %d\t/at/%d" % (n, n + 1, n) for n in range(127)]
    removed = [b"%d\twhiteout\t/at/%d" % (n + 1, n) for n in range(127)]
    assert set(every) == {*hidden, *removed, b"127\tvisible\t/at/127"}
    (tmp_path / "out").mkdir()
    own.run("cp", "-a", f"{image}:/.", tmp_path / "out")
    assert os.listdir(tmp_path / "out/at") == ["127"]
    assert (tmp_path / "out/last").read_bytes() == b"127\n"
    own.run("cp", "--layer", "5", f"{image}:/last", tmp_path / "fifth")
    assert (tmp_path / "fifth").read_bytes() == b"5\n"
    rows = json.loads(output(own, "layers", image, "--format", "json"))
    assert [row["deleted"] for row in rows] == [0] + [1] * 127
    other = docker_archive(tmp_path / "other.tar", many_layers(127))
    told = output(own, "diff", "--files", other, image, status=1).splitlines()
    assert told == [b"C /at", b"D /at/126", b"A /at/127", b"C /last"]
    own.run("import", tmp_path / "out", "made:1")
    assert output(own, "find", "made:1") == b"/\n/at\n/at/127\n/last\n"


# ---- output that finds no room, and output that nobody waits for ---------------------------------


@dataclass(frozen=True)
class Verb:
    """A command line that prints some tens of kilobytes; {image} and {empty} are archives."""

    line: str
    trouble: int = 1  # the exit status of errors

    def words(self, places: dict[str, Path]) -> list[str]:
        return [*COMMAND, *(word.format(**places) for word in self.line.split())]


VERBS = [
    Verb("find {image}"),
    Verb("find {image} -ls"),
    Verb("find {image} -printf %p:%i:%t"),
    Verb("find {image} --format json"),
    Verb("find {image} --all-layers"),
    Verb("grep needle {image}", 2),
    Verb("grep --format json needle {image}", 2),
    Verb("ls -lR {image}"),
    Verb("ls {image}:/many --format json"),
    Verb("cat {image}:/var/lib/dpkg/status"),
    Verb("layers {image} --top 1000"),
    Verb("layers {image} --top 1000 --format json"),
    Verb("packages {image}"),
    Verb("packages {image} --format spdx"),
    Verb("packages {image} --format cyclonedx"),
    Verb("diff --files {empty} {image}", 2),
    Verb("diff --format json {empty} {image}", 2),
    Verb("export {image}"),
    Verb("cp {image}:/many -"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Archives, whose indexes are made."""
    top = tmp_path_factory.mktemp("verbs")
    layer, status = Layer(), []
    for number in range(600):
        layer.file(f"many/{'n' * 100}{number}", NEEDLE)
        status.append(f"Package: package-{number}\nStatus: install ok installed\nVersion: 1\n")
    layer.file("var/lib/dpkg/status", "\n".join(status).encode())
    made = {
        "image": docker_archive(top / "image.tar", [layer]),
        "empty": docker_archive(top / "empty.tar", [Layer().directory("many")]),
    }
    line = CommandLine(environment={"UNIONMOUNT_ROOT": str(top / "root")})
    for image in made.values():
        line.run("find", image, "-maxdepth", "0")
    return made | {"root": top / "root"}


def environment_of(places: dict[str, Path]) -> dict[str, str]:
    return os.environ | {"UNIONMOUNT_ROOT": str(places["root"])}


@pytest.mark.slow
@pytest.mark.needs("root", "backing-tmpfs")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told_on_one_line(places: dict[str, Path], unbuffered: str) -> None:
    """Before the first byte has room, and after the first page."""
    environment = environment_of(places) | {"PYTHONUNBUFFERED": unbuffered}
    with backing("tmpfs", megabytes=1) as disk:
        for free in (0, 4096):
            fill(disk / "filler", free)
            for verb in VERBS:
                with (disk / "out").open("wb") as out:
                    done = subprocess.run(
                        verb.words(places), stdout=out, stderr=subprocess.PIPE, check=False,
                        env=environment,
                    )  # fmt: skip
                (disk / "out").unlink()
                assert done.returncode == verb.trouble, (verb, done.stderr)
                assert done.stderr.count(b"\n") == 1, (verb, done.stderr)
                assert b"No space left on device" in done.stderr, verb
                assert b"internal error" not in done.stderr, verb


def fill(path: Path, free: int) -> None:
    """Leave so many bytes free on the disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(file.tell() - free)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.line)
def test_an_interrupt_while_it_prints_is_silent(verb: Verb, places: dict[str, Path]) -> None:
    """The signal comes when the pipe is full, and no more than one byte was read."""
    with subprocess.Popen(
        verb.words(places),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment_of(places),
    ) as process:
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        assert len(os.read(process.stdout.fileno(), 1)) == 1
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, b"")


# ---- many files ----------------------------------------------------------------------------------

MANY = amount(20_000, 1_000_000)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[CommandLine, Path]:
    """An archive of so many small files in four layers, whose indexes are made."""
    top = tmp_path_factory.mktemp("many")
    synthetic.write_archive(top / "many.tar", MANY, 4)
    line = CommandLine(environment={"UNIONMOUNT_ROOT": str(top / "root")})
    output(line, "find", top / "many.tar", "-maxdepth", "0")
    return line, top / "many.tar"


@pytest.mark.slow
def test_many_files_are_printed(many: tuple[CommandLine, Path]) -> None:
    line, image = many
    files = ["-type", "f"]
    for more in ([], ["-ls"], ["-printf", "%p %s\\n"], ["--format", "jsonl"]):
        assert output(line, "find", image, *files, *more).count(b"\n") == MANY, more
    assert output(line, "find", image, *files, "--all-layers").count(b"\n") == MANY
    assert output(line, "grep", "-l", "small", image).count(b"\n") == MANY
    listing = output(line, "ls", "-R", image)
    assert sum(name.startswith(b"file-") for name in listing.splitlines()) == MANY
    rows = json.loads(output(line, "layers", image, "--format", "json"))
    assert sum(row["bytes"] for row in rows) == MANY * len(b"a small file\n")
    assert output(line, "packages", image, "--format", "json") == b"[]\n"


@pytest.mark.slow
def test_many_files_are_compared(many: tuple[CommandLine, Path], tmp_path: Path) -> None:
    line, image = many
    assert output(line, "diff", image, image) == b""
    few = tmp_path / "few.tar"
    synthetic.write_archive(few, MANY // 2, 2)  # its files are the first ones, in equal layers
    told = output(line, "diff", "--files", "--format", "jsonl", few, image, status=1)
    kinds = [(one["kind"], one["type"]) for one in map(json.loads, told.splitlines())]
    assert kinds.count(("A", "file")) == MANY - MANY // 2
    assert not any(kind == "D" for kind, _ in kinds)


@pytest.mark.slow
def test_many_files_are_brought(many: tuple[CommandLine, Path], tmp_path: Path) -> None:
    """Export to a stream, import from it, squash, and copy one directory of a hundred."""
    line, image = many
    flat = tmp_path / "flat.tar"
    with flat.open("wb") as out:
        subprocess.run(
            [*COMMAND, "export", image], env=line.environment, stdout=out, check=True, timeout=1200
        )
    with tarfile.open(flat) as tar:
        assert sum(member.isreg() for member in tar) == MANY
    commands: list[list[str | Path]] = [
        ["import", flat, "flat:1"],
        ["copy", "--squash", f"docker-archive:{image}", "one:1"],
    ]
    for words in commands:
        subprocess.run(
            [*COMMAND, *words], env=line.environment, check=True, capture_output=True, timeout=1200
        )
        name = words[-1]
        assert output(line, "find", name, "-type", "f").count(b"\n") == MANY
        output(line, "rmi", name)
    flat.unlink()
    (tmp_path / "out").mkdir()
    line.run("cp", "-a", f"{image}:/data/0/0", tmp_path / "out")
    assert len(os.listdir(tmp_path / "out/0")) == 100
