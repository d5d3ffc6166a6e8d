"""The documentation: its links, what is generated, and what it says of numbers and names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unionmount.cli.program import LazyGroup, cli

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT))

from scripts.write_reference import (  # noqa: E402 - they stand beside the tests
    HELP,
    PAGE,
    help_texts,
    reference,
)

TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
# what the pages of docs/ and of the top directory link to, besides each other
LINKED = ("LICENSE", "bench/README.md", "bench/fastpath.svg")


def read(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def test_help_is_written_as_click_says_it() -> None:
    """After a change: scripts/write_reference.py."""
    written = {path.stem: path.read_text(encoding="utf-8") for path in HELP.glob("*.txt")}
    assert isinstance(cli, LazyGroup)
    assert written == help_texts(cli)


# ---- the site ------------------------------------------------------------------------------------


def build(place: Path) -> tuple[int, str]:
    """Read all pages as ``make lint-docs`` does, and write none."""
    words = ["-q", "-W", "--keep-going", "-b", "dummy", "-c", "docs", ".", "build"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A copy of all pages, to be spoilt."""
    shutil.copytree(PROJECT / "docs", tmp_path / "docs")
    (tmp_path / "bench").mkdir()
    for name in (*TOP, *LINKED):
        shutil.copy(PROJECT / name, tmp_path / name)
    return tmp_path


def test_links_that_lead_nowhere_fail_the_build(pages: Path) -> None:
    assert build(pages) == (0, "")
    broken = "\n[one](docs/nothing.md) [two](docs/tutorial.md#nowhere) [three](nothing.txt)\n"
    for name in TOP:
        page = pages / name
        page.write_text(page.read_text(encoding="utf-8") + broken, encoding="utf-8")
    (pages / "docs/how-to/forgotten.md").write_text("# Forgotten\n", encoding="utf-8")
    code, complaints = build(pages)
    assert code == 1
    for name in TOP:
        lines = [line for line in complaints.splitlines() if f"/{name}:" in line]
        assert len(lines) == 3, name
    assert "forgotten.md: WARNING: document isn't included in any toctree" in complaints


def test_what_sources_name_is_there() -> None:
    found = subprocess.run(
        ["git", "grep", "-ohE", r"docs/[a-z/-]+\.md", "--", "csrc", "src", "tests", "scripts"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    if not found:  # not in a checkout
        found = [
            name
            for folder in ("csrc", "src", "tests", "scripts")
            for path in (PROJECT / folder).rglob("*.[chp]*")
            if path.suffix in {".c", ".h", ".py"}
            for name in re.findall(r"docs/[a-z/-]+\.md", path.read_text(encoding="utf-8"))
        ]
    named = {name for name in found if "nothing" not in name and "forgotten" not in name}
    assert len(named) > 8
    assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []


# ---- what is generated, or told twice ------------------------------------------------------------


def test_the_command_reference_is_what_the_program_says() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == reference(cli), "run scripts/write_reference.py"


def test_every_variable_is_on_the_page_of_the_configuration() -> None:
    sources = (PROJECT / "src").rglob("*.py")
    used = {
        name
        for path in sources
        for name in re.findall(r"\bUNIONMOUNT_[A-Z_]+", path.read_text(encoding="utf-8"))
    }
    assert len(used) >= 8
    page = read("docs/reference/configuration.md")
    assert [name for name in sorted(used) if f"| `{name}` |" not in page] == []


# ---- figures -------------------------------------------------------------------------------------

_COLUMNS = {
    "image": "unionmount, image",
    "writable": "unionmount, writable",
    "Python alone": "pyfuse3 alone, image",
}


def cells(page: str) -> list[tuple[str, str, str]]:
    """Rows, columns and contents of the tables with a column for overlayfs."""
    found = []
    heads: list[str] = []
    for line in page.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if row[1:2] == ["overlayfs"]:
            heads = row
        elif not row:
            heads = []
        elif heads and not row[1].startswith("-"):
            found += [(row[0], head, cell) for head, cell in zip(heads[1:], row[1:], strict=True)]
    return found


def test_tables_have_the_figures_that_were_measured() -> None:
    measured = {}
    for name in ("fastpath", "writing"):
        for row in json.loads(read(f"bench/{name}.json"))["rows"]:
            measured[row["what"], row["subject"]] = (row["value"], row.get("ratio"))
    shown = [cell for cell in cells(read("docs/explanation/performance.md")) if cell[2]]
    assert len(shown) > 150
    for what, head, cell in shown:
        value, ratio = measured[what, _COLUMNS.get(head, head)]
        number, _, bracket = cell.partition(" (")
        assert float(number) == pytest.approx(value, rel=0.006, abs=0.0006), (what, head)
        if bracket:
            assert float(bracket.rstrip(")")) == pytest.approx(ratio, abs=0.051), (what, head)


def test_readme_says_no_more_than_the_tables() -> None:
    """Small files two to four times as fast as with fuse-overlayfs; as fast as overlayfs."""
    table = {
        (what, head): cell for what, head, cell in cells(read("docs/explanation/performance.md"))
    }

    def seconds(what: str, head: str) -> float:
        return float(table[what, head].partition(" ")[0])

    for what in ("open, read, close, cold", "open, read, close, warm", "grep -r, small files"):
        assert 2 <= seconds(what, "fuse-overlayfs") / seconds(what, "image") <= 4.2
        assert seconds(what, "image") / seconds(what, "overlayfs") <= 1.1
    assert "two to four times as fast" in " ".join(read("README.md").split())
