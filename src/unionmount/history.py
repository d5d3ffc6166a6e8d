"""How an image was made: the steps of its config, each with the layer that it left.

A config has steps and diff_ids, and nothing says which belong together but their order: every step
that is not ``empty_layer`` left the next layer. Where there are more layers than such steps, the
layers on top get a row without a command; where there are fewer, the last steps have no layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unionmount.image import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from unionmount.image import Config
    from unionmount.reference import Digest

_UNKNOWN = History(created="", created_by="", author="", comment="", empty_layer=False)


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One step: what was done, and what the layer that it left holds."""

    id: Digest | None  # of the image; None for what is no image of its own
    step: History
    layer: int | None  # its number, from the lowest; None where the step left none
    size: int  # bytes of the files in the layer


def history_rows(config: Config, sizes: Sequence[int]) -> list[HistoryRow]:
    """The steps of an image, newest first; ``sizes`` are those of its layers, lowest first."""
    rows: list[HistoryRow] = []
    used = 0
    for step in config.history:
        layer = used if not step.empty_layer and used < len(sizes) else None
        used += layer is not None
        rows.append(HistoryRow(None, step, layer, 0 if layer is None else sizes[layer]))
    rows += [HistoryRow(None, _UNKNOWN, layer, sizes[layer]) for layer in range(used, len(sizes))]
    rows.reverse()
    if rows:
        newest = rows[0]
        rows[0] = HistoryRow(config.digest, newest.step, newest.layer, newest.size)
    return rows
