"""The machine that was measured on, and whether it did anything else meanwhile."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

QUIET = 0.5
"""The load average, and the share of its processors, above which others disturb a measurement."""

_MOMENT = 0.1  # seconds that are watched
_PROGRAMS = {
    "fio": ("fio", "--version"),
    "git": ("git", "--version"),
    "gcc": ("gcc", "-dumpfullversion"),
    "podman": ("podman", "--version"),
}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "?")


def _disk(place: Path) -> str:
    """What the file system of a directory is on, as far as the kernel tells."""
    number = place.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    if (device / "partition").exists():
        device = device.parent
    if not (device / "queue").exists():
        return "?"
    model, size = device / "device/model", int((device / "size").read_text()) * 512
    name = model.read_text().strip() if model.exists() else device.name
    return f"{name} of {size / 1e9:.0f} GB"


def facts() -> dict[str, str]:
    """The machine, by short names."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{pages / 1e9:.0f} GB",
        "kernel": platform.release(),
        "disk": _disk(Path(tempfile.gettempdir())),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def programs() -> dict[str, str]:
    """Versions of the programs that do the work."""
    found = {}
    for name, words in _PROGRAMS.items():
        if shutil.which(name):
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            found[name] = (done.stdout.split() or ["?"])[-1].removeprefix(f"{name}-")
    return found


# ---- others --------------------------------------------------------------------------------------


def _busy() -> float:
    """Seconds that all processors together have worked for since they were started."""
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    user, nice, system, _, _, interrupts, soft, steal = map(int, line.split()[1:9])
    return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Watch:
    """The load before and after, and what others did in moments in which we did nothing.

    The load afterwards has our own work in it; the moments have not.
    """

    before: float = field(default_factory=lambda: os.getloadavg()[0])
    shares: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Watch for a moment; call it where nothing of ours runs."""
        os.sync()
        start, busy = time.monotonic(), _busy()
        time.sleep(_MOMENT)
        self.shares.append((_busy() - busy) / (time.monotonic() - start))

    def facts(self) -> dict[str, float]:
        """What is kept: loads, and the mean number of processors that others used."""
        others = sum(self.shares) / len(self.shares) if self.shares else 0.0
        after = os.getloadavg()[0]
        return {"before": self.before, "after": after, "others": round(others, 2)}


def warnings(load: Mapping[str, float]) -> Iterator[str]:
    """Why numbers are not to be trusted."""
    if load.get("before", 0) > QUIET:
        yield f"the load was {load['before']:.1f} when the run began"
    if load.get("others", 0) > QUIET:
        yield f"other programs used {load['others']:.1f} processors between the measurements"
