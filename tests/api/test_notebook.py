"""The notebook of the documentation, in a kernel of Jupyter: it prints what it shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
NOTEBOOK = PROJECT / "docs/how-to/notebook.ipynb"

# In a process of its own: its event loop and its sockets are no part of the test.
_EXECUTE = """
import sys, nbformat
from nbclient import NotebookClient
book = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(book, timeout=120, kernel_name="python3").execute()
nbformat.write(book, sys.argv[2])
"""


def outputs(path: Path) -> list[str]:
    """What each cell of code prints and returns; a kernel may send it in pieces."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(map(_text, cell["outputs"])) for cell in cells if cell["cell_type"] == "code"]


def _text(output: dict[str, Any]) -> str:
    return "".join(output.get("text") or output["data"]["text/plain"])


@pytest.mark.needs("fuse")
def test_the_notebook_prints_what_it_shows(place: Path) -> None:
    (place / "sample.tar").symlink_to(PROJECT / "sample/sample.tar")
    names = ("HOME", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    environment = {**os.environ, **dict.fromkeys(names, str(place / "home"))}
    done = subprocess.run(
        [sys.executable, "-c", _EXECUTE, str(NOTEBOOK), str(place / "run.ipynb")],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    shown = outputs(NOTEBOOK)
    assert len(shown) > 5
    assert all(shown)
    assert outputs(place / "run.ipynb") == shown
