"""Running programs that have to succeed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

_PATIENCE = 600  # seconds


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program that has to succeed; what it printed. ``env`` is added to the environment."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=_PATIENCE,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{command}: exit {done.returncode}\n{output[-4000:]}"
    return output
