"""``history``: the rows, and the table as docker prints it."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.image_files import MadeImage, docker_archive, tar, write_tar

from unionmount.cli import main
from unionmount.images.config import Config, History
from unionmount.images.history import history_rows
from unionmount.images.reference import Digest

Capture = pytest.CaptureFixture[str]
GOLDEN = Path(__file__).parents[1] / "assets" / "history"

_AGO = {"6 months ago": timedelta(days=200)}
_UNITS = {"B": 1, "kB": 1000, "MB": 1000**2}


# ---- rows ----------------------------------------------------------------------------------------


def config_of(steps: Sequence[bool], layers: int) -> Config:
    """A config with a step for each value: whether it is empty."""
    image = MadeImage(tuple(tar({"f": str(i).encode()}) for i in range(layers)))
    history = tuple(
        History("", f"step {i}", "", "", empty_layer=empty) for i, empty in enumerate(steps)
    )
    return replace(Config.parse(image.config, "made"), history=history)


def shown(steps: Sequence[bool], layers: int) -> list[tuple[str, int | None, int]]:
    sizes = [10 * (i + 1) for i in range(layers)]
    rows = history_rows(config_of(steps, layers), sizes)
    return [(row.step.created_by, row.layer, row.size) for row in rows]


def test_every_step_has_its_layer() -> None:
    assert shown([False, True, False], 2) == [
        ("step 2", 1, 20),
        ("step 1", None, 0),
        ("step 0", 0, 10),
    ]


def test_more_layers_than_steps() -> None:
    assert shown([False, True], 3) == [
        ("", 2, 30),
        ("", 1, 20),
        ("step 1", None, 0),
        ("step 0", 0, 10),
    ]
    assert shown([], 2) == [("", 1, 20), ("", 0, 10)]


def test_fewer_layers_than_steps() -> None:
    assert shown([False, False, True], 1) == [
        ("step 2", None, 0),
        ("step 1", None, 0),
        ("step 0", 0, 10),
    ]


def test_nothing_at_all() -> None:
    assert shown([], 0) == []


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 6))
def test_no_layer_is_lost(steps: list[bool], layers: int) -> None:
    config = config_of(steps, layers)
    rows = history_rows(config, [1] * layers)
    assert sorted(row.layer for row in rows if row.layer is not None) == list(range(layers))
    assert sum(row.size for row in rows) == layers
    assert [row.id for row in rows] == ([config.digest, *[None] * (len(rows) - 1)] if rows else [])


# ---- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """A table that somebody's docker printed, and an image that has it."""

    lines: list[str]
    image: MadeImage
    config: bytes

    @classmethod
    def read(cls, path: Path) -> Sample:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [_columns(lines[0], line) for line in lines[1:]]
        rows.reverse()
        layers = tuple(_layer(row["SIZE"], i) for i, row in enumerate(rows) if row["SIZE"] != "0B")
        document = json.loads(MadeImage(layers).config)
        document["history"] = [_step(row) for row in rows]
        config = json.dumps(document).encode()
        return cls(lines, MadeImage(layers), config)

    def write(self, path: Path) -> Path:
        members = docker_archive(self.image)
        name = "sha256:" + hashlib.sha256(self.config).hexdigest()
        manifest = json.loads(members.pop("manifest.json"))
        del members[manifest[0]["Config"]]
        manifest[0]["Config"] = name.removeprefix("sha256:") + ".json"
        members[manifest[0]["Config"]] = self.config
        members["manifest.json"] = json.dumps(manifest).encode()
        return write_tar(path, members)

    def expected(self) -> list[str]:
        """The lines, with the ID that this image has, and docker's spaces at the end.

        Its table has columns of at least ten characters; the samples came without what is blank.
        """
        new = hashlib.sha256(self.config).hexdigest()[:12]
        lines = [self.lines[0], new + self.lines[1][12:], *self.lines[2:]]
        return [line.ljust(lines[0].index("COMMENT")) for line in lines]


def _columns(head: str, line: str) -> dict[str, str]:
    names = re.split(r" {2,}", head)
    starts = [head.index(name) for name in names]
    ends = [*starts[1:], None]
    return {n: line[a:b].rstrip() for n, a, b in zip(names, starts, ends, strict=True)}


def _step(row: dict[str, str]) -> dict[str, Any]:
    created = datetime.now(UTC) - _AGO[row["CREATED"]]
    # what was cut is not known; it was longer than what is shown
    command = row["CREATED BY"].replace("…", "and so on")
    step: dict[str, Any] = {"created": created.isoformat(), "created_by": command}
    if row["SIZE"] == "0B":
        step["empty_layer"] = True
    return step | ({"comment": row["COMMENT"]} if row.get("COMMENT") else {})


def _layer(size: str, number: int) -> bytes:
    """A layer whose files have so many bytes: a hole, as tars have them, in a small tar."""
    value, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]+)", size).groups()  # type: ignore[union-attr]
    return sparse_tar(round(float(value) * _UNITS[unit]), str(number).encode())


def sparse_tar(size: int, seed: bytes) -> bytes:
    """A tar of one file of ``size`` bytes that is nearly all hole (GNU sparse format 1.0)."""
    data = b"1\n%d\n%d\n" % (size - len(seed), len(seed))
    data = data.ljust(512, b"\0") + seed
    info = tarfile.TarInfo("GNUSparseFile.0/file")
    info.size = len(data)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "file",
        "GNU.sparse.realsize": str(size),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture(params=["nginx", "covid-tracker"])
def sample_table(request: pytest.FixtureRequest) -> Sample:
    return Sample.read(GOLDEN / f"{request.param}.txt")


def test_the_samples_are_printed_line_by_line(
    sample_table: Sample, tmp_path: Path, capsys: Capture
) -> None:
    """Two tables of docker's, of 2022; one has both styles, ``#(nop)`` and buildkit's."""
    archive = sample_table.write(tmp_path / "image.tar")
    assert main(["--root", str(tmp_path / "store"), "history", str(archive)]) == 0
    assert capsys.readouterr().out.splitlines() == sample_table.expected()


@pytest.fixture
def history(tmp_path: Path, capsys: Capture) -> Callable[..., list[str]]:
    """A function that runs ``history`` on an image with these steps."""

    def run(steps: Sequence[dict[str, Any]], *arguments: str) -> list[str]:
        image = MadeImage((tar({"f": b"x" * 1040}),))
        document = json.loads(image.config) | {"history": list(steps)}
        made = Sample([], image, json.dumps(document).encode())
        archive = made.write(tmp_path / "image.tar")
        assert main(["--root", str(tmp_path), "history", *arguments, str(archive)]) == 0
        return capsys.readouterr().out.splitlines()

    return run


Run = Callable[..., list[str]]
_STEPS: list[dict[str, Any]] = [
    {"created": "2024-05-06T07:08:09.5Z", "created_by": "/bin/sh -c #(nop) ADD file:x in /"},
    {"created_by": "A\tB\x1b[1m\nC" + "z" * 60, "empty_layer": True, "comment": "c\x9b"},
]


def test_nothing_is_cut_with_no_trunc(history: Run) -> None:
    head, newest, oldest = history(_STEPS, "--no-trunc")
    assert re.match("sha256:[0-9a-f]{64}   N/A ", newest)
    assert newest.index("A B\\x1b[1m C" + "z" * 60) == head.index("CREATED BY")
    assert newest.endswith("c\\x9b")
    assert "…" not in newest + oldest


def test_quiet(history: Run) -> None:
    newest, oldest = history(_STEPS, "-q")
    assert re.fullmatch("[0-9a-f]{12}", newest)
    assert oldest == "<missing>"
    assert history(_STEPS, "-q", "--no-trunc")[0].startswith(f"sha256:{newest}")


@pytest.mark.parametrize("flag", ["-H=false", "--human=false", "--no-human"])
def test_not_for_people(history: Run, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    head, newest, oldest = history(_STEPS, flag)
    assert re.split(" {2,}", head) == ["IMAGE", "CREATED AT", "CREATED BY", "SIZE", "COMMENT"]
    assert re.split(" {3,}", oldest.rstrip()) == [
        *("<missing>", "2024-05-06T07:08:09Z", "/bin/sh -c #(nop) ADD file:x in /", "1040"),
    ]
    assert " 0 " in newest


def test_wrong_values_of_the_flag(tmp_path: Path, capsys: Capture) -> None:
    assert main(["history", "-H=maybe", "x"]) == 2
    assert "maybe" in capsys.readouterr().err


def test_forms(history: Run) -> None:
    rows = json.loads("".join(history(_STEPS, "--format", "json")))
    assert [row["size"] for row in rows] == [0, 1040]
    assert [row["layer"] for row in rows] == [None, 0]
    assert rows[0]["created_by"] == _STEPS[1]["created_by"]
    assert [json.loads(line) for line in history(_STEPS, "--format", "jsonl")] == rows
    assert history(_STEPS, "--format", "{{.Size}}|{{.ID}}")[1] == "1.04kB|<missing>"
    assert history(_STEPS, "--format", r"table {{.Size}}\t{{.ID}}")[0] == "SIZE      IMAGE"


def test_a_field_that_is_not_there(tmp_path: Path, sample: Path, capsys: Capture) -> None:
    status = main(["--root", str(tmp_path), "history", "--format", "{{.Foo}}", str(sample)])
    assert status == 1
    assert capsys.readouterr().err == (
        'unionmount: template parsing error: template: :1:2: executing "" at <.Foo>: '
        "can't evaluate field Foo in type *image.historyContext\n"
    )


def test_ids_are_of_the_config(sample: Path, tmp_path: Path, capsys: Capture) -> None:
    main(["--root", str(tmp_path), "history", "-q", "--no-trunc", str(sample)])
    first = capsys.readouterr().out.splitlines()[0]
    main(["--root", str(tmp_path), "inspect", "--config", str(sample)])
    assert first == str(Digest.of(capsys.readouterr().out.encode()))
