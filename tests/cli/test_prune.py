"""``prune``: what was not used, down to a size, indexes, and containers after a question."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archives import Layer, docker_archive
from support.mounting import COMMAND, CommandLine, is_mounted, own_places
from support.terminal import Terminal

from unionmount.cli.quantities import parse_moment, parse_size
from unionmount.errors import UsageError
from unionmount.store.usage import allocated

_DAY = 86400.0
_LAYER = 1_000_000  # bytes of the file in each layer


class Place:
    """A store with three images, one layer of which two have in common."""

    def __init__(self, top: Path) -> None:
        self.environment = own_places(top) | {"TERM": "xterm"}
        self.line = CommandLine((), self.environment)
        self.store = top / "store"
        self.top = top
        self.where = top / "where"
        self.where.mkdir()
        base, layers = _layer("base"), {name: _layer(name) for name in "abc"}
        for name in "abc":
            stack = [layers[name]] if name == "c" else [base, layers[name]]
            path = docker_archive(top / f"{name}.tar", stack, f"example.org/{name}:1")
            self.line.run("load", path)

    def names(self) -> list[str]:
        out = self.line.run("images", "--format", "{{.Repository}}").stdout
        return sorted(one.removeprefix("example.org/") for one in out.split())

    def last_used(self, name: str, days: float) -> None:
        """Have an image look as if it was imported and used some days ago."""
        (image_id,) = self.line.run("images", "-q", "--no-trunc", name).stdout.split()
        now = time.time() - days * _DAY
        note = self.store / "used" / image_id.replace(":", "-")
        note.touch()
        os.utime(note, (now, now))
        catalogue = self.store / "images.json"
        text = catalogue.read_text()
        start = text.index(image_id)
        before, _, after = text[start:].partition('"created": ')
        number = after[: after.index(",")]
        after = after.replace(number, str(int(now)), 1)
        catalogue.write_text(text[:start] + before + '"created": ' + after)

    def prune(self, *words: str, status: int = 0) -> str:
        return self.line.run("prune", *words, status=status).stdout


def _layer(name: str) -> Layer:
    return Layer().file(f"file-{name}", os.urandom(_LAYER))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    if is_mounted(made.where):
        made.line.run("umount", "--lazy", made.where)


def test_images_that_were_not_used(place: Place) -> None:
    for name, days in (("a", 10), ("b", 5), ("c", 1)):
        place.last_used(f"example.org/{name}:1", days)
    assert "Would untag: example.org/a:1" in place.prune("--until", "7d", "--dry-run")
    assert place.names() == ["a", "b", "c"]
    place.prune("--until", "7d")
    assert place.names() == ["b", "c"]
    assert place.line.run("ls", "example.org/b:1:/file-base").returncode == 0  # a use
    place.prune("--until", "72h")
    assert place.names() == ["b", "c"]
    place.prune("--until", "12h")
    assert place.names() == ["b"]
    assert len(list((place.store / "used").iterdir())) == 1


def test_a_date_in_the_future(place: Place) -> None:
    """It would remove everything, whatever was meant."""
    for text in ("9999-12-31", str(int(time.time()) + 3600)):
        error = place.line.error("prune", "--until", text, status=2)
        assert error.startswith(f"--until {text} is in the future; write an age")
    assert place.names() == ["a", "b", "c"]


@pytest.mark.needs("fuse")
def test_mounts_are_uses(place: Place) -> None:
    for name, days in (("a", 10), ("b", 10), ("c", 10)):
        place.last_used(f"example.org/{name}:1", days)
    place.line.run("mount", "--ro", "example.org/a:1", place.where)
    place.prune("--until", "0s")  # in use, however long ago
    assert place.names() == ["a"]
    place.line.run("umount", place.where)
    place.prune("--until", "7d")
    assert place.names() == ["a"]


def test_down_to_a_size(place: Place) -> None:
    for name, days in (("a", 1), ("b", 5), ("c", 3)):
        place.last_used(f"example.org/{name}:1", days)
    layers = place.store / "layers"
    whole = allocated(layers)
    assert whole > 4 * _LAYER
    place.prune("--keep-size", "1GB")
    assert place.names() == ["a", "b", "c"]
    # Without b, its own layer goes; a has the other one.
    place.prune("--keep-size", str(whole - _LAYER // 2))
    assert place.names() == ["a", "c"]
    assert allocated(layers) < whole - _LAYER // 2
    place.prune("--keep-size", "2.5MB")
    assert place.names() == ["a"]
    place.prune("--keep-size", "0")
    assert place.names() == []


def test_both_conditions(place: Place) -> None:
    for name, days in (("a", 10), ("b", 5), ("c", 1)):
        place.last_used(f"example.org/{name}:1", days)
    place.prune("--until", "7d", "--keep-size", "0")
    assert place.names() == ["b", "c"]
    place.prune("--until", "12h", "--keep-size", "2.5MB")
    assert place.names() == ["c"]  # b was enough


@pytest.mark.needs("fuse")
def test_indexes_of_archives(place: Place) -> None:
    place.line.run("mount", "--ro", place.top / "a.tar", place.where)
    inplace = place.store / "inplace"
    assert len(list(inplace.glob("*.idx"))) == 2
    place.prune("--all")
    assert len(list(inplace.glob("*.idx"))) == 2
    shown = place.prune("--all", "--indexes").splitlines()
    assert sum(one.startswith("Deleted: index of ") for one in shown) == 2
    assert shown[-1] != "Total reclaimed space: 0B"
    assert not list(inplace.iterdir())
    assert (place.where / "file-a").stat().st_size == _LAYER  # the mount keeps them open
    assert (place.where / "file-base").read_bytes()
    place.line.run("umount", place.where)
    assert "file-a" in place.line.run("ls", f"{place.top}/a.tar").stdout


@pytest.mark.needs("fuse")
def test_containers_only_when_asked(place: Place) -> None:
    for name in ("work", "other"):
        place.line.run("mount", "--name", name, "example.org/a:1", place.where)
        (place.where / "new").write_text("mine")
        place.line.run("umount", place.where)
    place.line.run("mount", "--name", "live", "example.org/a:1", place.where)

    def names() -> set[str]:
        return {path.name for path in (place.store / "containers").iterdir()} - {"lock"}

    place.prune("--all", "--indexes")
    assert {"work", "other", "live"} <= names()
    error = place.line.error("prune", "--containers", status=2)
    assert "--containers would remove work, other; add --force" in error
    assert "Would delete: container work\n" in place.prune("--containers", "--dry-run")
    for answer, left in (("n\n", {"work", "other", "live"}), ("y\n", {"live"})):
        terminal = Terminal([*COMMAND, "prune", "--containers"], place.environment)
        try:
            terminal.read_to(b"Remove work, other with all their changes? [y/N] ")
            terminal.type(answer)
            assert terminal.wait() == (0 if left == {"live"} else 1)
        finally:
            terminal.close()
        assert left <= names()
    assert not {"work", "other"} & names()
    assert (place.where / "file-a").exists()
    place.line.run("umount", place.where)
    assert "Deleted: container live\n" in place.prune("--containers", "--force", "--all")
    assert "live" not in names()
    error = place.line.error("prune", "--containers", "--until", "1d", status=2)
    assert "cannot be combined" in error


def test_quantities() -> None:
    for text, size in (
        *(("0", 0), ("20G", 20 * 10**9), ("20GB", 20 * 10**9), ("1.5kb", 1500)),
        *(("1GiB", 2**30), ("3 MB", 3_000_000), ("2Ti", 2**41)),
    ):
        assert parse_size(text) == size
    for text in ("", "G", "1i", "-1", "1x", "1e3", "1" * 16):
        with pytest.raises(UsageError):
            parse_size(text)
    now = time.time()
    for text, age in (("72h", 72 * 3600), ("7d", 7 * _DAY), ("1h30m", 5400), ("1d12h", 1.5 * _DAY)):
        assert abs(now - age - parse_moment(text)) < 60
    assert parse_moment("1970-01-02T00:00:00+00:00") == _DAY
    for text in ("", "yesterday", "7x", "h"):
        with pytest.raises(UsageError):
            parse_moment(text)
