"""Listing what is about an image of a registry or a layout, and about that in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unionmount.errors import UsageError
from unionmount.transfer.copy_list import CopyList, ReferrerChoice
from unionmount.transfer.endpoints import open_documents
from unionmount.transfer.platforms import selected

if TYPE_CHECKING:
    from collections.abc import Callable

    from unionmount.images.platform import Platform
    from unionmount.images.reference import Reference
    from unionmount.registry import RegistryClient
    from unionmount.sources import Location
    from unionmount.store.store import Store


async def list_referrers(
    store: Store,
    client: RegistryClient,
    source: Location,
    resolve: Callable[[str], Reference],
    platform: Platform | None,
    choice: ReferrerChoice,
) -> CopyList:
    """Return the referrers of an image, or of an index and all its images, as ``attached``."""
    async with open_documents(store, client, source, resolve) as opened:
        if opened is None:
            raise UsageError(
                f"'{source}' has no referrers: they are in registries (docker://NAME) and OCI "
                "layouts"
            )
        roots = await opened.roots()
        if platform is not None:
            roots = [await selected(opened, roots, platform)]
        found = CopyList(opened)
        await found.add_roots(roots)
        await found.add_referrers(choice)
        return found
