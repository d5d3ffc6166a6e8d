"""Let Hypothesis make up runs, and make a failing one small."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from differential.machine import Machine
from differential.run import Place, Variant


def explore(place: Place, variant: Variant, runs: int, steps: int, *, shrink: bool = True) -> None:
    """``runs`` runs of up to ``steps`` operations; the first failure ends it.

    Without ``shrink`` it is not made small, which takes minutes.
    """

    class Here(Machine):
        def __init__(self) -> None:
            super().__init__(place, variant)

    try:
        explore_machine(Here, runs, steps, shrink=shrink)
    finally:
        place.abandon()


def explore_machine(machine: type[Machine], runs: int, steps: int, *, shrink: bool = True) -> None:
    """The same for a machine that knows its place."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
