"""Run every check and test, and end with one summary.

All stages run, whatever the earlier ones said. FUZZ_SECONDS in the environment adds the fuzzers;
that of live mounts needs root: without, it counts as skipped, and in CI as failed.
The last line is "N passed, N failed, N skipped" over all of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

JUNIT = Path("build/junit.xml")
_SKIPPED = "fuzz-mount: skipped"
_COUNTS = re.compile(r"(\d+) passed, (\d+) failed")


@dataclass(frozen=True, slots=True)
class Result:
    """What one stage came to."""

    name: str
    passed: int
    failed: int
    skipped: int
    seconds: float

    def __str__(self) -> str:
        word = "FAILED" if self.failed else "ok"
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"
        return f"{self.name:<10} {word:<7} {counts}  ({self.seconds:.0f} s)"


def run(command: list[str]) -> tuple[int, str]:
    """Run a stage, its output passed on and kept."""
    kept = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            kept.append(line)
    return process.returncode, "".join(kept)


def counts_of_c_tests(output: str) -> tuple[int, int, int]:
    """The sum of what the C test programs say at their ends."""
    found = [(int(passed), int(failed)) for passed, failed in _COUNTS.findall(output)]
    return sum(p for p, _ in found), sum(f for _, f in found), 0


def counts_of_pytest() -> tuple[int, int, int]:
    """The numbers in the report that pytest wrote."""
    if not JUNIT.exists():
        return 0, 0, 0
    passed = failed = skipped = 0
    for suite in ET.parse(JUNIT).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skip = int(suite.get("skipped", 0))
        failed, skipped = failed + bad, skipped + skip
        passed += int(suite.get("tests", 0)) - bad - skip
    return passed, failed, skipped


def stage(name: str, command: list[str]) -> Result:
    """Run one stage and count; a stage that fails without a count is one failure."""
    print(f"\n==== {name}", flush=True)
    started = time.monotonic()
    code, output = run(command)
    if name == "pytest":
        passed, failed, skipped = counts_of_pytest()
    elif name == "C tests":
        passed, failed, skipped = counts_of_c_tests(output)
    elif _SKIPPED in output and os.environ.get("CI") != "true":
        return Result(name, 0, 0, 1, time.monotonic() - started)
    else:
        passed, failed, skipped = int(code == 0), 0, 0
    if code != 0 and failed == 0:
        failed = 1
    return Result(name, passed, failed, skipped, time.monotonic() - started)


def stages() -> list[tuple[str, list[str]]]:
    """Names and commands, cheap ones first."""
    make = ["make", "--no-print-directory"]
    checks = ("lint-style", "lint-format", "lint-types", "lint-c", "lint-c-format", "lint-docs")
    commands = [(name.removeprefix("lint-"), [*make, name]) for name in checks]
    commands.append(("C tests", [*make, "-C", "tests/c", "check"]))
    seconds = os.environ.get("FUZZ_SECONDS")
    if seconds:
        commands.append(("fuzz", [*make, "fuzz", f"FUZZ_SECONDS={seconds}"]))
        commands.append(("fuzz-mount", [*make, "fuzz-mount", f"FUZZ_SECONDS={seconds}"]))
    commands.append(("pytest", [sys.executable, "-m", "pytest", f"--junitxml={JUNIT}"]))
    return commands


def main() -> int:
    """Run all stages; 1 when anything failed."""
    JUNIT.unlink(missing_ok=True)
    results = [stage(name, command) for name, command in stages()]
    print("\n==== summary")
    for result in results:
        print(result)
    totals = [
        sum(counts)
        for counts in zip(*((r.passed, r.failed, r.skipped) for r in results), strict=True)
    ]
    print("{} passed, {} failed, {} skipped".format(*totals))
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
