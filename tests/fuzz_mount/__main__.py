"""`make fuzz-mount`: rounds of all variants, for FUZZ_SECONDS, from FUZZ_SEED."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from itertools import cycle
from pathlib import Path
from random import Random, SystemRandom

from support.mounting import is_mounted

from fuzz_mount import daemon
from fuzz_mount.place import CONNECTIONS, VARIANTS, Place
from fuzz_mount.rounds import one_round

_INSIDE = "--inside"
_ROUND = 6.0  # seconds
_OPTIONS = ("", "", "threads=1", "nofastpath", "volatile")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz_mount", description=__doc__.splitlines()[0])
    parser.add_argument("--variant", action="append", choices=sorted(VARIANTS))
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _options(variant: str, rng: Random) -> str:
    chosen = rng.choice(_OPTIONS)
    if chosen in ("nofastpath", "volatile") and VARIANTS[variant].image:
        return ""  # there they are options of the command
    return chosen


def _fuzz(variants: list[str], seconds: float, seed: int) -> Counter[str]:
    """Rounds until the time is over; each place is used twice, and so mounted as it was left."""
    total: Counter[str] = Counter()
    end = time.monotonic() + seconds
    for number, variant in enumerate(cycle(variants)):
        if time.monotonic() > end and number >= len(variants):
            return total
        rng = Random(f"{seed}/{variant}/{number}")
        place = Place(VARIANTS[variant])
        try:
            for again in range(2):
                place.reopen()
                options = _options(variant, rng)
                name = f"{seed}/{variant}/{number}/{again}"
                _say(f"{name}: {options or 'no options'}")
                calls = one_round(place, options, name, min(_ROUND, seconds / 8))
                total["rounds"] += 1
                if calls is None:
                    total["refused"] += 1
                    break
                total += calls
        finally:
            place.close()
    return total


def _inside(wanted: argparse.Namespace) -> int:
    given = os.environ.get("FUZZ_SEED")
    seed = int(given) if given else SystemRandom().randrange(10**9)
    seconds = float(os.environ.get("FUZZ_SECONDS", "60"))
    _say(f"FUZZ_SEED={seed}")
    if not is_mounted(CONNECTIONS):  # it is needed where a daemon hangs
        subprocess.run(["mount", "-t", "fusectl", "fusectl", CONNECTIONS], check=True)
    daemon.prepare()
    try:
        total = _fuzz(wanted.variant or list(VARIANTS), seconds, seed)
    except AssertionError as failure:
        _say(f"FAILED: {failure}")
        for note in getattr(failure, "__notes__", ()):
            _say(note)
        _say(f"FUZZ_SEED={seed}")
        return 1
    _say(f"{total['rounds']} rounds ({total['refused']} mounts refused)")
    for what in ("calls", "changes"):
        _say(f"{total[what]:,} {what}, of which {total[what + ' made']:,} were no errors")
    return 0


def main() -> int:
    """0; 1 where something was found; 2 where it can't be done here."""
    wanted = _arguments()
    if wanted.inside:
        return _inside(wanted)
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        _say("fuzz-mount: skipped: it needs root and /dev/fuse")
        return 2
    apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    program = (sys.executable, "-m", "fuzz_mount", _INSIDE, *sys.argv[1:])
    return subprocess.run([*apart, *program], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
