"""The program under ASAN and UBSAN: the sources as they are, with the core that tests/c built."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from support.mounting import is_mounted

from fuzz_mount.place import Place
from fuzz_mount.watch import PATIENCE, Stuck, stacks

PROJECT = Path(__file__).parents[2]
_MODULE = PROJECT / "tests/c/build/mount/_core.abi3.so"
_PACKAGES = PROJECT / "build/fuzz-mount"


def prepare() -> None:
    """Make a package of links: the installed module is not touched."""
    package = _PACKAGES / "unionmount"
    package.mkdir(parents=True, exist_ok=True)
    for path in package.iterdir():
        if path.is_symlink():
            path.unlink()
    for path in (PROJECT / "src/unionmount").iterdir():
        if path.suffix != ".so" and path.name != "__pycache__":
            (package / path.name).symlink_to(path)
    (package / _MODULE.name).symlink_to(_MODULE)
    command = [sys.executable, "-c", "import unionmount._core as core; print(core.__file__)"]
    done = subprocess.run(
        command, env=os.environ | environment(), check=True, capture_output=True, text=True
    )
    found = Path(done.stdout.strip())
    assert found.parent == package, f"{found} would be tested, and not {package}"


def environment(logs: Path | None = None) -> dict[str, str]:
    """What lets a Python import that module."""
    where = f":log_path={logs}/report" if logs else ""
    asan = subprocess.run(
        ["cc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    )
    return {
        "PYTHONPATH": str(_PACKAGES),
        "PYTHONDONTWRITEBYTECODE": "1",
        "LD_PRELOAD": asan.stdout.strip(),
        # Python keeps what it has until it ends
        "ASAN_OPTIONS": f"detect_leaks=0:exitcode=99{where}",
        "UBSAN_OPTIONS": f"print_stacktrace=1{where}",
    }


class Daemon:
    """A process that serves, to be closed."""

    def __init__(self, place: Place, options: str) -> None:
        self._place = place
        self._log = place.logs / f"daemon-{time.monotonic_ns()}"
        uid = place.variant.uid
        become = [
            *("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"),
            *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
        ]
        words = [f"{key}={value}" for key, value in environment(place.logs).items()]
        state = str(place.state)
        places = ("UNIONMOUNT_ROOT", "UNIONMOUNT_RUNTIME_DIR", "XDG_RUNTIME_DIR", "HOME")
        words += [f"{name}={state}" for name in places]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*(become if uid else ()), "env", *words, *place.command(options)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd="/",
            )

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait_for_mount(self) -> bool:
        """True once it is mounted, False where the daemon has refused."""
        end = time.monotonic() + PATIENCE
        while not is_mounted(self._place.mountpoint):
            if not self.lives:
                return False
            if time.monotonic() > end:
                raise Stuck(f"it does not mount\n{stacks(self.process.pid)}")
            time.sleep(0.01)
        return True

    def wait_for_end(self) -> int:
        """Its exit status, once nothing is mounted any more."""
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Stuck(f"it does not end\n{stacks(self.process.pid)}") from None

    def said(self) -> str:
        """What it wrote to standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def reports(self) -> str:
        """What the sanitizers found."""
        found = sorted(self._place.logs.glob("report.*"))
        return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in found)

    def end(self) -> None:
        """Let it end, whatever it is doing: its connection is cut first."""
        connection = self._place.connection()
        if connection is not None:
            (connection / "abort").write_text("1")
        self.process.kill()
        self.process.wait(PATIENCE)
