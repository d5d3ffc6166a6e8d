"""The page and the picture of the screen are those of the program."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from unionmount.screen import keys


@pytest.mark.slow
def test_the_picture_is_what_the_screen_shows(project: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "browse.svg"
    script = project / "scripts/make_browse_picture.py"
    subprocess.run([sys.executable, str(script), str(drawn)], check=True, timeout=120)
    assert ET.parse(drawn).getroot().tag.endswith("svg")
    assert shown(drawn) == shown(project / "docs/images/browse.svg"), f"run {script}"


def shown(picture: Path) -> list[str]:
    """The texts of a picture: another version of textual may draw the same in other words."""
    return [
        "".join(text.itertext()) for text in ET.parse(picture).iter() if text.tag.endswith("}text")
    ]


def test_the_page_has_the_keys_of_the_program(project: Path) -> None:
    page = (project / "docs/how-to/browse.md").read_text(encoding="utf-8")
    for key in keys.KEYS:
        names = "`, `".join(keys.shown_keys(key).split(", "))
        assert f"| `{names}` | {key.does} |" in page
