"""`make soak`: the differential test for as long as one likes, or a script again.

    python -m differential.soak [--minutes N] [--variant NAME]… [--backing KIND]… [--as-found]
    python -m differential.soak --replay FILE --variant NAME --backing KIND

A FILE has STACK and STEPS, as a failing run prints them. Needs root, /dev/fuse and overlayfs.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from contextlib import ExitStack
from itertools import cycle, product
from pathlib import Path

from support.backing import backing, kinds
from support.users import fuse_for_all

from differential import lowers
from differential.explore import explore
from differential.run import Difference, Place, Variant, replay
from differential.variants import VARIANTS
from differential.worker import Zygote

_RUNS = 25  # on one file system, before it is made anew
_STEPS = 200


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.splitlines()[0])
    minutes = float(os.environ.get("SOAK_MINUTES", "60"))
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--variant", action="append", choices=sorted(VARIANTS))
    parser.add_argument("--backing", action="append", choices=kinds())
    parser.add_argument("--as-found", action="store_true", help="do not make a script small")
    parser.add_argument("--replay", type=Path)
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _replay(place: Place, variant: Variant, script: Path) -> None:
    names = dict(vars(lowers))
    exec(compile(script.read_text(encoding="utf-8"), script, "exec"), names)
    replay(place, variant, names["STACK"], names["STEPS"])
    _say("no difference")


def _soak(wanted: argparse.Namespace, zygote: Zygote, total: Counter[str]) -> None:
    end = time.monotonic() + wanted.minutes * 60
    chosen = product(wanted.variant or sorted(VARIANTS), wanted.backing or kinds())
    for name, kind in cycle(chosen):
        if time.monotonic() > end:
            return
        with backing(kind) as top:
            place = Place(top, top, zygote, report=_say)
            try:
                explore(place, VARIANTS[name], _RUNS, _STEPS, shrink=not wanted.as_found)
            finally:
                total.update(place.steps)
                total[" runs"] += place.runs
        _say(f"{name} on {kind}: {total.total() - total[' runs']:,} steps so far")


def main() -> int:
    """1 where a difference was found."""
    wanted = _arguments()
    total: Counter[str] = Counter()
    with ExitStack() as stack:
        stack.enter_context(fuse_for_all())
        zygote = Zygote()
        stack.callback(zygote.close)
        try:
            if wanted.replay:
                top = stack.enter_context(backing((wanted.backing or ["tmpfs"])[0]))
                name = (wanted.variant or ["directories"])[0]
                _replay(Place(top, top, zygote), VARIANTS[name], wanted.replay)
            else:
                _soak(wanted, zygote, total)
        except Difference as difference:
            _say(str(difference))
            return 1
        finally:
            runs = total.pop(" runs", 0)
            _say(f"{total.total():,} steps in {runs:,} runs")
            for name, count in sorted(total.items()):
                _say(f"    {count:>10,} {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
