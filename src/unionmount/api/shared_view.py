"""The open files of an image, which its object, its tree and any number of threads use at once."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from unionmount.browse.open import OpenView


class SharedView:
    """A view that nobody can close while a call uses it; ``with`` begins and ends a use.

    ``close`` returns at once: the last use that goes on meanwhile closes the files, so that a
    finalizer may call it in the middle of a use by the same thread. Files that nobody has closed
    are closed when nothing refers to this object any more.
    """

    def __init__(self, view: OpenView) -> None:
        """Take over ``view``."""
        self._view = view
        self._lock = threading.RLock()  # [uses, closed]; a finalizer may interrupt its holder
        self._uses = 0
        self._is_closed = False
        self._end = weakref.finalize(self, view.close)

    @property
    def description(self) -> OpenView:
        """The view, for its image's name, config and layers: they stay known after the end."""
        return self._view

    def __enter__(self) -> OpenView:
        """Return the view; raise ValueError after ``close``."""
        with self._lock:
            self._uses += 1
        if self._is_closed:
            self._leave()
            raise ValueError("the image is closed")
        return self._view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._uses -= 1
            is_last = self._is_closed and self._uses == 0
        if is_last:
            self._end()

    def close(self) -> None:
        """Refuse further uses, and close the files after the last one; do nothing if closed."""
        with self._lock:
            self._is_closed = True
            is_last = self._uses == 0
        if is_last:
            self._end()
