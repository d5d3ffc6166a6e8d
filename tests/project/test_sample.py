"""The sample image that ships with the project is what its script builds."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path


def test_the_script_reproduces_the_sample(project: Path, sample: Path, tmp_path: Path) -> None:
    built = tmp_path / "sample.tar"
    script = project / "scripts" / "make_sample.py"
    subprocess.run([sys.executable, str(script), str(built)], check=True)
    assert built.read_bytes() == sample.read_bytes()
    assert built.stat().st_size < 200_000


def test_any_user_may_walk_the_sample(sample: Path) -> None:
    with tarfile.open(sample) as archive:
        layers = [member for member in archive if member.name.endswith("/layer.tar")]
        assert len(layers) == 4
        for layer in layers:
            with tarfile.open(fileobj=archive.extractfile(layer)) as tar:
                closed = [m.name for m in tar if m.isdir() and m.mode & 0o005 != 0o005]
                assert not closed
