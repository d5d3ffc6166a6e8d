"""Extraction of marked files in a thread, while the screen goes on."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from unionmount.screen.extract import Extracting, Stopped, extract, failure
from unionmount.screen.stacks import prefix_tree, second_view
from unionmount.system.text import human_size, printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from unionmount.browse.open import OpenView
    from unionmount.core import BrowsableTree

EXTRACT = extract
"""The function that writes one path of a tree into a directory."""


class Extraction:
    """The extraction of files, each as the layers up to one number show it."""

    def __init__(self, view: OpenView, wanted: Sequence[tuple[int, bytes]], target: Path) -> None:
        self._view = view
        self._wanted = wanted
        self._target = target
        self._progress = Extracting()
        self._errors: list[str] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="extraction", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the thread has more to do."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop, remove what is not complete, and wait for the thread."""
        self._progress.stop = True
        if self._thread.ident is not None:
            self._thread.join()

    def text(self) -> str:
        """Return one line about what was done."""
        done = f"{self._progress.files} files ({human_size(self._progress.bytes)})"
        where = printable(str(self._target))
        if self.is_running:
            return f"Extracting into {where}: {done}; Esc stops"
        if self._stopped:
            return "Stopped; nothing is left of what was not complete"
        problems = [*self._errors, *self._progress.skipped]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        told = f"; {problems[0]}{more}" if problems else ""
        return f"Extracted {done} into {where}{told}"

    def _run(self) -> None:
        with ExitStack() as stack:
            for number, path in self._wanted:
                try:
                    EXTRACT(self._tree(stack, number), path, self._target, self._progress)
                except Stopped:
                    self._stopped = True
                    return
                except OSError as error:
                    self._errors.append(failure(path, error))
                except Exception as error:  # noqa: BLE001 - told, as a thread has nobody above it
                    self._errors.append(f"internal error: {type(error).__name__}")

    def _tree(self, stack: ExitStack, number: int) -> BrowsableTree:
        if number == self._view.upper:
            return stack.enter_context(second_view(self._view))
        return stack.enter_context(prefix_tree(self._view, number + 1))
