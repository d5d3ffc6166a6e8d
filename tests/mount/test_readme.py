"""The tour in README shows what the program really prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_LAYER = "4676d477f40b"  # of the sample: always the same

pytestmark = pytest.mark.needs("fuse", "getfattr")


def tour(readme: str) -> list[tuple[str, str]]:
    """The commands of the tour, each with the output that README shows."""
    text = readme.partition("<!-- tour -->")[2].partition("<!-- end of tour -->")[0]
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    steps = "".join(blocks).split("$ ")[1:]
    return [(command, output) for command, _, output in (step.partition("\n") for step in steps)]


def normalised(output: str, home: str) -> str:
    """Output without what differs from run to run: the place, IDs, a process number, an age."""
    output = re.sub(r"[0-9a-f]{12} +hello", "ID hello", output.replace(home, "/home/you"))
    output = re.sub(
        r"(\d+|-) +(just now|Less than a second ago|\d+ seconds? ago)", "PID AGE", output
    )
    output = re.sub(r"\d+ years ago", "AGE", output)
    output = re.sub(rf"^sha256:(?!{_LAYER})[0-9a-f]{{64}}$", "IMAGE ID", output)
    return "\n".join(" ".join(line.split()) for line in output.splitlines())


def test_the_tour_is_true(project: Path, sample: Path, unionmount: Path, public_tmp: Path) -> None:
    steps = tour((project / "README.md").read_text(encoding="utf-8"))
    assert len(steps) > 10
    shutil.copy(sample, public_tmp / "sample.tar")
    environment = os.environ | {
        "PATH": f"{unionmount.parent}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "UNIONMOUNT_ROOT": str(public_tmp / "store"),
        "UNIONMOUNT_RUNTIME_DIR": str(public_tmp / "run"),
    }
    for command, expected in steps:
        result = subprocess.run(
            ["sh", "-c", f"{command} 2>&1"],
            cwd=public_tmp,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
        shown = normalised(result.stdout, str(public_tmp))
        assert shown == normalised(expected, "/home/you"), command
