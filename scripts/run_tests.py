"""Run every check and test, and end with one summary.

Two lanes of stages run side by side: the checks, C tests and fuzzers in one, pytest in several
processes in the other. The tests that need the machine for themselves run last. The output of a
stage is printed when the stage has ended, so that two never mix; that of pytest is printed at once.
All stages run, whatever the earlier ones said. FUZZ_SECONDS in the environment adds the fuzzers;
that of live mounts needs root: without, it counts as skipped, and in CI as failed.
The last line is "N passed, N failed, N skipped" over all of them.

With --quick: the checks, the tests that are quick in C and in Python, and a few live ones.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

BUILD = Path("build")
# Tests wait more than they compute: for daemons to start, and for limits of time to pass.
WORKERS = os.environ.get("TEST_WORKERS", "2")
MAKE = ["make", "--no-print-directory"]
_QUICK = "quick or not (live or slow or alone)"
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


_printing = threading.Lock()


def run(command: list[str], *, live: bool) -> tuple[int, str]:
    """Run a stage and return its output, which is also printed at once if it is ``live``."""
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
            if live:
                with _printing:
                    sys.stdout.write(line)
                    sys.stdout.flush()
            kept.append(line)
    return process.returncode, "".join(kept)


def counts_of_c_tests(output: str) -> tuple[int, int, int]:
    """The sum of what the C test programs say at their ends."""
    found = [(int(passed), int(failed)) for passed, failed in _COUNTS.findall(output)]
    return sum(p for p, _ in found), sum(f for _, f in found), 0


def counts_of_pytest(report: Path) -> tuple[int, int, int]:
    """Return the numbers in a report that pytest wrote."""
    if not report.exists():
        return 0, 0, 0
    passed = failed = skipped = 0
    for suite in ET.parse(report).getroot().iter("testsuite"):
        bad = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skip = int(suite.get("skipped", 0))
        failed, skipped = failed + bad, skipped + skip
        passed += int(suite.get("tests", 0)) - bad - skip
    return passed, failed, skipped


@dataclass(frozen=True, slots=True)
class Stage:
    """A command, and the report that it writes where it is pytest."""

    name: str
    command: list[str]
    report: Path | None = None

    def run(self) -> Result:
        """Run it and count; a stage that fails without a count is one failure."""
        live = self.report is not None
        if self.report:
            self.report.unlink(missing_ok=True)
            _say(f"==== {self.name}")
        started = time.monotonic()
        code, output = run(self.command, live=live)
        seconds = time.monotonic() - started
        if not live:
            _say(f"==== {self.name}\n{output}")
        passed, failed, skipped = self._counts(code, output)
        if code != 0 and failed == 0 and not skipped:
            failed = 1
        return Result(self.name, passed, failed, skipped, seconds)

    def _counts(self, code: int, output: str) -> tuple[int, int, int]:
        if self.report:
            return counts_of_pytest(self.report)
        if self.name == "C tests":
            return counts_of_c_tests(output)
        if _SKIPPED in output and os.environ.get("CI") != "true":
            return 0, 0, 1
        return int(code == 0), 0, 0


def _say(text: str) -> None:
    with _printing:
        print(f"\n{text}", flush=True)


def pytest(name: str, *arguments: str) -> Stage:
    """Return a stage of tests in Python."""
    report = BUILD / f"junit-{name.replace(' ', '-')}.xml"
    return Stage(name, [sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments], report)


def beside(expression: str, *paths: str) -> list[str]:
    """Return pytest's arguments for tests that may run beside others, each file in one process."""
    return [f"-n{WORKERS}", "--dist=loadfile", "--no-loadscope-reorder", "-m", expression, *paths]


def checks() -> list[Stage]:
    """Return the checks of `make lint`."""
    names = ("lint-style", "lint-format", "lint-types", "lint-c", "lint-c-format", "lint-docs")
    return [Stage(name.removeprefix("lint-"), [*MAKE, name]) for name in names]


def c_tests(target: str) -> Stage:
    """Return the stage of the C tests."""
    return Stage("C tests", [*MAKE, "-j2", "-C", "tests/c", target])


def lanes() -> list[list[Stage]]:
    """Return the lists of stages that run side by side, each in its order."""
    first = [*checks(), c_tests("check")]
    seconds = os.environ.get("FUZZ_SECONDS")
    if seconds:
        first.append(Stage("fuzz", [*MAKE, "fuzz", f"FUZZ_SECONDS={seconds}"]))
        first.append(Stage("fuzz-mount", [*MAKE, "fuzz-mount", f"FUZZ_SECONDS={seconds}"]))
    return [first, [pytest("pytest", *beside("not alone"))]]


def quick_lanes() -> list[list[Stage]]:
    """Return the lanes of `make check`."""
    return [[*checks(), c_tests("quick")], [pytest("pytest", *beside(_QUICK))]]


def run_lanes(wanted: list[list[Stage]]) -> list[Result]:
    """Run lists of stages beside each other."""
    with ThreadPoolExecutor(len(wanted)) as pool:
        done = pool.map(lambda lane: [stage.run() for stage in lane], wanted)
        return [result for lane in done for result in lane]


def main() -> int:
    """Run all stages; 1 when anything failed."""
    BUILD.mkdir(exist_ok=True)
    started = time.monotonic()
    if "--quick" in sys.argv[1:]:
        results = run_lanes(quick_lanes())
    else:
        results = [*run_lanes(lanes()), pytest("alone", "-m", "alone").run()]
    print("\n==== summary")
    for result in results:
        print(result)
    totals = [
        sum(counts)
        for counts in zip(*((r.passed, r.failed, r.skipped) for r in results), strict=True)
    ]
    print(f"{time.monotonic() - started:.0f} s in all")
    print("{} passed, {} failed, {} skipped".format(*totals))
    return 1 if totals[1] else 0


if __name__ == "__main__":
    sys.exit(main())
