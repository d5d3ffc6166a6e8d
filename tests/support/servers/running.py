"""What runs while a context is entered."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Running:
    """Base class of the servers: a subclass says how they start and stop."""

    def start(self) -> None:
        """Begin to answer."""
        raise NotImplementedError

    def stop(self) -> None:
        """End; a second call does nothing."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
