"""How an image was made: the steps of its config, each with the layer that it left.

A config has steps and diff_ids, and nothing says which belong together but their order: every step
that is not ``empty_layer`` left the next layer, from the lowest up, as docker counts. Where there
are fewer layers than such steps, steps of the old builder that cannot have left one are passed
over, then the last steps have none. Where there are more, the layers on top have no step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.images.config import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.images.config import Config
    from unionmount.images.reference import Digest

# what the old builder wrote for a step that changes no file, unless it is one of these:
_NO_FILE = "#(nop) "
_FILE_STEPS = ("#(nop) ADD ", "#(nop) COPY ", "#(nop) WORKDIR ")
_UNKNOWN = History(created="", created_by="", author="", comment="", empty_layer=False)


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One step: what was done, and what the layer that it left holds."""

    id: Digest | None  # of the image; None for what is no image of its own
    step: History
    layer: int | None  # its number, from the lowest; None where the step left none
    size: int  # bytes of the files in the layer


def history_rows(config: Config, sizes: Sequence[int]) -> list[HistoryRow]:
    """Return the steps of an image, newest first; ``sizes`` are those of its layers, lowest first."""
    layers = _layers_of_steps(config.history, len(sizes))
    rows = [
        HistoryRow(None, step, layer, 0 if layer is None else sizes[layer])
        for step, layer in zip(config.history, layers, strict=True)
    ]
    without = sorted(set(range(len(sizes))) - set(layers))
    rows += [HistoryRow(None, _UNKNOWN, layer, sizes[layer]) for layer in without]
    rows.reverse()
    if rows:
        newest = rows[0]
        rows[0] = HistoryRow(config.digest, newest.step, newest.layer, newest.size)
    return rows


def steps_of_layers(history: Sequence[History], layers: int) -> list[History | None]:
    """Return the step that left each layer, lowest first; None if the history has none for it."""
    steps: list[History | None] = [None] * layers
    for step, layer in zip(history, _layers_of_steps(history, layers), strict=True):
        if layer is not None:
            steps[layer] = step
    return steps


def _layers_of_steps(history: Sequence[History], layers: int) -> list[int | None]:
    """Return the number of the layer that each step left, or None."""
    leaving = [number for number, step in enumerate(history) if not step.empty_layer]
    if len(leaving) > layers:
        leaving = [one for one in leaving if not _makes_no_layer(history[one].created_by)]
    found: list[int | None] = [None] * len(history)
    for layer, number in enumerate(leaving[:layers]):
        found[number] = layer
    return found


def _makes_no_layer(command: str) -> bool:
    _, nop, rest = command.partition(_NO_FILE)
    return bool(nop) and not (_NO_FILE + rest.lstrip()).startswith(_FILE_STEPS)
