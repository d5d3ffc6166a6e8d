"""The options before the subcommand: the stores and how to print."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from unionmount.store.store import Store


class Settings:
    """The values of the options before the subcommand, and the name of the program.

    ``command`` is the subcommand that the name of the program stands for, if it does.
    """

    def __init__(self, *, command: str = "", program: str = "unionmount") -> None:
        self.command = command
        self.program = program
        self.root: str | None = None
        self.debug = False
        self.additional: list[str] = []

    def with_root(self, root: str) -> Settings:
        """Return the same settings for another store."""
        other = Settings(command=self.command, program=self.program)
        other.root, other.debug, other.additional = root, self.debug, self.additional
        return other

    def store_root(self) -> Path:
        """Return the store's directory as an absolute path, since daemons change directories."""
        from pathlib import Path

        from unionmount.store.location import default_root

        return (Path(self.root) if self.root else default_root(os.environ)).absolute()

    def store(self) -> Store:
        """Open the store with the limits of the environment; allow descriptors for many layers."""
        from pathlib import Path

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
    from contextlib import suppress

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # a kernel may allow less than it reports
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
