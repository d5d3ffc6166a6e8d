"""The oracle in Go: ``tests/oracle/template.go``, compiled once and asked many times."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

SOURCE = Path(__file__).parents[1] / "oracle" / "template.go"


def build(directory: Path) -> Path:
    """Compile the oracle; nothing is downloaded, it needs the standard library alone."""
    program = directory / "oracle"
    # Go keeps what it compiled of its library where it always does, not in the cache of the run
    cache = os.environ.get("GOCACHE", str(Path.home() / ".cache" / "go-build"))
    environment = os.environ | {"GO111MODULE": "off", "GOCACHE": cache, "GOFLAGS": ""}
    command = ["go", "build", "-o", str(program), str(SOURCE)]
    subprocess.run(command, check=True, env=environment, cwd=directory)
    return program


class Oracle:
    """A running oracle; it ends when its input does."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def render(self, template: str, data: Any, *, strict: bool = False) -> tuple[str, str]:
        """What a template prints ("output", text), or why it does not ("error", message)."""
        answer = self.ask({"template": template, "data": data, "strict": strict})
        if answer["error"]:
            return "error", str(answer["error"])
        text = base64.b64decode(answer["output"] or "").decode("utf-8", "surrogateescape")
        return "output", text

    def align(self, text: str) -> str:
        """A table as Go's tabwriter aligns it, with what docker says to it."""
        return base64.b64decode(self.ask({"table": text})["output"] or "").decode("utf-8")
