"""The options before the subcommand: the stores and how to print."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionmount.store.store import Store


@dataclass(slots=True)
class Settings:
    """The values of the options before the subcommand."""

    root: str | None = None
    debug: bool = False
    additional: list[str] = field(default_factory=list)

    def store_root(self) -> Path:
        """Return the store's directory as an absolute path, since daemons change directories."""
        from unionmount.store.location import default_root

        return (Path(self.root) if self.root else default_root(os.environ)).absolute()

    def store(self) -> Store:
        """Open the store with the limits of the environment; allow descriptors for many layers."""
        from unionmount.store.layer_import import ImportLimits
        from unionmount.store.location import additional_stores
        from unionmount.store.store import Store

        _raise_descriptor_limit()
        named = [Path(one) for one in self.additional]
        return Store(
            self.store_root(),
            ImportLimits.from_environment(os.environ),
            additional=[one.absolute() for one in (*named, *additional_stores(os.environ))],
        )


def _raise_descriptor_limit() -> None:
    """Raise the limit of open files as far as permitted: each layer of an image takes some."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a kernel may allow less than it reports
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
