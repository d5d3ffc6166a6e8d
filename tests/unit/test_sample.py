"""The sample image that ships with the project is what its script builds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_script_reproduces_the_sample(project: Path, sample: Path, tmp_path: Path) -> None:
    built = tmp_path / "sample.tar"
    script = project / "scripts" / "make_sample.py"
    subprocess.run([sys.executable, str(script), str(built)], check=True)
    assert built.read_bytes() == sample.read_bytes()
    assert built.stat().st_size < 200_000
