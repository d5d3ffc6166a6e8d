"""The opening of a container or mount whose changes are to be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unionmount.browse.open import OpenChanges
    from unionmount.cli.settings import Settings
    from unionmount.store.store import Store


def open_changes(settings: Settings, word: str) -> OpenChanges:
    """Open a mount by its mount point or ID, or a container by its name, mounted or not.

    A mount may belong to another store; ``settings`` then name that one.
    """
    from unionmount.browse import open_changes as changes
    from unionmount.cli.open_image import read_as_owner

    def reading(source: str) -> None:
        read_as_owner(settings, source)

    def open_store(root: str | None) -> Store:
        if root is not None:
            settings.root = root
        return settings.store()

    _, opened = changes.open_changes(settings.store_root(), open_store, word, reading)
    return opened
