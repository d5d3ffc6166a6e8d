"""What unionmount's speed and memory are, beside those of the tools that do the same job.

    python -m bench [--quick] [--all | --only PART …] [--output FILE] [--images DIR]
                    [--rows PIECE …] [--subjects PATTERN …] [--passes N] [--keep-caches]

Prints Markdown tables and keeps all numbers as JSON; the parts operations, work and scale make one
table, with a picture. bench/README.md says how each number is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from bench import machine, report, results, synthetic, tables
from bench.results import Row

PROJECT = Path(__file__).parent.parent
sys.path.insert(0, str(PROJECT / "tests"))

from support.real_images import RealImage, real_image  # noqa: E402 - it lives beside the tests

from bench import (  # noqa: E402 - likewise
    extract,
    fastpath,
    finding,
    operations,
    podman,
    registry,
    scale,
    searching,
    subjects,
    writing,
)
from bench import work as real_work  # noqa: E402 - likewise
from bench.measuring import Notebook, Reading  # noqa: E402 - likewise
from bench.subjects import BASE, PASSES, Choice  # noqa: E402 - likewise
from unionmount.core import Indexer  # noqa: E402

_MANY = {"MB/s": "", "headers/s": ">= 500,000"}
_LARGE = {"MB/s": ">= 1,000"}
_PARTS = [
    *report.PARTS,
    "index",
    "shapes",
    "others",
    "writing",
    "pull",
    "fastpath",
    "podman",
    "extract",
    "grep",
    "find",
]
_TABLE = ", ".join(report.PARTS)
_COMMAND = Path(sys.executable).parent / "unionmount"


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _in_turn(runs: int, *functions: Callable[[], object]) -> list[list[float]]:
    """Seconds of each; the functions take turns, so that the machine's moods hit all of them."""
    taken: list[list[float]] = [[] for _ in functions]
    for _ in range(runs):
        for times, function in zip(taken, functions, strict=True):
            times.append(_seconds(function))
    return taken


# ---- indexing ----------------------------------------------------------------------------------


def _scan(path: Path) -> None:
    with path.open("rb") as tar, tempfile.TemporaryFile() as out, Indexer("bench") as indexer:
        size = path.stat().st_size
        for _ in indexer.scan(tar.fileno(), 0, size):
            pass
        indexer.finish(size, out.fileno())


def _feed(path: Path) -> None:
    with (
        path.open("rb", buffering=0) as tar,
        tempfile.TemporaryFile() as out,
        Indexer("bench") as indexer,
    ):
        buffer = bytearray(1 << 20)
        while size := tar.readinto(buffer):
            indexer.feed(memoryview(buffer)[:size])
        indexer.finish(path.stat().st_size, out.fileno())


def _tarfile(path: Path) -> None:
    with tarfile.open(path, "r:") as tar:
        while tar.next() is not None:
            tar.members = []  # type: ignore[attr-defined]  # as its manual says, to bound memory


def _index_rows(path: Path, what: str, headers: int, wanted: dict[str, str]) -> Iterator[Row]:
    size = path.stat().st_size
    functions = {"scan in place": _scan, "feed as a stream": _feed, "tarfile": _tarfile}
    for function in functions.values():
        function(path)  # the file is in the page cache from here on
    taken = _in_turn(3, *(partial(function, path) for function in functions.values()))
    amounts = {"MB/s": size / 1e6, "headers/s": headers}
    for (name, function), times in zip(functions.items(), taken, strict=True):
        for unit, goal in wanted.items():
            shown = "" if function is _tarfile else goal
            rates = [amounts[unit] / seconds for seconds in times]
            yield Row.of("index", f"{what}, {name}", rates, unit, shown)


def index(work: Path, quick: bool) -> Iterator[Row]:
    """Indexing of plain tars on one core."""
    count = 100_000 if quick else 1_000_000
    small = work / "small.tar"
    synthetic.write_small(small, count)
    headers = count + count // 100
    yield from _index_rows(small, f"{count:,} small files", headers, _MANY)
    small.unlink()
    large = work / "large.tar"
    files = 4 if quick else 20
    synthetic.write_large(large, files, 100 << 20)
    yield from _index_rows(large, f"{files} files of 100 MiB", files, _LARGE)
    large.unlink()


# ---- mounting ----------------------------------------------------------------------------------


class _Mounts:
    """Runs the command with a store of its own."""

    def __init__(self, work: Path) -> None:
        self.root = work / "store"
        self.mountpoint = work / "mnt"
        self.mountpoint.mkdir(exist_ok=True)
        self.environment = os.environ | {
            "UNIONMOUNT_ROOT": str(self.root),
            "UNIONMOUNT_RUNTIME_DIR": str(work / "runtime"),
        }

    def run(self, *words: str | Path) -> str:
        command = [_COMMAND, *words]
        return subprocess.run(
            command, check=True, env=self.environment, stdout=subprocess.PIPE, text=True
        ).stdout

    def forget(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def first_list(self, source: str) -> None:
        """From the command to the first names on the screen."""
        self.run("mount", "--ro", source, self.mountpoint)
        subprocess.run(["ls", self.mountpoint], check=True, stdout=subprocess.DEVNULL)

    def unmount(self) -> None:
        self.run("umount", self.mountpoint)

    def status(self) -> dict[str, float]:
        """The daemon's memory in MB."""
        (record,) = json.loads(self.run("ps", "--format", "json"))
        lines = Path(f"/proc/{record['pid']}/status").read_text(encoding="ascii").splitlines()
        pairs = dict(line.split(":", 1) for line in lines)
        names = ("VmRSS", "RssAnon", "RssFile")
        return {name: int(pairs[name].split()[0]) * 1024 / 1e6 for name in names}

    def timed(self, source: str, runs: int, *, cold: bool) -> list[float]:
        """Seconds of ``first_list``; unmounting is not counted."""
        taken = []
        for _ in range(runs):
            if cold:
                self.forget()
            taken.append(_seconds(lambda: self.first_list(source)))
            self.unmount()
        return taken


def _walk(top: Path) -> None:
    subprocess.run(["find", top, "-size", "+1G"], check=True, stdout=subprocess.DEVNULL)


def _shape_rows(work: Path, count: int, layers: int) -> Iterator[Row]:
    archive = work / "image.tar"
    synthetic.write_archive(archive, count, layers)
    source, mounts = f"docker-archive:{archive}", _Mounts(work)
    what = f"{count:,} entries in {layers} layer" + "s" * (layers > 1)
    yield Row.of("mount", f"{what}: cold", mounts.timed(source, 3, cold=True), "s")
    yield Row.of("mount", f"{what}: warm", mounts.timed(source, 5, cold=False), "s", "< 0.4")
    mounts.first_list(source)
    for name, value in mounts.status().items():
        yield Row("memory", f"{what}: mounted, {name}", value, "MB")
    yield Row("walk", f"{what}: first find", _seconds(lambda: _walk(mounts.mountpoint)), "s")
    yield Row("walk", f"{what}: second find", _seconds(lambda: _walk(mounts.mountpoint)), "s")
    for name, value in mounts.status().items():
        wanted = "< 120" if name == "VmRSS" else ""
        yield Row("memory", f"{what}: after find, {name}", value, "MB", wanted)
    mounts.unmount()
    mounts.forget()
    archive.unlink()


def shapes(work: Path, quick: bool) -> Iterator[Row]:
    """Mount time and memory by number of entries and of layers."""
    for count in (1_000, 10_000, 100_000) if quick else (1_000, 10_000, 100_000, 1_000_000):
        yield from _shape_rows(work, count, 1)
    for layers in (8, 128) if quick else (8, 32, 128):
        yield from _shape_rows(work, 100_000, layers)


# ---- against others ----------------------------------------------------------------------------


@contextmanager
def _buildah(work: Path) -> Iterator[list[str | Path]]:
    storage, run = work / "buildah", work / "buildah-run"
    try:
        yield ["--storage-driver", "vfs", "--root", storage, "--runroot", run]
    finally:
        shutil.rmtree(storage, ignore_errors=True)
        shutil.rmtree(run, ignore_errors=True)


def _with_umoci(image: RealImage, work: Path) -> None:
    bundle = work / "bundle"
    source = image.built()["oci-gzip"].removeprefix("oci:")
    subprocess.run(["umoci", "unpack", "--image", source, bundle], check=True, capture_output=True)
    subprocess.run(["ls", bundle / "rootfs"], check=True, stdout=subprocess.DEVNULL)


def _with_buildah(image: RealImage, work: Path) -> None:
    with _buildah(work) as options:

        def buildah(*words: str) -> str:
            done = subprocess.run(
                ["buildah", *options, *words], check=True, capture_output=True, text=True
            )
            return done.stdout.strip()

        container = buildah("from", "--pull", image.built()["docker-archive"])
        subprocess.run(["ls", buildah("mount", container)], check=True, stdout=subprocess.DEVNULL)
        buildah("umount", container)


def _layer_of(image: RealImage, path: Path) -> int:
    """Write the largest layer of the image to ``path``; how many headers it has."""
    with tarfile.open(image.docker_archive) as archive, path.open("wb") as out:
        largest = max((m for m in archive if m.isfile()), key=lambda member: member.size)
        content = archive.extractfile(largest)
        assert content is not None
        shutil.copyfileobj(content, out)
    with tarfile.open(path) as layer:
        return len(layer.getmembers())


def others(work: Path, images: Path) -> Iterator[Row]:
    """A real image: its index, and the time to the first ``ls`` beside other tools."""
    image = real_image(images)
    layer = work / "layer.tar"
    yield from _index_rows(layer, "layer of Debian", _layer_of(image, layer), _LARGE)
    mounts = _Mounts(work)
    forms = image.built() | {"oci-zstd": image.sources()["oci-zstd"]}
    for form, source in forms.items():
        cold, warm = (mounts.timed(source, 3, cold=cold) for cold in (True, False))
        yield Row.of("first ls", f"unionmount, {form}, first time", cold, "s")
        yield Row.of("first ls", f"unionmount, {form}, again", warm, "s", "< 0.4")
        mounts.forget()
    for name, function in (("umoci unpack", _with_umoci), ("buildah from + mount", _with_buildah)):
        taken = []
        for _ in range(3):
            taken.append(_seconds(partial(function, image, work)))
            shutil.rmtree(work / "bundle", ignore_errors=True)
        yield Row.of("first ls", name, taken, "s")


# ---- beside other file systems -----------------------------------------------------------------


def _compared(part: str, readings: Iterator[Reading]) -> Iterator[Row]:
    """Rows of subjects, each with how often the median of overlayfs."""
    for reading in readings:
        base = statistics.median(reading.taken.get(BASE, [0.0]))
        for subject, taken in reading.taken.items():
            ratio = statistics.median(taken) / base if base else None
            row = Row.of(part, reading.what, taken, reading.unit)
            yield replace(row, subject=subject, ratio=ratio, table=reading.table)


_TABLE_PARTS = {"operations": operations, "work": real_work, "scale": scale}


def _in_table(
    name: str, part: ModuleType, work: Path, choice: Choice, notes: Notebook, quick: bool
) -> Iterator[Row]:
    """A part of the one table; what it lacks as a whole is named, and the next one follows."""
    try:
        yield from _compared(name, part.measure(work, choice, notes, quick=quick))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        notes.miss("every row", f"part {name}", error)


# ---- pulling -----------------------------------------------------------------------------------


def pulls(work: Path, images: Path, quick: bool) -> Iterator[Row]:
    """An image from a registry to the first ``ls``, beside other tools and the limit."""
    found = list(registry.measure(work, images, quick=quick))
    limit = next(one.value for one in found if one.what.startswith(registry.LIMIT))
    for one in found:
        ratio = one.value / limit if one.unit == "s" and one.limited else None
        wanted = "< 1.3 of the limit" if one.what == registry.OURS else ""
        shown = f"{one.what} (x {ratio:.2f} of the limit)" if ratio else one.what
        row = Row.of("pull", shown, one.runs or (one.value,), one.unit, wanted)
        yield replace(row, ratio=ratio)


# ---- podman ------------------------------------------------------------------------------------


def containers(work: Path, quick: bool) -> Iterator[Row]:
    """Builds and containers of podman, with fuse-overlayfs and with unionmount below."""
    for one in podman.measure(work, quick=quick):
        yield replace(Row.of("podman", one.what, one.seconds, "s"), subject=one.subject)


# ---- taking files out --------------------------------------------------------------------------


def taking_out(work: Path, quick: bool) -> Iterator[Row]:
    """``export`` beside ``cp``, and ``cp`` of one file."""
    for one in extract.measure(work, quick=quick):
        yield Row.of("extract", one.what, one.seconds, "s", one.wanted)


# ---- searching ---------------------------------------------------------------------------------


def searches(work: Path, images: Path, choice: Choice, quick: bool) -> Iterator[Row]:
    """``grep -r`` of whole images, without a mount and on one."""
    for one in searching.measure(work, images, quick=quick, passes=choice.passes):
        yield replace(Row.of("grep", one.what, one.seconds, "s"), subject=one.subject)


def finds(work: Path, choice: Choice, quick: bool) -> Iterator[Row]:
    """``find`` of many names, without a mount and on one."""
    for one in finding.measure(work, quick=quick, passes=choice.passes):
        yield replace(Row.of("find", one.what, one.seconds, "s"), subject=one.subject)


# ---- the face ----------------------------------------------------------------------------------


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--quick", action="store_true", help="once, with small numbers, for a look")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--all", action="store_true", help=f"all parts, not only {_TABLE}")
    which.add_argument("--only", nargs="*", choices=_PARTS, metavar="PART", help=", ".join(_PARTS))
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    images = os.environ.get("UNIONMOUNT_TEST_IMAGES", PROJECT / "bench/out/images")
    parser.add_argument("--images", type=Path, default=images)
    some = parser.add_argument_group("of the parts that compare file systems")
    some.add_argument("--rows", nargs="+", default=[""], metavar="PIECE", help="of their names")
    some.add_argument("--subjects", nargs="+", default=["*"], metavar="PATTERN")
    some.add_argument("--passes", type=int, help=f"{PASSES}, or 1 with --quick")
    some.add_argument(
        "--keep-caches", action="store_true", help="for a look: what is cold is so for the mount"
    )
    return _completed(parser, parser.parse_args())


def _completed(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> argparse.Namespace:
    """Choose what was left open, and refuse what would spoil what is kept."""
    if arguments.only is None:
        arguments.only = _PARTS if arguments.all else list(report.PARTS)
    if arguments.passes is None:
        arguments.passes = 1 if arguments.quick else PASSES
    if arguments.output is None:
        name = "quick" if arguments.quick else "bench"
        arguments.output = PROJECT / f"bench/out/{name}.json"
    if arguments.quick and arguments.output.resolve().parent == PROJECT / "bench":
        parser.error("a quick run is not worth keeping: name a file outside of bench/ as --output")
    if not _choice(arguments).among(subjects.EVERY):
        parser.error(f"no such subject; there are: {'; '.join(one.name for one in subjects.EVERY)}")
    return arguments


def _choice(arguments: argparse.Namespace) -> Choice:
    drop = not (arguments.quick or arguments.keep_caches)
    return Choice(arguments.subjects, arguments.rows, arguments.passes, drop)


def _measure(arguments: argparse.Namespace, notes: Notebook) -> Generator[Row, None, None]:
    quick, images = arguments.quick, arguments.images
    choice = _choice(arguments)
    with tempfile.TemporaryDirectory(prefix="unionmount-bench-") as made:
        work = Path(made)
        parts: dict[str, Callable[[], Iterator[Row]]] = {
            name: partial(_in_table, name, part, Path(made), choice, notes, quick)
            for name, part in _TABLE_PARTS.items()
        }
        parts |= {
            "index": lambda: index(work, quick),
            "shapes": lambda: shapes(work, quick),
            "others": lambda: others(work, images),
            "pull": lambda: pulls(work, images, quick),
            "writing": lambda: _compared(
                "writing", writing.measure(work, images, choice, notes, quick=quick)
            ),
            "fastpath": lambda: _compared(
                "fastpath", fastpath.measure(work, images, choice, notes, quick=quick)
            ),
            "podman": lambda: containers(work, quick),
            "extract": lambda: taking_out(work, quick),
            "grep": lambda: searches(work, images, choice, quick),
            "find": lambda: finds(work, choice, quick),
        }
        for part, rows in parts.items():
            if part in arguments.only:
                yield from rows()


def _end(*_: object) -> None:
    """Leave as Ctrl-C does: unmount, and remove what was made."""
    raise KeyboardInterrupt


def _told(arguments: argparse.Namespace, notes: Notebook) -> Iterator[Row]:
    """The rows, each printed when it is there."""
    with closing(_measure(arguments, notes)) as measured:
        for row in measured:
            who = f" ({row.subject})" if row.subject else ""
            print(f"{row.part}: {row.what}{who}: {row.value:.3f} {row.unit}", file=sys.stderr)
            yield row


def _facts(rows: list[Row], notes: Notebook, choice: Choice) -> dict[str, Any]:
    """What a run says once."""
    facts: dict[str, Any] = {
        "machine": machine.facts(),
        "load": notes.watch.facts(),
        "arguments": sys.argv[1:],
        "caches dropped": choice.drop_caches,
        "versions": subjects.versions({row.subject for row in rows if row.subject}),
        "programs": machine.programs(),
        "file systems": notes.file_systems,
        "missing": list(notes.missing),
    }
    return facts | ({"wrong": notes.wrong} if notes.wrong else {})


def _keep(output: Path, facts: dict[str, Any], rows: list[Row]) -> None:
    """Write and print: the one table, and those of other parts."""
    output.parent.mkdir(parents=True, exist_ok=True)
    ours = [row for row in rows if row.part in report.PARTS]
    others = [row for row in rows if row.part not in report.PARTS]
    if ours:
        found = report.Report(facts, ours)
        found.write(output)
        print(found.table())
    if others:
        path = output.with_stem(f"{output.stem}-parts") if ours else output
        results.write(path, facts, others)
        tables.show(others, facts["versions"])


def main() -> None:
    """Measure, print the tables, keep the numbers; 1 if a subject did not do what was asked for."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _end)
    notes = Notebook()
    try:
        rows = list(_told(arguments, notes))
    except KeyboardInterrupt:
        sys.exit("bench: interrupted, nothing is kept")
    for missing in notes.missing:
        print(f"missing: {missing}", file=sys.stderr)
    if not rows:
        sys.exit("bench: no such row")
    _keep(arguments.output, _facts(rows, notes, _choice(arguments)), rows)
    if notes.wrong:
        sys.exit("bench: wrong results\n" + "\n".join(notes.wrong))
