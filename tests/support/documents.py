"""Running the commands of a page of the documentation, and comparing what they print.

Every ``console`` block of a page is run, command by command, in one directory with a copy of the
sample image. A ``python`` block with a ``text`` block below it is a script, and what it prints. A
block that can't be run says so above it, in a line that readers see:
``*Example; needs a docker daemon:*``. Comments that readers do not see steer the run:

    <!-- user: root -->           the page needs root; "ordinary": it is run without privileges;
                                  "namespace": by root of a user namespace (emulator.py)
    <!-- needs: busybox -->       programs that the page needs (capabilities.py)
    <!-- prepare:                 commands that set the scene, one a line, without output
    ...
    -->
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HOME = "/home/you"
REGISTRY = "localhost:5000"  # as pages call it

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SCRIPT = re.compile(
    r"^```python\n((?:(?!```).*\n)*)```\n\n```text\n((?:(?!```).*\n)*)```$", re.MULTILINE
)
_EXAMPLE = re.compile(r"^\*Example\b[^\n]*\*\n\n?\Z", re.MULTILINE)
_PREPARE = re.compile(r"<!-- prepare:\n(.*?)-->", re.DOTALL)
_DIRECTIVE = re.compile(r"<!-- (user|needs): (.*?) -->")
# digests of the sample: its layers, its ID, its manifest in a registry
_CONSTANT = (
    "ab3902a82141",
    "4676d477f40b",
    "a43bfad6c393",
    "5a1aa8b9317f",
    "36ad1d5c64c4",
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and the output that the page shows; None for one that readers do not see."""

    command: str
    shown: str | None

    def is_true(self, output: str) -> bool:
        """Whether the page shows what was printed."""
        allocated = self.command.startswith(("unionmount df", "unionmount prune"))
        return self.shown is None or agrees(output, self.shown, allocated=allocated)


@dataclass(frozen=True, slots=True)
class Document:
    """A page, taken apart."""

    steps: tuple[Step, ...]
    examples: int  # blocks that are not run
    user: str
    needs: tuple[str, ...]


def parse(text: str) -> Document:
    """Read a page."""
    steps: list[tuple[int, Step]] = []
    examples = 0
    for found in _PREPARE.finditer(text):
        lines = re.sub(r"\\\n\s*", "", found[1]).splitlines()
        steps += [(found.start(), Step(line, None)) for line in lines if line.strip()]
    for found in _FENCE.finditer(text):
        if found[1] == "console" and not _EXAMPLE.search(text[: found.start()]):
            steps += [(found.start(), step) for step in console(found[2])]
        else:
            examples += 1
    for found in _SCRIPT.finditer(text):
        examples -= 2  # its blocks
        command = f"{shlex.quote(sys.executable)} -c {shlex.quote(found[1])}"
        steps.append((found.start(), Step(command, found[2])))
    directives = dict(_DIRECTIVE.findall(text))
    return Document(
        tuple(step for _, step in sorted(steps, key=lambda one: one[0])),
        examples,
        directives.get("user", ""),
        tuple(name for name in directives.get("needs", "").split(", ") if name),
    )


def unmarked_blocks(text: str) -> list[str]:
    """Blocks that are neither run nor said to be examples."""
    return [
        found[2]
        for found in _FENCE.finditer(_SCRIPT.sub("", text))
        if found[1] != "console" and not _EXAMPLE.search(text[: found.start()])
    ]


def console(block: str) -> Iterator[Step]:
    """Take a block apart into commands and their output."""
    for part in re.split(r"^[$#] ", block, flags=re.MULTILINE)[1:]:
        command, *rest = part.split("\n")
        while rest and rest[0].startswith("> "):
            command += "\n" + rest.pop(0)[2:]
        yield Step(command, "\n".join(rest))


@dataclass(frozen=True, slots=True)
class Place:
    """Where pages are run: a directory, and how commands get their user and their registry."""

    directory: Path
    environment: dict[str, str]
    prefix: tuple[str, ...] = ()
    registry: str = REGISTRY

    @classmethod
    def at(cls, directory: Path, program: Path, **more: str) -> Place:
        """The directory, with a store of its own in it."""
        environment = os.environ | {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "LC_ALL": "C.UTF-8",
            "HOME": str(directory),
            "UNIONMOUNT_ROOT": str(directory / "store"),
            "UNIONMOUNT_RUNTIME_DIR": str(directory / "run"),
        }
        return cls(directory, environment | more)

    def run(self, step: Step) -> str:
        """What a command prints, as the page would show it."""
        command = step.command.replace(REGISTRY, self.registry)
        if command.startswith("export "):  # holds for the commands after it
            self.environment.update(self._exported(command))
            return ""
        result = subprocess.run(
            [*self.prefix, "sh", "-c", f"{{ {command}\n}} 2>&1"],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=60,
        )
        assert step.shown is not None or result.returncode == 0, f"{command}: {result.stdout}"
        return result.stdout.replace(self.registry, REGISTRY).replace(str(self.directory), HOME)

    def _exported(self, command: str) -> dict[str, str]:
        result = subprocess.run(
            ["sh", "-c", f"{command}; env -0"],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return dict(line.split("=", 1) for line in result.stdout.split("\0") if line)


def normalised(output: str, *, allocated: bool = False) -> str:
    """Output without what differs from run to run: IDs, process numbers, ages, blanks.

    So do sizes on the disk (of ``df`` and ``prune``), which file systems allocate differently.
    """

    def constant(found: re.Match[str]) -> str:
        return found[0] if found[0].startswith(_CONSTANT) else "ID"

    output = re.sub(r"\b[0-9a-f]{12}(?:[0-9a-f]{52})?\b", constant, output)
    ages = r"(just now|Less than a second ago|About a minute ago|\d+ (second|minute)s? ago)"
    output = re.sub(rf"(\d+|-) +{ages}", "PID AGE", output)
    output = re.sub(ages, "AGE", output)
    output = re.sub(r"\d+ years ago", "AGE", output)
    if allocated:
        output = re.sub(r"\b[1-9]\d*(\.\d+)?[kM]?B\b", "SIZE", output)
    return "\n".join(" ".join(line.split()) for line in output.splitlines())


def agrees(output: str, shown: str, *, allocated: bool = False) -> bool:
    """Whether output is what a page shows; "…" there stands for anything in its line.

    A line of nothing but "…" stands for any lines.
    """
    lines = [
        ".*" if line == "…" else re.escape(line).replace("…", "[^\n]*")
        for line in normalised(shown, allocated=allocated).splitlines()
    ]
    found = normalised(output, allocated=allocated)
    return re.fullmatch("\n".join(lines), found, re.DOTALL) is not None
