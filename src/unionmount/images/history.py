"""The history of an image: the steps of its config, each with the layer that it left.

A config has steps and diff_ids, which belong together only by their order: as docker counts, each
step that is not ``empty_layer`` left the next layer, from the lowest up. If there are fewer layers
than such steps, steps of the old builder that cannot have left one are skipped, and then the last
steps have none. If there are more layers, the topmost ones have no step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.images.config import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.images.config import Config
    from unionmount.images.reference import Digest

# The prefix of the old builder's steps that change no file, except for these:
_NO_FILE = "#(nop) "
_FILE_STEPS = ("#(nop) ADD ", "#(nop) COPY ", "#(nop) WORKDIR ")
_UNKNOWN = History(created="", created_by="", author="", comment="", empty_layer=False)


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """A step and the size of the layer that it left."""

    id: Digest | None  # of the image; None if the step left no image of its own
    step: History
    layer: int | None  # counted from the lowest; None if the step left no layer
    size: int  # of the files in the layer


def history_rows(config: Config, sizes: Sequence[int]) -> list[HistoryRow]:
    """Return the steps of an image, newest first; ``sizes`` belong to the layers, lowest first."""
    layers = layers_of_steps(config.history, len(sizes))
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
    """Return the step that left each layer, lowest first; None for a layer without a step."""
    steps: list[History | None] = [None] * layers
    for step, layer in zip(history, layers_of_steps(history, layers), strict=True):
        if layer is not None:
            steps[layer] = step
    return steps


def layers_of_steps(history: Sequence[History], layers: int) -> list[int | None]:
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
