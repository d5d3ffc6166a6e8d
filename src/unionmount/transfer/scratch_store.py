"""A temporary store, for images that are only a step on the way."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from unionmount.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def scratch_store(store: Store) -> Iterator[Store]:
    """Create a store inside a directory of ``store`` that is removed with this process.

    It also finds what ``store`` has.
    """
    known = (store.root, *(one.root for one in store.additional))
    with store.staging() as staging:
        yield Store(staging.path / "store", store.limits, additional=known)
